"""Every link of README.md and docs/ to a file or a heading of ours leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    to = page.parent / path if path else page
    return to.exists() and (not anchor or anchor in anchors(to))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    own = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in own if not leads_somewhere(page, link)] == []


def test_what_leads_nowhere_is_noticed() -> None:
    page = ROOT / "docs" / "cli.md"
    assert leads_somewhere(page, "xds.md#remote-envoys") and leads_somewhere(page, "#all-commands")
    assert not leads_somewhere(page, "nowhere.md") and not leads_somewhere(page, "xds.md#nowhere")

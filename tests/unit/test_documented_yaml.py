"""Every piece of YAML in README.md and docs/ is what the programs take."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from lockgate.agent.config_file import ConfigFile, read_config
from lockgate.agent.settings import Settings
from lockgate.policies import Problem, parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.policy_test import parse_policy_test

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PIECES = [
    pytest.param(piece, id=f"{page.name}-{number}")
    for page in PAGES
    for number, piece in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
]
REMOTE = {"address": "::", "port": 1, "authority": "/a", "certificate": "/b", "key": "/c", "nodes": ["edge-1"]}


def test_there_are_some() -> None:
    assert len(PIECES) > 10


@pytest.mark.parametrize("piece", PIECES)
def test_it_is_valid(piece: str, tmp_path: Path) -> None:
    text = dedent(piece).replace("  …\n", "")
    content = yaml.safe_load(text)
    keys = content.keys()
    if keys <= ConfigFile.__annotations__.keys():
        if "remote" in content:
            content["remote"] = REMOTE | content["remote"]
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        assert read_config(path)
        return
    assert problems(keys, text, content) == []


def test_every_setting_has_a_row_with_its_default() -> None:
    told: dict[str, str] = {}
    for line in (ROOT / "docs" / "agent.md").read_text().partition("\n## Settings\n")[2].splitlines():
        if line.startswith("| `"):
            keys, defaults = (cell.strip().split(", ") for cell in line.split("|")[1:3])
            told |= zip([key.strip("`") for key in keys], defaults, strict=True)
    unset = {"uplinks": "all"}
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert told == {key: _in_words(fields[key]) or unset.get(key, "none") for key in ConfigFile.__annotations__}


def _in_words(default: object) -> str:
    return "" if default in (None, "", ()) else str(default).lower()


def problems(keys: Any, text: str, content: dict[str, Any]) -> list[Problem]:
    if keys <= {"workloads", "services", "nodes"}:
        return list(parse_workloads(text.encode(), "w.yaml").problems)
    if "tests" in keys:
        return list(parse_policy_test(text.encode(), "t.test.yaml").problems)
    if "apiVersion" not in keys:
        content = whole_policy(content)
    found = parse_policies(yaml.safe_dump(content).encode(), "p.yaml")
    assert found.policies
    return list(found.problems)


def whole_policy(part: dict[str, Any]) -> dict[str, Any]:
    """A policy around some part of one."""
    if part.keys() & {"http", "grpc", "kafka"}:
        part = {"rules": part}
    if "rules" in part:
        part = {"toPorts": [{"ports": [{"port": "9092", "protocol": "TCP"}], **part}]}
    if "toPorts" in part:
        part = {"ingress": [part]}
    head = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p"}}
    return head | {"spec": {"endpointSelector": {}} | part}

"""What several end-to-end modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import LiveNode, live_node


@pytest.fixture(scope="session")
def shared_node() -> Iterator[LiveNode]:
    """A running node with the article's policies. Who changes anything puts it back."""
    with live_node() as node:
        yield node

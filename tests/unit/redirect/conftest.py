"""What tests of the programs have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.unit.redirect.programs import Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    try:
        yield made
    finally:
        made.close()

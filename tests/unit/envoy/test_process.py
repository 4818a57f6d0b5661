"""What the agent may take for granted of the Envoy that runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lockgate.envoy.running.process import EnvoyStatus, Phase

WANTED = EnvoyStatus(Phase.RUNNING, 1, 2, 3.0, 0, "", None, "1.40.0", True)


@pytest.mark.parametrize(
    ("status", "serves"),
    [
        (WANTED, True),
        (replace(WANTED, leaving_pid=3), True),
        (replace(WANTED, starting_pid=3), False),
        (replace(WANTED, current=False), False),
        (replace(WANTED, current=False, coming=True), False),
        (replace(WANTED, coming=True), True),
        (replace(WANTED, phase=Phase.WAITING), False),
    ],
)
def test_it_serves_as_wanted_when_no_other_takes_connections(status: EnvoyStatus, serves: bool) -> None:
    assert status.serves_as_wanted is serves

"""What the doctor says of a leg that does not do what it should. Legs that do: tests/e2e/test_doctor.py."""

from __future__ import annotations

from typing import Any, cast

from lockgate.agent.machine.check import State
from lockgate.agent.machine.probe import _Leg, _tried


class Silent:
    def counted(self) -> str:
        return "3 policy (egress)"


def test_a_leg_that_fails_says_what_happened_what_was_counted_and_what_to_look_at() -> None:
    leg = _Leg("straight on", lambda _, family: "dropped" if family == 6 else "200", "200", "look there")
    well, ill = (_tried(cast(Any, Silent()), leg, family) for family in (4, 6))
    assert (well.name, well.state, well.found, well.advice) == ("straight on, IPv4", State.OK, "200", "")
    assert (ill.name, ill.state, ill.advice) == ("straight on, IPv6", State.FAIL, "look there")
    assert ill.found == "dropped, not 200; the kernel counted 3 policy (egress)"

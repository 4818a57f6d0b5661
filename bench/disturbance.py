"""What else the machine did while something was measured, and when that was too much. Pure."""

from __future__ import annotations

from .figures import Spread

DISTURBED = "The machine was busy with other things: draw no conclusions from these figures."
_TOLERATED = 0.05  # cores


def too_much(foreign: float) -> bool:
    """Whether others used so much of the machine, in cores, that absolute figures say little."""
    return foreign > _TOLERATED


def of_modes(share: Spread, warning: str = DISTURBED) -> str:
    """For reports that measure one mode after the other: what others used, and the warning where it is due."""
    text = (
        "CPU that other processes of the machine used while a mode was measured: "
        f"median {share.median:.2f} cores, at most {share.high:.2f}."
    )
    return f"{text} **{warning}**" if too_much(share.median) else text

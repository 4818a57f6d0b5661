"""What every program of bpf/ is told by: its name, and where the kernel is to run it."""

from __future__ import annotations

from enum import Enum


class ProgramHook(Enum):
    """Without members of its own; those of its subclasses are pairs of a name and a number."""

    @property
    def program(self) -> str:
        """The function's name in the C source."""
        name: str = self.value[0]
        return name

    @property
    def attach_type(self) -> int:
        """The kernel's number (`enum bpf_attach_type`)."""
        number: int = self.value[1]
        return number

    @property
    def program_type(self) -> int:
        """What the verifier takes it for (`enum bpf_prog_type`)."""
        raise NotImplementedError

    @property
    def verified_for(self) -> int:
        """The `attach_type` where the verifier has to know it, else 0."""
        return 0

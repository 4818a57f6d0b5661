"""Errors of the data path.

RedirectError
├── NamespaceGoneError        a workload's network namespace, process or interface is not there (any more)
├── NotSeenError              whether it is there cannot be told: this process has no descriptor, thread or memory left
├── EndpointUnreachableError  the namespace exists, but its veth does not lead into this node
├── BpfUnsupportedError       this kernel or this user cannot do what the data path needs
├── ProgramRejectedError      the BPF sources did not compile, or the verifier refused them
├── PinConflictError          something else owns the pin directory, or pins of another layout lie there
├── NotLoadedError            no data path of ours is pinned there
├── MapFullError              a map has no room for what the policies need
├── RoutingFailedError        an ip rule, route or sysctl could not be set
└── SystemRefusedError        the kernel refused what it usually grants: no descriptor, no memory, a mount is gone
"""

from __future__ import annotations


class RedirectError(Exception):
    """Anything of this package. The message is one sentence: what happened, where, and what to do."""


class NamespaceGoneError(RedirectError):
    """The network namespace (or process, or interface) of a workload does not exist."""


class NotSeenError(RedirectError):
    """Nothing can be said of the workload: what was known of it holds."""


class EndpointUnreachableError(RedirectError):
    """The workload exists but cannot be policed here: no veth, or its other end is not in this node's namespace."""


class BpfUnsupportedError(RedirectError):
    """The kernel, its configuration or the caller's rights are not enough; names the feature and its version."""


class ProgramRejectedError(RedirectError):
    """Compiling or loading failed. `log` holds everything that clang or the verifier said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class PinConflictError(RedirectError):
    """The pin directory holds something that this version cannot adopt."""


class NotLoadedError(RedirectError):
    """Nothing of ours is in the pin directory."""


class MapFullError(RedirectError):
    """A BPF map ran out of room; nothing was loosened by it."""


class RoutingFailedError(RedirectError):
    """The node's rules, routes or sysctls could not be changed."""


class SystemRefusedError(RedirectError):
    """This machine has not enough of something at the moment; to be tried again."""

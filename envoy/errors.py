"""What can go wrong with the node's Envoy.

EnvoyError                  everything below
├── BinaryError             no Envoy binary, or not the pinned version
├── ModuleError             no dynamic module for Envoy, or one for another Envoy
├── BootstrapError          settings that Envoy could never start with
├── SupervisorError         the supervisor did not start, stop or answer
├── RestartError            Envoy could not be replaced; the one that was there goes on
└── AdminError              the admin interface did not answer, or answered with an error
    └── AdminUnreachableError    nothing listens on the admin socket
"""

from __future__ import annotations


class EnvoyError(Exception):
    """Something about the node's Envoy; the message is one sentence for the operator."""


class BinaryError(EnvoyError):
    """There is no usable Envoy binary."""


class ModuleError(EnvoyError):
    """There is no dynamic module that fits Envoy."""


class BootstrapError(EnvoyError):
    """The bootstrap settings cannot work."""


class SupervisorError(EnvoyError):
    """The process that keeps Envoy running could not be started, stopped or replaced."""


class RestartError(EnvoyError):
    """A hot restart is not possible now, or did not succeed."""


class AdminError(EnvoyError):
    """Envoy's admin interface refused or broke a request."""


class AdminUnreachableError(AdminError):
    """Nothing answers on the admin socket: Envoy is down or still starting."""

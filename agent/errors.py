"""Errors of the agent and the command line.

AgentError              one sentence for the operator; the command ends with status 1
├── HostError           this machine lacks something (root, BPF, BTF, a mount); the message says what to do
├── AlreadyRunningError another agent has this run directory or this network namespace
├── StateError          the state directory cannot be used
├── InputError          files that the user gave cannot be used
│   └── NoVerdictError  those that a verdict was asked of; status 2, as 1 is a denial
├── DemoError           the demonstration could not be carried out
└── UnreachableError    no agent or no Envoy answers; status 3
    └── OtherVersionError   an agent answers, and not what was asked
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of the tree."""

    exit_status = 1


class HostError(AgentError):
    """This machine cannot run a node agent."""


class AlreadyRunningError(AgentError):
    """Two agents at once."""


class StateError(AgentError):
    """The state directory is unusable."""


class InputError(AgentError):
    """Policies or workloads that cannot be used."""


class NoVerdictError(InputError):
    """Files of which nothing can be said: neither that a flow is allowed nor that it is denied."""

    exit_status = 2


class DemoError(AgentError):
    """The demonstration failed before it could judge anything."""


class UnreachableError(AgentError):
    """Nobody listens on the socket."""

    exit_status = 3


class OtherVersionError(UnreachableError):
    """The agent is older or newer than who asks it."""

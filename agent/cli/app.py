"""The root command: its groups, and how errors leave the process."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from .plain_params import plain_params

# The machine has no room: what is in force stays, and whoever starts the command may start it again.
_LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

# Module and attribute: a Typer of several commands, or the function of one. In the order of --help.
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "status": ("status_command", "status"),
    "flows": ("flows_command", "flows"),
    "demo": ("demo_command", "demo"),
    "agent": ("agent_group", "app"),
    "policy": ("policy_group", "app"),
    "endpoint": ("endpoint_group", "endpoints"),
    "identity": ("endpoint_group", "identities"),
    "service": ("service_group", "app"),
    "envoy": ("envoy_group", "app"),
    "xds": ("xds_group", "app"),
    "datapath": ("datapath_group", "app"),
}


class _Commands(TyperGroup):
    """Imports what is asked for and nothing else: an agent that starts has no second for the other commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        found = getattr(import_module(f".{module}", __package__), attribute)
        holder = typer.Typer(rich_markup_mode=None, add_completion=False)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=cmd_name)
        else:
            holder.command(cmd_name)(found)
        return get_group(holder).commands[cmd_name]


app = typer.Typer(
    name="lockgate",
    cls=_Commands,
    help="A sidecarless L7 mesh for one node: CiliumNetworkPolicy enforced by eBPF and a shared Envoy.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lockgate {version('lockgate')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Only the options before the first command."""


def run() -> None:
    """The console script: one clear sentence on stderr for whatever an operator can mend."""
    plain_params()
    try:
        app()
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        print(f"lockgate: {error}", file=sys.stderr)
        sys.exit(status)


def _exit_status(error: Exception) -> int | None:
    """None for an error that is ours to mend; what the machine lacks is not. Imported only now: most commands need none
    of these packages."""
    from ...envoy.errors import AdminUnreachableError, EnvoyError
    from ...policies.errors import PolicyError
    from ...redirect.errors import RedirectError
    from ...store.errors import StoreError
    from ...xds.errors import XdsError
    from ..errors import AgentError

    if isinstance(error, AgentError):
        return error.exit_status
    if isinstance(error, AdminUnreachableError):
        return 3
    if isinstance(error, OSError) and error.errno in _LACKING:
        return 1
    return 1 if isinstance(error, EnvoyError | PolicyError | RedirectError | StoreError | XdsError) else None

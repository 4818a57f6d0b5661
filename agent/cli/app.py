"""The root command: its groups, and how errors leave the process."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ...envoy.errors import AdminUnreachableError, EnvoyError
from ...policies.errors import PolicyError
from ...redirect.errors import RedirectError
from ...store import StoreError
from ...xds.errors import XdsError
from .. import errors
from . import agent_group, datapath_group, demo_command, endpoint_group, envoy_group, policy_group, status_command, xds_group

app = typer.Typer(
    name="lockgate",
    help="A sidecarless L7 mesh for one node: CiliumNetworkPolicy enforced by eBPF and a shared Envoy.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(agent_group.app, name="agent")
app.add_typer(policy_group.app, name="policy")
app.add_typer(endpoint_group.endpoints, name="endpoint")
app.add_typer(endpoint_group.identities, name="identity")
app.add_typer(envoy_group.app, name="envoy")
app.add_typer(xds_group.app, name="xds")
app.add_typer(datapath_group.app, name="datapath")
app.command("status")(status_command.status)
app.command("demo")(demo_command.demo)

_OPERATOR_ERRORS = (errors.AgentError, EnvoyError, PolicyError, RedirectError, StoreError, XdsError)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lockgate {version('lockgate')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Only the options before the first command."""


def run() -> None:
    """The console script: one clear sentence on stderr for whatever an operator can mend."""
    try:
        app()
    except _OPERATOR_ERRORS as error:
        print(f"lockgate: {error}", file=sys.stderr)
        if isinstance(error, errors.AgentError):
            sys.exit(error.exit_status)
        sys.exit(3 if isinstance(error, AdminUnreachableError) else 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: not worth a traceback
        sys.exit(0)

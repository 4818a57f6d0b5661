"""The root command: its groups, and how errors leave the process."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import (
    agent_group,
    bootstrap_command,
    datapath_group,
    demo_command,
    endpoint_group,
    envoy_group,
    flows_command,
    policy_group,
    service_group,
    status_command,
    xds_group,
)

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
app.add_typer(service_group.app, name="service")
envoy_group.app.command("bootstrap")(bootstrap_command.bootstrap)
app.add_typer(envoy_group.app, name="envoy")
app.add_typer(xds_group.app, name="xds")
app.add_typer(datapath_group.app, name="datapath")
app.command("status")(status_command.status)
app.command("flows")(flows_command.flows)
app.command("demo")(demo_command.demo)


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
    try:
        app()
    except Exception as error:
        status = _exit_status(error)
        if status is None:
            raise
        print(f"lockgate: {error}", file=sys.stderr)
        sys.exit(status)


def _exit_status(error: Exception) -> int | None:
    """None for an error that is ours to mend. Imported only now: most commands need none of these packages."""
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
    return 1 if isinstance(error, EnvoyError | PolicyError | RedirectError | StoreError | XdsError) else None

"""`lockgate xds certificate`: a small authority for the agent and its remote Envoys. Asks no agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ...xds.serve.certificates import Authority, Identity

app = typer.Typer(help="Certificates for remote Envoys.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--output", "-d", help="The folder for the new files.")]
From = Annotated[Path, typer.Option("--authority", "-a", help="The folder of the authority (ca.pem, ca.key).")]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Renew files that are there; otherwise they are never touched.")
]
_LEAF_DAYS = 365


@app.callback()
def _certificate() -> None:
    """Certificates for remote Envoys."""


@app.command()
def authority(output: Folder, days: Days = 3650) -> None:
    """Make the authority that signs the others. ca.pem is for everybody, ca.key (mode 0600) is to be kept where nobody
    else is: it is needed only to sign."""
    from ...xds.serve.certificates import Authority

    _write(Authority.new(days=days).identity, output, "ca", replace=False)


@app.command()
def server(
    authority: From,
    host: Annotated[list[str], typer.Option("--host", help="A name or address by which nodes reach the agent.")],
    output: Folder,
    days: Days = _LEAF_DAYS,
    replace: Replace = False,
) -> None:
    """Make the agent's certificate: server.pem and server.key."""
    _write(_open(authority).server(host, days), output, "server", replace)


@app.command()
def node(
    node_id: Annotated[str, typer.Argument(metavar="ID", help="As in remote: nodes of the agent's config file.")],
    authority: From,
    output: Folder,
    days: Days = _LEAF_DAYS,
    replace: Replace = False,
) -> None:
    """Make a remote node's certificate: ID.pem and ID.key. Who has the key is the node."""
    from ...policies.language.workload_file import valid_node

    if not valid_node(node_id):
        raise typer.BadParameter(f"'{node_id}' is not a node id; use letters, digits, '-', '_' and '.'")
    _write(_open(authority).node(node_id, days), output, node_id, replace)


def _open(folder: Path) -> Authority:
    from ...xds.serve.certificates import Authority

    return Authority.open(folder)


def _write(made: Identity, folder: Path, name: str, replace: bool) -> None:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    made.write(certificate, key, replace=replace)
    typer.echo(f"{certificate} and {key}, valid until {made.expires:%Y-%m-%d %H:%M}Z")

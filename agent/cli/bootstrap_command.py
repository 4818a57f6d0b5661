"""`lockgate envoy bootstrap`: what an Envoy on a machine without an agent starts with. Asks no agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError


def bootstrap(
    node: Annotated[str, typer.Option("--node", help="The node's id, as in its certificate.")],
    server: Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="Where the agent serves remote nodes.")],
    authority: Annotated[Path, typer.Option("--authority", help="ca.pem, on the Envoy's machine.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="The node's certificate there.")],
    key: Annotated[Path, typer.Option("--key", help="Its key there.")],
    output: Annotated[
        Path, typer.Option("--output", "-d", help="The folder for the files, and there for Envoy's socket and log.")
    ],
    port: Annotated[int, typer.Option("--port", help="Where redirected connections come to Envoy.")] = 15001,
    admin_port: Annotated[
        int,
        typer.Option(
            "--admin-port", help="Where the agent, by its certificate, may ask what Envoy has in force; 0: nowhere."
        ),
    ] = 0,
) -> None:
    """Write the files that a remote Envoy starts with.

    It is started by `envoy -c FOLDER/envoy.json`. docs/xds.md tells how to redirect connections to it, and what it
    enforces."""
    from ...envoy.config.remote_bootstrap import BOOTSTRAP_FILE, RemoteSettings, remote_bootstrap

    host, server_port = _address(server)
    folder = output.absolute()
    files = remote_bootstrap(
        RemoteSettings(node, host, server_port, authority, certificate, key, folder, port, admin_port)
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in files.items():
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
    except FileExistsError as error:
        raise InputError(f"{error.filename} is there already and stays as it is; take another folder") from None
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from None
    # It warns of each address that a matcher names, though such matchers are older than the API's stable parts.
    typer.echo(f"envoy -c {folder / BOOTSTRAP_FILE} --component-log-level misc:error")


def _address(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal():
        raise typer.BadParameter(f"--server {server}: write HOST:PORT, as in 192.0.2.1:18000 or [2001:db8::1]:18000")
    return host, int(port)

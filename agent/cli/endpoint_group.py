"""`lockgate endpoint` and `lockgate identity`."""

from __future__ import annotations

import typer

from ..inspection.client import ask
from .labels import own_labels
from .options import RUN_DIR, RunDir
from .output import Format, FormatOption, data, table

endpoints = typer.Typer(help="Workloads on this node.", no_args_is_help=True)
identities = typer.Typer(help="Numeric identities and their labels.", no_args_is_help=True)


@endpoints.callback()
def _endpoints() -> None:
    """Workloads on this node."""


@identities.callback()
def _identities() -> None:
    """Numeric identities and their labels."""


@endpoints.command("list")
def list_endpoints(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Workloads: where each is, who it is, how it is policed."""
    answer = ask(run_dir, "/v1/endpoints")
    if output is not Format.TABLE:
        data(answer, output)
        return
    table(
        ("ENDPOINT", "ID", "IDENTITY", "INTERFACE", "ADDRESSES", "INGRESS", "EGRESS", "LABELS"),
        (
            (
                entry["endpoint"],
                entry["id"] or "-",
                entry["identity"],
                entry["interface"] or entry["cgroup"] or "-",
                ", ".join(entry["ips"]),
                entry["ingress"],
                entry["egress"],
                own_labels(entry["labels"], namespace=False),
            )
            for entry in answer
        ),
    )


@identities.command("list")
def list_identities(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Every identity: its labels and the addresses that have it."""
    answer = ask(run_dir, "/v1/identities")
    if output is not Format.TABLE:
        data(answer, output)
        return
    table(
        ("IDENTITY", "LABELS", "ADDRESSES"),
        ((entry["identity"], own_labels(entry["labels"]), ", ".join(entry["prefixes"])) for entry in answer),
    )

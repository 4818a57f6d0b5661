"""`lockgate envoy`: looking inside the node's Envoy, and replacing it. Asks its admin socket itself, so looking works
without an agent too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ...envoy.inspection.inspect import EnvoyConfig, read_config, redact
from ..errors import InputError
from ..inspection.client import ask
from .bootstrap_command import bootstrap
from .options import RUN_DIR, RunDir, known_names
from .output import Format, FormatOption, data, fields, table

if TYPE_CHECKING:
    from ...envoy.inspection.admin import Admin

app = typer.Typer(help="Look inside the node's Envoy, or replace it.", no_args_is_help=True)

# https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/cli#cmdoption-l
LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
_DEFAULTS = {
    "RBAC, Composite": "default: deny all",
    "RBAC": "default: deny all",
    "Composite": "default: change nothing",
}

T = TypeVar("T")


class Part(StrEnum):
    """What `envoy config` can be limited to."""

    ALL = "all"
    LISTENERS = "listeners"
    CLUSTERS = "clusters"
    ROUTES = "routes"
    FILTERS = "filters"
    SECRETS = "secrets"


_SECTIONS = {
    Part.LISTENERS: "ListenersConfigDump",
    Part.CLUSTERS: "ClustersConfigDump",
    Part.ROUTES: "RoutesConfigDump",
    Part.FILTERS: "EcdsConfigDump",
    Part.SECRETS: "SecretsConfigDump",
}


def _ask(run_dir: Path, question: Callable[[Admin], Awaitable[T]]) -> T:
    from ...envoy.inspection.admin import Admin
    from ...envoy.running.run_files import ADMIN_SOCKET

    async def ask() -> T:
        async with Admin(run_dir / ADMIN_SOCKET) as admin:
            return await question(admin)

    return asyncio.run(ask())


@app.command()
def config(
    part: Annotated[Part, typer.Argument(help="Only this part.")] = Part.ALL,
    name: Annotated[str, typer.Option("-n", "--name", help="Only what has this regular expression in its name.")] = "",
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """What Envoy really has. `-o json` prints its own dump, without secrets."""
    pattern = _pattern(name)
    if output is not Format.TABLE:
        dump = _ask(run_dir, lambda admin: admin.config_dump(name=f".*(?:{name}).*" if name else ""))
        data(redact(_section(dump, part)), output)
        return
    records = read_config(_ask(run_dir, lambda admin: admin.config_dump()))
    shown = (
        (Part.LISTENERS, _listeners),
        (Part.ROUTES, _routes),
        (Part.FILTERS, _filters),
        (Part.CLUSTERS, _clusters),
        (Part.SECRETS, _secrets),
    )
    for wanted, show in shown:
        if part is wanted or (part is Part.ALL and wanted is not Part.SECRETS):
            show(records, pattern)
            if part is Part.ALL and wanted is not Part.CLUSTERS:
                typer.echo()


@app.command()
def rbac(
    endpoint: Annotated[
        str,
        typer.Argument(
            help="namespace/name or name of a workload, or an address.",
            autocompletion=known_names("/v1/endpoints", "endpoint"),
        ),
    ],
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """The rules that Envoy enforces for an endpoint.

    They are read back from Envoy itself, each with its policy. Of two rules that fit a request the first one counts.
    `x*` begins with x, `~x` matches the regular expression x, otherwise is what nothing above fitted. FILTER is what a
    connection is for: http, tls or kafka, whose METHOD is a role or APIs. What the kernel alone decides is not here:
    see `lockgate policy explain`.
    """
    from ...envoy.inspection.enforced import enforced_rules
    from ...envoy.inspection.enforced_kafka import kafka_rules
    from ...xds import end_text, shard_of
    from ..inspection.rbac_view import identity_names, rows

    known = ask(run_dir, "/v1/endpoints")
    found = _find_endpoint(endpoint, known)
    shard = shard_of(found["identity"])
    names = rf"lockgate\.(http\.[a-z]+\.{shard}|(tls|kafka)(\..*)?)"
    dump = _ask(run_dir, lambda admin: admin.config_dump(name=names, mask="ecds_filters"))
    own = [end_text(found["identity"], here=True)]
    rules = (*enforced_rules(dump, own), *kafka_rules(dump, found["identity"], found["ips"]))
    listed = rows(rules, identity_names(known, ask(run_dir, "/v1/identities")))
    if output is not Format.TABLE:
        data([row.to_json() for row in listed], output)
        return
    if not listed:
        typer.echo(f"Envoy enforces nothing for {found['endpoint']}: no rule about requests speaks about it")
        return
    columns = ("DIRECTION", "FILTER", "PEER", "PORT", "METHOD", "PATH", "HOST", "MORE", "VERDICT", "POLICY", "RULE")
    table(columns, ([cell or "-" for cell in row.to_json().values()] for row in listed))


@app.command()
def clusters(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Upstream clusters with the hosts Envoy talks to now."""
    answer = _ask(run_dir, lambda admin: admin.clusters())
    if output is not Format.TABLE:
        data(answer, output)
        return
    rows: list[tuple[str, str, str]] = []
    for cluster in answer.get("cluster_statuses", ()):
        hosts: Sequence[dict[str, Any]] = cluster.get("host_statuses", ()) or ({},)
        rows += [(cluster["name"], _host(host.get("address", {})), _totals(host)) for host in hosts]
    table(("CLUSTER", "HOST", "REQUESTS"), rows)


@app.command()
def listeners(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Listeners and the addresses they are bound to."""
    answer = _ask(run_dir, lambda admin: admin.listeners())
    if output is not Format.TABLE:
        data(answer, output)
        return
    statuses = answer.get("listener_statuses", ())
    rows = (
        (entry["name"], _host(address))
        for entry in statuses
        for address in (entry.get("local_address", {}), *entry.get("additional_local_addresses", ()))
    )
    table(("LISTENER", "ADDRESS"), rows)


@app.command()
def stats(
    pattern: Annotated[
        str, typer.Option("-f", "--filter", help="Only names that this regular expression is found in.")
    ] = "",
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Counters and gauges."""
    _pattern(pattern)
    answer = _ask(run_dir, lambda admin: admin.stats(pattern))
    if output is Format.TABLE:
        fields(sorted(answer.items()))
    else:
        data(answer, output)


@app.command()
def certs(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Certificates in use."""
    answer = _ask(run_dir, lambda admin: admin.certs())
    if output is not Format.TABLE:
        data(answer, output)
        return
    rows = []
    for entry in answer.get("certificates", ()):
        for kind in ("ca_cert", "cert_chain"):
            rows += [
                (kind, cert.get("path", ""), cert.get("serial_number", ""), cert.get("days_until_expiration", ""))
                for cert in entry.get(kind, ())
            ]
    table(("KIND", "PATH", "SERIAL", "DAYS LEFT"), rows)


@app.command("logging")
def set_logging(
    setting: Annotated[str, typer.Argument(help="LOGGER=LEVEL, or LEVEL for all loggers; nothing only shows.")] = "",
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """Show or set the levels of Envoy's loggers, while it runs."""
    logger, equals, level = setting.partition("=")
    if not equals:
        logger, level = "", setting
    if setting and (level not in LEVELS or (equals and not logger)):
        raise typer.BadParameter(f"{setting}: write LOGGER=LEVEL or LEVEL, which is one of {', '.join(LEVELS)}")
    answer = _ask(run_dir, lambda admin: admin.logging(level, logger))
    if output is Format.TABLE:
        fields(sorted(answer.items()))
    else:
        data(answer, output)


@app.command("server-info")
def server_info(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Version, state and uptime."""
    answer = _ask(run_dir, lambda admin: admin.server_info())
    if output is not Format.TABLE:
        data(redact(answer), output)
        return
    options = answer.get("command_line_options", {})
    fields(
        [
            ("version", answer.get("version", "")),
            ("state", answer.get("state", "")),
            ("uptime", answer.get("uptime_current_epoch", "")),
            ("node", answer.get("node", {}).get("id", "")),
            ("concurrency", options.get("concurrency", "")),
        ]
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise typer.BadParameter(f"'{text}' is not a regular expression: {error}") from None


@app.command()
def restart(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Replace Envoy by a new one without a gap.

    The new one takes the listening sockets over: no connection is refused or lost meanwhile. The old one ends with its
    connections, at the latest after the drain time (envoy_drain of the agent's --config). Needs a running agent, which
    gives the new Envoy its policies. Exits 1, with the old one serving, when it cannot be done.
    """
    from ...envoy.running.restart import restart as hot_restart

    ask(run_dir, "/v1/status")
    done = asyncio.run(hot_restart(run_dir))
    if output is not Format.TABLE:
        data(done._asdict(), output)
        return
    typer.echo(
        f"pid {done.new_pid} has taken over from pid {done.old_pid}, which ends with its connections, at the latest in "
        f"{done.drain:g} s"
    )


def _section(dump: dict[str, Any], part: Part) -> Any:
    if part is Part.ALL:
        return dump
    kind = _SECTIONS[part]
    return [section for section in dump.get("configs", ()) if section.get("@type", "").endswith(kind)]


def _find_endpoint(wanted: str, known: list[dict[str, Any]]) -> dict[str, Any]:
    found = [entry for entry in known if wanted in (entry["endpoint"], *entry["ips"])]
    found = found or [entry for entry in known if entry["endpoint"].rpartition("/")[2] == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(entry["endpoint"] for entry in found)
        raise InputError(f"several workloads are called {wanted}: {names}; write one of these")
    raise InputError(f"no workload is called {wanted} or has that address; 'lockgate endpoint list' shows all")


def _listeners(config: EnvoyConfig, pattern: re.Pattern[str]) -> None:
    table(
        ("LISTENER", "ADDRESS", "FILTERS", "ERROR"),
        (
            (record.name, record.address, ", ".join(record.filters), record.error or "-")
            for record in config.listeners
            if pattern.search(record.name)
        ),
    )


def _filters(config: EnvoyConfig, pattern: re.Pattern[str]) -> None:
    table(
        ("FILTER", "KIND", "VERSION", "UPDATED", "ERROR"),
        (
            (
                record.name,
                record.kind,
                record.version or _DEFAULTS.get(record.kind, "default"),
                record.updated,
                record.error or "-",
            )
            for record in config.filters
            if pattern.search(record.name)
        ),
    )


def _clusters(config: EnvoyConfig, pattern: re.Pattern[str]) -> None:
    table(
        ("CLUSTER", "KIND", "HOSTS", "ERROR"),
        (
            (record.name, record.kind, ", ".join(record.hosts) or "-", record.error or "-")
            for record in config.clusters
            if pattern.search(record.name)
        ),
    )


def _routes(config: EnvoyConfig, pattern: re.Pattern[str]) -> None:
    table(
        ("ROUTES", "HOST", "ROUTE", "MATCHES", "GOES TO"),
        (
            (record.name, ", ".join(record.domains), record.route, record.matches, record.target)
            for record in config.routes
            if pattern.search(record.name)
        ),
    )


def _secrets(config: EnvoyConfig, pattern: re.Pattern[str]) -> None:
    table(
        ("SECRET", "KIND", "VERSION", "UPDATED", "ERROR"),
        (
            (record.name, record.kind, record.version or "static", record.updated, record.error or "-")
            for record in config.secrets
            if pattern.search(record.name)
        ),
    )


def _host(address: dict[str, Any]) -> str:
    if "pipe" in address:
        return str(address["pipe"].get("path", ""))
    socket = address.get("socket_address", {})
    if not socket:
        return "-"
    host = socket["address"]
    return f"[{host}]:{socket['port_value']}" if ":" in host else f"{host}:{socket['port_value']}"


def _totals(host: dict[str, Any]) -> str:
    counters = {entry.get("name"): entry.get("value", "0") for entry in host.get("stats", ())}
    return str(counters.get("rq_total", "0"))


app.command("bootstrap")(bootstrap)

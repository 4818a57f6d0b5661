"""`lockgate policy`: checking, testing, listing and explaining policies."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote, urlencode

import typer

from ...policies import Flow, Severity, explain
from ...policies.errors import FlowError
from ...store import Document, PathError, read_documents
from ..errors import InputError
from ..inspection.client import ask
from ..supply.descriptors import read_services
from ..supply.offline import check, read_world
from . import policy_test_command
from .explain_text import explanation_text
from .options import RUN_DIR, RunDir, known_names
from .output import Format, FormatOption, data, fields, table

app = typer.Typer(help="Check, test, list and explain policies.", no_args_is_help=True)
app.command("test")(policy_test_command.test)

_Judge: TypeAlias = Callable[[object], dict[str, Any]]  # a flow, both as they are in JSON; raises FlowError


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(help="Policy files or folders.", metavar="PATH")],
    output: FormatOption = Format.TABLE,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    workloads: Annotated[
        Path | None,
        typer.Option("--workloads", help="Also warn of selectors without anybody and rules without effect."),
    ] = None,
    descriptors: Annotated[
        list[Path] | None,
        typer.Option(
            "--descriptors",
            metavar="FILE",
            help="gRPC rules may name only what is in here: a descriptor set of protoc's, or a .proto file; may be "
            "repeated.",
        ),
    ] = None,
    proto_path: Annotated[
        list[Path] | None,
        typer.Option("--proto-path", metavar="DIR", help="Where .proto files import from; may be repeated."),
    ] = None,
) -> None:
    """Check policy files.

    Says file:line: path: what is wrong, and what to write instead. Exits 1 when one is not valid."""
    documents = _documents(paths)
    grpc = read_services(descriptors, proto_path or []) if descriptors else None
    checked = check(documents, _read(workloads) if workloads is not None else (), grpc)
    problems = checked.problems
    failed = any(problem.severity is Severity.ERROR or strict for problem in problems)
    if output is Format.TABLE:
        for problem in problems:
            typer.echo(str(problem), err=True)
        if not failed:
            typer.echo(_valid(documents, checked.policies))
    else:
        data(
            {
                "valid": not failed,
                "files": len(documents),
                "policies": checked.policies,
                "problems": [problem.to_json() for problem in problems],
            },
            output,
        )
    if failed:
        raise typer.Exit(1)


def _documents(paths: list[Path]) -> list[Document]:
    found: dict[str, Document] = {}
    for path in paths:
        documents = _read(path)
        if not documents:
            raise typer.BadParameter(
                f"{path}: no policies, which are in files named *.yaml or *.yml (*.test.yaml are tests of policies)"
            )
        found |= {document.source: document for document in documents}
    return list(found.values())


def _read(path: Path) -> tuple[Document, ...]:
    try:
        return read_documents(path)
    except PathError as error:
        raise typer.BadParameter(str(error)) from None


def _valid(documents: list[Document], policies: int) -> str:
    """A file that holds no policy at all is valid too, and seldom what was meant."""
    what = documents[0].source if len(documents) == 1 else f"{len(documents)} files"
    return f"{what}: valid" + ("" if policies else ", but there is no policy")


@app.command("list")
def list_policies(output: FormatOption = Format.TABLE, run_dir: RunDir = RUN_DIR) -> None:
    """Policies: where each is enforced, and in what state it is."""
    answer = ask(run_dir, "/v1/policies")
    if output is not Format.TABLE:
        data(answer, output)
        return
    table(
        ("POLICY", "KIND", "STATE", "ENDPOINTS", "SOURCE"),
        (
            (entry["policy"], entry["kind"], entry["state"], ", ".join(entry["endpoints"]) or "-", entry["source"])
            for entry in answer
        ),
    )


@app.command("get")
def get_policy(
    name: Annotated[
        str,
        typer.Argument(help="namespace/name, or just the name.", autocompletion=known_names("/v1/policies", "policy")),
    ],
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """One policy with its status."""
    entry = ask(run_dir, f"/v1/policies/{quote(name, safe='/')}")
    if output is not Format.TABLE:
        data(entry, output)
        return
    fields(
        [
            ("policy", entry["policy"]),
            ("kind", entry["kind"]),
            ("source", entry["source"]),
            ("state", entry["state"]),
            ("revision", entry["revision"]),
            ("endpoints", "\n".join(entry["endpoints"]) or "none: no workload on this node is selected"),
            *(_nack_fields(entry["nack"]) if entry["nack"] else ()),
            *(_no_room_fields(entry["no_room"]) if entry["no_room"] else ()),
            *(row for node, nack in entry["remote_nacks"].items() for row in _nack_fields(nack, f" on {node}")),
            ("problems", "\n".join(entry["problems"]) or "none"),
        ]
    )


def _nack_fields(nack: dict[str, Any], where: str = "") -> list[tuple[str, str]]:
    enforced = {"older": "the last version that Envoy took", "denied": "nothing of it: what only it allows is denied"}
    return [
        ("refused", f"{nack['path']} (line {nack['line']}){where}"),
        ("envoy says", f"{nack['resource']}: {nack['text']}"),
        ("in force", enforced[nack["enforced"]]),
    ]


def _no_room_fields(overfull: dict[str, Any]) -> list[tuple[str, str]]:
    enforced = {
        "older": "the last version that there was room for",
        "denied": "nothing of it: what only it allows is denied",
        "closed": "nothing of it: where it denies something, everything is denied",
    }
    room = f"{overfull['room']} in all, {overfull['others']} for all else"
    return [
        ("wants", f"{overfull['wants']} entries of the BPF map {overfull['map']} ({room})"),
        ("in force", enforced[overfull["enforced"]]),
    ]


@app.command("explain")
def explain_flow(
    policies: Annotated[
        Path | None,
        typer.Option("--policies", help="A policy file, or a folder of them. Without: what is in force on this node."),
    ] = None,
    workloads: Annotated[
        Path | None, typer.Option("--workloads", help="A workloads file, or a folder of them; with --policies.")
    ] = None,
    source: Annotated[str, typer.Option("--from", help="namespace/name, an IP, reserved:world ...")] = "",
    destination: Annotated[str, typer.Option("--to", help="namespace/name, an IP, reserved:world ...")] = "",
    port: Annotated[str, typer.Option("--port", help="N or N/TCP, N/UDP, N/SCTP.")] = "",
    http: Annotated[str | None, typer.Option("--http", help="'METHOD PATH', the path with its query string.")] = None,
    host: Annotated[str, typer.Option("--host", help="The request's Host.")] = "",
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="'Name: value'; may be repeated.")] = None,
    server_name: Annotated[str, typer.Option("--server-name", help="What a TLS client calls the server (SNI).")] = "",
    encrypted: Annotated[bool, typer.Option("--tls", help="The connection is TLS.")] = False,
    grpc: Annotated[str | None, typer.Option("--grpc", help="package.Service/Method.")] = None,
    kafka: Annotated[str | None, typer.Option("--kafka", help="An API's name or number, produce or consume.")] = None,
    topic: Annotated[list[str] | None, typer.Option("--topic", help="A Kafka topic; may be repeated.")] = None,
    client_id: Annotated[str, typer.Option("--client-id", help="The Kafka client's id.")] = "",
    api_version: Annotated[int | None, typer.Option("--api-version", help="The Kafka API's version.")] = None,
    flows: Annotated[
        Path | None, typer.Option("--flows", help="A file of JSON flows, one a line; - is standard input.")
    ] = None,
    output: FormatOption = Format.TABLE,
    run_dir: RunDir = RUN_DIR,
) -> None:
    """What happens to a flow, and which rule decides. By files, which needs no agent, or by what is in force.

    Exits 1 when it is denied, 2 when nothing can be said of it."""
    judge = _judge(policies, workloads, run_dir)
    if flows is not None:
        if source or destination or port or http or grpc or kafka or server_name or encrypted:
            raise typer.BadParameter("--flows FILE has its flows in the file: leave --from, --to and the rest out")
        _explain_lines(judge, flows)
        return
    for name, value in (("--from", source), ("--to", destination), ("--port", port)):
        if not value:
            raise typer.BadParameter(f"give {name} (or --flows FILE)")
    number, slash, protocol = port.partition("/")
    if not number.isdecimal() or (slash and not protocol):
        raise typer.BadParameter(f"--port {port}: write a number, or a number and a protocol as in 53/UDP")
    flow: dict[str, Any] = {"from": source, "to": destination, "port": number, "protocol": protocol or "TCP"}
    about_request = {"host": host, "headers": _headers(header or []), "serverName": server_name, "tls": encrypted}
    if http is not None:
        flow["http"] = _http(http) | about_request
    if grpc is not None:
        service, slash, method = grpc.partition("/")
        if not slash or not service or not method:
            raise typer.BadParameter(f"--grpc {grpc}: write package.Service/Method")
        flow["grpc"] = {"service": service, "method": method} | about_request
    if kafka is not None:
        flow["kafka"] = {"apiKey": kafka, "topics": topic or [], "clientID": client_id}
        if api_version is not None:
            flow["kafka"]["apiVersion"] = api_version
    if (server_name or encrypted) and not (http or grpc):
        if kafka:
            raise typer.BadParameter("--server-name and --tls go with --http or --grpc, or stand alone")
        flow["tls"] = {"serverName": server_name}
    if (host or header) and not (http or grpc):
        raise typer.BadParameter("--host and -H describe a request: give --http (or --grpc) with them")
    if (topic or client_id or api_version is not None) and not kafka:
        raise typer.BadParameter("--topic, --client-id and --api-version describe a Kafka request: give --kafka too")
    try:
        explanation = judge(flow)
    except FlowError as error:
        # Not status 1: that is a denial, which a misspelt name must not look like.
        raise typer.BadParameter(str(error)) from None
    if output is Format.TABLE:
        typer.echo(explanation_text(explanation))
    else:
        data(explanation, output)
    if explanation["verdict"] == "deny":
        raise typer.Exit(1)


def _judge(policies: Path | None, workloads: Path | None, run_dir: Path) -> _Judge:
    if policies is not None and workloads is not None:
        world = read_world(policies, workloads).world
        return lambda flow: explain(world, Flow.from_json(flow)).to_json()
    if policies is not None or workloads is not None:
        raise typer.BadParameter("give --policies and --workloads, or neither to ask the agent")

    def ask_agent(flow: object) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = ask(run_dir, f"/v1/explain?{urlencode({'flow': json.dumps(flow)})}")
        except InputError as error:
            raise FlowError(str(error)) from None
        return answer

    return ask_agent


def _http(request: str) -> dict[str, Any]:
    method, _, path = request.partition(" ")
    if not path.startswith("/") and path != "*":
        raise typer.BadParameter(f"--http '{request}': write the method and the path, as in 'GET /api/v1/users'")
    return {"method": method, "path": path}


def _headers(lines: list[str]) -> dict[str, list[str]]:
    """A header that is given several times has several values."""
    parsed: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"-H '{line}': write 'Name: value'")
        parsed.setdefault(name.strip().lower(), []).append(value.strip())
    return parsed


def _explain_lines(judge: _Judge, flows: Path) -> None:
    """One JSON flow a line in, one JSON verdict a line out; a line that cannot be read ends it with its number.

    The verdicts are in the data: the exit status only says whether every line was answered.
    """
    try:
        with sys.stdin.buffer if str(flows) == "-" else flows.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    explanation = judge(json.loads(line))
                except json.JSONDecodeError as error:
                    raise InputError(f"{flows}:{number}: not JSON: {error.msg} at column {error.colno}") from None
                except UnicodeDecodeError:
                    raise InputError(f"{flows}:{number}: not UTF-8") from None
                except (RecursionError, ValueError):  # thousands of brackets; a number of thousands of digits
                    raise InputError(f"{flows}:{number}: no flow is so deep or has such a number") from None
                except FlowError as error:
                    raise InputError(f"{flows}:{number}: {error}") from None
                typer.echo(json.dumps(explanation, ensure_ascii=False))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"--flows {flows}: {error.strerror}") from None

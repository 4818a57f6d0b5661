"""`lockgate policy validate` and `policy explain`: what they print and how they exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from lockgate.tests.command_line import Ended, lockgate

EXAMPLES = Path(__file__).parents[3] / "policies" / "examples"
API = EXAMPLES / "api-access-control.yaml"
WORKLOADS = """
workloads:
- {name: frontend, labels: {app: frontend, role: frontend}, ips: [10.0.0.2]}
- {name: intruder, labels: {app: intruder}, ips: [10.0.0.3]}
- {name: backend, labels: {app: backend}, ips: [10.0.0.4]}
- {name: api-server, labels: {app: api-server}, ips: [10.0.0.5, "fd00::5"]}
"""
ALLOWED: dict[str, Any] = {
    "from": "default/frontend",
    "to": "default/api-server",
    "port": 80,
    "protocol": "TCP",
    "http": {"method": "GET", "path": "/api/v1/users", "host": "api", "headers": {"x": "y"}},
}
DENIED = ALLOWED | {"from": "default/intruder"}


@pytest.fixture
def workloads(tmp_path: Path) -> Path:
    path = tmp_path / "workloads.yaml"
    path.write_text(WORKLOADS)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.yaml"
    path.write_text(API.read_text().replace("path: /api/v1/users", "path: /api/(v1"))
    return path


@pytest.fixture
def warned(tmp_path: Path) -> Path:
    path = tmp_path / "warned.yaml"
    path.write_text(API.read_text().replace("path: /api/v1/users", "path: /api/v1/users\n          host: api.example"))
    return path


class TestValidate:
    def test_valid_files(self) -> None:
        assert lockgate("policy", "validate", API) == Ended(0, f"{API}: valid\n", "")
        count = sum(not path.name.endswith(".test.yaml") for path in EXAMPLES.glob("*.yaml"))
        assert lockgate("policy", "validate", EXAMPLES) == Ended(0, f"{count} files: valid\n", "")

    def test_an_error_names_file_line_and_path_and_says_what_is_wrong(self, broken: Path) -> None:
        line = next(n for n, text in enumerate(broken.read_text().splitlines(), 1) if "path: /api/(v1" in text)
        ended = lockgate("policy", "validate", API, broken)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith(f"{broken}:{line}: spec.ingress[0].toPorts[0].rules.http[0].path: ")
        assert ended.err.count("\n") == 1

    def test_every_problem_of_every_file_is_told(self, broken: Path, tmp_path: Path) -> None:
        (tmp_path / "other.yaml").write_text("kind: [\n")
        (tmp_path / "third.yaml").write_text(API.read_text().replace("endpointSelector", "endPointSelector"))
        ended = lockgate("policy", "validate", tmp_path)
        assert ended.status == 1
        for name in ("broken.yaml:", "other.yaml:", "third.yaml:"):
            assert f"{tmp_path}/{name}" in ended.err
        assert "endpointSelector" in ended.err, "the misspelt field is told with the right one"

    def test_warnings_count_only_when_asked_to(self, warned: Path) -> None:
        ended = lockgate("policy", "validate", warned)
        assert (ended.status, ended.out) == (0, f"{warned}: valid\n")
        assert ": warning: spec.ingress[0].toPorts[0].rules.http[0].host: " in ended.err
        assert lockgate("policy", "validate", "--strict", warned).status == 1
        assert lockgate("policy", "validate", "--strict", API).status == 0

    def test_as_data(self, broken: Path) -> None:
        valid = {"valid": True, "files": 1, "policies": 1, "problems": []}
        assert lockgate("policy", "validate", "-o", "json", API).data == valid
        ended = lockgate("policy", "validate", "-o", "json", broken)
        assert ended.status == 1
        assert ended.data["valid"] is False
        (problem,) = ended.data["problems"]
        assert set(problem) == {"source", "line", "path", "severity", "message", "hint"}
        assert (problem["source"], problem["severity"]) == (str(broken), "error")
        assert yaml.safe_load(lockgate("policy", "validate", "-o", "yaml", broken).out) == ended.data

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        ended = lockgate("policy", "validate", tmp_path / "missing")
        assert ended.status == 2
        assert f"{tmp_path}/missing: no such file or directory" in ended.err

    def test_nothing_to_check_is_not_valid(self, tmp_path: Path) -> None:
        """A folder that was meant otherwise must not pass for well checked."""
        (tmp_path / "readme.txt").write_text("x")
        ended = lockgate("policy", "validate", tmp_path)
        assert (ended.status, ended.out) == (2, "")
        assert f"{tmp_path}: no policies, which are in files named *.yaml or *.yml" in ended.err
        (tmp_path / "empty.yaml").write_text("# nothing\n")
        assert lockgate("policy", "validate", tmp_path).out == f"{tmp_path}/empty.yaml: valid, but there is no policy\n"

    def test_a_file_that_is_named_twice_is_checked_once(self, broken: Path) -> None:
        assert len(lockgate("policy", "validate", broken, broken).err.splitlines()) == 1

    def test_a_pipe_is_read_to_its_end_and_not_without_end(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen(["cp", API, pipe]) as writer:
            assert lockgate("policy", "validate", pipe) == Ended(0, f"{pipe}: valid\n", "")
            assert writer.wait() == 0
        ended = lockgate("policy", "validate", "/dev/zero")
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("/dev/zero: more than the limit of ")


def explain(workloads: Path, *more: object, source: str = "frontend", stdin: bytes = b"") -> Ended:
    files = ("--policies", API, "--workloads", workloads)
    ends = ("--from", source, "--to", "default/api-server") if source else ()
    return lockgate("policy", "explain", *files, *ends, *more, stdin=stdin)


class TestExplain:
    def test_allowed(self, workloads: Path) -> None:
        ended = explain(workloads, "--port", 80, "--http", "GET /api/v1/users")
        assert (ended.status, ended.err) == (0, "")
        assert ended.out.startswith("ALLOW  default/frontend -> default/api-server\n")
        assert f"({API}:16)" in ended.out
        assert "(:0)" not in ended.out, "a built-in rule has no place in a file"

    @pytest.mark.parametrize("request_line", ["POST /api/v1/users", "GET /api/v1/users?all=1", "GET /"])
    def test_denied_request(self, workloads: Path, request_line: str) -> None:
        ended = explain(workloads, "--port", "80/TCP", "--http", request_line)
        assert ended.status == 1
        assert ended.out.startswith("DENY  default/frontend -> default/api-server\n")

    def test_denied_connection(self, workloads: Path) -> None:
        for more in (("--port", 81), ("--port", "80/udp"), ("--port", 80)):
            assert explain(workloads, *more, source="intruder").status == 1

    def test_a_connection_that_envoy_will_judge(self, workloads: Path) -> None:
        ended = explain(workloads, "--port", 80, "-o", "json")
        assert (ended.status, ended.data["verdict"]) == (0, "redirect")

    @pytest.mark.parametrize(("source", "status"), [("10.0.0.2", 0), ("10.0.0.3", 1), ("1.1.1.1", 1)])
    def test_addresses(self, workloads: Path, source: str, status: int) -> None:
        assert explain(workloads, "--port", 80, "--http", "GET /api/v1/users", source=source).status == status

    @pytest.mark.parametrize(("source", "status"), [("reserved:world", 1), ("reserved:host", 0)])
    def test_reserved_identities(self, workloads: Path, source: str, status: int) -> None:
        assert explain(workloads, "--port", 80, "--http", "GET /api/v1/users", source=source).status == status

    def test_the_shape_of_the_data(self, workloads: Path) -> None:
        data = explain(workloads, "--port", 80, "--http", "GET /api/v1/users", "-o", "json").data
        assert data["verdict"] == "allow"
        assert [data[end]["name"] for end in ("from", "to")] == ["default/frontend", "default/api-server"]
        assert (data["egress"]["verdict"], data["egress"]["considered"]) == ("allow", [])
        assert data["ingress"]["redirected"] is True
        matched = [rule for rule in data["ingress"]["considered"] if rule["matched"]]
        assert [(rule["policy"], rule["rule"], rule["source"], rule["line"], rule["effect"]) for rule in matched] == [
            ("default/api-access-control", "spec.ingress[0].toPorts[0]", str(API), 16, "allow")
        ]
        assert all(rule["why"] for rule in data["ingress"]["considered"])

    def test_headers_and_host(self, workloads: Path, tmp_path: Path) -> None:
        text = API.read_text().replace(
            "path: /api/v1/users", 'path: /api/v1/users\n          host: api\n          headers: ["x-a: 1,2"]'
        )
        policies = tmp_path / "headers.yaml"
        policies.write_text(text)
        files = ("--policies", policies, "--workloads", workloads, "--from", "frontend", "--to", "api-server")
        flow = ("--port", 80, "--http", "GET /api/v1/users")
        said = ("--host", "api", "-H", "X-A: 1", "-H", "x-a:2")
        assert lockgate("policy", "explain", *files, *flow, *said).status == 0
        assert lockgate("policy", "explain", *files, *flow, "--host", "other", *said[2:]).status == 1
        assert lockgate("policy", "explain", *files, *flow, *said[:4]).status == 1

    def test_what_a_tls_client_calls_the_server(self, tmp_path: Path) -> None:
        workloads = tmp_path / "tls.yaml"
        workloads.write_text("workloads: [{name: updater, labels: {app: updater}}, {name: front}]")

        def explained(*more: str) -> Ended:
            policies, ends = EXAMPLES / "server-names.yaml", ("--from", "updater", "--to", "front", "--port", "443")
            return lockgate("policy", "explain", "--policies", policies, "--workloads", workloads, *ends, *more)

        assert explained("--server-name", "updates.example.com").status == 0
        assert explained("--server-name", "updates.example.com", "--http", "GET /").status == 0
        assert explained("--server-name", "paste.example.com").status == 1
        unnamed = explained("--tls")
        assert unnamed.status == 1 and "the connection names no server" in unnamed.out
        assert explained("--tls", "--kafka", "produce").status == 2

    @pytest.mark.parametrize(
        ("more", "hint"),
        [
            ((), "give --port"),
            (("--port", "http"), "--port http: write a number"),
            (("--port", "99999"), "99999"),
            (("--port", "80/QUIC"), "unknown protocol 'QUIC'"),
            (("--port", "80", "--to", "api-servr"), "default/api-server"),
            (("--port", "80", "--http", "/api"), "write the method and the path"),
            (("--port", "80", "--host", "api"), "give --http"),
            (("--port", "80", "-H", "a: b"), "give --http"),
            (("--port", "80", "--topic", "t"), "give --kafka"),
            (("--port", "80", "--http", "GET /", "-H", "a"), "write 'Name: value'"),
            (("--port", "80", "--http", "GET /", "--grpc", "a.B/C"), "one request only"),
            (("--port", "80", "--grpc", "a.B"), "write package.Service/Method"),
            (("--port", "80/"), "--port 80/: write a number"),
            (("--port", "²"), "--port ²: write a number"),
            (("--port", "80", "--http", ""), "write the method and the path"),
            (("--port", "80", "--grpc", ""), "write package.Service/Method"),
            (("--port", "80", "--kafka", ""), "unknown Kafka API ''"),
            (("--port", "80", "--http", "GET /\udcff"), "'path' is not Unicode; in a path write other bytes as %FF"),
            (("--port", "80", "--flows", "-"), "--flows FILE has its flows in the file"),
        ],
    )
    def test_usage(self, workloads: Path, more: tuple[str, ...], hint: str) -> None:
        """Status 2: a misspelt question must not look like a denial."""
        ended = explain(workloads, *more)
        assert (ended.status, ended.out) == (2, "")
        assert hint in ended.err

    def test_files_of_which_nothing_can_be_said_deny_nothing(
        self, workloads: Path, broken: Path, tmp_path: Path
    ) -> None:
        flow = ("--from", "frontend", "--to", "default/api-server", "--port", 80)
        for policies, listed, sentence in (
            (tmp_path / "missing", workloads, f"{tmp_path}/missing: no such file or directory"),
            (API, tmp_path / "missing", f"{tmp_path}/missing: no such file or directory"),
            (broken, workloads, f"{broken}:"),
        ):
            ended = lockgate("policy", "explain", "--policies", policies, "--workloads", listed, *flow)
            assert (ended.status, ended.out) == (2, "")
            assert ended.sentence.startswith(sentence)

    def test_without_files_the_agent_is_asked(self, tmp_path: Path) -> None:
        flow = ("policy", "explain", "--from", "a", "--to", "b", "--port", 80, "--run-dir", tmp_path)
        ended = lockgate(*flow)
        assert (ended.status, ended.out) == (3, "")
        assert ended.sentence.startswith(f"no agent answers on {tmp_path}/agent.sock")
        ended = lockgate(*flow, "--policies", API)
        assert ended.status == 2 and "give --policies and --workloads, or neither" in ended.err


class TestFlows:
    def ask(self, workloads: Path, tmp_path: Path, text: bytes) -> Ended:
        path = tmp_path / "flows.jsonl"
        path.write_bytes(text)
        return explain(workloads, "--flows", path, source="")

    def test_a_line_in_is_a_line_out(self, workloads: Path, tmp_path: Path) -> None:
        flows = [ALLOWED, DENIED, ALLOWED | {"http": None}, ALLOWED | {"port": 443, "http": None}] * 5
        ended = self.ask(workloads, tmp_path, b"".join(json.dumps(flow).encode() + b"\n" for flow in flows))
        assert ended.status == 0, "verdicts are in the data"
        verdicts = [json.loads(line)["verdict"] for line in ended.out.splitlines()]
        assert verdicts == ["allow", "deny", "redirect", "deny"] * 5

    def test_each_line_is_what_a_single_question_answers(self, workloads: Path, tmp_path: Path) -> None:
        line = self.ask(workloads, tmp_path, json.dumps(ALLOWED).encode()).out
        http = ("--http", "GET /api/v1/users", "--host", "api", "-H", "x: y")
        assert json.loads(line) == explain(workloads, "--port", 80, *http, "-o", "json").data

    def test_standard_input(self, workloads: Path) -> None:
        text = json.dumps(DENIED).encode() + b"\n\n" + json.dumps(ALLOWED).encode()
        ended = explain(workloads, "--flows", "-", source="", stdin=text)
        assert [json.loads(line)["verdict"] for line in ended.out.splitlines()] == ["deny", "allow"]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"{", "not JSON: "),
            (b'"flow"', "the flow must be a JSON object"),
            (b'{"from": "frontend", "port": 80}', "the flow has no 'to'"),
            (json.dumps(ALLOWED | {"to": "nobody"}).encode(), "no workload is called 'nobody'"),
            (json.dumps(ALLOWED | {"ports": 80}).encode(), "unknown field 'ports'"),
            (b'"\xff"', "not UTF-8"),
            (b"[" * 100_000, "no flow is so deep or has such a number"),
            (b"1" * 5000, "no flow is so deep or has such a number"),
            (json.dumps(ALLOWED | {"http": {"path": "/\ud800"}}).encode(), "'path' is not Unicode"),
            (json.dumps(ALLOWED | {"http": {"headers": {"a": "\ud800"}}}).encode(), "'headers' is not Unicode"),
            (json.dumps(ALLOWED | {"http": None, "kafka": {"apiKey": 0, "topics": ["\ud800"]}}).encode(), "'kafka.t"),
        ],
    )
    def test_a_bad_line_is_named_by_its_number(self, workloads: Path, tmp_path: Path, line: bytes, reason: str) -> None:
        ended = self.ask(workloads, tmp_path, json.dumps(ALLOWED).encode() + b"\n\n" + line + b"\n")
        assert ended.status == 1
        assert len(ended.out.splitlines()) == 1, "what came before it is answered"
        assert f"flows.jsonl:3: {reason}" in ended.sentence or reason in ended.sentence.split("flows.jsonl:3: ")[1]

    def test_a_file_that_is_not_there(self, workloads: Path, tmp_path: Path) -> None:
        ended = explain(workloads, "--flows", tmp_path / "missing", source="")
        assert ended.status == 1
        assert ended.sentence == f"--flows {tmp_path}/missing: No such file or directory"


def test_the_reader_of_the_verdicts_may_leave_early(workloads: Path) -> None:
    """`lockgate ... | head -1` ends without a traceback."""
    flows = json.dumps(ALLOWED).encode() + b"\n"
    arguments = ["policy", "explain", "--policies", API, "--workloads", workloads, "--flows", "-"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "lockgate", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(flows)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.write(flows * 200)
            process.stdin.close()
        assert process.stderr.read() == b""

"""`lockgate demo`: it shows what it should, twice in a row, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lockgate.agent.demo.http_part import HTTP
from lockgate.agent.demo.scenario import Scenario
from lockgate.agent.demo.site import Site
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import Ended, lockgate

PATIENCE = 120.0
COLUMNS = "FROM TO IP REQUEST HAPPENED SERVER_SAW EXPLAINED DECIDED_BY WHY"
HALF_WAY = "demo: intruder -> backend: GET :8080/: dropped"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A name of its own: somebody may be looking at a demonstration on this machine."""
    site = Site(f"{os.environ.get('PYTEST_XDIST_WORKER', 'e2e')}_{uuid.uuid4().hex[:6]}")
    yield site
    site.clean(print)


@contextmanager
def started(site: Site, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs it as the leader of a process group that heeds Ctrl-C, as a shell does."""
    command = [sys.executable, "-P", "-m", "lockgate", "demo", "--name", site.name, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background ignores it
    with subprocess.Popen(command, process_group=0, preexec_fn=heed, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def whole(site: Site, *arguments: str) -> Ended:
    with started(site, *arguments) as process:
        out, err = process.communicate(timeout=PATIENCE)
        return Ended(process.returncode, out, err)


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        seen.append(text)
        if text.startswith(line):
            return
    raise AssertionError(f"{line!r} never came:\n{''.join(seen)}")


def leftovers(site: Site) -> list[str]:
    """Namespaces, directories, pins and processes of the demonstration that are still there."""
    found = [str(path) for path in netns.NETNS_DIR.iterdir() if path.name.startswith(f"lg-{site.name}")]
    found += [str(path) for path in (site.directory, Path(f"/sys/fs/bpf/run-lockgate-{site.name}")) if path.exists()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(site.directory) in command or f"lg-{site.name}" in command:
                found.append(f"process {entry.name}: {command}")
    return found


def check_rows(rows: list[dict[str, Any]]) -> None:
    """What the article promises, written out: the demonstration itself only compares two columns."""
    assert len(rows) == len(HTTP.requests)
    happened = {(row["client"], row["server"], row["family"], row["request"]): row["happened"] for row in rows}
    assert happened["frontend", "backend", 4, "GET :8080/"] == "200"
    assert happened["intruder", "backend", 4, "GET :8080/"] == "dropped"
    assert happened["intruder", "backend", 6, "GET :8080/"] == "dropped"
    assert happened["frontend", "api-server", 4, "GET :80/api/v1/users"] == "200"
    assert happened["frontend", "api-server", 6, "GET :80/api/v1/users"] == "200"
    assert happened["frontend", "api-server", 4, "POST :80/api/v1/users"] == "403 Access denied"
    assert happened["intruder", "api-server", 4, "GET :80/api/v1/users"] == "dropped"
    for row in rows:
        assert row["agrees"] is True
        assert row["verdict"] == ("allow" if row["happened"] in ("200", "refused") else "deny")
        assert row["reason"]
        seen = {"200": "10.200.0.2" if row["family"] == 4 else "fd00:200::2"}.get(row["happened"], "")
        assert row["seen_from"] == seen, "the server sees the client's own address, and nothing of what is denied"
    decided = {row["server"]: row["decided_by"] for row in rows if row["happened"] == "200"}
    assert decided == {
        "backend": "default/allow-frontend-to-backend:spec.ingress[0].toPorts[0]",
        "api-server": "default/api-access-control:spec.ingress[0].toPorts[0]",
    }


def test_twice_in_a_row_and_after_a_crash(site: Site) -> None:
    with started(site) as process:
        read_until(process, HALF_WAY)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert leftovers(site) != [], "or the next lines show nothing"

    first = whole(site)
    assert first.status == 0, first.err
    lines = first.err.splitlines()
    assert lines[0] == "demo: removing what an earlier demonstration left"
    assert lines[-1] == "demo: cleaning up"
    assert leftovers(site) == []
    header, *table, last = first.out.splitlines()
    assert header.replace("SERVER SAW", "SERVER_SAW").replace("DECIDED BY", "DECIDED_BY").split() == COLUMNS.split()
    requests = Scenario.of().requests
    assert len(table) == len(requests)
    assert last == f"{len(requests)} requests, 0 disagreements between the wire and the explanation"

    second = whole(site, "-o", "json", "--keep", "--only", "http")
    assert second.status == 0, second.err
    assert second.data["agree"] is True
    check_rows(second.data["requests"])
    look_around(site, second.err)
    assert whole(site, "--clean").status == 0
    assert leftovers(site) == []


def look_around(site: Site, invitation: str) -> None:
    """What --keep leaves works as its last lines say."""
    status = f"lockgate status --run-dir {site.directory}"
    assert status in invitation
    assert lockgate(*status.split()[1:]).status == 0
    edit = next(line for line in invitation.splitlines() if "edit " in line).split()[-1]
    curl = next(line for line in invitation.splitlines() if "curl" in line).split()
    namespace, url = curl[2].removeprefix("--net="), curl[-1]

    def status_of(path: str) -> int:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url.replace("/api/v1/users", path), timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert netns.run_in(Path(namespace), lambda: status_of("/api/v1/users")) == 200
    assert netns.run_in(Path(namespace), lambda: status_of("/mine")) == 403
    Path(edit).write_text(Path(edit).read_text().replace("/api/v1/users", "/mine"))
    deadline = time.monotonic() + 30
    while netns.run_in(Path(namespace), lambda: status_of("/mine")) != 200:
        assert time.monotonic() < deadline, "the edited policy never took effect"
        time.sleep(0.02)
    assert f"lockgate demo --clean --name {site.name}" in invitation


def test_grpc_alone(site: Site) -> None:
    """By service and method, and what is not allowed never reaches the server."""
    ended = whole(site, "--only", "grpc", "-o", "json")
    assert ended.status == 0, ended.err
    rows = ended.data["requests"]
    met = {(row["client"], row["request"].partition("/")[2]): (row["happened"], row["verdict"]) for row in rows}
    denied = ("PERMISSION_DENIED Access denied", "deny")
    assert met == {
        ("shop", "shop.v1.Catalog/Get"): ("OK", "allow"),
        ("shop", "shop.v1.Catalog/Watch"): ("OK", "allow"),
        ("shop", "shop.v1.Admin/Delete"): denied,
        ("shop", "grpc.health.v1.Health/Watch"): denied,
        ("back-office", "shop.v1.Admin/Delete"): ("OK", "allow"),
        ("back-office", "shop.v1.Catalog/Get"): denied,
        ("intruder", "shop.v1.Catalog/Get"): ("dropped", "deny"),
    }
    own = {(row["client"], row["family"]): row["seen_from"] for row in rows if row["happened"] == "OK"}
    assert own == {
        ("shop", 4): "10.200.0.3",
        ("shop", 6): "fd00:200::3",
        ("back-office", 6): "fd00:200::4",
    }
    assert all(not row["seen_from"] for row in rows if row["happened"] != "OK")
    assert leftovers(site) == []


def test_kafka_alone(site: Site) -> None:
    """By topic, and what is not allowed never reaches the broker."""
    ended = whole(site, "--only", "kafka", "-o", "json")
    assert ended.status == 0, ended.err
    rows = ended.data["requests"]
    denied = ("TopicAuthorizationFailed", "deny")
    met = {(row["client"], row["request"].partition(" ")[2]): (row["happened"], row["verdict"]) for row in rows}
    assert met == {
        ("shop", ":9092 produce orders"): ("OK", "allow"),
        ("shop", ":9092 produce payroll"): denied,
        ("shop", ":9092 consume orders"): denied,
        ("warehouse", ":9092 consume orders"): ("OK", "allow"),
        ("warehouse", ":9092 produce orders"): denied,
        ("warehouse", ":9092 create returns"): ("OK", "allow"),
        ("warehouse", ":9092 delete orders"): denied,
        ("warehouse", ":9092 consume returns"): denied,
        ("intruder", ":9092 produce orders"): ("dropped", "deny"),
    }
    own = {row["client"]: row["seen_from"] for row in rows if row["happened"] == "OK"}
    assert own == {"shop": "10.200.0.3", "warehouse": "10.200.0.4"}
    assert all(not row["seen_from"] for row in rows if row["happened"] != "OK")
    assert leftovers(site) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(site: Site, number: signal.Signals) -> None:
    """By Ctrl-C, which reaches the whole process group, or by whoever wants it to end."""
    with started(site) as process:
        read_until(process, HALF_WAY if number == signal.SIGINT else "demo: starting the agent")
        process.send_signal(signal.SIGSTOP)  # it must not be done before the second one has looked
        second = whole(site)
        assert second.status == 1
        assert second.sentence.startswith(f"another 'lockgate demo' is at work under the name {site.name}; ")
        os.killpg(process.pid, number)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert out == ""
    assert "demo: cleaning up" in err
    assert "Traceback" not in err
    assert leftovers(site) == []


def test_names() -> None:
    for name in ("", "A", "a-b", "../x", "x" * 33):
        assert lockgate("demo", "--name", name).status == 2

"""Policies on a live node: the article's two, and every kind of change while connections are open."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, EXAMPLES, GLANCE, OK, Line, LiveNode, fetch

API = (EXAMPLES / "api-access-control.yaml").read_text()
BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
ADMIN_TOO = API + "        - method: GET\n          path: /api/v1/admin\n"
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: egress}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /nothing}]}}]
"""


@pytest.fixture
def node(shared_node: LiveNode) -> Iterator[LiveNode]:
    """With the article's policies in force and nothing else, and empty logs."""
    files = {path: path.read_text() for path in (*shared_node.policies.iterdir(), shared_node.workloads)}
    for web in shared_node.webs.values():
        web.seen.clear()
    yield shared_node
    found = {path: path.read_bytes() for path in (*shared_node.policies.iterdir(), shared_node.workloads)}
    for path in found.keys() - files.keys():
        path.unlink()
    for path, text in files.items():
        if found.get(path) != text.encode():
            shared_node.replace(path, text)
    if {path: text.encode() for path, text in files.items()} != found or not shared_node.ok():
        shared_node.until("all is as it was", lambda: usual(shared_node))


def usual(node: LiveNode) -> bool:
    """Judged by what the wire does: the agent may not have seen the files yet."""
    answers = {
        fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE): OK,
        fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE): DENIED,
        fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE): OK,
        fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE): DROPPED,
    }
    return all(answer == wanted for answer, wanted in answers.items()) and node.ok()


def filters_run(node: LiveNode, line: Line) -> int:
    """How many policy filters one request that is allowed runs through."""
    allowed = r"^http\.lockgate_http\.rbac\..*allowed$"
    before = node.stat(allowed)
    assert str(line.ask(USERS)) == OK
    return node.stat(allowed) - before


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
class TestTheArticle:
    def test_l4(self, node: LiveNode, family: int) -> None:
        backend = node.backend.ips[family]
        assert fetch(node.frontend, backend, 8080, "/orders", "POST") == OK
        assert [(each.client, each.method) for each in node.webs["backend"].seen] == [
            (str(node.frontend.ips[family]), "POST")
        ]
        assert fetch(node.intruder, backend, 8080, patience=GLANCE) == DROPPED
        assert fetch(node.frontend, backend, 8081, patience=GLANCE) == DROPPED
        assert len(node.webs["backend"].seen) == 1

    def test_l7(self, node: LiveNode, family: int) -> None:
        api = node.api.ips[family]
        assert fetch(node.frontend, api, 80, USERS) == OK
        for method, path in (
            ("POST", USERS),
            ("GET", ADMIN),
            ("GET", f"{USERS}?all=1"),
            ("GET", f"{USERS}/"),
            ("GET", "/"),
        ):
            assert fetch(node.frontend, api, 80, path, method) == DENIED
        assert fetch(node.intruder, api, 80, USERS, patience=GLANCE) == DROPPED
        seen = node.webs["api-server"].seen
        assert [(each.client, each.method, each.path) for each in seen] == [
            (str(node.frontend.ips[family]), "GET", USERS)
        ]

    def test_what_the_kernel_allows_never_enters_envoy(self, node: LiveNode, family: int) -> None:
        entered = "^listener.lockgate_http.downstream_cx_total$"
        before = node.stat(entered)
        with Line(node.frontend, node.backend.ips[family], 8080) as line:
            assert {str(line.ask()) for _ in range(20)} == {OK}
        assert fetch(node.frontend, node.backend.ips[family], 8080) == OK
        assert node.stat(entered) == before
        assert fetch(node.frontend, node.api.ips[family], 80, USERS) == OK
        assert node.stat(entered) == before + 1


class TestChanges:
    """Each takes effect on connections that are open, and ends those that it no longer allows, and no other."""

    def test_by_somebody_who_takes_his_time_to_write(self, node: LiveNode) -> None:
        """As `kubectl get cnp -o yaml > api.yaml` does. A part of a policy may allow more than the whole."""
        head = API[: API.index("rules:")].rstrip(" ")  # allows every request
        with (node.policies / "api-access-control.yaml").open("w") as writer:
            writer.write(head)
            writer.flush()
            looked = node.policies / "folder"
            looked.mkdir()  # has the agent look at everything, as it does every few seconds
            looked.rmdir()
            node.until("it is told", lambda: any("it is being written" in each for each in node.problems()))
            for path, answer in ((ADMIN, DENIED), (USERS, OK)):
                assert fetch(node.frontend, node.api.ipv4, 80, path) == answer
            writer.write(API.removeprefix(head))
        node.until("it is read", node.ok)

    def test_of_an_l7_rule(self, node: LiveNode) -> None:
        with Line(node.frontend, node.api.ipv4, 80) as line, Line(node.frontend, node.api.ipv6, 80) as line6:
            for each in (line, line6):
                assert [str(each.ask(path)) for path in (USERS, ADMIN)] == [OK, DENIED]
            node.write("api-access-control", ADMIN_TOO)
            for each in (line, line6):
                node.becomes(OK, partial(each.ask, ADMIN))
            node.write("api-access-control", API)
            for each in (line, line6):
                node.becomes(DENIED, partial(each.ask, ADMIN))
                assert str(each.ask(USERS)) == OK

    def test_of_a_file_in_place(self, node: LiveNode) -> None:
        """Not every editor writes a new file."""
        with Line(node.frontend, node.api.ipv4, 80) as line:
            assert str(line.ask(ADMIN)) == DENIED
            (node.policies / "api-access-control.yaml").write_text(ADMIN_TOO)
            node.becomes(OK, lambda: line.ask(ADMIN))

    def test_of_an_l4_rule(self, node: LiveNode) -> None:
        with Line(node.frontend, node.backend.ipv4, 8080) as line, Line(node.frontend, node.api.ipv4, 80) as other:
            assert str(line.ask()) == OK
            node.write("allow-frontend-to-backend", BACKEND.replace("app: frontend", "app: intruder"))
            node.becomes(OK, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
            node.webs["backend"].seen.clear()
            assert str(line.ask()) == CLOSED
            assert node.webs["backend"].seen == []
            assert str(other.ask(USERS)) == OK, "a policy of another pod's is no business of this connection"

    def test_of_a_file_that_is_added_and_deleted(self, node: LiveNode) -> None:
        added = BACKEND.replace("name: allow-frontend", "name: allow-intruder").replace(
            "app: frontend", "app: intruder"
        )
        path = node.write("added", added)
        node.becomes(OK, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
        with (
            Line(node.intruder, node.backend.ipv4, 8080) as line,
            Line(node.frontend, node.backend.ipv4, 8080) as other,
        ):
            assert str(line.ask()) == OK
            path.unlink()
            node.becomes(DROPPED, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))
            assert str(line.ask()) == CLOSED
            assert str(other.ask()) == OK

    def test_that_gives_the_other_end_its_first_l7_rule_and_takes_it_away(self, node: LiveNode) -> None:
        """Until then its requests do not run through its filter, and afterwards again; the connections stay."""
        node.write("another", EGRESS.replace("name: egress", "name: another").replace("frontend", "intruder"))
        node.until(
            "the requests of another are judged where they begin",  # where nobody's are, a filter counts nothing
            lambda: [each["state"] for each in ask(node.run_dir, "/v1/policies")] == ["enforced"] * 3,
        )
        with Line(node.frontend, node.api.ipv4, 80) as line, Line(node.frontend, node.api.ipv6, 80) as line6:
            for each in (line, line6):
                assert (str(each.ask(USERS)), filters_run(node, each)) == (OK, 1)
            path = node.write("egress", EGRESS)
            for each in (line, line6):
                node.becomes(DENIED, partial(each.ask, USERS))
            node.write("egress", EGRESS.replace("/nothing", USERS))
            for each in (line, line6):
                node.becomes(OK, partial(each.ask, USERS))
                assert (filters_run(node, each), str(each.ask(ADMIN))) == (2, DENIED)
            path.unlink()
            for each in (line, line6):
                node.until("the filter is left out again", lambda each=each: filters_run(node, each) == 1)  # type: ignore[misc]
                assert str(each.ask(ADMIN)) == DENIED, "the server's policy stays"

    def test_that_takes_the_last_l7_rule_away(self, node: LiveNode) -> None:
        """The connections that go through Envoy stay there, and everything on them is allowed."""
        with Line(node.frontend, node.api.ipv4, 80) as line:
            assert str(line.ask(ADMIN)) == DENIED
            (node.policies / "api-access-control.yaml").unlink()
            node.becomes(OK, lambda: line.ask(ADMIN))
            node.becomes(OK, lambda: fetch(node.intruder, node.api.ipv4, 80, patience=GLANCE))
            node.until("the agent has settled", node.ok)
            assert str(line.ask(ADMIN)) == OK

    def test_that_brings_the_first_l7_rule(self, node: LiveNode) -> None:
        """A connection that is past Envoy cannot be judged by request: it is reset, and nothing forbidden passes."""
        (node.policies / "api-access-control.yaml").unlink()
        node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE))
        node.until("the agent has settled", node.ok)
        with Line(node.frontend, node.api.ipv4, 80) as line:
            assert str(line.ask(ADMIN)) == OK
            node.write("api-access-control", API)
            node.becomes(DENIED, lambda: fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE))
            node.webs["api-server"].seen.clear()
            assert str(line.ask(ADMIN)) == CLOSED
            assert node.webs["api-server"].seen == []

    def test_that_opens_l7_by_a_plain_rule_and_closes_it_by_a_deny(self, node: LiveNode) -> None:
        plain = API[: API.index("      rules:")].replace("name: api-access-control", "name: plain")
        deny = plain.replace("name: plain", "name: deny").replace("ingress:", "ingressDeny:")
        with Line(node.frontend, node.api.ipv4, 80) as line:
            assert str(line.ask(ADMIN)) == DENIED
            node.write("plain", plain)
            node.becomes(OK, lambda: line.ask(ADMIN))
            node.write("deny", deny)
            node.becomes(DROPPED, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))
            node.webs["api-server"].seen.clear()
            assert str(line.ask(USERS, patience=GLANCE)) in (DENIED, DROPPED, CLOSED)
            assert node.webs["api-server"].seen == []

    def test_of_the_labels_of_a_workload(self, node: LiveNode) -> None:
        with Line(node.frontend, node.api.ipv4, 80) as line:
            assert str(line.ask(USERS)) == OK
            text = node.workloads.read_text()
            node.workloads.write_text(text.replace("role: frontend", "role: other"))
            node.becomes(DROPPED, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))
            node.webs["api-server"].seen.clear()
            assert str(line.ask(USERS, patience=GLANCE)) in (DENIED, DROPPED, CLOSED)
            assert node.webs["api-server"].seen == []
            node.workloads.write_text(text)
            node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))


class TestBrokenFiles:
    def test_a_broken_policy_is_reported_and_its_last_good_version_stays(self, node: LiveNode) -> None:
        text = API.replace("path: /api/v1/users", "path: /api/(v1")
        line = 1 + text[: text.index("path: /api/(v1")].count("\n")
        path = node.write("api-access-control", text)
        place = f"{path}:{line}: spec.ingress[0].toPorts[0].rules.http[0].path: "
        node.until("it is reported", lambda: any(each.startswith(place) for each in node.problems()))
        assert f"ERROR {place}" in node.log
        ended = node.lockgate("status")
        assert ended.status == 1
        assert f"problem    {place}" in ended.out
        assert "problem    policy default/api-access-control stays enforced in its last good version" in ended.out
        states = {each["policy"]: each["state"] for each in node.lockgate("policy", "list", "-o", "json").data}
        assert states == {"default/allow-frontend-to-backend": "enforced", "default/api-access-control": "stale"}
        assert place in node.lockgate("policy", "get", "api-access-control").out
        assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        assert fetch(node.intruder, node.api.ipv4, 80, USERS, patience=GLANCE) == DROPPED
        node.write("api-access-control", ADMIN_TOO)
        node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, ADMIN))
        node.until("nothing is wrong any more", node.ok)
        assert node.lockgate("status").status == 0

    @pytest.mark.parametrize(
        "data", [b"", b"\x00\xff", b"kind: [", b"- a\n" * 20, API.replace("spec:", "spce:").encode()], ids=range(5)
    )
    def test_no_garbage_lifts_a_policy_of_another_file(self, node: LiveNode, data: bytes) -> None:
        """An empty file holds no policy, and that is what it says; all else is broken."""
        path = node.policies / "garbage.yaml"
        path.write_bytes(data)
        if data:
            node.until("it is reported", lambda: any(f"{path}:" in each for each in node.problems()))
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED

    def test_a_policy_that_is_refused_for_what_is_not_supported(self, node: LiveNode) -> None:
        text = API.replace("name: api-access-control", "name: refused")
        path = node.write("refused", text.partition("        http:")[0] + "        l7proto: memcache\n")
        node.until("it is reported", lambda: any("proxylib parsers" in each for each in node.problems()))
        listed = {each["policy"]: each for each in node.lockgate("policy", "list", "-o", "json").data}
        assert (listed["default/refused"]["state"], listed["default/refused"]["source"]) == ("refused", str(path))

    def test_broken_workloads_let_go_of_nobody(self, node: LiveNode) -> None:
        text = node.workloads.read_text()
        node.workloads.write_text(text.replace("10.200.0.5", "10.200.0.555"))
        node.until("it is reported", lambda: any(str(node.workloads) in each for each in node.problems()))
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        node.workloads.write_text("workloads: [")
        node.until("it is reported", lambda: any("not YAML" in each for each in node.problems()))
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
        node.workloads.write_text(text)
        node.until("nothing is wrong any more", node.ok)

    def test_a_folder_that_is_gone_lifts_nothing(self, node: LiveNode) -> None:
        away = node.policies.with_name("away")
        node.policies.rename(away)
        node.until("it is reported", lambda: any("what was read before stays" in each for each in node.problems()))
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
        away.rename(node.policies)
        node.until("nothing is wrong any more", node.ok)

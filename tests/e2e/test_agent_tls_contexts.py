"""terminatingTLS and originatingTLS on a live node: requests inside TLS are judged, if the client trusts the policy."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from lockgate.tests.e2e.live_node import CLOSED, DENIED, OK, LiveNode, Web, fetch, live_node
from lockgate.tests.e2e.tls_pods import UNTRUSTED, Authority, TlsClient, TlsWeb

SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: %(name)s}
data: {%(entries)s}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %(name)s}
spec:
  endpointSelector: {matchLabels: {app: %(who)s}}
  %(direction)s:
  - toPorts:
    - ports: [{port: "%(port)s", protocol: TCP}]
      %(more)s
"""
TERMINATING, ORIGINATING = "terminatingTLS: {secret: {name: shown}}", "originatingTLS: {secret: {name: trusted}}"
NAMED = 'serverNames: [api.example.com, "*.cdn.example.com"]'
RULES = 'rules: {http: [{method: GET, path: "/open.*"}]}'
BOTH, TO_PLAIN, FROM_PLAIN, BYTES, AT_THE_SERVER, BROKEN, LATER = 443, 8443, 9443, 6443, 7443, 5443, 4443
MANY = 3443
API = "api.example.com"
HIDDEN = (API, "eu.cdn.example.com", "other.example.com")


def secret(name: str, **entries: bytes) -> str:
    lines = ", ".join(f"{key.replace('_', '.')}: {base64.b64encode(value).decode()}" for key, value in entries.items())
    return SECRET % {"name": name, "entries": lines}


def policy(name: str, port: int, *more: str, who: str = "frontend", direction: str = "egress") -> str:
    lines = "\n      ".join(more)
    return POLICY % {"name": name, "who": who, "direction": direction, "port": port, "more": lines}


def opened(port: int) -> str:
    return policy(f"open-{port}", port, who="backend", direction="ingress")


@pytest.fixture(name="inside", scope="module")
def authority_of_the_policies() -> Authority:
    """Whose certificates Envoy shows to clients."""
    return Authority("inside")


@pytest.fixture(name="outside", scope="module")
def authority_of_the_servers() -> Authority:
    return Authority("outside")


@pytest.fixture(name="node", scope="module")
def node_with_tls_servers(inside: Authority, outside: Authority) -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        node.write("secrets", secrets(inside, outside))
        for port in (BOTH, FROM_PLAIN, BYTES, AT_THE_SERVER, BROKEN, LATER, MANY):
            node.webs[str(port)] = TlsWeb(
                node.backend, port, outside.issue(*HIDDEN, str(node.backend.ipv4)), node.folder
            )
        node.webs[str(TO_PLAIN)] = Web(node.backend, TO_PLAIN)
        written = [opened(port) for port in (BOTH, FROM_PLAIN, BYTES, BROKEN, LATER, MANY, TO_PLAIN)]
        written.append(policy("both", BOTH, NAMED, TERMINATING, ORIGINATING, RULES))
        written.append(policy("to-plain", TO_PLAIN, TERMINATING, RULES))
        written.append(policy("from-plain", FROM_PLAIN, ORIGINATING, RULES))
        written.append(policy("many", MANY, many_names(), TERMINATING, ORIGINATING, RULES))
        written.append(policy("bytes", BYTES, NAMED, TERMINATING, ORIGINATING))
        arguments = (NAMED, TERMINATING, ORIGINATING, RULES)
        written.append(policy("at-the-server", AT_THE_SERVER, *arguments, who="backend", direction="ingress"))
        node.write("tls", "---".join(written))
        node.start_agent()
        yield node


def many_names() -> str:
    """Five thousand: one by one, and patterns of as many domains."""
    exact, patterns = ([f'"{text}{number}.example.net"' for number in range(2500)] for text in ("n", "*.d"))
    return f"serverNames: [{', '.join([API, *exact, *patterns])}]"


def secrets(inside: Authority, outside: Authority) -> str:
    chain, key = inside.issue(API, "*.cdn.example.com")
    return secret("shown", tls_crt=chain, tls_key=key) + "---" + secret("trusted", ca_crt=outside.pem)


@pytest.fixture(name="client")
def a_client_that_trusts_the_policy(inside: Authority) -> TlsClient:
    return TlsClient(inside)


def test_requests_are_judged_under_any_of_five_thousand_names(node: LiveNode, client: TlsClient) -> None:
    ask = partial(client.fetch, node.frontend, node.backend.ipv4, MANY)
    node.becomes(OK, partial(ask, API, "/open"))
    assert ask(API, "/closed") == DENIED
    for name in ("n0.example.net", "n2499.example.net", "x.d0.example.net", "x.d2499.example.net"):
        assert ask(name, "/open") == UNTRUSTED  # it was taken up, and the secret's certificate is not for it
    for name in ("n2500.example.net", "y.x.d7.example.net", "other.example.com"):
        assert ask(name, "/open") == CLOSED


def server(node: LiveNode, port: int) -> TlsWeb:
    found = node.webs[str(port)]
    assert isinstance(found, TlsWeb)
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_requests_are_judged_inside_tls(node: LiveNode, client: TlsClient, version: int) -> None:
    ip = node.backend.ipv4 if version == 4 else node.backend.ipv6
    own = node.frontend.ipv4 if version == 4 else node.frontend.ipv6
    web = server(node, BOTH)
    ask = partial(client.fetch, node.frontend, ip, BOTH)
    assert ask(API, "/open") == OK
    assert web.names[-1] == API
    assert (web.seen[-1].client, web.seen[-1].path) == (str(own), "/open")
    assert ask("eu.cdn.example.com", "/open/x") == OK
    assert web.names[-1] == "eu.cdn.example.com"
    before = len(web.seen)
    assert ask(API, "/closed") == DENIED
    assert ask(API, "/open", method="POST") == DENIED
    assert len(web.seen) == before


def test_who_does_not_trust_the_policys_authority_gets_nowhere(node: LiveNode, outside: Authority) -> None:
    before = server(node, BOTH).accepted
    assert TlsClient(outside).fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open") == UNTRUSTED
    assert server(node, BOTH).accepted == before


@pytest.mark.parametrize("name", ["other.example.com", None])
def test_a_name_that_no_rule_speaks_about_is_closed(node: LiveNode, client: TlsClient, name: str | None) -> None:
    before = server(node, BOTH).accepted
    assert client.fetch(node.frontend, node.backend.ipv4, BOTH, name, "/open") == CLOSED
    assert server(node, BOTH).accepted == before


def test_what_is_not_tls_is_closed(node: LiveNode) -> None:
    before = server(node, BOTH).accepted
    assert fetch(node.frontend, node.backend.ipv4, BOTH, "/open") == CLOSED
    assert server(node, BOTH).accepted == before


def test_others_are_not_taken_up(node: LiveNode, outside: Authority) -> None:
    assert TlsClient(outside).fetch(node.intruder, node.backend.ipv4, BOTH, API, "/closed") == OK


def test_a_plain_server_gets_what_was_inside(node: LiveNode, client: TlsClient) -> None:
    web = node.webs[str(TO_PLAIN)]
    assert client.fetch(node.frontend, node.backend.ipv6, TO_PLAIN, API, "/open") == OK
    assert (web.seen[-1].client, web.seen[-1].path) == (str(node.frontend.ipv6), "/open")
    assert client.fetch(node.frontend, node.backend.ipv6, TO_PLAIN, API, "/closed") == DENIED
    assert fetch(node.frontend, node.backend.ipv6, TO_PLAIN, "/open") == CLOSED


def test_a_plain_client_is_put_into_tls(node: LiveNode) -> None:
    assert fetch(node.frontend, node.backend.ipv4, FROM_PLAIN, "/open") == OK
    assert server(node, FROM_PLAIN).seen[-1].client == str(node.frontend.ipv4)
    assert fetch(node.frontend, node.backend.ipv4, FROM_PLAIN, "/closed") == DENIED
    # The certificate must be for the Host, and it is for the IPv4 address only.
    assert fetch(node.frontend, node.backend.ipv6, FROM_PLAIN, "/open").startswith("503")


def test_without_request_rules_any_bytes_pass(node: LiveNode, client: TlsClient) -> None:
    assert client.fetch(node.frontend, node.backend.ipv4, BYTES, API, "/closed", "POST") == OK
    assert server(node, BYTES).names[-1] == API
    assert client.fetch(node.frontend, node.backend.ipv4, BYTES, "other.example.com") == CLOSED


def test_bytes_are_carried_as_long_as_the_policy_takes_them_up(node: LiveNode, client: TlsClient) -> None:
    written = (node.policies / "tls.yaml").read_text()
    before = policy("bytes", BYTES, NAMED, TERMINATING, ORIGINATING)
    assert before in written
    with ExitStack() as stack:
        names = (API, "eu.cdn.example.com")
        ended, kept = (
            stack.enter_context(client.line(node.frontend, node.backend.ipv4, BYTES, name)) for name in names
        )
        assert [str(line.ask("/")) for line in (ended, kept)] == [OK, OK]
        fewer = policy("bytes", BYTES, 'serverNames: ["*.cdn.example.com"]', TERMINATING, ORIGINATING)
        node.write("tls", written.replace(before, fewer))
        node.until("the connection ends", lambda: str(ended.ask("/")) != OK)
        assert str(kept.ask("/")) == OK
        # What only carried bytes reads requests now: it cannot be done to a connection that lasts.
        node.write("tls", written.replace(before, policy("bytes", BYTES, NAMED, TERMINATING, ORIGINATING, RULES)))
        node.until("the other ends", lambda: str(kept.ask("/")) != OK)
    node.write("tls", written)
    node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, BYTES, API, "/closed", "POST"))


def test_the_servers_policy_takes_up_as_well(node: LiveNode, client: TlsClient, outside: Authority) -> None:
    ask = partial(client.fetch, node.intruder, node.backend.ipv4, AT_THE_SERVER)
    assert ask(API, "/open") == OK
    assert server(node, AT_THE_SERVER).seen[-1].client == str(node.intruder.ipv4)
    assert ask(API, "/closed") == DENIED
    assert ask("other.example.com", "/open") == CLOSED
    assert TlsClient(outside).fetch(node.intruder, node.backend.ipv4, AT_THE_SERVER, API, "/open") == UNTRUSTED


def test_a_denied_request_is_logged_with_the_host_it_was_for(node: LiveNode, client: TlsClient) -> None:
    assert client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/logged") == DENIED

    def logged() -> list[dict[str, Any]]:
        lines = (node.run_dir / "requests.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["path"] == "/logged"]

    line = node.until("the denial is logged", logged)[-1]
    assert line["source"].startswith(f"{node.frontend.ipv4}:")
    assert line["destination"] == f"{node.backend.ipv4}:{BOTH}"
    assert (line["host"], line["code"]) == (f"{API}:{BOTH}", 403)


def test_a_broken_secret_denies_and_is_told(node: LiveNode, client: TlsClient, inside: Authority) -> None:
    (chain, _), (_, key) = inside.issue(API), inside.issue(API)
    node.write("broken", policy("broken", BROKEN, TERMINATING.replace("shown", "broken"), RULES))
    ask = partial(client.fetch, node.frontend, node.backend.ipv4, BROKEN, API, "/open")
    node.becomes(CLOSED, ask)
    missing = "secret default/broken is missing: connections that need it are denied"
    node.until("it is told", lambda: any(missing in problem for problem in node.problems()))
    node.write("broken-secret", secret("broken", tls_crt=chain, tls_key=key))
    told = "secret default/broken has a private key that is not its certificate's"
    node.until("it is told", lambda: any(told in problem for problem in node.problems()))
    assert told in str(node.lockgate("policy", "get", "broken"))
    assert ask() == CLOSED
    chain, key = inside.issue(API)
    node.write("broken-secret", secret("broken", tls_crt=chain, tls_key=key))
    node.until("it is told no more", node.ok)
    # The server speaks TLS, and nothing says that Envoy should.
    node.becomes("503", lambda: ask()[:3])
    (node.policies / "broken.yaml").unlink()
    (node.policies / "broken-secret.yaml").unlink()
    node.until("all is well", node.ok)


def test_live_connections_stay_while_others_come_and_go(node: LiveNode, client: TlsClient, inside: Authority) -> None:
    updated = node.stat("listener_manager.listener_in_place_updated")
    with client.line(node.frontend, node.backend.ipv4, BOTH, API) as line:
        assert str(line.ask("/open")) == OK
        node.write("later", policy("later", LATER, NAMED, TERMINATING, RULES))
        node.becomes("503", lambda: client.fetch(node.frontend, node.backend.ipv4, LATER, API, "/open")[:3])
        assert str(line.ask("/open/1")) == OK
        (node.policies / "later.yaml").unlink()
        node.becomes("dropped", lambda: client.fetch(node.frontend, node.backend.ipv4, LATER, API, patience=0.4))
        assert str(line.ask("/open/2")) == OK
        # It obeys the policy of the moment, request by request.
        tls = (node.policies / "tls.yaml").read_text()
        node.write("tls", tls.replace("/open.*", "/other.*"))
        node.becomes(DENIED, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open"))
        assert str(line.ask("/open")) == DENIED
        assert str(line.ask("/other")) == OK
        node.write("tls", tls)
        node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open"))
        assert str(line.ask("/open")) == OK
    assert node.stat("listener_manager.listener_in_place_updated") > updated
    assert node.stat("listener_manager.listener_modified") == node.stat("listener_manager.listener_in_place_updated")


def test_a_new_secret_is_taken_up_without_dropping_anybody(
    node: LiveNode, client: TlsClient, inside: Authority, outside: Authority
) -> None:
    other = Authority("another")
    with client.line(node.frontend, node.backend.ipv4, BOTH, API) as line:
        assert str(line.ask("/open")) == OK
        modified = node.stat("listener_manager.listener_modified")
        node.write("secrets", secrets(other, outside))
        ask = partial(TlsClient(other).fetch, node.frontend, node.backend.ipv4, BOTH, API)
        node.becomes(OK, lambda: ask("/open"))
        assert client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open") == UNTRUSTED
        assert str(line.ask("/open")) == OK
        assert str(line.ask("/closed")) == DENIED
        # Whom Envoy trusts can change likewise: a server of nobody's is not spoken to.
        node.write("secrets", secrets(inside, other))
        node.becomes("503", lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open")[:3])
        node.write("secrets", secrets(inside, outside))
        node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open"))
        assert node.stat("listener_manager.listener_modified") == modified
        # Without the secret nothing passes, also where somebody has been let in. Envoy drains that connection: it may
        # end before it is told anything.
        (node.policies / "secrets.yaml").unlink()
        node.becomes(CLOSED, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open", patience=2.0))
        node.until("nothing passes", lambda: str(line.ask("/open")) != OK)
        assert str(line.ask("/open")) in (DENIED, CLOSED)
    node.write("secrets", secrets(inside, outside))
    node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open"))
    node.until("all is well", node.ok)


def test_a_key_is_nowhere_to_be_seen(node: LiveNode) -> None:
    documents = (node.policies / "secrets.yaml").read_text()
    key = documents.partition("tls.key: ")[2].partition("}")[0]
    lines = base64.b64decode(key).decode().splitlines()[1:-1]
    shown = [node.lockgate("envoy", "config", "-o", "json"), node.lockgate("xds", "resources", "-o", "json")]
    shown += [node.lockgate("status", "-o", "json"), node.lockgate("policy", "list", "-o", "json")]
    texts = [str(each) for each in shown] + [node.log, (node.run_dir / "envoy.log").read_text()]
    assert not [text for text in texts if any(line in text for line in (key, *lines))]


def test_all_of_it_outlives_the_agent(node: LiveNode, client: TlsClient) -> None:
    with client.line(node.frontend, node.backend.ipv4, BOTH, API) as line:
        assert str(line.ask("/open")) == OK
        node.end_agent()
        assert client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/closed") == DENIED
        node.start_agent()
        assert str(line.ask("/open")) == OK
    assert client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open") == OK


def test_an_envoy_that_starts_anew_has_all_of_it_again(node: LiveNode, client: TlsClient) -> None:
    before = node.envoy_pid()
    os.kill(before, signal.SIGKILL)
    node.until("another runs", lambda: node.status()["envoy"]["pid"] not in (before, None))
    node.becomes(OK, lambda: client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/open", patience=2.0))
    assert client.fetch(node.frontend, node.backend.ipv4, BOTH, API, "/closed") == DENIED

"""What Envoy is told about TLS: which secrets, clusters and chains, and what stays the same from change to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import DownstreamTlsContext, Secret
from lockgate.agent.force.tls_side import TlsResources, TlsSide
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.tls_listener import TlsListener
from lockgate.policies import World, parse_policies
from lockgate.policies.identity import endpoint_of
from lockgate.policies.tls_secret import TlsSecrets
from lockgate.policies.workload import Workload
from lockgate.tests.e2e.tls_pods import Authority
from lockgate.xds import CLUSTER, LISTENER, SECRET, Resource, tls_policed_by

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [%s], %s}]}]
"""
BOTH = "terminatingTLS: {secret: {name: s}}, originatingTLS: {secret: {name: s}}, rules: {http: [{}]}"


def secret(chain: bytes, key: bytes, trusted: bytes) -> str:
    lines = "".join(
        f"  {name}: {value.decode()!r}\n" for name, value in (("tls.crt", chain), ("tls.key", key), ("ca.crt", trusted))
    ).replace("'", '"')
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData:\n{lines}"


@pytest.fixture(name="side")
def tls_side() -> TlsSide:
    return TlsSide(TlsListener(), Path("/run/lockgate/requests.jsonl"), Ipcache(Path("/sys/fs/bpf/x/ipcache"), 7, 8))


@pytest.fixture(name="authority", scope="module")
def an_authority() -> Authority:
    return Authority("test")


def told(side: TlsSide, policy: str, documents: str = "") -> dict[str, dict[str, Resource]]:
    parsed = parse_policies((policy + documents).encode(), "p.yaml")
    assert parsed.problems == ()
    secrets = TlsSecrets(parsed.secrets)
    world = World.of(parsed.policies, [endpoint_of(Workload("client", "default", (("app", "client"),)))], tls=secrets)
    enforced = [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints]
    found: TlsResources = side.resources(enforced, tls_policed_by(enforced), secrets)
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in found.resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = resource
    return by_type


def chains(resources: dict[str, dict[str, Resource]]) -> dict[str, bytes]:
    listener = Listener.parse(resources[LISTENER]["lockgate.tls"].body)
    assert listener.filter_chain_matcher is not None
    return {chain.name: bytes(chain) for chain in listener.filter_chains}


ALWAYS = {"encrypted", "own_address", "waiting:egress", "waiting:ingress"}
TAKEN = "egress:http:default/s[tls.crt,tls.key,]:default/s[,,ca.crt]"


def test_without_contexts_there_is_what_is_always_there(side: TlsSide) -> None:
    resources = told(side, POLICY % ("a.example", "rules: {}"))
    assert chains(resources).keys() == ALWAYS
    assert resources[LISTENER].keys() == {"lockgate.tls"}
    assert not resources.keys() & {SECRET, CLUSTER}


def test_a_context_brings_its_secrets_its_cluster_and_a_chain(side: TlsSide, authority: Authority) -> None:
    chain, key = authority.issue("a.example")
    resources = told(side, POLICY % ("a.example", BOTH), secret(chain, key, authority.pem))
    assert chains(resources).keys() == {*ALWAYS, TAKEN}
    shown, own, trusted = sorted(resources[SECRET], key=lambda name: (name.startswith("orig"), "authority" in name))
    parsed = Secret.parse(resources[SECRET][shown].body)
    assert parsed.tls_certificate is not None and parsed.tls_certificate.private_key is not None
    assert (parsed.name, parsed.tls_certificate.private_key.inline_bytes) == (shown, key)
    validation = Secret.parse(resources[SECRET][trusted].body).validation_context
    assert validation is not None and validation.trusted_ca is not None
    assert validation.trusted_ca.inline_bytes == authority.pem
    (cluster,) = resources[CLUSTER].values()
    assert Cluster.parse(cluster.body).name == "lockgate.originating:default/s[,,ca.crt]"
    assert trusted.encode() in cluster.body and own.encode() in cluster.body
    listener = Listener.parse(resources[LISTENER]["lockgate.tls"].body)
    taken = next(each for each in listener.filter_chains if each.name == TAKEN)
    assert taken.transport_socket is not None and taken.transport_socket.typed_config is not None
    context = DownstreamTlsContext.parse(taken.transport_socket.typed_config.value)
    assert context.common_tls_context is not None
    (config,) = context.common_tls_context.tls_certificate_sds_secret_configs
    assert config.name == shown
    # Keys are in secrets and nowhere else, and no text shows one.
    bodies = [each.body for kind, named in resources.items() if kind != SECRET for each in named.values()]
    assert not any(key in body for body in bodies)
    assert not any(line in repr(resources) for line in key.decode().splitlines()[1:-1])


def test_other_names_leave_every_chain_as_it_is(side: TlsSide, authority: Authority) -> None:
    documents = secret(*authority.issue("a.example"), authority.pem)
    before, after = (told(side, POLICY % (names, BOTH), documents) for names in ("a.example", "b.example"))
    assert chains(before) == chains(after)
    assert before[LISTENER] != after[LISTENER]
    assert before[SECRET] == after[SECRET] and before[CLUSTER] == after[CLUSTER]


def test_a_new_certificate_changes_a_secret_and_a_new_authority_the_cluster(
    side: TlsSide, authority: Authority
) -> None:
    first = told(side, POLICY % ("a.example", BOTH), secret(*authority.issue("a.example"), authority.pem))
    second = told(side, POLICY % ("a.example", BOTH), secret(*authority.issue("a.example"), authority.pem))
    assert first[LISTENER] == second[LISTENER] and first[CLUSTER] == second[CLUSTER]
    assert first[SECRET].keys() == second[SECRET].keys() and first[SECRET] != second[SECRET]
    third = told(side, POLICY % ("a.example", BOTH), secret(*authority.issue("a.example"), Authority("x").pem))
    assert first[LISTENER] == third[LISTENER]
    assert first[CLUSTER].keys() == third[CLUSTER].keys() and first[CLUSTER] != third[CLUSTER]


def test_a_missing_secret_brings_no_chain(side: TlsSide) -> None:
    resources = told(side, POLICY % ("a.example", BOTH))
    assert chains(resources).keys() == ALWAYS
    assert not resources.keys() & {SECRET, CLUSTER}

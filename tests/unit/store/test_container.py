"""From what an engine tells of a container to workloads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies import parse_workloads
from lockgate.store.container import Container, Listing, Network, list_containers, read_container

ENGINE = "unix:///run/e.sock"


def told(**more: Any) -> dict[str, Any]:
    """As both engines answer, shortened."""
    return {
        "Id": "0123456789abcdef",
        "Name": "/web",
        "State": {"Running": True, "Pid": 42},
        "HostConfig": {"NetworkMode": "default"},
        "Config": {"Labels": {"app": "web"}},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2", "GlobalIPv6Address": "fd00::2"}}},
    } | more


def container(**more: Any) -> Container:
    fields: dict[str, Any] = {"id": "1", "name": "web", "mode": "default", "pid": 42}
    return Container(**(fields | {"networks": (Network("bridge", ("172.17.0.2",)),)} | more))


def entries(listing: Listing) -> list[dict[str, Any]]:
    return [entry for document in listing.documents for entry in json.loads(document.data)["workloads"]]


def test_a_running_container() -> None:
    found = read_container(told(), born=7)
    assert found == Container(
        "0123456789abcdef",
        "web",
        "default",
        42,
        7,
        (("app", "web"),),
        (Network("bridge", ("172.17.0.2", "fd00::2")),),
    )
    listing = list_containers(ENGINE, [found])
    assert [document.source for document in listing.documents] == [f"{ENGINE}/web"]
    assert entries(listing) == [
        {
            "name": "web",
            "namespace": "default",
            "labels": {"app": "web"},
            "pid": 42,
            "born": 7,
            "ips": ["172.17.0.2", "fd00::2"],
        }
    ]


@pytest.mark.parametrize("state", [{"Running": False, "Pid": 0}, {"Running": True, "Pid": 0}])
def test_one_that_does_not_run(state: dict[str, Any]) -> None:
    assert read_container(told(State=state)) is None


def test_without_labels_and_networks() -> None:
    found = read_container(told(Config={"Labels": None}, NetworkSettings={"Networks": None}))
    assert found is not None
    assert entries(list_containers(ENGINE, [found])) == [
        {"name": "web", "namespace": "default", "labels": {}, "pid": 42}
    ]


def test_every_network_is_a_workload_the_first_one_first() -> None:
    networks = {"b": {"IPAddress": "10.0.2.2"}, "Back_Office": {"IPAddress": "10.0.1.2"}, "a": {"IPAddress": ""}}
    found = read_container(told(HostConfig={"NetworkMode": "b"}, NetworkSettings={"Networks": networks}))
    assert found is not None
    assert [(each["name"], each["ips"], each["pid"]) for each in entries(list_containers(ENGINE, [found]))] == [
        ("web", ["10.0.2.2"], 42),
        ("web.back-office", ["10.0.1.2"], 42),
    ]


@pytest.mark.parametrize(("mode", "name"), [("default", "bridge"), ("bridge", "podman")])
def test_the_default_network_is_first(mode: str, name: str) -> None:
    networks = {"a": {"IPAddress": "10.0.1.2"}, name: {"IPAddress": "172.17.0.2"}}
    found = read_container(told(HostConfig={"NetworkMode": mode}, NetworkSettings={"Networks": networks}))
    assert found is not None
    assert [each["name"] for each in entries(list_containers(ENGINE, [found]))] == ["web", "web.a"]


def test_names_are_made_to_fit_and_stay_apart() -> None:
    listing = list_containers(
        ENGINE, [container(id="2" * 64, name="my_web"), container(id="1" * 64, name="My.Web"), container(name="my-web")]
    )
    assert [each["name"] for each in entries(listing)] == ["my.web", "my-web", f"my-web-{'2' * 12}"]
    assert listing.problems == []


def test_labels_are_those_that_policies_can_name() -> None:
    labels = {
        "app": "web",
        "example.com/team": "till",
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "web",
        "com.docker.compose.container-number": "3",
        "com.docker.compose.project.config_files": "/srv/compose.yaml",
        "org.opencontainers.image.version": "7",
        "io.kubernetes.pod.namespace": "kube-system",
        "reserved:host": "",
        "note": "two words",
        "lockgate.namespace": "shop",
    }
    listing = list_containers(ENGINE, [container(labels=tuple(sorted(labels.items())))])
    (entry,) = entries(listing)
    assert entry["namespace"] == "shop"
    assert entry["labels"] == {
        "app": "web",
        "example.com/team": "till",
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "web",
    }


def test_named_ports() -> None:
    listing = list_containers(ENGINE, [container(labels=(("lockgate.ports", "HTTP=80, metrics=9090"),))])
    assert entries(listing)[0]["ports"] == {"http": 80, "metrics": 9090}
    assert listing.problems == []


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("lockgate.ports", "80", "'80' in the label lockgate.ports is no named port; write it as in http=8080"),
        ("lockgate.ports", "http=0", "'http=0' in the label"),
        ("lockgate.ports", "http=65536", "'http=65536' in the label"),
        ("lockgate.ports", "1=1", "'1=1' in the label"),
        ("lockgate.ports", "a--b=1", "'a--b=1' in the label"),
        ("lockgate.namespace", "My Shop", "the label lockgate.namespace is no namespace, so it is taken for one in 'd"),
    ],
)
def test_labels_for_lockgate_that_say_nothing(label: str, value: str, words: str) -> None:
    listing = list_containers(ENGINE, [container(labels=((label, value),))])
    (problem,) = listing.problems
    assert problem.startswith(f"{ENGINE}: container web: ")
    assert words in problem
    assert entries(listing)[0]["namespace"] == "default"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("host", "container web uses the node's own network"),
        ("container:abcdef0123456789", "container web uses the network of container abcdef012345 and is policed as"),
        ("none", None),
    ],
)
def test_without_a_network_of_its_own(mode: str, words: str | None) -> None:
    listing = list_containers(ENGINE, [container(mode=mode)])
    assert listing.documents == []
    assert len(listing.problems) == (words is not None)
    assert words is None or words in listing.problems[0]


def test_an_expected_one_on_the_host_is_not_told() -> None:
    listing = list_containers(ENGINE, [container(mode="host", labels=(("lockgate.host-network", "expected"),))])
    assert (listing.documents, listing.problems) == ([], [])


texts = st.text(max_size=20)


@settings(deadline=None)
@given(
    name=texts,
    mode=texts,
    labels=st.dictionaries(texts | st.sampled_from(["lockgate.namespace", "lockgate.ports"]), texts, max_size=4),
    networks=st.dictionaries(texts, st.just(("10.0.0.2",)), max_size=3),
)
def test_whatever_an_engine_tells_the_workloads_are_good(
    name: str, mode: str, labels: dict[str, str], networks: dict[str, tuple[str, ...]]
) -> None:
    """A container that the parser refused would run unpoliced."""
    made = Container(
        "f" * 64,
        name,
        mode,
        7,
        labels=tuple(labels.items()),
        networks=tuple(Network(each, ips) for each, ips in networks.items()),
    )
    assert Container.from_json(json.loads(json.dumps(made.to_json()))) == made
    for document in list_containers(ENGINE, [made]).documents:
        parsed = parse_workloads(document.data, document.source)
        assert parsed.problems == ()
        assert len(parsed.workloads) == max(1, len(networks))

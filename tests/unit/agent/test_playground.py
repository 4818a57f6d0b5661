from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import yaml
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Namespace, Playground
from lockgate.redirect.kernel import netns

NAME = f"playground{os.getpid()}"


def talk(client: Namespace, server: Namespace, address: object) -> str:
    """Connects once; the address that the server saw."""
    listener = netns.run_in(
        server.path, lambda: socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
    )
    with listener, netns.run_in(client.path, lambda: socket.create_connection((str(address), 80), 10)):
        accepted, peer = listener.accept()
        accepted.close()
        return str(peer[0]).removeprefix("::ffff:")


def start_orphan(where: Namespace) -> subprocess.Popen[bytes]:
    """A process that nobody remembers, as a crashed run leaves it; it is inside when this returns."""
    orphan = subprocess.Popen(where.command(["sh", "-c", "echo; exec sleep 60"]), stdout=subprocess.PIPE)
    assert orphan.stdout is not None
    with orphan.stdout:
        orphan.stdout.readline()
    return orphan


def test_everybody_reaches_everybody() -> None:
    with Playground(NAME) as ground:
        one, two = ground.pod("one"), ground.pod("two")
        for family, node in enumerate((NODE_IPV4, NODE_IPV6)):
            assert talk(one, two, two.ips[family]) == str(one.ips[family])
            assert talk(one, ground.node, node) == str(one.ips[family])
            assert talk(ground.node, two, two.ips[family]) == str(node)


def test_the_workloads_file_names_the_pods() -> None:
    with Playground(NAME) as ground:
        ground.pod("api", "shop", {"app": "api"}, {"http": 80})
        ground.pod("web")
        api, web = yaml.safe_load(ground.workloads_yaml())["workloads"]
    assert api == {
        "name": "api",
        "namespace": "shop",
        "labels": {"app": "api"},
        "netns": f"lg-{NAME}-api",
        "ips": ["10.200.0.2", "fd00:200::2"],
        "ports": {"http": 80},
    }
    assert web["namespace"] == "default" and "ports" not in web


def test_commands_run_in_their_namespace_and_die_with_it() -> None:
    ground = Playground(NAME)
    pod = ground.pod("one")
    assert "10.200.0.2" in pod.run(["ip", "-4", "addr"]).stdout
    child = pod.popen([sys.executable, "-c", "import time; time.sleep(60)"])
    orphan = start_orphan(pod)
    ground.remove(pod)
    assert child.returncode is not None
    assert orphan.wait(10) != 0
    assert not pod.path.exists()
    ground.close()
    assert not ground.node.path.exists()


def test_a_new_playground_sweeps_the_leftovers_of_a_crashed_one() -> None:
    crashed = Playground(NAME)
    crashed.pod("one")
    orphan = start_orphan(crashed.node)
    neighbour = Playground(f"{NAME}x")
    try:
        with Playground(NAME) as ground:
            assert orphan.wait(10) != 0
            ground.pod("one")
            assert neighbour.node.path.exists()
    finally:
        neighbour.close()


@pytest.mark.parametrize("name", ["", "a-b", "A", "a/b"])
def test_names_that_could_be_taken_for_anothers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="may hold only"):
        Playground(name)

"""Workload files: what is read and what is refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.language.workload_file import ParsedWorkloads, parse_workloads
from lockgate.policies.service import BackendGroup, HealthCheck, HealthKind, Service, ServicePort
from lockgate.policies.workload import Workload


def parse(text: str) -> ParsedWorkloads:
    return parse_workloads(text.encode(), "w.yaml")


def test_a_file() -> None:
    parsed = parse("""\
workloads:
- name: api-server-1
  namespace: shop
  labels: {app: api-server, "container:image": x}
  netns: api-server-1
  ips: [10.200.0.3, "fd00:200::3"]
  ports: {HTTP: 80}
- {name: b, pid: 1234, born: 5678}
- {name: c, interface: veth-c}
- {name: d, cgroup: /system.slice/d.service/}
services:
- {name: data, labels: {a: b}, selector: {app: api-server}, ips: [192.0.2.1]}
""")
    assert parsed.problems == ()
    assert parsed.workloads == (
        Workload(
            "api-server-1",
            "shop",
            (("app", "api-server"), ("container:image", "x")),
            netns="api-server-1",
            ips=(ip_address("10.200.0.3"), ip_address("fd00:200::3")),
            ports={"http": 80},
            source="w.yaml",
            line=2,
        ),
        Workload("b", "default", (), pid=1234, source="w.yaml", line=8, born=5678),
        Workload("c", "default", (), interface="veth-c", source="w.yaml", line=9),
        Workload("d", "default", (), cgroup="/system.slice/d.service", source="w.yaml", line=10),
    )
    assert parsed.services == (
        Service("data", "default", (("a", "b"),), (("app", "api-server"),), (ip_address("192.0.2.1"),), "w.yaml", 12),
    )


def test_a_service_with_an_address() -> None:
    parsed = parse("""\
services:
- name: shop
  selector: {app: shop}
  vips: [10.96.0.1, "fd00:96::1"]
  ports: [{name: web, port: 80, targetPort: HTTP}, {port: 53, protocol: UDP}]
  backends:
  - {selector: {version: v2}, weight: 3}
  - {ip: 192.0.2.7, port: 7000, weight: 0}
  health: {http: /healthz, port: 8081, interval: 0.5, timeout: 0.2, rise: 1, fall: 5}
- {name: plain, vips: [10.96.0.2], ports: [{port: 80}], ips: [192.0.2.1], health: {tcp: true, interval: 0.5}}
""")
    assert parsed.problems == ()
    shop, plain = parsed.services
    assert shop.vips == (ip_address("10.96.0.1"), ip_address("fd00:96::1"))
    assert shop.ports == (ServicePort(80, "http", Protocol.TCP, "web"), ServicePort(53, 53, Protocol.UDP))
    assert shop.backends == (
        BackendGroup((("version", "v2"),), weight=3),
        BackendGroup(ip=ip_address("192.0.2.7"), port=7000, weight=0),
    )
    assert shop.health == HealthCheck(HealthKind.HTTP, "/healthz", 8081, 0.5, 0.2, 1, 5)
    assert plain.health == HealthCheck(HealthKind.TCP, interval=0.5, timeout=0.5)
    assert plain.groups == (BackendGroup(ip=ip_address("192.0.2.1")),)


def test_a_workload_of_a_remote_node() -> None:
    parsed = parse("workloads: [{name: a, node: edge-1.example, ips: [192.0.2.1]}]")
    assert parsed.problems == ()
    assert [(each.node, each.netns) for each in parsed.workloads] == [("edge-1.example", None)]


def test_documents_add_up_and_nothing_is_nothing() -> None:
    parsed = parse("workloads: [{name: a}]\n---\nworkloads: [{name: b}]\n---\nservices: []\n")
    assert [workload.key for workload in parsed.workloads] == ["default/a", "default/b"]
    assert parse("") == ParsedWorkloads((), ())
    assert parse("workloads:\n") == ParsedWorkloads((), ())


PLACE, SERVED = "workloads[0]", "services[0]"


def with_vip(more: str) -> str:
    return f"services: [{{name: a, vips: [10.96.0.1], {more}}}]"


REFUSALS = [
    (
        "workloads: [{name: a, node: n, netns: x, ips: [192.0.2.1]}]",
        PLACE,
        "netns says that the workload is on this node, node that it is not; remove one of the two",
    ),
    (
        "workloads: [{name: a, node: n}]",
        PLACE,
        "a workload on another node has no address that could be read here; write ips: and its addresses",
    ),
    (
        "workloads: [{name: a, node: 'n n', ips: [192.0.2.1]}]",
        f"{PLACE}.node",
        "'n n' is not a node id; use letters, digits, '-', '_' and '.'",
    ),
    ("wrkloads: []", "wrkloads", "unknown field 'wrkloads'; did you mean 'workloads'?"),
    ("workloads: {}", "workloads", "a list expected, not a mapping"),
    ("workloads: [a]", PLACE, "a mapping expected, not the text 'a'"),
    ("workloads: [{labels: {}}]", PLACE, "the entry has no name; write name: and a name"),
    (
        "workloads: [{name: A_B}]",
        f"{PLACE}.name",
        "'A_B' is not a name; use lower-case letters, digits, '-' and '.'",
    ),
    (
        "workloads: [{name: a, namespace: a/b}]",
        f"{PLACE}.namespace",
        "'a/b' is not a namespace; use lower-case letters, digits and '-'",
    ),
    ("workloads: [{name: a, label: {}}]", f"{PLACE}.label", "unknown field 'label'; did you mean 'labels'?"),
    ("workloads: [{name: a, labels: {x: 1}}]", f"{PLACE}.labels.x", 'text expected, not the number 1; quote it: "1"'),
    (
        "workloads: [{name: a, labels: {'reserved:host': ''}}]",
        f"{PLACE}.labels[reserved:host]",
        "reserved labels are not given to workloads; remove it",
    ),
    (
        "workloads: [{name: a, labels: {'fqdn:api.example': ''}}]",
        f"{PLACE}.labels[fqdn:api.example]",
        "fqdn labels are not given to workloads; remove it",
    ),
    (
        "workloads: [{name: a, labels: {'a b': x}}]",
        f"{PLACE}.labels[a b]",
        "'a b' is not a label key; write name or prefix/name",
    ),
    (
        "workloads: [{name: a, labels: {x: 'a b'}}]",
        f"{PLACE}.labels.x",
        "'a b' is not a label value; "
        "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    ),
    (
        "workloads: [{name: a, netns: a, pid: 1}]",
        PLACE,
        "netns and pid both say where the workload is; write one of netns, pid, interface, cgroup",
    ),
    (
        "workloads: [{name: a, interface: veth-a, cgroup: /a}]",
        PLACE,
        "interface and cgroup both say where the workload is; write one of netns, pid, interface, cgroup",
    ),
    (
        "workloads: [{name: a, cgroup: /a, ips: [192.0.2.1]}]",
        f"{PLACE}.ips",
        "processes of a control group have the node's addresses; remove ips",
    ),
    (
        "workloads: [{name: a, cgroup: nginx.service}]",
        f"{PLACE}.cgroup",
        "'nginx.service' is not a control group's path; write one like /system.slice/nginx.service",
    ),
    (
        "workloads: [{name: a, cgroup: /a/../b}]",
        f"{PLACE}.cgroup",
        "'/a/../b' is not a control group's path; write one like /system.slice/nginx.service",
    ),
    (
        "workloads: [{name: a, cgroup: /}]",
        f"{PLACE}.cgroup",
        "the root of the control groups is the whole node; select the node by a policy with nodeSelector",
    ),
    (
        "workloads: [{name: a, cgroup: /1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17}]",
        f"{PLACE}.cgroup",
        "a control group 17 levels deep is not looked for; write one of 16 at most",
    ),
    (
        "workloads: [{name: a, cgroup: /a, node: n}]",
        PLACE,
        "cgroup says that the workload is on this node, node that it is not; remove one of the two",
    ),
    (
        "workloads: [{name: a, netns: ../etc}]",
        f"{PLACE}.netns",
        "'../etc' is not a network namespace's name; write a name as 'ip netns' lists it",
    ),
    (
        "workloads: [{name: a, interface: a-name-too-long-for-linux}]",
        f"{PLACE}.interface",
        "'a-name-too-long-for-linux' is not an interface name; write a name as 'ip link' lists it",
    ),
    (
        "workloads: [{name: a, netns: a, born: 1}]",
        f"{PLACE}.born",
        "born says when the process `pid` began, and there is none; add pid, or remove it",
    ),
    ("workloads: [{name: a, pid: 0}]", f"{PLACE}.pid", "0 is out of range; write a number from 1 to 4194304"),
    (
        "workloads: [{name: a, ips: [10.0.0.0/8]}]",
        f"{PLACE}.ips[0]",
        "'10.0.0.0/8' is not an IP address; write the address alone, without prefix or port",
    ),
    *(
        (
            f"workloads: [{{name: a, ips: ['{ip}']}}]",
            f"{PLACE}.ips",
            f"no packet comes from {ip}; write an address that others see",
        )
        for ip in ("127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "ff02::1", "::ffff:a00:5")
    ),
    (
        "workloads: [{name: a, ips: ['fe80::1%eth0']}]",
        f"{PLACE}.ips[0]",
        "'fe80::1%eth0' is not an IP address; write the address alone, without prefix or port",
    ),
    (
        "workloads: [{name: a, ips: [10.0.0.1, 10.0.0.1]}]",
        f"{PLACE}.ips[1]",
        "10.0.0.1 is listed twice; remove one of the two",
    ),
    (
        "workloads: [{name: a, ports: {http: 0}}]",
        f"{PLACE}.ports.http",
        "0 is out of range; write a number from 1 to 65535",
    ),
    (
        "workloads: [{name: a, ports: {'80': 80}}]",
        f"{PLACE}.ports.80",
        "'80' is not a port name; use at most 15 letters, digits and single '-'",
    ),
    (
        "workloads: [{name: a}, {name: a}]",
        "workloads[1]",
        "the workload default/a is listed twice (first in line 1); remove one of the two",
    ),
    (
        "services: [{name: a}, {name: a}]",
        "services[1]",
        "the service default/a is listed twice; remove one of the two",
    ),
    (
        "services: [{name: a, ports: [{port: 80}]}]",
        f"{SERVED}.ports",
        "the service has ports and no vips; give it vips, addresses of its own",
    ),
    (
        "services: [{name: a, vips: [10.96.0.1]}]",
        SERVED,
        "the service has vips and no ports; write ports: [{port: 80}]",
    ),
    (
        "services: [{name: a, vips: [127.0.0.1], ports: [{port: 80}]}]",
        f"{SERVED}.vips",
        "127.0.0.1 cannot be a service's address; choose one that is routed and that nobody has",
    ),
    (with_vip("ports: [{name: x}]"), f"{SERVED}.ports[0]", "the entry has no port; write port: and a number"),
    (with_vip("ports: [{port: 0}]"), f"{SERVED}.ports[0].port", "0 is out of range; write a number from 1 to 65535"),
    (
        with_vip("ports: [{port: 80, protocol: SCTP}]"),
        f"{SERVED}.ports[0].protocol",
        "a service's address has no protocol 'SCTP'; use TCP or UDP",
    ),
    (
        with_vip("ports: [{port: 80}, {port: 80}]"),
        f"{SERVED}.ports[1]",
        "80/TCP is listed twice; remove one of the two",
    ),
    (
        with_vip("ports: [{port: 80, targetPort: 'a b'}]"),
        f"{SERVED}.ports[0].targetPort",
        "'a b' is not a port name; write a number, or one of the workloads' port names",
    ),
    (
        with_vip("ports: [{port: 80, targetPort: web}], ips: [192.0.2.1]"),
        f"{SERVED}.ips",
        "an address has no named ports; write it in backends, with its port: [{ip: 192.0.2.1, port: 8080}]",
    ),
    (
        with_vip("ports: [{port: 80, targetPort: web}], backends: [{ip: 192.0.2.1}]"),
        f"{SERVED}.backends[0]",
        "an address has no named ports; write port: and a number",
    ),
    (
        with_vip("ports: [{port: 80}], backends: [{weight: 1}]"),
        f"{SERVED}.backends[0]",
        "a backend needs exactly one of selector and ip; write one of them",
    ),
    (
        with_vip("ports: [{port: 80}], backends: [{selector: {a: b}, port: 1}]"),
        f"{SERVED}.backends[0].port",
        "workloads serve at the service port's targetPort; remove it",
    ),
    (
        with_vip("ports: [{port: 80}], backends: [{selector: {}}]"),
        f"{SERVED}.backends[0].selector",
        "an empty selector selects nobody; write labels",
    ),
    (
        with_vip("ports: [{port: 80}], backends: [{ip: 192.0.2.1, weight: -1}]"),
        f"{SERVED}.backends[0].weight",
        "-1 is out of range; write a number from 0 to 10000",
    ),
    (
        with_vip("ports: [{port: 80}], health: {}"),
        f"{SERVED}.health",
        "a health check is one of http and tcp; write http: /healthz, or tcp: true",
    ),
    (
        with_vip("ports: [{port: 80}], health: {http: x}"),
        f"{SERVED}.health.http",
        "'x' is not a path; write one that begins with /",
    ),
    (
        with_vip("ports: [{port: 80}], health: {tcp: true, interval: 0}"),
        f"{SERVED}.health.interval",
        "seconds expected; write a number from 0.1 to 3600",
    ),
    (
        with_vip("ports: [{port: 80, protocol: UDP}], health: {tcp: true}"),
        f"{SERVED}.health",
        "nothing can be asked over UDP; write port: and a TCP port of the backends",
    ),
]


@pytest.mark.parametrize(("text", "path", "message"), REFUSALS, ids=[row[2][:50] for row in REFUSALS])
def test_a_refusal_has_its_place_and_sentence(text: str, path: str, message: str) -> None:
    (problem,) = parse(text + "\n").problems
    assert str(problem) == f"w.yaml:1: {path}: {message}"


def test_a_broken_workload_does_not_hide_the_good_ones() -> None:
    parsed = parse("workloads:\n- {name: a, pid: x}\n- {name: b}\n- {pid: 1}\n")
    assert [workload.key for workload in parsed.workloads] == ["default/b"]
    assert parsed.broken == {"default/a"}
    assert parsed.unreadable
    assert not parse("workloads: [{name: a, pid: x}]").unreadable


def test_an_unreadable_document_keeps_what_came_before() -> None:
    parsed = parse("workloads: [{name: a}]\n---\nworkloads: [\n---\nworkloads: [{name: c}]\n")
    assert [workload.key for workload in parsed.workloads] == ["default/a", "default/c"]
    assert parsed.unreadable
    assert [problem.line for problem in parsed.problems] == [4]

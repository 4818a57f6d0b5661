"""Who is who in the tests of flows."""

from __future__ import annotations

from lockgate.agent.inspection.flow_end import Directory
from lockgate.redirect.plan import GROUP_ENDPOINT

GROUP = GROUP_ENDPOINT | 4711
DIRECTORY = Directory(
    [
        {
            "endpoint": "default/frontend",
            "ips": ["10.0.0.2", "fd00::2"],
            "identity": 300,
            "labels": ["k8s:app=frontend"],
        },
        {"endpoint": "prod/api", "ips": ["10.0.0.3"], "identity": 301, "labels": ["k8s:app=api"]},
        {
            "endpoint": "prod/till",
            "id": GROUP,
            "cgroup": "/till",
            "ips": [],
            "identity": 302,
            "labels": ["k8s:app=till"],
        },
    ],
    [
        {"identity": 9, "labels": ["reserved:world"], "prefixes": ["0.0.0.0/0"]},
        {"identity": 1, "labels": ["reserved:host"], "prefixes": ["10.0.0.1/32"]},
        {"identity": 500, "labels": ["cidr:192.0.2.0/24"], "prefixes": ["192.0.2.0/24"]},
    ],
)

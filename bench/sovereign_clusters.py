"""What the other control plane of bench/xds serves: its template, run by that program in its own environment.

The clusters are those of xds_server.py. The file that the environment names is read at every question, which is the
quickest way for a change to get there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def call(**_: object) -> Iterator[dict[str, Any]]:
    """Every cluster, as the program asks for them."""
    state = json.loads(Path(os.environ["LOCKGATE_BENCH_CLUSTERS"]).read_text())
    for number in range(state["count"]):
        port = state["port"] if number == 0 else 9
        name = f"c{number}"
        endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
        yield {
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        }

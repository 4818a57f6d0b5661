"""The node's metrics in Prometheus' format. Few and fixed series: none is labelled by policy, endpoint or address.

What happens is counted as it happens; what is (states, sizes) is read when it is asked for.
https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...envoy.errors import EnvoyError
from ...envoy.inspection.admin import Admin
from ...xds import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, that says only when the agent began
_TYPES = frozenset({CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_MOST_WAITED_FOR = 1024  # responses of one client whose answer is timed


class Metrics:
    """Counts and times what happens. Is the xDS server's Observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        build = Gauge("lockgate_build_info", "The version of Lockgate.", ["version"], registry=self.registry)
        build.labels(version("lockgate")).set(1)
        self._pushes = self._by_type("lockgate_xds_pushes", "Responses sent to xDS clients.")
        self._acks = self._by_type("lockgate_xds_acks", "Responses that clients confirmed.")
        self._nacks = self._by_type("lockgate_xds_nacks", "Responses that clients refused.")
        self._refused = Counter(
            "lockgate_xds_clients_refused", "Streams ended for what the client is or wants.", registry=self.registry
        )
        self._ack_seconds = self._seconds("lockgate_xds_ack_seconds", "From a response to its ACK or NACK.")
        self._change_seconds = self._seconds(
            "lockgate_change_seconds", "From the news of a change until Envoy confirmed it and the kernel has it."
        )
        self._effect_seconds = self._seconds(
            "lockgate_effect_seconds", "From the news of a change until Envoy's own dump shows it in force."
        )
        self._sent: dict[int, dict[tuple[str, str], float]] = {}

    def sent(self, client: int, type_url: str, nonce: str) -> None:
        """See xds.Observer."""
        self._pushes.labels(_short(type_url)).inc()
        waiting = self._sent.setdefault(client, {})
        if len(waiting) < _MOST_WAITED_FOR:
            waiting[type_url, nonce] = time.monotonic()

    def answered(self, client: int, type_url: str, nonce: str, refused: bool) -> None:
        """See xds.Observer."""
        (self._nacks if refused else self._acks).labels(_short(type_url)).inc()
        began = self._sent.get(client, {}).pop((type_url, nonce), None)
        if began is not None:
            self._ack_seconds.observe(time.monotonic() - began)

    def left(self, client: int) -> None:
        """See xds.Observer."""
        self._sent.pop(client, None)

    def refused(self) -> None:
        """See xds.Observer."""
        self._refused.inc()

    def change_made(self, seconds: float) -> None:
        """A change is in force, as far as Envoy's ACK and the kernel tell."""
        self._change_seconds.observe(seconds)

    def effect_seen(self, seconds: float) -> None:
        """A change was seen in Envoy's own dump."""
        self._effect_seconds.observe(seconds)

    def _by_type(self, name: str, what: str) -> Counter:
        counter = Counter(name, what, ["type"], registry=self.registry)
        for type_url in _TYPES:
            counter.labels(_short(type_url))  # from the start, at zero
        return counter

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self.registry)


# What of Envoy's own statistics stands beside the agent's. Each shard of policies, each worker and each code of a
# response has some of its own, so no name is chosen by a pattern that lets those in.
_ENVOY_STATS = (
    r"^server\.(live|uptime|memory_allocated|memory_heap_size|total_connections|concurrency)$"
    r"|^http\.lockgate_http\.(downstream_(cx|rq)_(total|active)|downstream_rq_[2345]xx|downstream_cx_protocol_error"
    r"|rbac\..*(allowed|denied))$"
    r"|^lockgate_tls.*(allowed|denied)$"
    r"|^listener\.lockgate_[a-z]+\.downstream_cx_(total|active|overflow|overload_reject)$"
    r"|^cluster\.lockgate\.original_destination\.upstream_(cx_(total|active|connect_fail)|rq_(total|active|timeout))$"
    r"|^extension_config_discovery\..*[^0-9]\.(config_reload|update_rejected)$"  # without the many shards of policies
)

# And what stands under /metrics/envoy. 'lockgate envoy stats' has all of them.
_MORE_ENVOY_STATS = (
    r"^(server|listener_manager|cluster_manager|overload|control_plane|tls_inspector|access_logs)(\.[a-z_]+)+$"
    r"|^http\.lockgate_http\.(downstream_(cx|rq)_[a-z0-9_]+|(rbac|composite)\.[a-z_]+|(no|rq)_[a-z_]+)$"
    r"|^lockgate_tls.*(allowed|denied)$"
    r"|^listener\.lockgate_[a-z]+\.(downstream_[a-z_]+|no_filter_chain_match)$"
    r"|^tcp\.lockgate_[a-z]+\.downstream_cx_[a-z_]+$"
    r"|^cluster\.lockgate\.original_destination\.upstream_(cx_(total|active|http[12]_total|[rt]x_bytes_total|connect_[a-z]+"
    r"|destroy_(local|remote|with_active_rq)|idle_timeout|overflow|pool_overflow|protocol_error|length_ms)"
    r"|rq_(total|active|active_overflow|cancelled|completed|pending_[a-z]+|[rt]x_reset|timeout))$"
    r"|^cluster\.lockgate\.xds\.upstream_(cx_(total|active|connect_fail)|rq_(total|active))$"
    r"|^extension_config_discovery\..*[^0-9]\.(config_reload|config_fail|update_failure|update_rejected)$"
)
_BUCKET = re.compile(r"^[^#\s]*_bucket\{.*\n", re.MULTILINE)
_HISTOGRAM = re.compile(r"^(# TYPE \S+) histogram$", re.MULTILINE)


def summaries(text: str) -> str:
    """Prometheus' text with count and sum of each histogram alone: a bucket is a series, and Envoy has twenty of
    each."""
    return _HISTOGRAM.sub(r"\1 summary", _BUCKET.sub("", text))


class Exposition:
    """All metrics as text. `status` and `datapath` are the answers of the local API, `counts` is for `families_of`."""

    def __init__(
        self,
        metrics: Metrics,
        admin_socket: Path,
        status: Callable[[], Awaitable[Mapping[str, Any]]],
        datapath: Callable[[], Awaitable[Mapping[str, Any]]],
        counts: Callable[[], Mapping[str, int]],
        dns: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`dns` is what the DNS proxy counted, by event, and under "learned" what it remembers."""
        self._metrics = metrics
        self._socket = admin_socket
        self._status = status
        self._datapath = datapath
        self._counts = counts
        self._dns = dns

    async def text(self) -> bytes:
        """The agent's own metrics and the chosen ones of Envoy, while it answers."""
        registry = CollectorRegistry(auto_describe=False)
        families = families_of(await self._status(), await self._datapath(), self._counts(), self._dns())
        registry.register(_Made(list(families)))
        own = generate_latest(self._metrics.registry) + generate_latest(registry)
        try:
            return own + await self._ask_envoy(_ENVOY_STATS)
        except EnvoyError:
            return own

    async def envoy(self) -> bytes:
        """A wider choice of Envoy's own. Raises EnvoyError."""
        return await self._ask_envoy(_MORE_ENVOY_STATS)

    async def _ask_envoy(self, pattern: str) -> bytes:
        async with Admin(self._socket, timeout=5.0) as admin:
            return summaries(await admin.prometheus(pattern)).encode()


class _Made(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families_of(
    status: Mapping[str, Any],
    datapath: Mapping[str, Any],
    counts: Mapping[str, int],
    dns: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Metric]:
    """What can be read off the node's state."""
    yield _gauge("lockgate_ready", "1 when all that is wanted is in force and nothing is wrong.", int(status["ok"]))
    yield _gauge("lockgate_problems", "Sentences in `lockgate status`.", len(status["problems"]))
    yield _gauge("lockgate_policy_revision", "Changes brought into force.", status["agent"]["revision"])
    yield _gauges("lockgate_endpoints", "Workloads, by whether they are on this node.", "place", status["endpoints"])
    yield from _of_policies(status["policies"], counts)
    yield from _of_xds(status["xds"])
    yield from _of_envoy(status["envoy"], counts)
    yield from _of_datapath(datapath)
    yield from _of_dns(dns)


def _of_policies(policies: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauges(
        "lockgate_policies",
        "Policies by state; nack: refused by Envoy, no-room: in the kernel's maps, stale: the file is broken and the "
        "version before is enforced.",
        "state",
        {
            "enforced": policies["enforced"],
            "stale": policies["stale"],
            "nack": policies["nacked"],
            "no-room": policies["overfull"],
        },
    )
    yield _gauges(
        "lockgate_remote_refused_policies",
        "Policies that a remote node's Envoy refuses and that are held back there.",
        "node",
        policies["nacked_by_node"],
    )
    yield _counter(
        "lockgate_nack_searches",
        "Changes that Envoy refused, so that the policy to blame was searched.",
        counts["searches"],
    )
    yield _counter(
        "lockgate_streams_ended", "Requests that ran on when their policy no longer allowed them.", counts["streams"]
    )


def _of_xds(clients: Collection[Mapping[str, Any]]) -> Iterator[Metric]:
    yield _gauge(
        "lockgate_xds_clients", "Connected xDS clients.", len({row["node"] for row in clients if row["type"] != "-"})
    )
    yield _gauges(
        "lockgate_xds_remote_nodes",
        "Remote nodes by the worst of their resource types; ABSENT: not connected.",
        "state",
        _remote_nodes(clients),
    )
    states = dict.fromkeys(("SYNCED", "STALE", "NACK"), 0)
    for row in clients:
        for resource in row["resources"]:
            states[resource["state"]] += 1
    yield _gauges("lockgate_xds_resources", "Resources that clients asked for, by state.", "state", states)


def _of_envoy(envoy: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauge("lockgate_envoy_up", "1 while Envoy runs.", int(envoy["state"] == "running"))
    yield _counter("lockgate_envoy_restarts", "How often Envoy had to be started again.", envoy["restarts"])
    yield _counter("lockgate_envoy_hangs", "How often that was because it hung.", envoy["hangs"])
    yield _counters(
        "lockgate_envoy_deaf",
        "What was done because Envoy did not answer to what it was told: a stream was ended, it was replaced.",
        "cure",
        {cure: counts[f"deaf_{cure}"] for cure in ("stream", "replacement")},
    )
    yield _gauge("lockgate_drift", "Resources that Envoy confirmed and has not in force.", counts["drift"])
    yield _counter("lockgate_drift_repaired", "Resources that were sent again because of drift.", counts["repaired"])
    yield _counter("lockgate_effect_looks", "How often Envoy was asked what it has in force.", counts["looks"])


def _of_datapath(datapath: Mapping[str, Any]) -> Iterator[Metric]:
    packets = CounterMetricFamily(
        "lockgate_datapath_packets",
        "Packets of endpoints by what became of them.",
        labels=("direction", "reason", "dropped"),
    )
    for counter in datapath["counters"]:
        dropped = "true" if counter["dropped"] else "false"
        packets.add_metric((counter["direction"], counter["reason"], dropped), counter["packets"])
    yield packets
    yield _gauges("lockgate_datapath_entries", "Entries of the kernel's maps.", "map", datapath["maps"])
    yield _gauges("lockgate_datapath_room", "Entries that they can hold.", "map", datapath["room"])
    yield _gauges(
        "lockgate_datapath_entries_refused",
        "Entries that policies want and that there is no room for, so that the policies are held back.",
        "map",
        datapath["wanted"],
    )
    yield _gauge("lockgate_datapath_interfaces", "Interfaces with programs.", len(datapath["interfaces"]))


def _of_dns(dns: Mapping[str, int]) -> Iterator[Metric]:
    yield _counters(
        "lockgate_dns_messages",
        "Questions and answers at the DNS proxy by what became of them.",
        "event",
        {event: number for event, number in dns.items() if event != "learned"},
    )
    yield _gauge(
        "lockgate_dns_learned", "Addresses of names that answers have shown to clients.", dns.get("learned", 0)
    )


def _remote_nodes(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    worst = ("SYNCED", "STALE", "NACK", "ABSENT")
    nodes: dict[str, str] = {}
    for row in rows:
        if row["remote"]:
            state = "ABSENT" if row["type"] == "-" else row["state"]
            nodes[row["node"]] = max(nodes.get(row["node"], "SYNCED"), state, key=worst.index)
    return {state: sum(found == state for found in nodes.values()) for state in worst}


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)


def _gauges(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    return _each(GaugeMetricFamily(name, what, labels=(label,)), values)


def _counters(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    return _each(CounterMetricFamily(name, what, labels=(label,)), values)


def _each(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _short(type_url: str) -> str:
    """Any type that a client may ask for is one series."""
    return type_url.rpartition(".")[2] if type_url in _TYPES else "other"

"""Makes small records of Envoy's config_dump. Pure: decoded JSON in, frozen records out.

The dump's messages: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/admin/v3/config_dump.proto
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from ...policies.secret import MARK

REDACTED = "[redacted]"

# Fields that hold key material or passwords, wherever they appear in a configuration.
_SECRET_FIELDS = frozenset(
    {"private_key", "password", "session_ticket_keys", "pkcs12", "token_secret", "hmac_secret", "generic_secret"}
)


@dataclass(frozen=True, slots=True)
class FilterRecord:
    """A filter that arrives by ECDS. `version` None: nothing has arrived and the listener's default is in force.

    `error` is why Envoy rejected the last update (`error_version`); `version` still names what is in force. Envoy 1.40
    was seen to leave it out after it rejected a filter: then the NACK on the xDS stream and the
    counter extension_config_discovery.http_filter.NAME.update_rejected tell.
    """

    name: str
    kind: str  # the short name of its configuration's type: RBAC
    listeners: tuple[str, ...]
    version: str | None
    updated: str  # when, as Envoy prints it
    error: str | None
    error_version: str | None

    @property
    def default(self) -> bool:
        """True when the default that the bootstrap gave is what Envoy enforces."""
        return self.version is None


@dataclass(frozen=True, slots=True)
class ListenerRecord:
    """A listener; `version` is empty for a static one."""

    name: str
    address: str  # all of them, with commas between
    dynamic: bool
    version: str
    filters: tuple[str, ...]  # of all filter chains, listener filters first, HTTP filters in place of their manager
    error: str | None


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster; `version` is empty for a static one, `hosts` for one that finds them while it works."""

    name: str
    kind: str  # ORIGINAL_DST, STATIC ...
    dynamic: bool
    version: str
    hosts: tuple[str, ...]
    error: str | None


@dataclass(frozen=True, slots=True)
class RouteRecord:
    """One route of a virtual host. `name` is the route configuration's."""

    name: str
    domains: tuple[str, ...]
    route: str
    matches: str  # /api* begins with /api, ~x matches the RE2 x; headers and filter state behind it
    target: str  # a cluster and the filters that do not run, or the status of a direct response


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """A secret, without what is secret in it; `version` is empty for a static one."""

    name: str
    kind: str  # tls_certificate, validation_context ...
    version: str
    updated: str
    error: str | None


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """What one Envoy has, each part sorted by name."""

    listeners: tuple[ListenerRecord, ...]
    filters: tuple[FilterRecord, ...]
    clusters: tuple[ClusterRecord, ...]
    routes: tuple[RouteRecord, ...] = ()
    secrets: tuple[SecretRecord, ...] = ()


def read_config(dump: Mapping[str, Any]) -> EnvoyConfig:
    """The records of a whole config_dump (not of one asked for with `resource`)."""
    sections = {_kind(section): section for section in dump.get("configs", ())}
    # One section for filters of each sort: HTTP, network, listener.
    ecds = [entry for section in dump.get("configs", ()) for entry in section.get("ecds_filters", ())]
    listeners = tuple(sorted(_listeners(sections.get("ListenersConfigDump", {})), key=lambda record: record.name))
    return EnvoyConfig(
        listeners=listeners,
        filters=_filters(sections, ecds, listeners),
        clusters=tuple(sorted(_clusters(sections.get("ClustersConfigDump", {})), key=lambda record: record.name)),
        routes=tuple(dict.fromkeys(_routes(sections.get("RoutesConfigDump", {})))),
        secrets=tuple(sorted(_secrets(sections.get("SecretsConfigDump", {})), key=lambda record: record.name)),
    )


def redact(value: Any, secrets: Collection[str] = ()) -> Any:
    """A copy of decoded JSON without key material and what is marked as a secret's (MARK), and with every occurrence of
    `secrets` in a string struck out."""
    if isinstance(value, Mapping):
        hidden = _SECRET_FIELDS | _marked(value)
        copy: dict[str, Any] = {
            key: REDACTED if key in hidden else redact(child, secrets) for key, child in value.items()
        }
        if _compares(value) and "exact_match_map" in value:
            listed = copy["exact_match_map"].get("map", {}).values()
            copy["exact_match_map"] = {"map": {f"{REDACTED} {number}": each for number, each in enumerate(listed, 1)}}
        return copy
    if isinstance(value, list | tuple):
        return [redact(child, secrets) for child in value]
    if isinstance(value, str):
        for secret in secrets:
            if secret:
                value = value.replace(secret, REDACTED)
    return value


def _compares(value: Mapping[str, Any]) -> bool:
    """True for what compares an input with values of secrets."""
    compared = value.get("input")
    return isinstance(compared, Mapping) and compared.get("name") == MARK


def _marked(value: Mapping[str, Any]) -> Set[str]:
    """The fields that hold a secret's value: what a marked input is compared with, and what a marked filter writes."""
    if _compares(value):
        return value.keys() - {"input", "exact_match_map"}
    if isinstance(config := value.get("typed_config"), Mapping) and value.get("name") == MARK:
        return {"typed_config"} if "header_name" not in config else frozenset()
    return frozenset()


def _listeners(section: Mapping[str, Any]) -> Iterator[ListenerRecord]:
    for entry in section.get("static_listeners", ()):
        yield _listener(entry.get("listener", {}), dynamic=False, version="", error=_error(entry)[0])
    for entry in section.get("dynamic_listeners", ()):
        # One that was rejected from the start has neither state, only an error.
        state = entry.get("active_state") or entry.get("warming_state") or {}
        listener = {"name": entry.get("name", ""), **state.get("listener", {})}
        yield _listener(listener, dynamic=True, version=state.get("version_info", ""), error=_error(entry)[0])


def _listener(listener: Mapping[str, Any], *, dynamic: bool, version: str, error: str | None) -> ListenerRecord:
    return ListenerRecord(
        name=listener.get("name", ""),
        address=", ".join(map(_address, _addresses(listener))),
        dynamic=dynamic,
        version=version,
        filters=tuple(_filter_names(listener)),
        error=error,
    )


def _addresses(listener: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield listener.get("address", {})
    for each in listener.get("additional_addresses", ()):
        yield each.get("address", {})


def _filter_names(listener: Mapping[str, Any]) -> Iterator[str]:
    for entry in listener.get("listener_filters", ()):
        yield entry.get("name", "")
    for chain in listener.get("filter_chains", ()):
        for entry in chain.get("filters", ()):
            http = entry.get("typed_config", {}).get("http_filters")
            if http is None:
                yield entry.get("name", "")
            else:
                yield from (inner.get("name", "") for inner in http)


def _slots(listener: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, kind) of every filter of a listener that is configured by discovery."""
    for chain in listener.get("filter_chains", ()):
        for entry in chain.get("filters", ()):
            for candidate in (entry, *entry.get("typed_config", {}).get("http_filters", ())):
                for name, source in _discovered(candidate):
                    yield name, ", ".join(_short(url) for url in source.get("type_urls", ()))


def _discovered(candidate: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name and source of a filter's configuration, or of those that it chooses among (its shards)."""
    if "config_discovery" in candidate:
        yield candidate.get("name", ""), candidate["config_discovery"]
    choice = candidate.get("typed_config", {}).get("matcher", {}).get("matcher_tree", {}).get("prefix_match_map", {})
    for on_match in choice.get("map", {}).values():
        chosen = on_match.get("action", {}).get("typed_config", {}).get("dynamic_config", {})
        if "config_discovery" in chosen:
            yield chosen.get("name", ""), chosen["config_discovery"]


def _filters(
    sections: Mapping[str, Mapping[str, Any]],
    ecds: Iterable[Mapping[str, Any]],
    listeners: tuple[ListenerRecord, ...],
) -> tuple[FilterRecord, ...]:
    section = sections.get("ListenersConfigDump", {})
    known: dict[str, str] = {}
    for entry in section.get("static_listeners", ()):
        known.update(_slots(entry.get("listener", {})))
    for entry in section.get("dynamic_listeners", ()):
        known.update(_slots((entry.get("active_state") or entry.get("warming_state") or {}).get("listener", {})))
    arrived: dict[str, Mapping[str, Any]] = {}
    for entry in ecds:
        filter_ = entry.get("ecds_filter", {})
        arrived[filter_.get("name", "")] = entry
        known.setdefault(filter_.get("name", ""), _kind(filter_.get("typed_config", {})))
    records = []
    for name, kind in sorted(known.items()):
        entry = arrived.get(name, {})
        error, error_version = _error(entry)
        records.append(
            FilterRecord(
                name=name,
                kind=kind,
                listeners=tuple(listener.name for listener in listeners if _whole(name) in listener.filters),
                # An update that was rejected before any was accepted is listed too, without a version.
                version=entry.get("version_info") or None,
                updated=entry.get("last_updated", ""),
                error=error,
                error_version=error_version,
            )
        )
    return tuple(records)


def _whole(name: str) -> str:
    """The name without the number of a shard."""
    whole, _, number = name.rpartition(".")
    return whole if number.isdigit() else name


def _clusters(section: Mapping[str, Any]) -> Iterator[ClusterRecord]:
    for field in ("static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"):
        for entry in section.get(field, ()):
            cluster = entry.get("cluster", {})
            yield ClusterRecord(
                name=cluster.get("name", ""),
                kind=cluster.get("cluster_type", {}).get("name") or cluster.get("type", "STATIC"),
                dynamic=field != "static_clusters",
                version=entry.get("version_info", ""),
                hosts=tuple(_hosts(cluster.get("load_assignment", {}))),
                error=_error(entry)[0],
            )


def _routes(section: Mapping[str, Any]) -> Iterator[RouteRecord]:
    """Listeners of both address families have the same ones."""
    for field in ("static_route_configs", "dynamic_route_configs"):
        for entry in section.get(field, ()):
            config = entry.get("route_config", {})
            for host in config.get("virtual_hosts", ()):
                for route in host.get("routes", ()):
                    yield RouteRecord(
                        config.get("name", ""),
                        tuple(host.get("domains", ())),
                        route.get("name", ""),
                        _route_match(route.get("match", {})),
                        _route_target(route),
                    )


def _route_match(match: Mapping[str, Any]) -> str:
    path = match.get("path", "")
    if "prefix" in match:
        path = f"{match['prefix']}*"
    elif "safe_regex" in match:
        path = f"~{match['safe_regex'].get('regex', '')}"
    asked = [header.get("name", "") for header in match.get("headers", ())]
    asked += [f"{each.get('key', '')} {_value(each.get('string_match', {}))}" for each in match.get("filter_state", ())]
    return f"{path} with {', '.join(asked)}" if asked else path


def _value(match: Mapping[str, Any]) -> str:
    if "suffix" in match:
        return f"*{match['suffix']}"
    return f"~{match['safe_regex'].get('regex', '')}" if "safe_regex" in match else str(match.get("exact", "?"))


def _route_target(route: Mapping[str, Any]) -> str:
    if "direct_response" in route:
        return f"answers {route['direct_response'].get('status', '')}"
    off = [name for name, config in route.get("typed_per_filter_config", {}).items() if config.get("disabled")]
    return str(route.get("route", {}).get("cluster", "-")) + (f" without {', '.join(off)}" if off else "")


_SECRET_KINDS = ("tls_certificate", "validation_context", "session_ticket_keys", "generic_secret")


def _secrets(section: Mapping[str, Any]) -> Iterator[SecretRecord]:
    for field in ("static_secrets", "dynamic_active_secrets", "dynamic_warming_secrets"):
        for entry in section.get(field, ()):
            secret = entry.get("secret", {})
            yield SecretRecord(
                name=entry.get("name") or secret.get("name", ""),
                kind=next((kind for kind in _SECRET_KINDS if kind in secret), "unknown"),
                version=entry.get("version_info", ""),
                updated=entry.get("last_updated", ""),
                error=_error(entry)[0],
            )


def _hosts(assignment: Mapping[str, Any]) -> Iterator[str]:
    for locality in assignment.get("endpoints", ()):
        for host in locality.get("lb_endpoints", ()):
            yield _address(host.get("endpoint", {}).get("address", {}))


def _error(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    state = entry.get("error_state")
    if not state:
        return None, None
    return state.get("details", "rejected without a reason"), state.get("version_info")


def _address(address: Mapping[str, Any]) -> str:
    if "pipe" in address:
        return f"unix:{address['pipe'].get('path', '')}"
    socket = address.get("socket_address", {})
    host = socket.get("address", "")
    return f"[{host}]:{socket.get('port_value', 0)}" if ":" in host else f"{host}:{socket.get('port_value', 0)}"


def _kind(message: Mapping[str, Any]) -> str:
    return _short(message.get("@type", ""))


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]

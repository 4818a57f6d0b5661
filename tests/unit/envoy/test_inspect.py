"""Records of a config_dump."""

from __future__ import annotations

from typing import Any

from lockgate.envoy.inspection.inspect import REDACTED, ClusterRecord, read_config, redact
from lockgate.policies.secret import MARK

ADMIN = "type.googleapis.com/envoy.admin.v3."
RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"


def listener(name: str, address: str, port: int) -> dict[str, Any]:
    slots = [{"name": slot, "config_discovery": {"type_urls": [RBAC]}} for slot in ("egress", "ingress")]
    return {
        "name": name,
        "address": {"socket_address": {"address": address, "port_value": port}},
        "listener_filters": [{"name": "original_dst"}],
        "filter_chains": [
            {"filters": [{"name": "hcm", "typed_config": {"http_filters": [*slots, {"name": "router"}]}}]},
            {"filters": [{"name": "direct_response", "typed_config": {}}]},
        ],
    }


def dump(**sections: dict[str, Any]) -> dict[str, Any]:
    return {"configs": [{"@type": ADMIN + kind, **section} for kind, section in sections.items()]}


def test_listeners() -> None:
    config = read_config(
        dump(
            ListenersConfigDump={
                "static_listeners": [
                    {"listener": listener("v6", "::1", 15001)},
                    {"listener": listener("v4", "127.0.0.1", 15001)},
                ],
                "dynamic_listeners": [
                    {"name": "new", "error_state": {"details": "bad filter"}},
                    {
                        "name": "live",
                        "active_state": {"version_info": "7", "listener": listener("live", "127.0.0.1", 1)},
                    },
                ],
            }
        )
    )
    assert [(record.name, record.address, record.dynamic) for record in config.listeners] == [
        ("live", "127.0.0.1:1", True),
        ("new", ":0", True),
        ("v4", "127.0.0.1:15001", False),
        ("v6", "[::1]:15001", False),
    ]
    by_name = {record.name: record for record in config.listeners}
    assert by_name["v4"].filters == ("original_dst", "egress", "ingress", "router", "direct_response")
    assert by_name["new"].error == "bad filter"
    assert by_name["live"].version == "7"


def test_filters_that_have_arrived_that_have_not_and_that_were_rejected() -> None:
    config = read_config(
        dump(
            ListenersConfigDump={"static_listeners": [{"listener": listener("v4", "127.0.0.1", 15001)}]},
            EcdsConfigDump={
                "ecds_filters": [
                    {
                        "version_info": "3",
                        "ecds_filter": {"name": "ingress", "typed_config": {"@type": RBAC}},
                        "last_updated": "2026-03-01T00:00:00Z",
                        "error_state": {"details": "no such matcher", "version_info": "4"},
                    }
                ]
            },
        )
    )
    egress, ingress = config.filters
    assert (egress.name, egress.kind, egress.listeners, egress.default) == ("egress", "RBAC", ("v4",), True)
    assert (ingress.version, ingress.default) == ("3", False)
    assert (ingress.error, ingress.error_version) == ("no such matcher", "4")


def test_clusters() -> None:
    endpoint = {"endpoint": {"address": {"pipe": {"path": "/run/lockgate/xds.sock"}}}}
    config = read_config(
        dump(
            ClustersConfigDump={
                "static_clusters": [
                    {"cluster": {"name": "original", "type": "ORIGINAL_DST"}},
                    {"cluster": {"name": "a", "load_assignment": {"endpoints": [{"lb_endpoints": [endpoint]}]}}},
                ],
                "dynamic_active_clusters": [{"version_info": "2", "cluster": {"name": "z", "type": "EDS"}}],
            }
        )
    )
    assert config.clusters == (
        ClusterRecord("a", "STATIC", False, "", ("unix:/run/lockgate/xds.sock",), None),
        ClusterRecord("original", "ORIGINAL_DST", False, "", (), None),
        ClusterRecord("z", "EDS", True, "2", (), None),
    )


def test_an_empty_dump() -> None:
    config = read_config({})
    assert (config.listeners, config.filters, config.clusters) == ((), (), ())


def test_redact_strikes_out_keys_and_given_secrets_and_copies() -> None:
    original = {
        "private_key": {"inline_string": "KEY"},
        "matchers": [{"name": "authorization", "exact": "Bearer s3cret"}, {"exact": "open"}],
        "port": 80,
    }
    assert redact(original, secrets=["s3cret", ""]) == {
        "private_key": REDACTED,
        "matchers": [{"name": "authorization", "exact": f"Bearer {REDACTED}"}, {"exact": "open"}],
        "port": 80,
    }
    assert original["private_key"] == {"inline_string": "KEY"}


def test_redact_strikes_out_what_a_secret_is_compared_with_and_what_it_writes() -> None:
    def predicate(label: str) -> dict[str, object]:
        reads = {"name": label, "typed_config": {"header_name": "x-token"}}
        return {"single_predicate": {"input": reads, "value_match": {"exact": "hush"}}}

    def filter_(label: str) -> dict[str, object]:
        return {"name": label, "typed_config": {"mutations": {"append": {"value": "hush"}}}}

    shown = redact({"predicate": predicate(MARK), "filter": filter_(MARK)})
    assert shown["predicate"]["single_predicate"]["input"] == {
        "name": MARK,
        "typed_config": {"header_name": "x-token"},
    }
    assert "hush" not in str(shown)
    assert redact([predicate("header"), filter_("headers")]) == [predicate("header"), filter_("headers")]


def test_filters_of_every_sort_are_read() -> None:
    """A dump has a section of its own for filters of HTTP and for those of connections."""
    sections = [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump",
            "ecds_filters": [{"version_info": version, "ecds_filter": {"name": name}}],
        }
        for name, version in (("http", "1"), ("tls", "2"))
    ]
    assert [(each.name, each.version) for each in read_config({"configs": sections}).filters] == [
        ("http", "1"),
        ("tls", "2"),
    ]


def test_routes_and_secrets_are_read() -> None:
    route = {
        "name": "one",
        "match": {"prefix": "/a", "headers": [{"name": "x-a"}]},
        "route": {"cluster": "there"},
    }
    state = [
        {"key": "whose", "string_match": {"safe_regex": {"regex": "7:in"}}},
        {"key": "where", "string_match": {"suffix": ":out"}},
    ]
    spared = {
        "match": {"prefix": "/", "filter_state": state},
        "route": {"cluster": "there"},
        "typed_per_filter_config": {"judge": {"disabled": True}, "other": {"disabled": False}},
    }
    answer = {"match": {"safe_regex": {"regex": "/b+"}}, "direct_response": {"status": 400}}
    hosts = [{"domains": ["*"], "routes": [route, spared, answer]}]
    configs = [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "static_route_configs": [{"route_config": {"name": "routes", "virtual_hosts": hosts}}] * 2,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [
                {
                    "name": "cert",
                    "version_info": "7",
                    "secret": {"tls_certificate": {"private_key": {"inline_bytes": "c2VjcmV0"}}},
                }
            ],
        },
    ]
    config = read_config({"configs": configs})
    assert [(each.name, each.matches, each.target) for each in config.routes] == [
        ("routes", "/a* with x-a", "there"),
        ("routes", "/* with whose ~7:in, where *:out", "there without judge"),
        ("routes", "~/b+", "answers 400"),
    ]
    (secret,) = config.secrets
    assert (secret.name, secret.kind, secret.version) == ("cert", "tls_certificate", "7")
    assert "c2VjcmV0" not in str(config) + str(redact({"configs": configs}))


def test_values_of_secrets_are_struck_out_of_a_map_and_what_they_lead_to_stays() -> None:
    reads = {"name": MARK, "typed_config": {"header_name": "x-token"}}
    entries = {"hush": {"action": {"name": "one"}}, "hush2": {"action": {"name": "two"}}}
    tree = {"matcher_tree": {"input": reads, "exact_match_map": {"map": entries}}, "on_no_match": {"action": "deny"}}
    shown = redact(tree)
    assert "hush" not in str(shown)
    assert shown["matcher_tree"]["exact_match_map"]["map"] == {
        f"{REDACTED} 1": {"action": {"name": "one"}},
        f"{REDACTED} 2": {"action": {"name": "two"}},
    }
    assert shown["on_no_match"] == {"action": "deny"}


def test_shards_are_filters_of_their_own() -> None:
    shard = {"name": "ingress.7", "config_discovery": {"type_urls": [RBAC]}}
    action = {"action": {"typed_config": {"dynamic_config": shard}}}
    choice = {"prefix_match_map": {"map": {"7:": action, "8:": {"action": {"typed_config": {"typed_config": {}}}}}}}
    divided = {"name": "ingress", "typed_config": {"matcher": {"matcher_tree": choice}}}
    entry = listener("http", "127.0.0.1", 15001)
    entry["additional_addresses"] = [{"address": {"socket_address": {"address": "::1", "port_value": 15001}}}]
    entry["filter_chains"] = [{"filters": [{"name": "hcm", "typed_config": {"http_filters": [divided]}}]}]
    config = read_config(dump(ListenersConfigDump={"static_listeners": [{"listener": entry}]}))
    (found,) = config.filters
    assert (found.name, found.kind, found.listeners, found.default) == ("ingress.7", "RBAC", ("http",), True)
    assert config.listeners[0].address == "127.0.0.1:15001, [::1]:15001"
    assert config.listeners[0].filters == ("original_dst", "ingress")

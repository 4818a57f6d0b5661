"""One direction's HTTP policy, divided into shards that come by ADS one by one: only what changed is built anew.

For each request Envoy looks up, by what the identity filter left, in which shard the policy is that judges it, and runs
that shard's filter: RBAC alone, or in a chain with what changes headers (xds/compile/rbac.py). An end that is no
endpoint of this node passes there, where the route has not left the filter out (http_routes.py). Where the identity
filter has left nothing that is known, the request is denied.
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/composite_filter
"""

from __future__ import annotations

from .end import SHARDS, in_shard
from .messages import composite, core, hcm, network_input, protobuf, xds_core, xds_matcher
from .policy_slot import COMPOSITE_TYPE_URL, RBAC_TYPE_URL, deny_all, policy_source

UNKNOWN = "node:unknown-identity"  # names denials in the access log, as in xds/compile/rule_name.py


def sharded_policy(name: str, end: str, first_policy_timeout: float) -> hcm.HttpFilter:
    """The filter called `name`, whose shards are the ECDS resources `name`.0, `name`.1 ... of the types RBAC and
    Composite. `end` is the key of the end that it judges."""
    shards = {in_shard(number): _run(_shard(f"{name}.{number}", first_policy_timeout)) for number in range(SHARDS)}
    deny = core.TypedExtensionConfig(name="deny", typed_config=protobuf.Any.pack(deny_all(UNKNOWN)))
    composed = composite.Composite(
        matcher=xds_matcher.Matcher(
            matcher_tree=xds_matcher.MatcherMatcherTree(
                input=xds_core.TypedExtensionConfig(
                    name=end, typed_config=protobuf.Any.pack(network_input.FilterStateInput(key=end))
                ),
                prefix_match_map=xds_matcher.MatcherMatcherTreeMatchMap(map=shards),
            ),
            on_no_match=_run(composite.ExecuteFilterAction(typed_config=deny)),
        )
    )
    return hcm.HttpFilter(name=name, typed_config=protobuf.Any.pack(composed))


def _run(action: composite.ExecuteFilterAction) -> xds_matcher.MatcherOnMatch:
    packed = xds_core.TypedExtensionConfig(name="run", typed_config=protobuf.Any.pack(action))
    return xds_matcher.MatcherOnMatch(action=packed)


def _shard(name: str, first_policy_timeout: float) -> composite.ExecuteFilterAction:
    source = policy_source(deny_all(), first_policy_timeout, RBAC_TYPE_URL, COMPOSITE_TYPE_URL)
    return composite.ExecuteFilterAction(
        dynamic_config=composite.DynamicConfig(name=name, config_discovery=source),
    )

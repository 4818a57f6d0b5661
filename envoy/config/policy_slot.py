"""What comes from the agent by ADS: whole types, and the policy of a filter (ECDS).

https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/extension
"""

from __future__ import annotations

from datetime import timedelta

from betterproto2 import Message

from .messages import core, http_rbac, protobuf, rbac, xds_core, xds_matcher

RBAC_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
COMPOSITE_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite"
NOT_SYNCED = "lockgate:no-policy-received"  # names the default's denials in the access log

XDS_CLUSTER = "lockgate.xds"  # the agent, in every bootstrap


def from_ads(first_answer: float) -> core.ConfigSource:
    """Over the one stream to the agent; Envoy waits `first_answer` seconds for the first of it."""
    return core.ConfigSource(
        ads=core.AggregatedConfigSource(),
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=timedelta(seconds=first_answer),
    )


def policy_source(default: Message, first_policy_timeout: float, *type_urls: str) -> core.ExtensionConfigSource:
    """Where a filter of one of these types has its policy from, and what it does when none has come in time."""
    # Without `apply_default_config_without_warming`: the listener waits for the policy, so that an Envoy that was just
    # restarted never denies what the policy allows, nor forwards a header that the policy takes away.
    return core.ExtensionConfigSource(
        config_source=from_ads(first_policy_timeout),
        default_config=protobuf.Any.pack(default),
        type_urls=list(type_urls),
    )


def deny_all(name: str = NOT_SYNCED) -> http_rbac.Rbac:
    """The policy of an HTTP filter that has none yet. `name` stands in the access log."""
    deny = xds_core.TypedExtensionConfig(
        name="envoy.filters.rbac.action",
        typed_config=protobuf.Any.pack(rbac.Action(name=name, action=rbac.RbacAction.DENY)),
    )
    return http_rbac.Rbac(matcher=xds_matcher.Matcher(on_no_match=xds_matcher.MatcherOnMatch(action=deny)))

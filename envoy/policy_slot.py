"""What comes from the agent by ADS: whole types, and the policy of a filter (ECDS).

https://www.envoyproxy.io/docs/envoy/latest/configuration/overview/extension
"""

from __future__ import annotations

from datetime import timedelta

from betterproto2 import Message

from .messages import core, protobuf

XDS_CLUSTER = "lockgate.xds"  # the agent, in every bootstrap


def from_ads(first_answer: float) -> core.ConfigSource:
    """Over the one stream to the agent; Envoy waits `first_answer` seconds for the first of it."""
    return core.ConfigSource(
        ads=core.AggregatedConfigSource(),
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=timedelta(seconds=first_answer),
    )


def policy_source(default: Message, type_url: str, first_policy_timeout: float) -> core.ExtensionConfigSource:
    """Where a filter of the type `type_url` has its policy from, and what it does when none has come in time."""
    # Without `apply_default_config_without_warming`: the listener waits for the policy, so that an Envoy that was just
    # restarted never denies what the policy allows, nor forwards a header that the policy takes away.
    return core.ExtensionConfigSource(
        config_source=from_ads(first_policy_timeout),
        default_config=protobuf.Any.pack(default),
        type_urls=[type_url],
    )

"""Where Envoy gets certificates, keys and authorities: by SDS, from the agent."""

from __future__ import annotations

from .messages import core, tls


def from_sds(name: str) -> tls.SdsSecretConfig:
    """The secret of that name."""
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(ads=core.AggregatedConfigSource(), resource_api_version=core.ApiVersion.V3),
    )

"""Which gRPC services and methods there are, as their descriptors say, so that a rule about none of them is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

# Servers bring these themselves; hardly anybody's descriptors list them.
# https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto, reflection/v1/reflection.proto
COMMON: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "grpc.health.v1.Health": frozenset({"Check", "List", "Watch"}),
        "grpc.reflection.v1.ServerReflection": frozenset({"ServerReflectionInfo"}),
        "grpc.reflection.v1alpha.ServerReflection": frozenset({"ServerReflectionInfo"}),
    }
)


@dataclass(frozen=True, slots=True)
class GrpcServices:
    """Methods by full service name. Health and reflection are always known."""

    methods: Mapping[str, frozenset[str]] = field(default_factory=lambda: COMMON, hash=False)

    @classmethod
    def of(cls, methods: Mapping[str, frozenset[str]]) -> GrpcServices:
        """These and the common ones."""
        return cls(MappingProxyType({**COMMON, **methods}))

"""The listener filter that says who the two ends of a connection are: `envoy/module/identity.rs` of the dynamic module.

It leaves filter state (end.py) that the policies match (xds/compile/subject.py) and the access log prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..running.module_file import NAME
from .end import SHARDS
from .messages import dynamic_modules, listener, module_listener_filter, protobuf


@dataclass(frozen=True, slots=True)
class Ipcache:
    """The kernel's map from addresses to identities. `pin` must be absolute.

    `map_id` is the kernel's number of the map: an Envoy that has another one open than the data path uses now would go
    by old addresses, so it is a different configuration. `generation_id` is that of the map beside it, which tells how
    long Envoy may keep what it has looked up.
    """

    pin: Path
    map_id: int
    generation_id: int


def identity_filter(ipcache: Ipcache) -> listener.ListenerFilter:
    """To be put first: it says where the client wanted to go, which for the others is the connection's own address."""
    config = protobuf.StringValue(value=f"{ipcache.pin} {ipcache.map_id} {ipcache.generation_id} {SHARDS}")
    return listener.ListenerFilter(
        name="lockgate.identity",
        typed_config=protobuf.Any.pack(
            module_listener_filter.DynamicModuleListenerFilter(
                dynamic_module_config=dynamic_modules.DynamicModuleConfig(name=NAME, do_not_close=True),
                filter_name="identity",
                filter_config=protobuf.Any.pack(config),
            )
        ),
    )

"""Network filters of Lockgate's own module (envoy/module)."""

from __future__ import annotations

from ..running.module_file import NAME
from .messages import dynamic_filter, dynamic_modules, protobuf


def module_filter(name: str, config: protobuf.Any | None = None) -> dynamic_filter.DynamicModuleNetworkFilter:
    """The filter that the module calls `name`."""
    return dynamic_filter.DynamicModuleNetworkFilter(
        dynamic_module_config=dynamic_modules.DynamicModuleConfig(name=NAME, do_not_close=True),
        filter_name=name,
        filter_config=config,
    )

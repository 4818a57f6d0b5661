"""How traffic gets to Envoy: endpoints' interfaces, the plan for the kernel's maps, the programs, and the routes."""

from __future__ import annotations

from .datapath import Applied, Counter, Datapath
from .device import Device, find_device, node_addresses
from .errors import RedirectError
from .links import Links
from .plan import DatapathPlan, plan
from .reason import Reason

__all__ = [
    "Applied",
    "Counter",
    "Datapath",
    "DatapathPlan",
    "Device",
    "Links",
    "Reason",
    "RedirectError",
    "find_device",
    "node_addresses",
    "plan",
]

"""The nftables tables that drop what comes from newcomers or goes to them. Who is one, the eBPF programs of
bpf/newcomers.c say:

    table bridge lockgate
      prerouting, input    match bpf may_enter, accept; counter, drop
      postrouting          match bpf may_leave, accept; counter, drop
    table inet lockgate
      prerouting           pkttype is not multicast, accept; match bpf may_enter, accept; counter, drop

Frames to some addresses are no bridge's to forward (IEEE 802.1Q, 8.6.3): they go up from the port itself, most by way
of `input`, those for LLDP past all hooks of the bridge; by its hardware address such a packet is for a group.
"""

from __future__ import annotations

from .asking_table import BRIDGE, INET, AskingTable, Chain
from .newcomer_hook import NewcomerHook

BRIDGE_TABLE = AskingTable(
    "lockgate",
    (
        Chain(BRIDGE, "prerouting", 0, NewcomerHook.ENTERS),
        Chain(BRIDGE, "input", 1, NewcomerHook.ENTERS),
        Chain(BRIDGE, "postrouting", 4, NewcomerHook.LEAVES),
        Chain(INET, "prerouting", 0, NewcomerHook.ENTERS, groups=True),
    ),
    "CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_MATCH_BPF",
)

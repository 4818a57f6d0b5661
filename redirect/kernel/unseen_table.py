"""The nftables table that drops what comes from pods that nothing polices yet, or goes to them. Who is one, the eBPF
programs of bpf/unseen.c say:

    table inet lockgate-pods
      prerouting           match bpf may_arrive, accept; counter, drop
      postrouting          match bpf may_depart, accept; counter, drop
"""

from __future__ import annotations

from .asking_table import INET, AskingTable, Chain
from .unseen_hook import UnseenHook

UNSEEN_TABLE = AskingTable(
    "lockgate-pods",
    (
        Chain(INET, "prerouting", 0, UnseenHook.ARRIVES),
        Chain(INET, "postrouting", 4, UnseenHook.DEPARTS),
    ),
    "CONFIG_NF_TABLES_INET, CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_MATCH_BPF",
)

"""Tables of nftables whose rules ask eBPF programs, and drop what these say 0 of.

The programs are matches of xtables (xt_bpf), which nft leaves out when it lists rules: without them the rules let
everything pass, should somebody save the list and load it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELTABLE,
    NFT_MSG_GETRULE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    NFTSocket,
    Regs,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex, verdict

from ..errors import BpfUnsupportedError
from .program_hook import ProgramHook

INET, BRIDGE = 1, 7  # NFPROTO_...


class Chain(NamedTuple):
    """`hook` is the kernel's number (enum nf_br_hook, nf_inet_hooks). `groups`: for packets to groups alone."""

    family: int
    name: str
    hook: int
    asked: ProgramHook
    groups: bool = False


_PRIORITY = -400  # before whatever translates or filters
_MULTICAST = 2  # PACKET_MULTICAST
_ACCEPT, _DROP = 1, 0
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_MATCH = "bpf"
_BY_DESCRIPTOR = 2  # XT_BPF_MODE_FD_ELF
_XT_BPF = struct.Struct("=HHi512sQ")  # struct xt_bpf_info_v1
_NOT_MULTICAST = [
    genex("meta", {"dreg": Regs.NFT_REG_1, "key": Meta.NFT_META_PKTTYPE}),
    genex(
        "cmp",
        {
            "sreg": Regs.NFT_REG_1,
            "op": Cmp.NFT_CMP_NEQ,
            "data": {"attrs": [("NFTA_DATA_VALUE", struct.pack("=B", _MULTICAST))]},
        },
    ),
]
_NOTHING = _XT_BPF.pack(0, 1, -1, struct.pack("=HBBI", 0x06, 0, 0, 0), 0)  # a program of classic BPF: return 0


@dataclass(frozen=True, slots=True)
class AskingTable:
    """One table of that name in each family of its chains. `needs`: options of the kernel."""

    name: str
    chains: tuple[Chain, ...]
    needs: str

    @property
    def _families(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(chain.family for chain in self.chains))

    def install(self, programs: Mapping[Any, int]) -> None:
        """Makes the tables, or makes them anew in one step. `programs` are descriptors, by hook. Raises
        BpfUnsupportedError."""
        self._make({hook: _running(fd) for hook, fd in programs.items()}, _boundary(_BATCH_END))

    def check(self) -> None:
        """Raises BpfUnsupportedError where the kernel would not have the tables. Changes nothing: a batch without an
        end is tried and taken back."""
        self._make({chain.asked: _NOTHING for chain in self.chains})

    def _make(self, asked: Mapping[Any, bytes], *end: nfgen_msg) -> None:
        with self._socket() as nft:
            nft.nlm_request_batch([_boundary(_BATCH_BEGIN), *self._tables(asked), *end])

    def remove(self) -> None:
        """Takes the tables away. There may be none. Raises BpfUnsupportedError."""
        with self._socket() as nft:
            nft.nlm_request_batch([_boundary(_BATCH_BEGIN), *self._no_tables(), _boundary(_BATCH_END)])

    def dropped(self) -> int | None:
        """Packets since the tables were made; None when not all of them is there: who loads a firewall often flushes
        what others have. Raises BpfUnsupportedError."""
        with self._socket() as nft:
            rules = [rule for family in self._families for rule in self._rules(nft, family)]
        counts = [
            int(each.get_attr("NFTA_EXPR_DATA").get_attr("NFTA_COUNTER_PACKETS"))
            for rule in rules
            for each in rule.get_attr("NFTA_RULE_EXPRESSIONS")
            if each.get_attr("NFTA_EXPR_NAME") == "counter"
        ]
        whole = len(counts) == len(self.chains) and len(rules) == sum(3 if each.groups else 2 for each in self.chains)
        return sum(counts) if whole else None

    def _rules(self, nft: Any, family: int) -> Sequence[Any]:
        asked = _message(nft_rule_msg(), NFT_MSG_GETRULE, NLM_F_DUMP, family, {"NFTA_RULE_TABLE": self.name})
        found = nft.nlm_request_batch([asked])
        return [rule for rule in found if rule.get_attr("NFTA_RULE_TABLE") == self.name]

    def _tables(self, asked: Mapping[Any, bytes]) -> Iterator[nfgen_msg]:
        """In place of those that are there, if any. `asked` are `struct xt_bpf_info_v1`."""
        yield from self._no_tables()
        for family in self._families:
            yield _message(nft_table_msg(), NFT_MSG_NEWTABLE, NLM_F_CREATE, family, {"NFTA_TABLE_NAME": self.name})
        for chain in self.chains:
            made = {
                "NFTA_CHAIN_TABLE": self.name,
                "NFTA_CHAIN_NAME": chain.name,
                "NFTA_CHAIN_HOOK": {"attrs": [("NFTA_HOOK_HOOKNUM", chain.hook), ("NFTA_HOOK_PRIORITY", _PRIORITY)]},
                "NFTA_CHAIN_TYPE": "filter",
                "NFTA_CHAIN_POLICY": _ACCEPT,
            }
            yield _message(nft_chain_msg(), NFT_MSG_NEWCHAIN, NLM_F_CREATE, chain.family, made)
            ask = genex("match", {"name": _MATCH, "rev": 1, "info": asked[chain.asked]})
            for does in (
                *([[*_NOT_MULTICAST, *verdict(_ACCEPT)]] if chain.groups else []),
                [ask, *verdict(_ACCEPT)],
                [genex("counter", {}), *verdict(_DROP)],
            ):
                rule = {
                    "NFTA_RULE_TABLE": self.name,
                    "NFTA_RULE_CHAIN": chain.name,
                    "NFTA_RULE_EXPRESSIONS": does,
                }
                yield _message(nft_rule_msg(), NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, chain.family, rule)

    def _no_tables(self) -> Iterator[nfgen_msg]:
        """One that is not there cannot be deleted."""
        for family in self._families:
            yield _message(nft_table_msg(), NFT_MSG_NEWTABLE, NLM_F_CREATE, family, {"NFTA_TABLE_NAME": self.name})
            yield _message(nft_table_msg(), NFT_MSG_DELTABLE, 0, family, {"NFTA_TABLE_NAME": self.name})

    @contextmanager
    def _socket(self) -> Iterator[Any]:
        try:
            with NFTSocket(nfgen_family=INET) as nft:
                yield nft
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise BpfUnsupportedError("rules of nftables need root (CAP_NET_ADMIN); run as root") from error
            raise BpfUnsupportedError(
                f"nftables refuses the rules of its table {self.name} ({error.args[-1]}); they need a kernel with "
                f"{self.needs}"
            ) from error
        except OSError as error:
            raise BpfUnsupportedError(
                f"this kernel has no nftables ({error.strerror}); it needs one with {self.needs}"
            ) from error


def _running(program: int) -> bytes:
    return _XT_BPF.pack(_BY_DESCRIPTOR, 0, program, b"", 0)


def _message(message: nfgen_msg, kind: int, flags: int, family: int, attributes: Mapping[str, Any]) -> nfgen_msg:
    message["header"]["type"] = NFNL_SUBSYS_NFTABLES << 8 | kind
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | flags
    message["nfgen_family"] = family
    message["attrs"] = list(attributes.items())
    return message


def _boundary(kind: int) -> nfgen_msg:
    message = nfgen_msg()
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    return message

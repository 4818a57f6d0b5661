"""From selectors, CIDRs and entities to sets of identities, by look-up instead of trial."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping

from .endpoint_policy import DnsRule
from .fqdn import fqdn_label
from .identity import IPNetwork, Reserved
from .labels import ANY, CLUSTER, CLUSTER_LABEL, FQDN, K8S, Labels
from .model import Block, Entity
from .selector import Operator, Requirement, Selector

_NOBODY: frozenset[int] = frozenset()
_CLUSTER_RESERVED = frozenset(
    {
        Reserved.HOST,
        Reserved.REMOTE_NODE,
        Reserved.INIT,
        Reserved.INGRESS,
        Reserved.HEALTH,
        Reserved.UNMANAGED,
        Reserved.KUBE_APISERVER,
    }
)


class IdentityIndex:
    """All identities of a world by their labels. Answers are remembered, so equal selectors share one set.

    `labels` is number -> labels for every identity, `cidrs` prefix -> number for the CIDR identities among them, and
    `learned` has the numbers of the addresses in a prefix that are known by name.
    """

    def __init__(
        self,
        labels: Mapping[int, Labels],
        cidrs: Mapping[IPNetwork, int],
        learned: Iterable[tuple[IPNetwork, int]] = (),
    ) -> None:
        self.labels = labels
        self.cidrs = cidrs
        self._everybody = frozenset(labels)
        pairs: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)
        keys: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for number, items in labels.items():
            for source, key, value in items:
                for name in (source, ANY) if source != FQDN else (source,):
                    pairs[name, key, value].add(number)
                    keys[name, key].add(number)
        self._pairs = {key: frozenset(numbers) for key, numbers in pairs.items()}
        self._keys = {key: frozenset(numbers) for key, numbers in keys.items()}
        self._networks = sorted(
            (prefix.version, int(prefix.network_address), prefix.prefixlen, number)
            for prefix, number in (*cidrs.items(), *learned)
        )
        self._selected: dict[Selector, frozenset[int]] = {}
        self._blocks: dict[Block, frozenset[int]] = {}

    def select(self, selector: Selector) -> frozenset[int]:
        """The identities whose labels the selector matches."""
        if (found := self._selected.get(selector)) is None:
            found = self._everybody
            for requirement in selector.requirements:
                found = found & self._holding(requirement)
            self._selected[selector] = found
        return found

    def _holding(self, item: Requirement) -> frozenset[int]:
        match item.operator:
            case Operator.EXISTS:
                return self._keyed(item)
            case Operator.DOES_NOT_EXIST:
                return self._everybody - self._keyed(item)
            case Operator.IN:
                return self._valued(item)
            case Operator.NOT_IN:
                return self._everybody - self._valued(item)

    def _keyed(self, item: Requirement) -> frozenset[int]:
        return self._keys.get((item.source, item.key), _NOBODY)

    def _valued(self, item: Requirement) -> frozenset[int]:
        found = [self._pairs.get((item.source, item.key, value), _NOBODY) for value in item.values]
        return found[0] if len(found) == 1 else _NOBODY.union(*found)

    def block(self, block: Block) -> frozenset[int]:
        """The CIDR identities inside the block and outside its exceptions.

        0.0.0.0/0 and ::/0 also hold their family's world and the world of no family.
        """
        if (found := self._blocks.get(block)) is None:
            found = self._inside(block.cidr)
            for exception in block.exceptions:
                found = found - self._inside(exception)
            self._blocks[block] = found
        return found

    def _inside(self, cidr: IPNetwork) -> frozenset[int]:
        first, last = int(cidr.network_address), int(cidr.broadcast_address)
        start = bisect_left(self._networks, (cidr.version, first, cidr.prefixlen, 0))
        end = bisect_left(self._networks, (cidr.version, last, 129, 0))
        found = {number for *_, number in self._networks[start:end]}
        if cidr.prefixlen == 0:
            found |= {Reserved.WORLD, Reserved.WORLD_IPV4 if cidr.version == 4 else Reserved.WORLD_IPV6}
        return frozenset(int(number) for number in found)

    def entity(self, entity: Entity) -> frozenset[int] | None:
        """The identities an entity stands for; None for `all`, which is anyone."""
        match entity:
            case Entity.ALL:
                return None
            case Entity.NONE:
                return _NOBODY
            case Entity.WORLD:
                return _NOBODY.union(*(self._reserved(name) for name in ("world", "world-ipv4", "world-ipv6")))
            case Entity.CLUSTER:
                local = Requirement(K8S, CLUSTER_LABEL, Operator.IN, (CLUSTER,))
                return self._holding(local) | {int(item) for item in _CLUSTER_RESERVED}
            case Entity.CLUSTER_MESH:
                return self._keyed(Requirement(K8S, CLUSTER_LABEL, Operator.EXISTS)) | {
                    int(item) for item in _CLUSTER_RESERVED
                }
            case _:
                return self._reserved(entity.value)

    def _reserved(self, name: str) -> frozenset[int]:
        return self._keys.get(("reserved", name), _NOBODY)

    def fqdn(self, selector: DnsRule) -> frozenset[int]:
        """The identities of addresses that are known by a name which the selector of a toFQDNs means."""
        return self._pairs.get(fqdn_label(selector), _NOBODY)

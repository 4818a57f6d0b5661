"""Kafka API keys by name, and what the roles stand for (https://kafka.apache.org/protocol#protocol_api_keys)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

_NAMES = """
    produce fetch offsets metadata leaderandisr stopreplica updatemetadata controlledshutdown offsetcommit offsetfetch
    findcoordinator joingroup heartbeat leavegroup syncgroup describegroups listgroups saslhandshake apiversions
    createtopics deletetopics deleterecords initproducerid offsetforleaderepoch addpartitionstotxn addoffsetstotxn
    endtxn writetxnmarkers txnoffsetcommit describeacls createacls deleteacls describeconfigs alterconfigs
    alterreplicalogdirs describelogdirs saslauthenticate createpartitions createdelegationtoken renewdelegationtoken
    expiredelegationtoken describedelegationtoken deletegroups electleaders incrementalalterconfigs
    alterpartitionreassignments listpartitionreassignments offsetdelete describeclientquotas alterclientquotas
    describeuserscramcredentials alteruserscramcredentials
"""

_LATER = {
    "describecluster": 60,
    "describeproducers": 61,
    "describetransactions": 65,
    "listtransactions": 66,
    "consumergroupheartbeat": 68,
    "consumergroupdescribe": 69,
    "describetopicpartitions": 75,
}

API_KEYS: Mapping[str, int] = MappingProxyType(
    {name: number for number, name in enumerate(_NAMES.split())} | _LATER,
)
API_NAMES: Mapping[int, str] = MappingProxyType({number: name for name, number in API_KEYS.items()})


class Role(StrEnum):
    """What a client does, as a set of APIs."""

    PRODUCE = "produce"
    CONSUME = "consume"


# Beyond the reference, for clients of today: InitProducerId (22), as producers are idempotent by default since Kafka
# 3.0; OffsetForLeaderEpoch (23), which consumers ask after a change of leader (KIP-320); ConsumerGroupHeartbeat (68),
# the group protocol of Kafka 4 (KIP-848).
ROLE_KEYS: Mapping[Role, frozenset[int]] = MappingProxyType(
    {
        Role.PRODUCE: frozenset({0, 3, 18, 22}),
        Role.CONSUME: frozenset({1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18, 23, 68}),
    }
)

# APIs whose requests name topics (of some, config resources that are topics); a rule's topic is ignored for all others.
TOPIC_KEYS = frozenset(
    {0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 32, 33, 34, 35, 37, 43, 44, 45, 46, 47, 61, 68, 75}
)

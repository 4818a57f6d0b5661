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

API_KEYS: Mapping[str, int] = MappingProxyType({name: number for number, name in enumerate(_NAMES.split())})
API_NAMES: Mapping[int, str] = MappingProxyType({number: name for name, number in API_KEYS.items()})


class Role(StrEnum):
    """What a client does, as a set of APIs."""

    PRODUCE = "produce"
    CONSUME = "consume"


# InitProducerId (22) is beyond the reference: producers are idempotent by default since Kafka 3.0.
ROLE_KEYS: Mapping[Role, frozenset[int]] = MappingProxyType(
    {
        Role.PRODUCE: frozenset({0, 3, 18, 22}),
        Role.CONSUME: frozenset({1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18}),
    }
)

# APIs whose requests name topics; a rule's topic is ignored for all others.
TOPIC_KEYS = frozenset({0, 1, 2, 3, 4, 5, 6, 8, 9, 19, 20, 21, 23, 24, 27, 28, 34, 35, 37, 47})

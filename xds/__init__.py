"""How Envoy is told: policies compiled into Envoy resources, and the server that keeps every Envoy in step."""

from .address_table import TABLES, address_tables
from .certificate_files import CertificateFiles
from .certificates import node_of_names
from .errors import SocketError, UnknownRevision, WireError, XdsError
from .fragment_cache import FragmentCache
from .kafka_policy import KAFKA_FILTER, KafkaCompiler, kafka_policed_by
from .observer import Observer
from .rbac import NodeCompiler, NodeResources, compile_node, policed_by
from .regex import spoken_regexes
from .remote import Remote
from .rule_name import NOT_POLICED, UNKNOWN_SUBJECT, denied_by, names_a_rule
from .server import Outcome, Settled, XdsServer
from .shard import SHARDS, shard_name, shard_of
from .snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, Resource, Snapshot
from .status import ClientStatus, ResourceStatus, SyncState, TypeStatus, XdsStatus
from .subject import Enforced, Policed
from .tls_chain import Chain
from .tls_rbac import TlsCompiler, TlsPolicy, tls_policed_by

__all__ = [
    "CLUSTER",
    "ENDPOINTS",
    "FILTER_CONFIG",
    "KAFKA_FILTER",
    "LISTENER",
    "NOT_POLICED",
    "ROUTE",
    "SECRET",
    "SHARDS",
    "TABLES",
    "UNKNOWN_SUBJECT",
    "CertificateFiles",
    "Chain",
    "ClientStatus",
    "Enforced",
    "FragmentCache",
    "KafkaCompiler",
    "NodeCompiler",
    "NodeResources",
    "Observer",
    "Outcome",
    "Policed",
    "Remote",
    "Resource",
    "ResourceStatus",
    "Settled",
    "Snapshot",
    "SocketError",
    "SyncState",
    "TlsCompiler",
    "TlsPolicy",
    "TypeStatus",
    "UnknownRevision",
    "WireError",
    "XdsError",
    "XdsServer",
    "XdsStatus",
    "address_tables",
    "compile_node",
    "denied_by",
    "kafka_policed_by",
    "names_a_rule",
    "node_of_names",
    "policed_by",
    "shard_name",
    "shard_of",
    "spoken_regexes",
    "tls_policed_by",
]

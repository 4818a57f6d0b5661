"""How Envoy is told: policies compiled into Envoy resources, and the server that keeps every Envoy in step."""

from .compile.address_table import TABLES, address_tables
from .compile.end import end_text
from .compile.fragment_cache import FragmentCache
from .compile.kafka_policy import KAFKA_FILTER, KafkaCompiler, kafka_policed_by
from .compile.rbac import NodeCompiler, NodeResources, compile_node, policed_by
from .compile.regex import spoken_regexes
from .compile.rule_name import NOT_POLICED, UNKNOWN_SUBJECT, denied_by, names_a_rule
from .compile.shard import SHARDS, shard_name, shard_of
from .compile.subject import Enforced, Policed
from .compile.tls_chain import Chain
from .compile.tls_rbac import TlsCompiler, TlsPolicy, tls_policed_by
from .errors import SocketError, UnknownRevision, WireError, XdsError
from .serve.certificate_files import CertificateFiles
from .serve.certificates import node_of_names
from .serve.observer import Observer
from .serve.remote import Remote
from .serve.server import XdsServer
from .serve.settled import Hearing, Outcome, Settled
from .serve.status import ClientStatus, ResourceStatus, SyncState, TypeStatus, XdsStatus
from .snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, Resource, Snapshot

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
    "Hearing",
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
    "end_text",
    "kafka_policed_by",
    "names_a_rule",
    "node_of_names",
    "policed_by",
    "shard_name",
    "shard_of",
    "spoken_regexes",
    "tls_policed_by",
]

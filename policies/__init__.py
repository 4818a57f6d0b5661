"""What is allowed: the policy language, identities, resolution to per-endpoint policy, verdicts and explanations.

Pure: no I/O, no clock, no Envoy and no kernel. The way through: `parse_policies` and `parse_workloads` read files,
`World.of` numbers and resolves, `World.policy_of` is what gets enforced, `judge` and `explain` say what that means.
"""

from .endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, PortSpan, Protocol, ResolvedRule, RuleOrigin
from .errors import FlowError, PolicyError
from .explain import Explanation, explain
from .flow import Flow, Peer, find_peer
from .identity import Reserved, endpoint_of, workload_identity
from .language.grpc_services import GrpcServices
from .language.lint import find_duplicates, lint
from .language.parse import ParsedPolicies, parse_policies
from .language.problem import Problem, Severity
from .language.unsupported import UNSUPPORTED, Feature
from .language.workload_file import ParsedWorkloads, parse_workloads
from .model import Policy, PolicyKey, PolicyKind
from .request import DnsRequest, HttpRequest, KafkaRequest, Request, TlsRequest
from .service import Service
from .verdict import Considered, Judgement, Verdict, judge
from .workload import Endpoint, Workload
from .world import World

__all__ = [
    "UNSUPPORTED",
    "Considered",
    "Direction",
    "DirectionPolicy",
    "DnsRequest",
    "Endpoint",
    "EndpointPolicy",
    "Explanation",
    "Feature",
    "Flow",
    "FlowError",
    "GrpcServices",
    "HttpRequest",
    "Judgement",
    "KafkaRequest",
    "ParsedPolicies",
    "ParsedWorkloads",
    "Peer",
    "Policy",
    "PolicyError",
    "PolicyKey",
    "PolicyKind",
    "PortSpan",
    "Problem",
    "Protocol",
    "Request",
    "Reserved",
    "ResolvedRule",
    "RuleOrigin",
    "Service",
    "Severity",
    "TlsRequest",
    "Verdict",
    "Workload",
    "World",
    "endpoint_of",
    "explain",
    "find_duplicates",
    "find_peer",
    "judge",
    "lint",
    "parse_policies",
    "parse_workloads",
    "workload_identity",
]

"""The routes of a request: all lead to one cluster, and differ in what is taken from the request and who judges it.

A policy filter that looks its policy up costs also where there is none to be found. An end that is no endpoint of this
node is judged by nobody here for as long as its connection lasts (end.py), so a route for such connections
leaves the filter of that direction out. Where the identity filter has left nothing, every filter runs, and denies.
https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/http/http_filters#route-based-filter-chain
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType

from .end import ELSEWHERE
from .messages import core, early_mutation, matcher, mutation_rules, protobuf, route

ABSENT_FORWARDED_PROTO = "lockgate-absent"  # what a request without X-Forwarded-Proto has there while it passes
_FORWARDED_PROTO = "x-forwarded-proto"
_NO_TIMEOUT = timedelta(0)
_NOBODY: Mapping[str, str] = MappingProxyType({})


def routes(upstream: str, judging: Mapping[str, str] = _NOBODY) -> route.RouteConfiguration:
    """Onwards to the cluster `upstream`. `judging` are HTTP filters by name, each with the key of the end that it
    judges; one that is ELSEWHERE it has nothing to say about."""
    skipping = [[name] for name in judging]
    listed = [found for skipped in (*skipping, []) for found in _onwards(upstream, skipped, judging)]
    return route.RouteConfiguration(
        name="lockgate.http",
        validate_clusters=False,  # one that comes by xDS may be on its way
        virtual_hosts=[route.VirtualHost(name="any", domains=["*"], routes=[_refuse_dots_with_parameters(), *listed])],
    )


def mark_absent_forwarded_proto() -> core.TypedExtensionConfig:
    """Envoy adds X-Forwarded-Proto to every request that has none, and no option prevents it. So a request without one
    gets a value that only we write, by which policies and the route know it."""
    absent = mutation_rules.HeaderMutation(
        append=core.HeaderValueOption(
            header=core.HeaderValue(key=_FORWARDED_PROTO, value=ABSENT_FORWARDED_PROTO),
            append_action=core.HeaderValueOptionHeaderAppendAction.ADD_IF_ABSENT,
        )
    )
    return core.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=protobuf.Any.pack(early_mutation.HeaderMutation(mutations=[absent])),
    )


def _onwards(upstream: str, skipped: Sequence[str], judging: Mapping[str, str]) -> Iterator[route.Route]:
    """The two routes, without X-Forwarded-Proto and with it, on which these filters do not run."""
    off = protobuf.Any.pack(route.FilterConfig(disabled=True))
    elsewhere = [
        matcher.FilterStateMatcher(key=judging[name], string_match=matcher.StringMatcher(suffix=ELSEWHERE))
        for name in skipped
    ]
    for name, with_it in (("without_forwarded_proto", False), ("with_forwarded_proto", True)):
        yield route.Route(
            name=".".join((name, *skipped)),
            # Both say what they want of the header, though the order would do: Envoy looks at headers first, so the
            # filter state of a request is looked up once and not twice.
            match=route.RouteMatch(prefix="/", headers=[_absent(invert=with_it)], filter_state=elsewhere),
            route=route.RouteAction(cluster=upstream, timeout=_NO_TIMEOUT, idle_timeout=_NO_TIMEOUT),
            request_headers_to_remove=[] if with_it else [_FORWARDED_PROTO],
            typed_per_filter_config=dict.fromkeys(skipped, off),
        )


def _absent(*, invert: bool) -> route.HeaderMatcher:
    wanted = matcher.StringMatcher(exact=ABSENT_FORWARDED_PROTO)
    return route.HeaderMatcher(name=_FORWARDED_PROTO, string_match=wanted, invert_match=invert)


def _refuse_dots_with_parameters() -> route.Route:
    # Envoy takes the parameters off the dots in /a/..;x/b, but not when the dots are escaped: /a/%2e%2e;x/b is judged
    # and forwarded as /a/..;x/b, and a server that cuts parameters off serves /b.
    left = matcher.RegexMatcher(regex=r".*/\.\.?;.*")
    # A path (here with its query) without these two characters cannot match; to look for them costs next to nothing.
    suspect = route.HeaderMatcher(name=":path", string_match=matcher.StringMatcher(contains=".;"))
    return route.Route(
        name="dots_with_parameters",
        match=route.RouteMatch(safe_regex=left, headers=[suspect]),
        direct_response=route.DirectResponseAction(status=400),
    )

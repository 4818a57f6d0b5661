"""The routes of a request: all lead to one cluster, and differ in what is taken from the request and who judges it.

A policy filter that looks its policy up costs also where there is none to be found. So a route leaves the filter of a
direction out where it has nothing to say: of an end that is no endpoint of this node, for as long as its connection
lasts (end.py), and of one whose identity is listed as having no policy for Envoy. Who has one changes while connections
live, so the routes come by xDS and hold from the next request on. Where the identity filter has left nothing, or an
identity that is not listed, every filter runs.
https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/http/http_filters#route-based-filter-chain
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from .end import ELSEWHERE, HERE
from .messages import core, early_mutation, matcher, mutation_rules, protobuf, route

ROUTES = "lockgate.http"  # the name of the resource
ABSENT_FORWARDED_PROTO = "lockgate-absent"  # what a request without X-Forwarded-Proto has there while it passes
LONGEST = 8192  # bytes of what patterns are tried on; policies/http_path.py says why
_JUDGED = (":path", ":authority", ":method")
MOST_LISTED = 1000  # identities of each filter; those that are not listed pay for their filter, and nothing else
_FORWARDED_PROTO = "x-forwarded-proto"
_NO_TIMEOUT = timedelta(0)
_OFF = protobuf.Any.pack(route.FilterConfig(disabled=True))


@dataclass(frozen=True, slots=True)
class Spared:
    """For whom the HTTP filter `filter` need not run: connections whose `end`, a key of filter state, is none of this
    node or has one of these `identities`."""

    filter: str
    end: str
    identities: Collection[int] = ()


def routes(upstream: str, policy: Iterable[str], spared: Sequence[Spared] = ()) -> route.RouteConfiguration:
    """Onwards to the cluster `upstream`; `policy` are the names of all filters of the policy. A request whose ends are
    all spared may still run through a filter: the kernel sends none here, but for the moment after a policy has gone.
    """
    skipping = [found for each in spared for found in _onwards(upstream, each.filter, _condition(each))]
    return route.RouteConfiguration(
        name=ROUTES,
        validate_clusters=False,  # one that comes by xDS may be on its way
        virtual_hosts=[
            route.VirtualHost(
                name="any",
                domains=["*"],
                routes=[
                    *_refuse_what_is_long(list(policy)),
                    _refuse_dots_with_parameters(),
                    *skipping,
                    *_onwards(upstream),
                ],
            )
        ],
    )


def _condition(spared: Spared) -> matcher.FilterStateMatcher:
    if not spared.identities:
        return matcher.FilterStateMatcher(key=spared.end, string_match=matcher.StringMatcher(suffix=ELSEWHERE))
    # One expression, though trees of maps match filter state too: it costs a request the same, and each leaf of a tree
    # would be a route of its own.
    listed = "|".join(map(str, sorted(spared.identities)[:MOST_LISTED]))
    regex = f"[0-9]+:(?:(?:{listed}){HERE}|[0-9]+{ELSEWHERE})"
    return matcher.FilterStateMatcher(
        key=spared.end, string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=regex))
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


def _onwards(
    upstream: str, skipped: str = "", condition: matcher.FilterStateMatcher | None = None
) -> Iterator[route.Route]:
    """The two routes, without X-Forwarded-Proto and with it, on which the filter `skipped` does not run."""
    for name, with_it in (("without_forwarded_proto", False), ("with_forwarded_proto", True)):
        yield route.Route(
            name=".".join(filter(None, (name, skipped))),
            match=route.RouteMatch(
                prefix="/",
                # Both say what they want of the header, though the order would do: Envoy looks at headers first, so the
                # filter state of a request is looked up once and not twice.
                headers=[_absent(invert=with_it)],
                filter_state=[condition] if condition is not None else [],
            ),
            route=route.RouteAction(cluster=upstream, timeout=_NO_TIMEOUT, idle_timeout=_NO_TIMEOUT),
            request_headers_to_remove=[] if with_it else [_FORWARDED_PROTO],
            typed_per_filter_config={skipped: _OFF} if skipped else {},
        )


def _absent(*, invert: bool) -> route.HeaderMatcher:
    wanted = matcher.StringMatcher(exact=ABSENT_FORWARDED_PROTO)
    return route.HeaderMatcher(name=_FORWARDED_PROTO, string_match=wanted, invert_match=invert)


def _refuse_what_is_long(policy: Iterable[str]) -> Iterator[route.Route]:
    # RE2 counts to 1000 at most. No policy is asked: to try its patterns is what must not take long.
    longer = r"\C{1000}" * (LONGEST // 1000) + rf"\C{{{LONGEST % 1000 + 1}}}\C*"
    for name in _JUDGED:
        long = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=longer))
        yield route.Route(
            name=f"long{name.replace(':', '_')}",
            match=route.RouteMatch(prefix="/", headers=[route.HeaderMatcher(name=name, string_match=long)]),
            direct_response=route.DirectResponseAction(status=400),
            typed_per_filter_config=dict.fromkeys(policy, _OFF),
        )


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

"""Trees written to the wire are byte for byte what envoy-data-plane builds whole, validation on."""

from __future__ import annotations

import sys

import pytest
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    DestinationIpInput,
    DestinationPortInput,
    DirectSourceIpInput,
    FilterStateInput,
)
from envoy_data_plane.envoy.type.matcher.v3 import HttpRequestHeaderMatchInput
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicatePredicateList,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherMatcherTree,
    MatcherMatcherTreeMatchMap,
    MatcherOnMatch,
    RegexMatcher,
    RegexMatcherGoogleRe2,
    StringMatcher,
)
from lockgate.xds.compile import matcher
from lockgate.xds.compile.rbac_action import allow, deny

ALLOW = MatcherOnMatch.parse(allow("some/rule:spec"))
DENY = MatcherOnMatch.parse(deny("other"))
PATH_INPUT = matcher.request_header(":path")
PATH = TypedExtensionConfig(name="header", typed_config=Any.pack(HttpRequestHeaderMatchInput(header_name=":path")))


def test_inputs() -> None:
    for ours, name, message in (
        (matcher.DESTINATION_IP, "destination-ip", DestinationIpInput()),
        (matcher.DESTINATION_PORT, "destination-port", DestinationPortInput()),
        (matcher.DIRECT_SOURCE_IP, "direct-source-ip", DirectSourceIpInput()),
    ):
        assert ours == bytes(TypedExtensionConfig(name=name, typed_config=Any.pack(message)))
    state = TypedExtensionConfig(name="who", typed_config=Any.pack(FilterStateInput(key="who")))
    assert matcher.filter_state("who") == bytes(state)
    assert matcher.request_header(":path") == bytes(PATH)


def test_exact_and_prefix_maps() -> None:
    entries = {"/a": allow("some/rule:spec"), "/ü": deny("other")}
    whole = MatcherMatcherTreeMatchMap(map={"/a": ALLOW, "/ü": DENY})
    assert matcher.exact_map(matcher.request_header(":path"), entries, deny("other")) == bytes(
        Matcher(matcher_tree=MatcherMatcherTree(input=PATH, exact_match_map=whole), on_no_match=DENY)
    )
    assert matcher.prefix_map(matcher.request_header(":path"), entries) == bytes(
        Matcher(matcher_tree=MatcherMatcherTree(input=PATH, prefix_match_map=whole))
    )


@pytest.mark.parametrize("many", [1, matcher.MANY_ENTRIES])
def test_a_map_does_not_keep_the_large_trees_in_it(many: int) -> None:
    large = matcher.descend(matcher.exact_map(PATH_INPUT, {f"/{at}": allow("some/rule:spec") for at in range(100)}))
    held = sys.getrefcount(large)
    matcher.exact_map(PATH_INPUT, {f"/{at}": large for at in range(many)})
    assert sys.getrefcount(large) == held


def test_a_map_of_few_keeps_nothing() -> None:
    small = allow("some/rule:spec")
    held = sys.getrefcount(small)
    matcher.exact_map(PATH_INPUT, {f"/{at}": small for at in range(matcher.MANY_ENTRIES - 1)})
    assert sys.getrefcount(small) == held


def test_a_map_of_many_is_written_like_one_of_few() -> None:
    entries = {f"/{at}": allow(f"some/rule-{at}:spec") for at in range(matcher.MANY_ENTRIES)}
    whole = MatcherMatcherTreeMatchMap(map={key: MatcherOnMatch.parse(each) for key, each in entries.items()})
    expected = Matcher(matcher_tree=MatcherMatcherTree(input=PATH, exact_match_map=whole))
    for _ in range(2):  # made, and remembered
        assert matcher.exact_map(PATH_INPUT, entries) == bytes(expected)


def test_a_tree_inside_a_tree() -> None:
    inner = matcher.exact_map(matcher.request_header(":path"), {"": allow("some/rule:spec")})
    outer = matcher.exact_map(matcher.request_header(":path"), {"/a": deny("other")}, matcher.descend(inner))
    assert outer == bytes(
        Matcher(
            matcher_tree=MatcherMatcherTree(input=PATH, exact_match_map=MatcherMatcherTreeMatchMap(map={"/a": DENY})),
            on_no_match=MatcherOnMatch(
                matcher=Matcher(
                    matcher_tree=MatcherMatcherTree(
                        input=PATH, exact_match_map=MatcherMatcherTreeMatchMap(map={"": ALLOW})
                    )
                )
            ),
        )
    )


def test_lists_of_predicates() -> None:
    path = matcher.request_header(":path")
    ours = matcher.first_of(
        [
            (matcher.all_of([matcher.equals(path, "")]), allow("some/rule:spec")),
            (matcher.all_of([matcher.equals(path, "x"), matcher.is_present(path)]), deny("other")),
        ]
    )

    def single(value: StringMatcher) -> MatcherMatcherListPredicate:
        return MatcherMatcherListPredicate(
            single_predicate=MatcherMatcherListPredicateSinglePredicate(input=PATH, value_match=value)
        )

    present = StringMatcher(safe_regex=RegexMatcher(google_re2=RegexMatcherGoogleRe2(), regex=r"\C*"))
    both = MatcherMatcherListPredicatePredicateList(predicate=[single(StringMatcher(exact="x")), single(present)])
    assert ours == bytes(
        Matcher(
            matcher_list=MatcherMatcherList(
                matchers=[
                    MatcherMatcherListFieldMatcher(predicate=single(StringMatcher(exact="")), on_match=ALLOW),
                    MatcherMatcherListFieldMatcher(
                        predicate=MatcherMatcherListPredicate(and_matcher=both), on_match=DENY
                    ),
                ]
            )
        )
    )

"""Rules by their headers: a tree that says what each of them says, and looks values up."""

from __future__ import annotations

from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import HeaderMatch
from lockgate.policies.secret import MARK
from lockgate.tests.unit.xds.matcher_messages import Seen, verdict
from lockgate.xds.compile.header_tree import Needing, header_tree
from lockgate.xds.compile.matcher import OnMatch
from lockgate.xds.compile.rbac_action import deny

headers = st.builds(
    HeaderMatch,
    st.sampled_from(["x-a", "x-b", "x-c"]),
    st.sampled_from([None, "", "1", "2", "3"]),
    secret=st.booleans(),
)
rules = st.lists(
    st.builds(Needing, st.sampled_from("pqrstuvw"), st.lists(headers, min_size=1, max_size=3).map(tuple)),
    min_size=1,
    max_size=14,
)
requests = st.dictionaries(st.sampled_from(["x-a", "x-b", "x-c"]), st.sampled_from(["", "1", "2", "3", "4"]))


def ask(tree: OnMatch, request: dict[str, str]) -> str | None:
    matcher = MatcherOnMatch.parse(tree).matcher
    assert matcher is not None
    action = verdict(matcher, Seen("10.0.0.1", "10.0.0.2", 80, request))
    return action.name if action is not None else None


@settings(deadline=None)
@given(rules, requests, st.booleans())
def test_a_request_is_allowed_by_a_rule_whose_headers_all_hold(
    listed: list[Needing], request: dict[str, str], denies: bool
) -> None:
    matching = {
        rule.name
        for rule in listed
        if all(
            request.get(each.name) == each.value if each.value is not None else each.name in request
            for each in rule.headers
        )
    }
    found = ask(header_tree(listed, deny("otherwise") if denies else None), request)
    assert found in matching if matching else found == ("otherwise" if denies else None)


def test_values_are_looked_up() -> None:
    many = [Needing(f"r{n}", (HeaderMatch("x-a", str(n)), HeaderMatch("x-b"))) for n in range(1000)]
    matcher = MatcherOnMatch.parse(header_tree(many)).matcher
    assert matcher is not None and matcher.matcher_tree is not None and matcher.matcher_tree.exact_match_map is not None
    assert len(matcher.matcher_tree.exact_match_map.map) == 1000
    assert ask(header_tree(many), {"x-a": "77", "x-b": ""}) == "r77"


def test_values_of_secrets_are_in_maps_of_their_own() -> None:
    listed = [Needing(f"r{n}", (HeaderMatch("x-a", f"{n % 2}hush{n}", secret=n % 2 == 1),)) for n in range(10)]
    matcher = MatcherOnMatch.parse(header_tree(listed)).matcher
    labels = {}
    while matcher is not None and matcher.matcher_tree is not None:
        tree = matcher.matcher_tree
        assert tree.input is not None and tree.exact_match_map is not None
        labels[tree.input.name] = {key[0] for key in tree.exact_match_map.map}
        matcher = matcher.on_no_match.matcher if matcher.on_no_match is not None else None
    assert labels == {"header": {"0"}, MARK: {"1"}}


def test_of_many_names_those_that_most_ask_about_are_looked_up() -> None:
    """A map for each name would be deeper than Envoy reads, and headers in common deeper than Python."""
    apart = [Needing(f"r{n}", (HeaderMatch(f"x-{n % 40}", str(n)), HeaderMatch(f"y-{n}", "1"))) for n in range(60)]
    shared = tuple(HeaderMatch(f"z-{n}", "1") for n in range(120))
    alike = [Needing(f"s{n}", (*shared, HeaderMatch("last", str(n)))) for n in range(6)]
    tree = header_tree([*apart, *alike])
    for n in (0, 7, 39, 41, 59):
        assert ask(tree, {f"x-{n % 40}": str(n), f"y-{n}": "1"}) == f"r{n}"
        assert ask(tree, {f"x-{n % 40}": str(n), f"y-{n}": "2"}) is None
    has = {each.name: "1" for each in shared}
    assert ask(tree, has | {"last": "5"}) == "s5"
    assert ask(tree, has | {"last": "5", "z-3": "2"}) is None

"""Regular expressions made of parts, each part with strings that it matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Pattern:
    """RE2 over the whole value, and `samples` that most often match it."""

    text: str
    samples: tuple[str, ...]


Parts = Mapping[str, tuple[str, ...]]

PATH_PARTS: Parts = {
    "/": ("/",),
    "/a": ("/a",),
    "/api": ("/api",),
    "/v1": ("/v1",),
    "/.*": ("/", "/x", "/x/y?q=1"),
    ".*": ("", "x", "/x/y", "?q=1"),
    ".+": ("x", "/x"),
    "/[0-9]+": ("/0", "/42", "/007"),
    r"/\d{2,3}": ("/12", "/123"),
    "/(users|items)": ("/users", "/items"),
    "(?:/users|/items/new)?": ("", "/users", "/items/new"),
    "/v[12]": ("/v1", "/v2"),
    "/[^/]+": ("/x", "/a-b", "/x?q=1"),
    "/[a-c]": ("/a", "/c"),
    "/?": ("", "/"),
    "b?": ("", "b"),
    r"\.json": (".json",),
    r"\?q=[a-z]*": ("?q=", "?q=ab"),
    ".": ("x", "."),
    "(?i)/CaSe": ("/case", "/CASE"),
    "(/x|)": ("", "/x"),
    "(/[ab]{1,2})+": ("/a", "/ab/b"),
    "x*": ("", "xx"),
    r"/\Qa.b\E": ("/a.b",),
    "[[:alpha:]]": ("z",),
    "/a|b": ("/a",),  # joins to an alternation of everything around it
    "(?:/.*/x)?": ("", "/q/x"),
    "/a-b_c~d": ("/a-b_c~d",),
}
HOST_PARTS: Parts = {
    "api": ("api",),
    "example.com": ("example.com", "example-com"),
    r"example\.com": ("example.com",),
    r"(www\.)?example\.org": ("example.org", "www.example.org"),
    r"[a-z]+\.": ("a.", "abc."),
    ".*": ("", "x.y"),
    r"\d": ("7",),
    ":8080": (":8080",),
    r"(?::\d+)?": ("", ":80"),
}
METHODS = st.sampled_from(
    [
        Pattern("GET", ("GET",)),
        Pattern("GET", ("GET",)),
        Pattern("POST", ("POST",)),
        Pattern("GET|POST", ("GET", "POST")),
        Pattern("P.*", ("POST", "PUT", "PATCH")),
        Pattern("(PUT|DELETE)", ("PUT", "DELETE")),
        Pattern(".*", ("GET", "HEAD", "OPTIONS")),
        Pattern("^HEAD$", ("HEAD",)),
        Pattern("(?i)get", ("GET",)),
        Pattern("[^G].*", ("POST", "DELETE")),
        Pattern("get", ()),
    ]
)
MOST_SAMPLES = 12


@st.composite
def pattern(draw: st.DrawFn, parts: Parts) -> Pattern:
    """One to four parts in a row, now and then anchored, wrapped or beside an alternative."""
    texts, samples = _row(draw, parts)
    shape = draw(st.integers(0, 19))
    if shape == 0:
        texts = f"^{texts}$"
    elif shape == 1:
        texts = f"({texts})"
    elif shape == 2:
        texts = f"^{texts}"
    elif shape in (3, 4):
        other, more = _row(draw, parts)
        texts, samples = f"{texts}|{other}", (*samples, *more)
    elif shape == 5:
        other, more = _row(draw, parts)
        texts, samples = f"(?:{texts}|{other})", (*samples, *more)
    return Pattern(texts, samples[:MOST_SAMPLES])


def _row(draw: st.DrawFn, parts: Parts) -> tuple[str, tuple[str, ...]]:
    chosen = draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, max_size=4))
    samples = [""]
    for part in chosen:
        samples = [head + tail for head in samples for tail in parts[part]]
        samples = samples[:: max(1, len(samples) // MOST_SAMPLES)]
    return "".join(chosen), tuple(samples)

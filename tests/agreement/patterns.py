"""Regular expressions made of parts, each part with strings that it matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random


@dataclass(frozen=True, slots=True)
class Pattern:
    """RE2 over the whole value, with `samples` that most often match it and `misses` that most often just do not."""

    text: str
    samples: tuple[str, ...]
    misses: tuple[str, ...] = ()


# A part, what matches it, and what misses it by little.
Parts = Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]

PATH_PARTS: Parts = {
    "/": (("/",), ("",)),
    "/a": (("/a",), ("/A", "/aa", "")),
    "/api": (("/api",), ("/ap", "/apis")),
    "/v1": (("/v1",), ("/v2", "/v")),
    "/.*": (("/", "/x", "/x/y?q=1"), ("",)),
    ".*": (("", "x", "/x/y", "?q=1"), ()),
    ".+": (("x", "/x"), ("",)),
    "/[0-9]+": (("/0", "/42", "/007"), ("/", "/a", "/4a")),
    r"/\d{2,3}": (("/12", "/123"), ("/1", "/1234")),
    "/(users|items)": (("/users", "/items"), ("/user", "/usersitems", "/")),
    "(?:/users|/items/new)?": (("", "/users", "/items/new"), ("/items",)),
    "/v[12]": (("/v1", "/v2"), ("/v3", "/v", "/v12")),
    "/[^/]+": (("/x", "/a-b", "/x?q=1"), ("/",)),
    "/[a-c]": (("/a", "/c"), ("/d", "/", "/-")),
    "/?": (("", "/"), ("x",)),
    "b?": (("", "b"), ("bb",)),
    r"\.json": ((".json",), ("xjson", ".jso")),
    r"\?q=[a-z]*": (("?q=", "?q=ab"), ("", "?q=1", "q=")),
    ".": (("x", "."), ("",)),
    "(?i)/CaSe": (("/case", "/CASE"), ("/cas",)),
    "(/x|)": (("", "/x"), ("/", "/xx")),
    "(/[ab]{1,2})+": (("/a", "/ab/b"), ("/abb", "/c", "")),
    "x*": (("", "xx"), ("y",)),
    r"/\Qa.b\E": (("/a.b",), ("/axb",)),
    "[[:alpha:]]": (("z",), ("1", "")),
    "/a|b": (("/a",), ()),  # joins to an alternation of everything around it
    "(?:/.*/x)?": (("", "/q/x"), ("/x",)),
    "/a-b_c~d": (("/a-b_c~d",), ("/a-b_c-d",)),
}
HOST_PARTS: Parts = {
    "api": (("api",), ("API", "apis")),
    "example.com": (("example.com", "example-com"), ("examplecom",)),
    r"example\.com": (("example.com",), ("example-com",)),
    r"(www\.)?example\.org": (("example.org", "www.example.org"), ("ww.example.org",)),
    r"[a-z]+\.": (("a.", "abc."), (".", "a1.")),
    ".*": (("", "x.y"), ()),
    r"\d": (("7",), ("x", "77")),
    ":8080": ((":8080",), (":80", "")),
    r"(?::\d+)?": (("", ":80"), ()),
}
METHODS = (
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
)
MOST_SAMPLES = 12


def pattern(random: Random, parts: Parts) -> Pattern:
    """One to four parts in a row, now and then anchored, wrapped or beside an alternative."""
    row = _row(random, parts)
    shape = random.randrange(20)
    match shape:
        case 0:
            return replace(row, text=f"^{row.text}$")
        case 1:
            return replace(row, text=f"({row.text})")
        case 2:
            return replace(row, text=f"^{row.text}")
        case 3 | 4 | 5:
            other = _row(random, parts)
            text = f"{row.text}|{other.text}"
            samples, misses = (*row.samples, *other.samples), (*row.misses, *other.misses)
            return Pattern(text if shape < 5 else f"(?:{text})", samples, misses)
    return row


def _row(random: Random, parts: Parts) -> Pattern:
    chosen = random.choices(list(parts), k=random.choice((1, 1, 2, 2, 3, 4)))
    samples, misses = [""], list[str]()
    for part in chosen:
        matching, missing = parts[part]
        misses = [head + tail for head in misses for tail in matching] + [
            head + tail for head in samples for tail in missing
        ]
        samples, misses = _few([head + tail for head in samples for tail in matching]), _few(misses)
    return Pattern("".join(chosen), tuple(samples), tuple(misses))


def _few(texts: list[str]) -> list[str]:
    return texts[:: max(1, len(texts) // MOST_SAMPLES)]

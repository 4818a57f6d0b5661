"""Random request rules: http with all its conditions, and grpc."""

from __future__ import annotations

from lockgate.policies.header_action import UNCHANGEABLE
from lockgate.tests.agreement.author import Author, Wish, enforced
from lockgate.tests.agreement.case import Document
from lockgate.tests.agreement.patterns import HOST_PARTS, METHODS, PATH_PARTS, Pattern, pattern
from lockgate.tests.agreement.vocabulary import HEADERS, PLAIN_HEADERS, VALUES

_Wanted = list[tuple[str, str | None]]


def request_rules(author: Author) -> Document:
    """The `rules` of a toPorts entry about TCP."""
    if author.chance(5):
        return {"http": []}
    if enforced("GRPC_RULES") and author.chance(10):
        return {"grpc": author.some(lambda: _grpc(author), 1, 2)}
    return {"http": author.some(lambda: _http(author), 1, 4)}


def _grpc(author: Author) -> Document:
    service, method = author.pick(("pkg.Svc", "Svc")), author.pick(("Get", None))
    author.hints.wishes.append(call(service, method))
    return {"service": service, **({"method": method} if method else {})}


def call(service: str, method: str | None) -> Wish:
    """A wish for a call of the method, or of any."""
    misses = (f"/{service}", f"/{service}/", f"/x.{service}/Get", f"/{service}/{method}/x", f"/{service}/get")
    path = Pattern("", (f"/{service}/{method}",) if method else (f"/{service}/Any", f"/{service}/"), misses)
    return Wish(Pattern("", ("POST",), ("GET",)), path, grpc=True)


def _http(author: Author) -> Document:
    if author.chance(6):
        return {}
    rule: Document = {}
    path = pattern(author.random, PATH_PARTS) if author.chance(75) else None
    method = author.pick(METHODS) if author.chance(50) else None
    host = pattern(author.random, HOST_PARTS) if author.chance(20) else None
    for name, each in (("path", path), ("method", method), ("host", host)):
        if each is not None:
            rule[name] = each.text
        elif author.chance(5):
            rule[name] = ""  # the same as absent
    wanted: _Wanted = []
    if author.chance(18):
        rule["headers"] = author.some(lambda: _header(author, wanted), 1, 2)
    if author.chance(30):
        rule["headerMatches"] = author.some(lambda: _header_match(author, wanted), 1, 2)
    changing = frozenset(each["name"] for each in rule.get("headerMatches", ()) if "mismatch" in each)
    author.hints.wishes.append(Wish(method, path, host, tuple(wanted), changing))
    return rule


def _header(author: Author, wanted: _Wanted) -> str:
    name, value = author.pick(HEADERS), author.pick(VALUES)
    form = author.number(0, 9)
    if form < 6:
        wanted.append((name, value))
        return f"{name}: {value}"
    if form < 9:
        wanted.append((name, None))
        return name
    return f"{name}:{value}"  # a header of that name, which no request has


def _header_match(author: Author, wanted: _Wanted) -> Document:
    changes = author.chance(60)
    made: Document = {"name": author.pick(PLAIN_HEADERS if changes and author.chance(80) else HEADERS)}
    value = author.pick((None, *VALUES))
    if author.secrets and author.chance(25):
        namespace, name = author.pick([*author.secrets, ("default", "missing")])
        made["secret"] = {"namespace": namespace, "name": name}
        value = author.secrets.get((namespace, name))
    elif value is not None:
        made["value"] = value
    if changes:
        fixed = made["name"].startswith(":") or made["name"].lower() in UNCHANGEABLE
        made["mismatch"] = "LOG" if fixed else author.pick(("LOG", "ADD", "DELETE", "REPLACE"))
    wanted.append((made["name"], value))
    return made

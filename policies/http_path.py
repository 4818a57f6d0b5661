"""The path that Envoy judges and forwards, which is not always the one the client wrote: /a/../b is /b.

A rule must be about what the server will understand, so Envoy makes the path plain before it judges it, and answers 400
to what cannot be made plain. These are the same steps (normalize_path, merge_slashes and REJECT_REQUEST of
https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto,
the first of which is how browsers write a URL's path); the end-to-end tests compare them with Envoy's own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Bytes of a path with its query, and likewise of a host and of a method. Each pattern that is tried takes time that
# grows with it, and all pods wait for that. https://www.rfc-editor.org/rfc/rfc9110#section-4.1 has everybody support
# 8000 bytes of a URI; most servers stop at 8 KB.
LONGEST = 8192
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,;=:@-]+)+/?(?:\?[!-\"$-~]*)?|/")
_REFUSALS = (
    (re.compile(r"\A(?!/)"), "a path starts with '/'"),
    (re.compile(r"[\x00-\x20\x7f]"), "blanks and control characters have to be escaped"),
    (re.compile(r"#"), "a fragment ('#') is for the client alone"),
    (
        re.compile(r"\A[^?]*%(?:2[fF]|5[cC])"),
        "an escaped slash (%2F, %5C) is a slash to one server and none to another",
    ),
)
_NUL = re.compile(r"%00")
_DOTS_WITH_PARAMETERS = re.compile(r"/(\.\.?);[^/]*")
_HERE = re.compile(r"(?:\.|%2[eE])")
_UP = re.compile(r"(?:\.|%2[eE]){2}")
_PIECE = re.compile(r"%(?P<escape>[0-9a-fA-F]{2})|(?P<stray>%)|(?P<other>[^%])")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # https://www.rfc-editor.org/rfc/rfc3986#section-2.3
_ESCAPED = re.compile(r"[\"<>^`{|}]|[^\x00-\x7f]")  # what may not stand in a path unescaped
_HEX = re.compile(r"[0-9a-fA-F]")


class JudgedPath(NamedTuple):
    """`path` is what rules see and the server gets. With a `refusal` Envoy answers (400), the server sees nothing."""

    path: str
    refusal: str = ""


def judged_path(path: str) -> JudgedPath:
    """What becomes of `:path` as the client wrote it. The query string stays as it is.

    Bytes beyond ASCII are for HTTP/2, where Envoy escapes them; over HTTP/1 it answers 400.
    """
    if len(path) <= LONGEST and _PLAIN.fullmatch(path):
        return JudgedPath(path)
    for pattern, refusal in _REFUSALS:
        if pattern.search(path):
            return JudgedPath("", refusal)
    bare, question, query = path.partition("?")
    bare = _DOTS_WITH_PARAMETERS.sub(r"/\1", bare)
    if _NUL.search(bare):
        return JudgedPath("", "no path holds a NUL (%00)")
    judged = _merge_slashes(_resolve_dots(bare.replace("\\", "/")))
    if _DOTS_WITH_PARAMETERS.search(judged):
        return JudgedPath("", "dots with parameters (/..;) are dots to one server and a name to another")
    judged += question + query
    if len(judged) > LONGEST:
        return JudgedPath("", f"a path with its query has at most {LONGEST} bytes")
    return JudgedPath(judged)


def _resolve_dots(path: str) -> str:
    """Without `.` and `..`, however they are escaped. An empty segment is one that `..` goes up from."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for at, segment in enumerate(segments):
        here, up = _HERE.fullmatch(segment), _UP.fullmatch(segment)
        if up and kept:
            kept.pop()
        if not here and not up:
            kept.append(_unescape(segment))
        elif at == len(segments) - 1:
            kept.append("")  # /a/. is /a/
    return "/" + "/".join(kept)


def _unescape(segment: str) -> str:
    """With unreserved characters unescaped, forbidden ones escaped, and every other escape as it was written.

    A stray % becomes %25 where unescaping would otherwise complete it to an escape: %2%66 is %252f.
    """
    written = ""
    stray = -3  # where in `written` the last stray % stands
    for piece in _PIECE.finditer(segment):
        if piece["stray"]:
            stray = len(written)
            written += "%"
        elif piece["other"]:
            written += _ESCAPED.sub(_escape, piece["other"])
        elif _UNRESERVED.fullmatch(character := chr(int(piece["escape"], 16))):
            written += character
            following = segment[piece.end() : piece.end() + 1] if stray == len(written) - 2 else ""
            if stray >= len(written) - 3 and _is_hex_pair(written[stray + 1 :] + following):
                written = f"{written[:stray]}%25{written[stray + 1 :]}"
        else:
            written += piece[0]
    return written


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))


def _is_hex_pair(text: str) -> bool:
    return len(text) == 2 and all(map(_HEX.fullmatch, text))


def _merge_slashes(path: str) -> str:
    """Runs of slashes as one. (Envoy leaves a path of nothing but slashes as two.)"""
    if "//" not in path:
        return path
    merged = "/".join(segment for segment in path.split("/") if segment)
    return f"/{merged}{'/' if path.endswith('/') else ''}"

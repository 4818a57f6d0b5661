"""Reading what a `toPorts` entry says about TLS: serverNames, terminatingTLS and originatingTLS."""

from __future__ import annotations

import re

from ..endpoint_policy import TlsContext, TlsRules
from ..model import L7, HttpConditions
from ..tls_secret import CERTIFICATE, PRIVATE_KEY, TRUSTED_CA, TlsSide
from .fields import Field, shorten
from .parse_l7 import parse_secret_ref
from .unsupported import Feature

# A label is `*`, `**`, or characters with single stars among them.
_LABEL = r"(?:\*\*?|\*?[-a-z0-9_]+(?:\*[-a-z0-9_]+)*\*?)"
_SERVER_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_ENTRY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def parse_tls(field: Field, fields: dict[str, Field], l7: L7 | None, namespace: str) -> TlsRules | None:
    """None when the entry says nothing about TLS."""
    names = _server_names(fields["serverNames"]) if "serverNames" in fields else []
    contexts = {
        side: _context(fields[side], side, namespace) if side in fields else None
        for side in (TlsSide.TERMINATING, TlsSide.ORIGINATING)
    }
    if names and l7 is not None and TlsSide.TERMINATING not in fields:
        field.error(
            "serverNames with rules but without terminatingTLS: the requests are encrypted",
            "add terminatingTLS, or remove one of the two",
        )
    if names and TlsSide.ORIGINATING in fields and TlsSide.TERMINATING not in fields:
        fields[TlsSide.ORIGINATING].error(
            "originatingTLS for connections that are TLS already (serverNames)",
            "add terminatingTLS, or remove one of the two",
        )
    given = [side for side in contexts if side in fields]
    if given and l7 is not None and not isinstance(l7, HttpConditions):
        field.error(f"{given[0]} with rules that are not http", "use http rules, or none to carry any bytes")
    if not names and not any(contexts.values()):
        return None
    return TlsRules(tuple(names), contexts[TlsSide.TERMINATING], contexts[TlsSide.ORIGINATING])


def _server_names(field: Field) -> list[str]:
    names: list[str] = []
    for item in field.items():
        text = item.text()
        if text is None:
            continue
        if len(text) > 255 or not _SERVER_NAME.fullmatch(text.lower()):
            item.error(
                f"'{shorten(text)}' is not a server name",
                "write a DNS name; '*' stands inside one label, '**' alone for many",
            )
            continue
        names.append(text.lower().removesuffix("."))
    if names:
        field.unsupported(Feature.SERVER_NAMES)
    return names


def _context(field: Field, side: TlsSide, namespace: str) -> TlsContext | None:
    """Which entries of the secret stand for what when the policy does not say, see docs/tls.md."""
    field.unsupported(Feature.TLS_CONTEXT)
    fields = field.mapping(("secret", "trustedCA", "certificate", "privateKey"))
    if fields is None:
        return None
    given = {name: _entry(fields[name]) for name in ("trustedCA", "certificate", "privateKey") if name in fields}
    if ("certificate" in given) is not ("privateKey" in given) and side is TlsSide.ORIGINATING:
        field.error("certificate and privateKey belong together", "write both, or none")
    if "secret" not in fields:
        field.error("the TLS context has no secret", "write secret: {namespace: ..., name: ...}")
        return None
    if (ref := parse_secret_ref(fields["secret"], namespace)) is None:
        return None
    if side is TlsSide.TERMINATING:
        return TlsContext(
            ref, given.get("certificate", CERTIFICATE), given.get("privateKey", PRIVATE_KEY), given.get("trustedCA", "")
        )
    return TlsContext(
        ref, given.get("certificate", ""), given.get("privateKey", ""), given.get("trustedCA", TRUSTED_CA)
    )


def _entry(field: Field) -> str:
    text = field.text()
    if text is not None and not _ENTRY.fullmatch(text):
        field.error(f"'{shorten(text)}' is not the name of a secret's entry", "write it as it stands under data")
    return text or ""

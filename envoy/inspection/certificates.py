"""Which certificates Envoy works with, beside the secrets that it was given. Pure.

Of secrets Envoy lists as active also one that it refused (Envoy 1.40 notes it before it makes the TLS context of it,
and confirms the same bytes unseen when they come again). Its list of certificates is made of the contexts.
https://www.envoyproxy.io/docs/envoy/v1.40.0/operations/admin#get--certs
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cryptography import x509

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def serials_in_use(certs: Mapping[str, Any]) -> frozenset[int]:
    """The serial numbers in an answer of `/certs`: of those that are shown, and of authorities."""
    return frozenset(
        int(each["serial_number"], 16)
        for entry in certs.get("certificates", ())
        for part in ("cert_chain", "ca_cert")
        for each in entry.get(part, ())
        if each.get("serial_number")
    )


def serial_of(secret: bytes) -> int | None:
    """The serial number of the first certificate in a serialised Secret, which Envoy lists; None without one that can
    be read."""
    found = _PEM.search(secret)
    if found is None:
        return None
    try:
        return x509.load_pem_x509_certificate(found[0]).serial_number
    except ValueError:
        return None

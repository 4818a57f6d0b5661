"""A Secret with everything that TLS contexts may ask for."""

from __future__ import annotations

from textwrap import indent

import pytest
from lockgate.tests.e2e.tls_pods import Authority


@pytest.fixture(name="authority", scope="session")
def an_authority() -> Authority:
    return Authority("test")


@pytest.fixture(name="tls_secret", scope="session")
def a_tls_secret(authority: Authority) -> str:
    """`default/s`, as a document."""
    chain, key = authority.issue("a.example")
    entries = {"tls.crt": chain, "tls.key": key, "ca.crt": authority.pem}
    lines = "".join(f"  {name}: |\n{indent(value.decode(), '    ')}" for name, value in entries.items())
    return f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData:\n{lines}"

"""Test results as JUnit XML, the form that CI systems show.

There is no one standard; what is written here is what Jenkins, GitLab and GitHub's readers have in common:
https://github.com/testmoapp/junitxml.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree import ElementTree

# Characters that XML 1.0 cannot carry, not even escaped (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class JUnitCase:
    """One case. `failure` is what went wrong in one sentence (empty: it passed), `detail` what else to show."""

    name: str
    line: int = 0
    failure: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JUnitSuite:
    """The cases of one file; `error` is why the file could not be carried out at all (empty: it could)."""

    name: str
    cases: tuple[JUnitCase, ...]
    error: str = ""


def junit_xml(suites: Iterable[JUnitSuite]) -> bytes:
    """A whole document, UTF-8."""
    root = ElementTree.Element("testsuites", name="lockgate policy test")
    total = failures = errors = 0
    for suite in suites:
        failed = sum(bool(case.failure) for case in suite.cases)
        count = len(suite.cases) + bool(suite.error)
        attributes = {"name": _clean(suite.name), "file": _clean(suite.name)}
        attributes |= {"tests": str(count), "failures": str(failed), "errors": str(int(bool(suite.error)))}
        element = ElementTree.SubElement(root, "testsuite", attributes)
        if suite.error:
            case = ElementTree.SubElement(element, "testcase", name="the file is valid", classname=_clean(suite.name))
            message = suite.error.partition("\n")[0]
            ElementTree.SubElement(case, "error", message=_clean(message)).text = _clean(suite.error)
        for item in suite.cases:
            _add(element, suite, item)
        total, failures, errors = total + count, failures + failed, errors + bool(suite.error)
    root.attrib |= {"tests": str(total), "failures": str(failures), "errors": str(errors)}
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add(parent: ElementTree.Element, suite: JUnitSuite, case: JUnitCase) -> None:
    source = _clean(suite.name)
    attributes = {"name": _clean(case.name), "classname": source, "file": source, "line": str(case.line)}
    element = ElementTree.SubElement(parent, "testcase", attributes)
    if case.failure:
        text = f"{case.failure}\n{case.detail}" if case.detail else case.failure
        ElementTree.SubElement(element, "failure", message=_clean(case.failure)).text = _clean(text)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)

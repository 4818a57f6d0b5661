"""JUnit XML that readers of it understand, whatever stands in names and messages."""

from __future__ import annotations

from xml.etree import ElementTree

from lockgate.agent.junit import JUnitCase, JUnitSuite, junit_xml


def test_a_document_with_everything() -> None:
    suites = [
        JUnitSuite("a.test.yaml", (JUnitCase("good", 3), JUnitCase("bad", 7, "expected deny, got allow", "by x"))),
        JUnitSuite("b.test.yaml", (JUnitCase("left", 1, "not judged"),), "b.test.yaml:1: wrong\nb.test.yaml:2: too"),
    ]
    assert (
        junit_xml(suites).decode()
        == """\
<?xml version='1.0' encoding='utf-8'?>
<testsuites name="lockgate policy test" tests="4" failures="2" errors="1">
  <testsuite name="a.test.yaml" file="a.test.yaml" tests="2" failures="1" errors="0">
    <testcase name="good" classname="a.test.yaml" file="a.test.yaml" line="3" />
    <testcase name="bad" classname="a.test.yaml" file="a.test.yaml" line="7">
      <failure message="expected deny, got allow">expected deny, got allow
by x</failure>
    </testcase>
  </testsuite>
  <testsuite name="b.test.yaml" file="b.test.yaml" tests="2" failures="1" errors="1">
    <testcase name="the file is valid" classname="b.test.yaml">
      <error message="b.test.yaml:1: wrong">b.test.yaml:1: wrong
b.test.yaml:2: too</error>
    </testcase>
    <testcase name="left" classname="b.test.yaml" file="b.test.yaml" line="1">
      <failure message="not judged">not judged</failure>
    </testcase>
  </testsuite>
</testsuites>
"""
    )


def test_what_xml_cannot_carry() -> None:
    text = "<&\"'> \x00\x1b\ud800\uffff é 漢 \U0001f512"
    root = ElementTree.fromstring(junit_xml([JUnitSuite(text, (JUnitCase(text, 1, text, text),), text)]))
    expected = "<&\"'> \ufffd\ufffd\ufffd\ufffd é 漢 \U0001f512"
    case = root.findall("testsuite/testcase")[1]
    failure = case.find("failure")
    assert failure is not None
    assert {case.get("name"), case.get("classname"), failure.get("message")} == {expected}
    assert failure.text == f"{expected}\n{expected}"


def test_no_suites() -> None:
    assert ElementTree.fromstring(junit_xml([])).attrib["tests"] == "0"

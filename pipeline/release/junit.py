"""The report as JUnit XML: a suite a target, a case a check, so that CI shows which one broke."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from pipeline.release.report import Check, Report, TargetRow

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text(report: Report) -> str:
    """The whole document. Whatever does not pass is a failure of the type `fail` or `inconclusive`; a target without
    evidence is an error.
    """
    root = Xml.Element("testsuites", name=_clean(report.recipe["name"]))
    suites = [_suite(root, name, row) for name, row in report.targets.items()]
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _suite(root: Xml.Element, name: str, row: TargetRow) -> Xml.Element:
    suite = Xml.SubElement(root, "testsuite", name=name)
    for check in row.checks:
        _case(suite, name, check)
    if row.verdict == "error":
        case = Xml.SubElement(suite, "testcase", classname=name, name="evidence")
        Xml.SubElement(case, "error", message=_clean("; ".join(row.reasons)))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", str(len(suite.findall("testcase/error"))))
    return suite


def _case(suite: Xml.Element, target: str, check: Check) -> None:
    place = "" if check.batch is None else f", batch {check.batch}"
    case = Xml.SubElement(suite, "testcase", classname=target, name=_clean(check.name + place))
    if check.verdict == "pass":
        Xml.SubElement(case, "system-out").text = _clean(check.reason)
    else:
        Xml.SubElement(case, "failure", type=check.verdict, message=_clean(check.reason))


def _clean(words: str) -> str:
    return NOT_XML.sub("\N{REPLACEMENT CHARACTER}", words)

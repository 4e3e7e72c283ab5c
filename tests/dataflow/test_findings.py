"""Findings and the audit."""

import json
import os
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataflow.findings import Audit, Code, Finding, printable, sorted_findings

ERROR = Finding(Code.BOX_EMPTY, "error", "labels/a.txt", "box 0, 0, 0, 0", "draw it again", 3, "a")


def test_a_finding_reads_as_one_line() -> None:
    assert str(ERROR) == "labels/a.txt:3: box-empty: box 0, 0, 0, 0; draw it again"
    assert str(replace(ERROR, line=None, repaired=True)).endswith("draw it again (repaired)")
    assert str(replace(ERROR, line=None)).startswith("labels/a.txt: box-empty")
    assert str(replace(ERROR, line="/images/0")).startswith("labels/a.txt:/images/0: ")


@given(st.text())
def test_any_text_can_be_printed(text: str) -> None:
    assert printable(text) == text


@given(st.binary(min_size=1, max_size=20))
def test_any_file_name_can_be_printed(name: bytes) -> None:
    decoded = os.fsdecode(name)
    printable(decoded).encode()
    found = replace(ERROR, file=decoded, value=f"the file {decoded}")
    json.dumps({"file": found.file, "value": found.value}, ensure_ascii=False).encode()


def test_what_cannot_be_printed_is_escaped() -> None:
    assert printable(os.fsdecode(b"caf\xe9 \xc3\xa9")) == "caf\\xe9 é"
    assert printable("\ud800x") == "\\ud800x"


@given(text=st.text())
@example("x\ny\r\u2028\x85\x1b[2J")
def test_no_text_breaks_the_line_of_a_finding_or_commands_a_terminal(text: str) -> None:
    shown = str(Finding(Code.IMAGE_MISSING, "error", text, text, "restore the file", line=text))
    assert len(shown.splitlines()) == 1
    assert not any(unicodedata.category(character) == "Cc" for character in shown)


def test_order_does_not_depend_on_who_reports_first() -> None:
    findings = [
        ERROR,
        replace(ERROR, line=10),
        replace(ERROR, line=2),
        replace(ERROR, line=None),
        replace(ERROR, file="b.json", line="/images/0"),
        replace(ERROR, code=Code.BOX_CLIPPED),
        replace(ERROR, value="another"),
    ]
    ordered = sorted_findings(findings)
    assert sorted_findings(reversed(findings)) == ordered
    assert [finding.line for finding in ordered] == ["/images/0", None, 2, 3, 3, 3, 10]


def test_audit_counts() -> None:
    repaired, warning = replace(ERROR, repaired=True), replace(ERROR, severity="warning", code=Code.SPLIT_MISSING)
    audit = Audit(3, 2, (ERROR, repaired, warning, ERROR), ("a", "b"))
    assert audit.images_in == 5
    assert audit.errors == (ERROR, ERROR), "what was repaired kept nothing out, and a warning never does"
    written = json.loads(json.dumps(audit.to_json()))
    assert written["images_in"] == written["images_prepared"] + written["images_quarantined"] == 5
    assert written["counts"] == {"box-empty": 3, "split-missing": 1}
    assert list(written["counts"]) == sorted(written["counts"])
    assert set(written["findings"][0]) >= {"code", "severity", "file", "line", "value", "remedy"}
    assert [Finding(**finding) for finding in written["findings"]] == list(audit.findings)


def test_an_audit_lists_all_that_it_counts() -> None:
    with pytest.raises(AssertionError):
        Audit(1, 2, (), ("a",))


def test_codes_are_never_renamed() -> None:
    """Tools filter by them: a code may be added, and none may change."""
    assert {str(code) for code in Code} >= {
        "image-missing",
        "image-unreadable",
        "image-outside-root",
        "size-mismatch",
        "duplicate-image-id",
        "label-missing",
        "label-without-image",
        "label-malformed",
        "class-unknown",
        "box-not-finite",
        "box-empty",
        "box-outside-image",
        "box-clipped",
        "split-missing",
    }

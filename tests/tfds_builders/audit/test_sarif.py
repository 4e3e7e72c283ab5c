import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Audit, Code, Finding
from tfds_builders.audit.explanations import MEANINGS
from tfds_builders.audit.sarif import MAX_RESULTS, audit_to_sarif

BAD = Finding(Code.BOX_OUTSIDE, "error", "labels/a.txt", "box 1, 2, 3, 4", "clip it, or repair", 7, "a")
LEVELS = {"error": 2, "warning": 1, "note": 0}


def check(log: Any) -> Any:
    """The run of a log, after checking what SARIF 2.1.0 requires and what GitHub's code scanning asks for beyond it."""
    json.dumps(log, ensure_ascii=False, allow_nan=False).encode()  # As it will be written.
    assert log["version"] == "2.1.0" and "2.1.0" in log["$schema"]
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "shardbox" and driver["version"]
    assert len(run["results"]) <= 5_000
    for rule in driver["rules"]:
        assert MEANINGS[Code(rule["id"])] == rule["shortDescription"]["text"]
        assert all(0 < len(rule[key]["text"]) <= 1024 for key in ("shortDescription", "fullDescription", "help"))
        assert rule["defaultConfiguration"]["level"] in LEVELS
    assert sorted({result["ruleId"] for result in run["results"]}) == [rule["id"] for rule in driver["rules"]]
    fingerprints = set()
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in LEVELS and result["message"]["text"]
        (location,) = result["locations"]
        check_address(location["physicalLocation"]["artifactLocation"])
        region = location["physicalLocation"].get("region", {"startLine": 1})
        assert region["startLine"] >= 1
        fingerprints.add((result["ruleId"], result["partialFingerprints"]["primaryLocationLineHash"]))
    assert len(fingerprints) == len(run["results"])
    return run


def check_address(artifact: Any) -> None:
    """A URI reference of ASCII letters (RFC 3986) which, if relative, stays on its host."""
    uri = artifact["uri"]
    assert uri and uri.isascii() and uri.isprintable() and not set(uri) & set(' "<>\\^`{|}')
    if artifact.get("uriBaseId"):
        parts = urlsplit(uri)
        assert not (parts.scheme or parts.netloc or parts.query or parts.fragment or uri.startswith("/"))
        assert urljoin("https://host/root/", uri).startswith("https://host/")
    else:
        assert uri.startswith("file:///")


def run_of(*findings: Finding, source: str = "data/cats") -> Any:
    return check(audit_to_sarif(Audit(5, 0, findings, ()), source))


def test_a_finding_becomes_a_result() -> None:
    run = run_of(BAD)
    (result,) = run["results"]
    assert result["ruleId"] == "box-outside-image" and result["level"] == "error"
    assert result["message"]["text"] == "box 1, 2, 3, 4; clip it, or repair"
    assert result["properties"] == {"image_id": "a"}
    assert result["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": "labels/a.txt", "uriBaseId": "SRCROOT"},
                "region": {"startLine": 7},
            }
        }
    ]
    assert run["originalUriBaseIds"].keys() == {"SRCROOT"}
    assert run["automationDetails"]["id"] == "shardbox/data/cats/"
    assert run["properties"]["images_in"] == 5 and run["properties"]["findings_left_out"] == 0


def test_levels() -> None:
    findings = (
        replace(BAD, severity="info", line=1),
        replace(BAD, severity="warning", line=2),
        replace(BAD, repaired=True, line=3),
        replace(BAD, line=4),
        replace(BAD, code=Code.BOX_CLIPPED, severity="info"),
    )
    run = run_of(*findings)
    found = [
        (result["locations"][0]["physicalLocation"]["region"]["startLine"], result["level"])
        for result in run["results"]
    ]
    assert found == [(4, "error"), (2, "warning"), (3, "warning"), (1, "note"), (7, "note")]
    assert [result["properties"].get("repaired", False) for result in run["results"]] == [
        False,
        False,
        True,
        False,
        False,
    ]
    levels = {rule["id"]: rule["defaultConfiguration"]["level"] for rule in run["tool"]["driver"]["rules"]}
    assert levels == {"box-clipped": "note", "box-outside-image": "error"}


@pytest.mark.parametrize("line", [None, 0, -1])
def test_without_a_line(line: int | None) -> None:
    (result,) = run_of(replace(BAD, line=line))["results"]
    assert result["locations"][0].keys() == {"physicalLocation"}
    assert result["locations"][0]["physicalLocation"].keys() == {"artifactLocation"}


def test_a_json_pointer_is_a_logical_location() -> None:
    (result,) = run_of(replace(BAD, file="instances.json", line="/annotations/3/bbox", image_id=None))["results"]
    assert result["locations"][0]["logicalLocations"] == [{"fullyQualifiedName": "/annotations/3/bbox"}]
    assert "region" not in result["locations"][0]["physicalLocation"]
    assert result["properties"] == {}


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("images/no label.jpg", "images/no%20label.jpg"),
        ("größe/100%.txt", "gr%C3%B6%C3%9Fe/100%25.txt"),
        ("http://host/a?b#c.jpg", "http%3A//host/a%3Fb%23c.jpg"),
        ("../../secret.jpg", "../../secret.jpg"),
        ("", "."),
    ],
)
def test_file_names_are_percent_encoded(file: str, uri: str) -> None:
    (result,) = run_of(replace(BAD, file=file))["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": uri, "uriBaseId": "SRCROOT"}
    assert unquote(artifact["uri"]) == (file or ".")


@pytest.mark.parametrize("file", ["/etc/passwd", "//host/share/a.jpg"])
def test_absolute_paths_are_on_no_host(file: str) -> None:
    (result,) = run_of(replace(BAD, file=file))["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert urlsplit(uri).netloc == "" and urlsplit(uri).path.endswith(file.lstrip("/"))


def test_only_an_absolute_source_is_an_address() -> None:
    base = run_of(BAD, source="/data/my cats")["originalUriBaseIds"]["SRCROOT"]
    assert base["uri"] == "file:///data/my%20cats/"
    assert "uri" not in run_of(BAD, source="../cats")["originalUriBaseIds"]["SRCROOT"]


def test_a_value_makes_no_link() -> None:
    (result,) = run_of(replace(BAD, value="[look](https://evil.example) \u202e\0"))["results"]
    assert "](" not in result["message"]["text"] and result["message"]["text"].isprintable()


def test_fingerprints_are_those_of_the_finding_alone() -> None:
    def fingerprint(*findings: Finding) -> str:
        return str(run_of(*findings)["results"][-1]["partialFingerprints"])

    alone = fingerprint(BAD)
    assert fingerprint(replace(BAD, line=3), replace(BAD, file="b"), BAD) == alone
    assert fingerprint(replace(BAD, repaired=True, severity="warning", remedy="x", image_id="b")) == alone
    changes: list[dict[str, Any]] = [
        {"code": Code.BOX_EMPTY},
        {"file": "b"},
        {"line": 8},
        {"line": "7/"},
        {"value": "v"},
    ]
    others = [fingerprint(replace(BAD, **change)) for change in changes]
    assert len({alone, *others}) == 6
    # Two that are alike in everything are two, the first of which is still the one it was.
    first, second = run_of(BAD, BAD)["results"]
    assert str(first["partialFingerprints"]) == alone != str(second["partialFingerprints"])


def test_the_most_severe_are_kept_and_the_others_counted() -> None:
    notes = [replace(BAD, code=Code.BOX_CLIPPED, severity="info", line=line) for line in range(1, MAX_RESULTS + 1)]
    errors = [replace(BAD, line=line) for line in range(1, 101)]
    run = run_of(*notes, *errors)
    assert [result["level"] for result in run["results"]] == ["error"] * 100 + ["note"] * (MAX_RESULTS - 100)
    assert run["properties"]["findings"] == MAX_RESULTS + 100
    assert run["properties"]["findings_left_out"] == 100
    assert run["properties"]["left_out_by_code"] == {"box-clipped": 100}
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"].startswith("100 of 5,100 findings are left out")
    assert "toolExecutionNotifications" not in run_of(*notes)["invocations"][0]


TEXT = st.text(st.characters(codec=None), max_size=30)
FINDINGS = st.builds(
    Finding,
    code=st.sampled_from(Code),
    severity=st.sampled_from(["error", "warning", "info"]),
    file=TEXT,
    value=TEXT,
    remedy=TEXT,
    line=st.none() | st.integers() | TEXT,
    image_id=st.none() | TEXT,
    repaired=st.booleans(),
    box=st.none() | st.tuples(*[st.floats()] * 4),
)


@given(st.lists(FINDINGS, max_size=8), TEXT)
def test_any_audit_becomes_a_log(findings: list[Finding], source: str) -> None:
    run = run_of(*findings, source=source)
    assert len(run["results"]) == len(findings)
    for result, finding in zip(run["results"], sorted(findings, key=lambda f: -LEVELS[level(f)]), strict=True):
        assert result["level"] == level(finding) and result["ruleId"] == finding.code


def level(finding: Finding) -> str:
    names = {"error": "warning" if finding.repaired else "error", "warning": "warning", "info": "note"}
    return names[finding.severity]


def test_it_is_json(tmp_path: Path) -> None:
    log = audit_to_sarif(Audit(1, 1, (BAD,), ("a",)), "cats")
    (tmp_path / "audit.sarif").write_text(json.dumps(log), encoding="utf-8")
    assert json.loads((tmp_path / "audit.sarif").read_text(encoding="utf-8")) == log

"""An audit as SARIF 2.1.0, so that findings show in code-review tools and editors."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import quote

from dataflow.findings import Audit, Code, Finding
from tfds_builders.audit.explanations import MEANINGS, REMEDIES
from tfds_builders.pages.markup import legible

# GitHub's code scanning refuses a run of more than 25,000 results and keeps 5,000 of it: what is beyond is counted.
MAX_RESULTS: Final = 5_000
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_BASE = "SRCROOT"
_LEVELS = ("error", "warning", "note")
_MAX_TEXT = 1_000


def audit_to_sarif(audit: Audit, source: str) -> dict[str, Any]:
    """The SARIF 2.1.0 log of an audit: one run, a rule for each code that occurs, a result for each finding.

    At most `MAX_RESULTS` findings become results, the most severe first; `properties` of the run and a notification
    count those left out, all of which `audit.json` has.

    Args:
        audit: what was found.
        source: the source as the user named it. File paths are relative to it (base id `SRCROOT`), as those of GitHub
            are to the repository; only an absolute path is written down as where `SRCROOT` is.
    """
    listed = sorted(audit.findings, key=lambda finding: _LEVELS.index(_level(finding)))[:MAX_RESULTS]
    left_out = Counter(finding.code for finding in audit.findings) - Counter(finding.code for finding in listed)
    codes = sorted({finding.code for finding in listed})
    invocation: dict[str, Any] = {"executionSuccessful": True}
    if left_out:
        text = f"{left_out.total():,} of {len(audit.findings):,} findings are left out; audit.json has all of them"
        invocation["toolExecutionNotifications"] = [{"level": "warning", "message": {"text": text}}]
    run = {
        "tool": {"driver": _driver(codes, listed)},
        # Sources audited for the same commit must not take the place of one another.
        "automationDetails": {"id": f"shardbox/{legible(source, _MAX_TEXT).strip('/')}/"},
        "invocations": [invocation],
        "originalUriBaseIds": {_BASE: _base(source)},
        "results": _results(listed, codes),
        "columnKind": "unicodeCodePoints",
        "properties": {
            "images_in": audit.images_in,
            "images_prepared": audit.images_prepared,
            "images_quarantined": audit.images_quarantined,
            "findings": len(audit.findings),
            "findings_left_out": left_out.total(),
            "left_out_by_code": {str(code): left_out[code] for code in sorted(left_out)},
        },
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _level(finding: Finding) -> str:
    """What is repaired keeps nothing out any more, but is worth a look."""
    if finding.severity == "error":
        return "warning" if finding.repaired else "error"
    return "note" if finding.severity == "info" else "warning"


def _driver(codes: Sequence[Code], listed: Sequence[Finding]) -> dict[str, Any]:
    worst: dict[Code, str] = {}
    for finding in listed:  # The most severe come first.
        worst.setdefault(finding.code, _level(finding))
    driver: dict[str, Any] = {"name": "shardbox", "rules": [_rule(code, worst[code]) for code in codes]}
    with suppress(PackageNotFoundError):  # Run from its sources.
        driver["version"] = version("shardbox")
    return driver


def _rule(code: Code, level: str) -> dict[str, Any]:
    meaning, remedy = MEANINGS[code], REMEDIES[code]
    return {
        "id": str(code),
        "name": code.title().replace("-", ""),
        "shortDescription": {"text": meaning},
        "fullDescription": {"text": f"{meaning} {remedy}"},
        "help": {"text": f"{meaning} {remedy}", "markdown": f"{meaning}\n\n**What to do.** {remedy}"},
        "defaultConfiguration": {"level": level},
        "properties": {"tags": ["dataset"]},
    }


def _base(source: str) -> dict[str, Any]:
    base: dict[str, Any] = {"description": {"text": f"the source: {legible(source, _MAX_TEXT)}"}}
    if source.startswith("/"):
        base["uri"] = f"{_file_uri(source).rstrip('/')}/"
    return base


def _results(listed: Sequence[Finding], codes: Sequence[Code]) -> list[dict[str, Any]]:
    index = {code: number for number, code in enumerate(codes)}
    seen: Counter[str] = Counter()
    results = []
    for finding in listed:
        fingerprint = _fingerprint(finding)
        seen[fingerprint] += 1
        properties: dict[str, Any] = {}
        if finding.image_id is not None:
            properties["image_id"] = legible(finding.image_id, _MAX_TEXT)
        if finding.repaired:
            properties["repaired"] = True
        # In the text of a message, "](" would make a link of what a file says.
        text = legible(f"{finding.value}; {finding.remedy}", _MAX_TEXT).replace("](", "] (")
        results.append(
            {
                "ruleId": str(finding.code),
                "ruleIndex": index[finding.code],
                "level": _level(finding),
                "message": {"text": text},
                "locations": [_location(finding)],
                # The one name that GitHub looks at; the number tells findings apart that are alike in everything.
                "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint}:{seen[fingerprint]}"},
                "properties": properties,
            }
        )
    return results


def _fingerprint(finding: Finding) -> str:
    """The same for the same finding in the next run, whatever else was found."""
    parts = (finding.code, finding.file, "" if finding.line is None else str(finding.line), finding.value)
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def _location(finding: Finding) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": _artifact(finding.file)}
    location: dict[str, Any] = {"physicalLocation": physical}
    if isinstance(finding.line, int) and finding.line > 0:
        physical["region"] = {"startLine": finding.line}
    elif isinstance(finding.line, str):
        location["logicalLocations"] = [{"fullyQualifiedName": legible(finding.line, _MAX_TEXT)}]
    return location


def _artifact(file: str) -> dict[str, Any]:
    if file.startswith("/"):  # As annotations have it; relative to a base it would name a host.
        return {"uri": _file_uri(file)}
    return {"uri": _percent(file) or ".", "uriBaseId": _BASE}


def _file_uri(path: str) -> str:
    return f"file:///{_percent(path.lstrip('/'))}"


def _percent(path: str) -> str:
    """A path as the path of a URI (RFC 3986): every character but letters, digits and `_.-~/` as UTF-8 in percent."""
    return quote(path, safe="/", errors="surrogateescape")

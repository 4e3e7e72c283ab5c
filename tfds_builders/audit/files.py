"""The files that tell what was found: for programs, for people, and for tools that review code."""

from collections.abc import Mapping
from pathlib import Path

from dataflow.findings import Audit
from dataflow.prepared import AUDIT
from tfds_builders.audit.page import write_page
from tfds_builders.audit.sarif import audit_to_sarif
from tfds_builders.directory import write_json

AUDIT_PAGE = "audit.html"
AUDIT_SARIF = "audit.sarif"


def write_audit(directory: Path, audit: Audit, name: str, images: Mapping[str, Path]) -> None:
    """Write `audit.json`, `audit.html` and `audit.sarif`; `images` are image files by id, for the thumbnails."""
    write_json(directory / AUDIT, audit.to_json())
    write_json(directory / AUDIT_SARIF, audit_to_sarif(audit, name))
    write_page(directory / AUDIT_PAGE, audit, name, images)

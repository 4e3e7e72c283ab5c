"""The classes of a source: its own numbers and names, and what they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dataflow.findings import Code, Finding
from dataflow.records import Categories


@dataclass(frozen=True)
class Classes:
    """Contiguous classes, and which of them each number of the source means.

    `twice` are the numbers whose name another, lower number has already: merging the two is what repairs them.
    """

    categories: Categories
    ids: tuple[tuple[int, int], ...]
    """(number in the source, contiguous id), sorted."""
    twice: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @cached_property
    def by_number(self) -> Mapping[int, int]:
        """Contiguous ids by the source's numbers."""
        return dict(self.ids)


def named_classes(names: Sequence[str]) -> Classes:
    """Classes that a source knows by their names alone, such as VOC's."""
    return Classes(Categories(tuple(names)), tuple((i, i) for i in range(len(names))))


def numbered_classes(entries: Sequence[tuple[int, str]], file: str, line: int | str | None = None) -> Classes:
    """Classes by number and name, as a source lists them; a name given twice is a finding, and one class.

    Raises:
        RecordError: there are none, or a name is empty or of several lines.
    """
    first: dict[str, int] = {}
    ids: list[tuple[int, int]] = []
    twice, findings = [], []
    for number, name in sorted(entries):
        if name in first:
            twice.append(number)
            value = f"classes {first[name]} and {number} are both {name!r}"
            remedy = "give every class its own name, or repair to make them one class"
            findings.append(Finding(Code.CLASS_NAMED_TWICE, "warning", file, value, remedy, line))
        first.setdefault(name, number)
        ids.append((number, list(first).index(name)))
    return Classes(Categories(tuple(first), tuple(first.values())), tuple(ids), tuple(twice), tuple(findings))

"""The curves of trainings: what is read, drawn and tabled, and what is refused."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from trainers.training.runs import FORMAT_VERSION, write_description

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import curves  # type: ignore[import-not-found]

    yield curves
    for name in ("curves", "measuring"):
        sys.modules.pop(name, None)


def write_run(directory: Path, name: str, seed: int, ap50: list[float], ema: float | None = None) -> Path:
    """A description such as training leaves, evaluated every ten steps."""
    directory.mkdir()
    evaluations = [{"step": 10 * (i + 1), "AP": value / 2, "AP50": value, "loss": 1.0} for i, value in enumerate(ap50)]
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": name, "ema": ema},
        "seed": seed,
        "losses": [[5, 3.0], [10, 1.5]],
        "evaluations": evaluations,
    }
    write_description(directory, description)
    return directory


def draw(curves: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["curves.py", *map(str, words)])
    curves.main()


def test_every_recipe_has_a_plot_and_every_run_a_line_and_a_row(curves, tmp_path: Path, monkeypatch, capsys) -> None:
    runs = [
        write_run(tmp_path / "one", "small <1>", 0, [0.5, 0.9, 0.7], ema=0.99),
        write_run(tmp_path / "two", "small <1>", 1, [0.25, 1.0]),
        write_run(tmp_path / "three", "other", 0, [0.125]),
    ]
    draw(curves, monkeypatch, *runs, "--out", tmp_path / "drawn")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| `small <1>` | 0.99 | 0 | 0.700 | 0.900 at 20 |",
        "| `small <1>` | - | 1 | 1.000 | 1.000 at 20 |",
        "| `other` | - | 0 | 0.125 | 0.125 at 10 |",
    ]
    sheet = ElementTree.parse(tmp_path / "drawn-ap50.svg").getroot()
    plots = sheet.findall(f"{SVG}svg/{SVG}svg")
    assert [text.text for text in sheet.findall(f"{SVG}text")] == ["small <1>", "other"]
    assert [len(plot.findall(f"{SVG}g")) for plot in plots] == [2, 1]
    first, second = plots[0].findall(f"{SVG}g")
    assert [line.findtext(f"{SVG}title") for line in (first, second)] == ["seed 0", "seed 1"]
    assert "var(--c1)" in first[1].get("style", "") and "var(--c2)" in second[1].get("style", "")
    # The plot is as high as 0 to 1, and as wide as the most steps: 30.
    places = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in first.findall(f"{SVG}circle")]
    top, bottom = (float(line.get("y1", "")) for line in (plots[0].findall(f"{SVG}line")[i] for i in (-1, 0)))
    assert [(bottom - y) / (bottom - top) for _, y in places] == pytest.approx([0.5, 0.9, 0.7], abs=1e-3)
    assert (places[2][0] - places[1][0]) == pytest.approx(places[1][0] - places[0][0], abs=0.2)
    losses = ElementTree.parse(tmp_path / "drawn-loss.svg").getroot()
    assert len(losses.findall(f".//{SVG}circle")) == 6
    assert "3" in [text.text for text in losses.iter(f"{SVG}text")]  # The axis reaches as far as the losses.


def test_a_run_that_was_not_evaluated_is_refused(curves, tmp_path: Path, monkeypatch) -> None:
    run = write_run(tmp_path / "run", "small", 0, [])
    with pytest.raises(SystemExit, match="was not evaluated while it trained; train with --evaluate-every"):
        draw(curves, monkeypatch, run, "--out", tmp_path / "drawn")
    with pytest.raises(SystemExit, match=r"is no run: it has no run\.json"):
        draw(curves, monkeypatch, tmp_path, "--out", tmp_path / "drawn")

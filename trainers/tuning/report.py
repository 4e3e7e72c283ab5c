"""What a search found: `tune.json`, `tune.html` (one file that needs no network) and `recipe.json`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from tfds_builders.pages.markup import Markup, el, markup
from tfds_builders.pages.page import Card, Section, cards, note, page, provenance
from tfds_builders.pages.tables import Cell, figure, number, table, words
from trainers.pages.axes import Axis
from trainers.pages.charts import key
from trainers.pages.plots import Look, Mark, plot
from trainers.tuning.search import Searched, recipe_json
from trainers.tuning.search_space import Choice, Range, shown

JSON, HTML, RECIPE = "tune.json", "tune.html", "recipe.json"
_ENOUGH = 8
"""Complete trials from which on it is said how much a value matters."""
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "stopped"}


def write_search(found: Searched, out: Path) -> None:
    """Write the files into `out`, each whole or not at all."""
    texts = {
        JSON: json.dumps(search_json(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        HTML: _page(found),
    }
    if found.best is not None:
        texts[RECIPE] = recipe_json(found)
    for name, text in texts.items():
        (out / f"{name}.tmp").write_text(text, encoding="utf-8")
        (out / f"{name}.tmp").replace(out / name)


def search_json(found: Searched) -> dict[str, Any]:
    """Everything about a search, in JSON's types."""
    best, own = found.best, found.own
    return {
        **found.settings,
        "trials_wanted": found.wanted,
        "counts": {name: len(found.of(state)) for state, name in _STATES.items()},
        "best": None if best is None else {"trial": best.number, "value": best.value, "values": best.params},
        "recipe_value": None if own is None else own.value,
        "importance": importance(found),
        "trials": [_trial_json(trial) for trial in found.trials],
    }


def _trial_json(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": _STATES[trial.state],
        "outcome": trial.user_attrs.get("outcome", "stopped"),
        "value": None if trial.value is None or not math.isfinite(trial.value) else trial.value,
        "values": trial.params,
        "recipe_values": bool(trial.user_attrs.get("own")),
        "again": trial.user_attrs.get("again"),
        "curve": [[step, value if math.isfinite(value) else None] for step, value in _curve(trial)],
        "seconds": trial.user_attrs.get("seconds"),
    }


def _curve(trial: FrozenTrial) -> list[tuple[int, float]]:
    return [(int(step), float(value)) for step, value in trial.user_attrs.get("curve", [])]


def importance(found: Searched) -> dict[str, float] | None:
    """How much each name decides whether a trial is among the best (PED-ANOVA, Watanabe, Bansal & Hutter 2023).

    Shares that sum to 1; None where too few trials are complete to say.
    """
    complete = found.of(TrialState.COMPLETE)
    varied = {name for name in found.search.space if len({trial.params[name] for trial in complete}) > 1}
    if len(complete) < _ENOUGH or len(varied) < 2:
        return None
    shares = get_param_importances(found.study, evaluator=PedAnovaImportanceEvaluator(), params=sorted(varied))
    return {name: float(share) for name, share in shares.items()}


def _look(trial: FrozenTrial, found: Searched) -> Look:
    if found.best is not None and trial.number == found.best.number:
        return "best"
    if trial.user_attrs.get("own"):
        return "own"
    return "other" if trial.state == TrialState.COMPLETE else "pruned"


def _page(found: Searched) -> str:
    title = f"{found.settings['recipe']} on {found.settings['dataset']}"
    sections = (_charts(found), _importance(found), _parameters(found), _trials(found))
    return page("tuning", title, _headline(found), sections, _foot(found))


def _headline(found: Searched) -> Markup:
    settings, best, own = found.settings, found.best, found.own
    complete, pruned = len(found.of(TrialState.COMPLETE)), len(found.of(TrialState.PRUNED))
    metric = settings["metric"]
    lead = [f"{complete + pruned} of {found.wanted} trials: {complete} went to their end, {pruned} were ended early."]
    if best is not None:
        which = "the recipe as it is" if own is not None and own.number == best.number else f"trial {best.number}"
        values = ", ".join(f"{name} {shown(value)}" for name, value in best.params.items())
        lead += [f" The best is {which}: ", el("b", values), "."]
    seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in found.trials)
    drawn = [Card(f"best {metric}", number(None if best is None else best.value), f"on {settings['evaluate_split']}")]
    if own is not None:
        drawn.append(Card(f"{metric} of the recipe", number(own.value), f"{settings['recipe']} as it is"))
    drawn.append(Card("time", _time(seconds), "of all trials"))
    return markup(el("p", lead, class_="lead"), cards(drawn))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _value_axis(found: Searched, values: Sequence[float]) -> Axis:
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    if found.search.metric != "loss":
        return Axis(found.search.metric, 0.0, min(1.0, max(max(finite) * 1.05, 0.1)))
    return Axis("loss", min(finite) * 0.95, sorted(finite)[int(0.9 * (len(finite) - 1))] * 1.05)


def _charts(found: Searched) -> Section | None:
    """The curves of all trials, and how the best value grew."""
    ended = sorted(found.of(TrialState.COMPLETE, TrialState.PRUNED), key=lambda t: _look(t, found) in ("best", "own"))
    curves = [(trial, [p for p in _curve(trial) if math.isfinite(p[1])]) for trial in ended]
    points = [point for _, curve in curves for point in curve]
    if not points:
        return None
    y = _value_axis(found, [value for _, value in points])
    lines = [Mark(curve, _look(trial, found), _told(trial)) for trial, curve in curves if curve]
    by_step = plot("Value over steps", Axis("steps", 0, max(step for step, _ in points)), y, lines)
    by_trial = plot(
        "Value over trials", Axis("trial", 0, max(1, *(trial.number for trial in ended))), y, _progress(found)
    )
    early = "The value of each trial, and the best so far; hollow: the last value of one that was ended early."
    drawn = (
        _chart(found, "While training", by_step, "Every evaluation of every trial. Dashed: ended early."),
        _chart(found, "From trial to trial", by_trial, early),
    )
    return Section("curves", "How the search went", el("div", drawn, class_="pair"), kind="")


def _chart(found: Searched, title: str, drawn: Markup, said: str) -> Markup:
    return el("div", el("h3", title), _legend(found), drawn, el("p", said, class_="readout"), class_="box")


def _legend(found: Searched) -> Markup:
    own_is_best = found.own is not None and found.best is not None and found.own.number == found.best.number
    entries = [("var(--c1)", "best: the recipe's own values" if own_is_best else "best"), ("var(--soft)", "others")]
    if found.own is not None and not own_is_best:
        entries.insert(1, ("var(--c2)", "the recipe's own values"))
    return el("div", [key(name, "curve", style=f"stroke:{colour}") for colour, name in entries], class_="legend")


def _told(trial: FrozenTrial) -> str:
    values = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}: {number(_last(trial))}; {values}"


def _last(trial: FrozenTrial) -> float | None:
    """A trial's value, or the last that is known of one that was ended early."""
    curve = _curve(trial)
    return trial.value if trial.state == TrialState.COMPLETE else curve[-1][1] if curve else None


def _progress(found: Searched) -> list[Mark]:
    complete = found.of(TrialState.COMPLETE)
    better = min if found.search.metric == "loss" else max
    steps: list[tuple[float, float]] = []
    for trial in complete:
        value = trial.value or 0.0
        before = [] if not steps else [(trial.number, steps[-1][1])]
        steps += [*before, (trial.number, better(value, *(y for _, y in steps)) if steps else value)]
    line = [Mark(steps, "best", "best so far")] if len(complete) > 1 else []
    return [*line, *_dots(found, lambda trial: trial.number)]


def _dots(found: Searched, place: Any) -> list[Mark]:
    """A point for each trial with a value, those worth seeing last."""
    known = [(trial, _last(trial)) for trial in found.of(TrialState.COMPLETE, TrialState.PRUNED)]
    marks = [
        Mark([(place(trial), value)], _look(trial, found), _told(trial), line=False)
        for trial, value in known
        if value is not None and math.isfinite(value)
    ]
    return sorted(marks, key=lambda mark: mark.look in ("best", "own"))


def _importance(found: Searched) -> Section | None:
    shares = importance(found)
    if shares is None:
        return None
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    rows = [[words(name), figure(share, bar=True, digits=2)] for name, share in ranked]
    said = note(
        "How much each value decides whether a trial is among the best (PED-ANOVA), of "
        f"{len(found.of(TrialState.COMPLETE))} complete trials; from so few it is a hint."
    )
    listed = table("what matters", ("name", "share"), rows, sorts=False)
    return Section("importance", "What matters", markup(said, listed))


def _parameters(found: Searched) -> Section | None:
    """The value of every trial over each of the names that were varied."""
    values = [value for trial in found.trials if (value := _last(trial)) is not None]
    if not values:
        return None
    y = _value_axis(found, values)
    boxes = []
    for name, over in found.search.space.items():
        dots = _dots(found, lambda trial, name=name, over=over: _place(trial.params[name], over))
        boxes.append(el("div", el("h3", name), plot(name, _axis(name, over), y, dots), class_="box"))
    return Section("values", "Value by value", el("div", boxes, class_="pair"), kind="")


def _axis(name: str, over: Range | Choice) -> Axis:
    if isinstance(over, Choice):
        return Axis(name, names=tuple(shown(value) for value in over.values))
    return Axis(name, over.low, over.high, logarithmic=over.logarithmic)


def _place(value: Any, over: Range | Choice) -> float:
    return float(over.values.index(value)) if isinstance(over, Choice) else float(value)


def _trials(found: Searched) -> Section:
    names = list(found.search.space)
    heads = ("trial", "outcome", found.search.metric, *names, "seconds")
    said = note("Press a heading to sort. Of a trial that was ended early, the last value that is known.")
    listed = table("trials", heads, [_row(trial, names) for trial in found.trials])
    return Section("trials", "Trials", markup(said, listed))


def _row(trial: FrozenTrial, names: Sequence[str]) -> list[Cell]:
    outcome = str(trial.user_attrs.get("outcome", "stopped"))
    outcome += "; the recipe's own values" if trial.user_attrs.get("own") else ""
    seconds = trial.user_attrs.get("seconds")
    return [
        Cell(str(trial.number), trial.number),
        words(outcome),
        figure(_last(trial)),
        *(_value_cell(trial.params.get(name)) for name in names),
        Cell("–" if seconds is None else f"{seconds:.0f}", seconds),
    ]


def _value_cell(value: Any) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(shown(value), shown(value) if isinstance(value, str | bool) else value)


def _foot(found: Searched) -> Markup:
    settings = found.settings
    said = el(
        "p",
        "Many trials were judged on one split, and the best of many is flattered: judge the final run on images that "
        "no trial has seen.",
    )
    entries = [
        ("dataset", f"{settings['dataset']} ({settings['fingerprint'][:16]})"),
        ("splits", f"trained on {settings['split']}, judged on {settings['evaluate_split']}"),
        ("recipe", settings["recipe"]),
        ("seed", str(settings["seed"])),
        ("values", ", ".join(f"{name} {over}" for name, over in found.search.space.items())),
    ]
    return markup(said, provenance(entries))

"""The commands that set figures beside each other: of one run by several tools, of several runs by one."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def explain_map(arguments: Namespace) -> dict[str, Any]:
    """`shardbox explain-map`: the figures by the conventions of several tools, or a given figure explained."""
    from dataflow.errors import UsageError
    from dataflow.prepared import PreparedDataset
    from trainers.evaluation.convention_figures import ConventionFigures
    from trainers.evaluation.conventions import FIGURES, PRESETS
    from trainers.evaluation.evaluation import evaluate
    from trainers.evaluation.explain_map import explain, parse_figure, read_torchmetrics, walk
    from trainers.prediction.predictions import read_predictions

    given = dict(parse_figure(text) for text in arguments.figure)
    tool = arguments.tool
    if arguments.torchmetrics is not None:
        if tool not in (None, "torchmetrics"):
            raise UsageError(f"--torchmetrics with --tool {tool}", "leave one of them out")
        given, tool = {**read_torchmetrics(arguments.torchmetrics), **given}, "torchmetrics"
    dataset = PreparedDataset(arguments.dataset)
    predictions = read_predictions(arguments.predictions)
    evaluation = evaluate(dataset, predictions, arguments.split or predictions.split)
    figures = ConventionFigures(list(evaluation.truths.values()), predictions.by_image, len(dataset.categories))
    if given:
        explanations = explain(figures, given, tool)
        _print_explained(explanations, given)
        return {"given": {n: g.value for n, g in given.items()}, "explanations": [_json(e) for e in explanations]}
    tools = {name: figures.figures(convention, FIGURES) for name, convention in PRESETS.items()}
    _print_tools(tools)
    ways = {name: walk(figures, PRESETS["pycocotools"], PRESETS[name], ("AP", "AP50")) for name in PRESETS}
    for name, way in ways.items():
        if way.causes:
            print(f"\nfrom pycocotools to {name}")
            _print_causes(way)
    return {"tools": tools, "from_pycocotools": {name: _json(way) for name, way in ways.items()}}


def _print_tools(tools: Mapping[Any, Mapping[Any, float | None]]) -> None:
    names = list(next(iter(tools.values())))
    print(f"  {'':<12}" + "".join(f"{name:>8}" for name in names))
    for tool, values in tools.items():
        print(f"  {tool:<12}" + "".join(f"{_short(values[name]):>8}" for name in names))


def _print_explained(explanations: Any, given: Mapping[Any, Any]) -> None:
    first = explanations[0]
    for name, item in given.items():
        if name not in first.start:
            print(f"{name}: not defined by pycocotools, {item.value:g} given")
            continue
        start = first.start[name]
        print(f"{name}: {start:.6f} by pycocotools, {item.value:g} given ({item.value - start:+.6f})")
    if not first.explained:
        print("no usual difference, and no two together, explain this; the nearest:")
    elif not first.causes:
        print("the figures agree as closely as the digits tell: there is nothing to explain")
    elif len(explanations) > 1:
        print(f"{len(explanations)} explanations fit as closely as the digits tell; more digits or figures decide:")
    for explanation in explanations:
        _print_causes(explanation)
        if explanation.causes:
            print(f"  {'left over':<76}{explanation.left:>10.6f}\n")


def _print_causes(explanation: Any) -> None:
    from trainers.evaluation.conventions import describe

    if explanation.causes:
        print(f"  {'':<76}" + "".join(f"{name:>10}" for name in explanation.start))
    for cause in explanation.causes:
        shares = "".join(f"{share:>+10.6f}" for share in cause.shares.values())
        print(f"  {describe(cause.field, cause.after):<76}{shares}")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _json(explanation: Any) -> dict[str, Any]:
    causes = [{"cause": c.field, "from": c.before, "to": c.after, "shares": dict(c.shares)} for c in explanation.causes]
    return {
        "start": dict(explanation.start),
        "end": dict(explanation.end),
        "causes": causes,
        "left": explanation.left,
        "explained": explanation.explained,
    }


def compare(arguments: Namespace) -> dict[str, Any]:
    """`shardbox compare`: two or more runs beside each other, to lines, `compare.json` and `compare.html`."""
    from dataflow.errors import UsageError
    from dataflow.prepared import PreparedDataset
    from trainers.evaluation.comparison import compare as compare_runs
    from trainers.outputs import check_output, made_here
    from trainers.pages.comparison_page import JSON, write_comparison
    from trainers.prediction.predictions import read_predictions

    if len(arguments.predictions) < 2:
        raise UsageError("--predictions names one directory", "give two or more, the first to compare with")
    check_output(arguments.out, JSON, overwrite=False)
    dataset = PreparedDataset(arguments.dataset)
    runs = labelled({path: read_predictions(path) for path in arguments.predictions})
    comparison = compare_runs(dataset, runs, arguments.split, across_datasets=arguments.across_datasets)
    with made_here(arguments.out, JSON) as out:
        write_comparison(comparison, dataset, runs, out)
    first = comparison.evaluations[0]
    left_out = f", {comparison.left_out} that not all predicted left out" if comparison.left_out else ""
    print(f"{first.dataset}, {first.split}: {len(first.truths)} images{left_out}")
    for changes in comparison.changes:
        _print_changes(comparison.labels[0], changes)
    print(f"written: {arguments.out}; read {arguments.out / 'compare.html'}")
    told = {changes.label: {n: c.difference for n, c in changes.figures.items()} for changes in comparison.changes}
    return {"comparison": str(arguments.out / JSON), "differences": told}


def labelled(runs: Mapping[Path, Any]) -> dict[str, Any]:
    """Predictions by a short name: their directory's; where these are the same, the path as it was given."""
    names = [path.resolve().name for path in runs]
    unique = len(set(names)) == len(names)
    return {name if unique else str(path): read for name, (path, read) in zip(names, runs.items(), strict=True)}


def _print_changes(first: str, changes: Any) -> None:
    from trainers.pages.comparison_page import verdict

    print(f"\n{changes.label} beside {first}")
    print(f"  {'':<6}{first[:12]:>13}{changes.label[:12]:>13}{'difference':>12}{'95 % interval':>20}{'better in':>11}")
    for name, change in changes.figures.items():
        if change.difference is None or change.low is None:
            print(f"  {name:<6} not defined: there are no objects")
            continue
        values = f"{change.first:>13.3f}{change.other:>13.3f}{change.difference:>+12.3f}"
        interval = f"{change.low:+.3f} to {change.high:+.3f}"
        print(f"  {name:<6}{values}{interval:>20}{100 * change.better:>9.1f} %  {verdict(change)[1]}")
    gained, lost = ([c for c in changes.images if sign * c.gain > 0] for sign in (1, -1))
    found = changes.found_in_all
    print(f"  images: {len(gained)} better, {len(lost)} worse, by the AP50 that they cost")
    for what, images in (("better", gained[:3]), ("worse", lost[::-1][:3])):
        for c in images:
            wrong = f"{c.first.fp} to {c.other.fp} wrong, {c.first.fn} to {c.other.fn} missed"
            print(f"    {what:<7} {c.gain:+.4f}  {c.image_id}: {wrong}")
    print(
        f"  objects: {found.both} found by both, {found.other_only} by {changes.label} alone, "
        f"{found.first_only} by {first} alone, {found.neither} by neither"
    )

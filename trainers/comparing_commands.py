"""The commands that set figures beside each other: of one run by several tools, of several runs by one."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any


def explain_map(arguments: Namespace) -> dict[str, Any]:
    """`shardbox explain-map`: the figures by the conventions of several tools, or a given figure explained."""
    from dataflow.errors import UsageError
    from dataflow.prepared import PreparedDataset
    from trainers.convention_figures import ConventionFigures
    from trainers.conventions import FIGURES, PRESETS
    from trainers.evaluation import evaluate
    from trainers.explain_map import explain, parse_figure, read_torchmetrics, walk
    from trainers.predictions import read_predictions

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
    from trainers.conventions import describe

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

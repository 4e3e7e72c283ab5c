"""Short factories for lists of pairs."""

import json
from pathlib import Path
from typing import Any

from dataflow.records import Change
from tests.factories import Loaded, photograph, write

BOX = [10.0, 12.0, 30.0, 40.0]
OTHER = [40.0, 5.0, 60.0, 25.0]
YOLO = "0 0.3125 0.541666667 0.3125 0.583333333\n"  # BOX in an image of 64 x 48 px.
VOC = (
    "<annotation><object><name>cat</name>{extra}<bndbox><xmin>11</xmin><ymin>13</ymin><xmax>30</xmax><ymax>40</ymax>"
    "</bndbox></object></annotation>"
)


def thing(box: list[float] = BOX, name: str = "cat", **more: Any) -> dict[str, Any]:
    return {"box": box, "class": name, **more}


def pair(number: int = 1, **more: Any) -> dict[str, Any]:
    return {"before": f"a/{number}.jpg", "after": f"b/{number}.jpg", **more}


def frames(root: Path, *numbers: int) -> None:
    for number in numbers or (1,):
        write(root / "a" / f"{number}.jpg", photograph(seed=2 * number))
        write(root / "b" / f"{number}.jpg", photograph(seed=2 * number + 1))


def json_list(root: Path, *rows: Any, name: str = "pairs.jsonl") -> Path:
    """A list of these rows, a text being a line as it is; images a/1.jpg and b/1.jpg exist."""
    frames(root)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    write(root / name, "".join(f"{line}\n" for line in lines))
    return root


def table(root: Path, text: str | bytes, name: str = "pairs.csv") -> Path:
    frames(root)
    write(root / name, text)
    return root


def found(loaded: Loaded, image_id: str = "a/1__b/1") -> list[tuple[list[float], str]]:
    """(box, change) of the objects of a pair, ignored ones aside."""
    columns = loaded.column(image_id, "change"), loaded.column(image_id, "is_crowd")
    rows = zip(loaded.boxes(image_id).round(2).tolist(), *columns, strict=True)
    return [(box, Change(change).name) for box, change, ignored in rows if not ignored]

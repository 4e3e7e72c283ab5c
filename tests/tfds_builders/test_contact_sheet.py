"""The page of the worst pairs, read as a browser would: what is on it, in which order, and how little it reads."""

import re
from base64 import b64decode
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.findings import Code, Finding
from dataflow.pairs.alignment_counts import WORST, AlignmentTally, PairAlignment
from dataflow.pairs.camera_motion import Movement
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.shards import ShardResult
from tests.factories import Picture, Thing, prepare, write_mot
from tests.pages import Page, check_page
from tests.tfds_builders.shaken_frames import PETS, SIZE, STILL, write_scenes, write_shaken_pets
from tfds_builders.contact_sheet import CONTACT_SHEET, movement_in_words, write_contact_sheet
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.differences import DifferenceLoader
from tfds_builders.formats.mot import open_mot
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.pairing import PairOptions

EVIL = "<script>alert(1)<|script>&${style}"


@dataclass
class Card:
    """A pair on the page."""

    text: str = ""
    captions: list[str] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    boxes: list[list[str]] = field(default_factory=list)
    """Classes of the boxes of each picture."""


class Sheet(Page):
    """The page with its pairs."""

    def __init__(self, html: str) -> None:
        self.cards: list[Card] = []
        super().__init__(html)
        check_page(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        known = self.elements[-1][1]
        if tag == "article":
            self.cards.append(Card())
        elif tag == "svg":
            self.cards[-1].boxes.append([])
        elif tag == "image":
            data = b64decode(known["href"].removeprefix("data:image/jpeg;base64,"), validate=True)
            self.cards[-1].images.append(data)
        elif tag == "rect" and known.get("class") != "halo":
            self.cards[-1].boxes[-1].append(known.get("class", ""))

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if "figcaption" in self.open:
            self.cards[-1].captions.append(data)
        elif "article" in self.open:
            self.cards[-1].text += data

    @property
    def bars(self) -> int:
        return sum(a.get("style", "--v:0.0%") != "--v:0.0%" for a in self.of("i"))


def made(root: Path, align: Method, name: str = "walk") -> PreparedDataset:
    """Frames 1-2 stand still, 2-3 shift, 3-4 turn back; the fifth shows another scene."""
    movements = (STILL, STILL, Movement(6.4, -3.2), Movement(rotation=1.5, zoom=1.02), STILL)
    source = write_scenes(root / "source", movements, {5: 1}, name)
    dataset = prepare(open_mot(source, PairOptions(1)), root / "out", "pairs")
    return DifferencesBuilder(dataset, name=f"d_{align}", out=root / "out", align=align).prepare()


def page_of(dataset: PreparedDataset) -> Sheet:
    return Sheet((dataset.path / CONTACT_SHEET).read_text(encoding="utf-8"))


def ids(page: Sheet) -> list[str]:
    return [re.findall(r"\d{6}-\d{6}", card.text)[0] for card in page.cards]


def test_refused_pairs_come_first_then_by_score(tmp_path: Path) -> None:
    dataset = made(tmp_path, "features")
    page = page_of(dataset)
    scores = {pair.pair_id.removeprefix("walk/"): pair.alignment_score for pair in dataset.pairs("train")}
    assert ids(page) == ["000004-000005", *sorted(scores, key=lambda name: scores[name])]
    assert "refused" in page.cards[0].text
    assert page.cards[0].captions == ["before", "after", "difference without alignment"]
    for card in page.cards[1:]:
        assert card.captions == ["before", "after", "difference as stored", "difference without alignment"]
    still = page.cards[ids(page).index("000001-000002")]
    assert "stood still" in still.text and "identity" in still.text
    shifted = page.cards[ids(page).index("000002-000003")]
    assert re.search(r"moved 6\.[34] px right and 3\.[123] px up", shifted.text)
    assert "differences3refused1" in page.text and "The worst 4 of 4 pairs" in page.text
    assert page.bars == len({min(int(50 * score), 49) for score in scores.values()})


def test_unaligned_pairs_come_by_their_change(tmp_path: Path) -> None:
    page = page_of(made(tmp_path, "none"))
    changes = [float(re.findall(r"change([\d.]+) grey", card.text)[0]) for card in page.cards]
    assert changes == sorted(changes, reverse=True) and ids(page)[0] == "000004-000005"
    assert all(card.captions == ["before", "after", "difference"] for card in page.cards)
    assert "Nothing was aligned." in page.text and not page.bars
    assert "mean score" not in page.text and "mean residual" not in page.text


def test_pictures_show_what_they_say(tmp_path: Path) -> None:
    page = page_of(made(tmp_path, "features"))
    shifted = page.cards[ids(page).index("000002-000003")]
    pictures = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in shifted.images]
    assert [picture.shape for picture in pictures] == [(*SIZE, 3)] * 4
    stored, plain = pictures[2:]
    assert stored.mean() < 0.3 * plain.mean(), "alignment takes the edges away"
    # The object has moved: a box of each frame in its own, both in the differences.
    assert shifted.boxes == [["before"], [""], ["before", ""], ["before", ""]]


def test_the_page_leads_to_files_beside_it(tmp_path: Path) -> None:
    dataset = made(tmp_path, "features")
    addresses = sorted(a["href"] for a in page_of(dataset).of("a"))
    assert addresses == ["audit.html", "manifest.json"]
    assert all((dataset.path / address).is_file() for address in addresses)


def test_names_are_text(tmp_path: Path) -> None:
    page = page_of(made(tmp_path, "features", EVIL))
    assert len(page.cards) == 4
    assert all(EVIL in card.text for card in page.cards)


def test_the_same_page_again(tmp_path: Path) -> None:
    first, second = (made(tmp_path / name, "features") for name in "ab")
    assert (first.path / CONTACT_SHEET).read_bytes() == (second.path / CONTACT_SHEET).read_bytes()


def many_pairs(root: Path, n: int) -> PreparedDataset:
    frames = [Picture(f"walk/{i:06d}", things=(Thing(0, (5, 5, 20, 20)),)) for i in range(1, n + 2)]
    source = open_mot(write_mot(root / "source", frames), PairOptions(1))
    return prepare(source, root / "out", "pairs", plan=PlanOptions(seed=0, shards=4))


def results_of(dataset: PreparedDataset, refused: int = 0) -> list[ShardResult]:
    """As a diff would leave them: `refused` pairs of each shard, and scores that fall from shard to shard."""
    results = []
    for shard in dataset.shards("train"):
        tally, findings = AlignmentTally(), list[Finding]()
        for place, pair in enumerate(dataset.shard_pairs(shard)):
            if place < refused:
                finding = Finding(Code.PAIR_UNALIGNED, "error", "x", "a value", "a remedy", image_id=pair.pair_id)
                findings.append(finding)
                tally.refuse()
            else:
                tally.add(PairAlignment(pair.pair_id, 0.9 - shard.index / 10, 0.1, "identity", float(place)))
        result = ShardResult("train", shard.index, 4, shard.path.name, shard.count, 0, "", (), tuple(findings))
        results.append(replace(result, alignment=tally.counts()))
    return results


def test_only_shards_of_pairs_that_are_shown_are_read(tmp_path: Path) -> None:
    dataset = many_pairs(tmp_path, 120)
    results = results_of(dataset)
    shards = dataset.shards("train")
    assert len(shards) == 4 and shards[3].count >= WORST, "the last shard alone has enough"
    for shard in shards[:3]:
        shard.path.unlink()
    write_contact_sheet(tmp_path / "x.html", "x", dataset, DifferenceLoader(dataset.path, "absolute", "jpeg"), results)
    page = Sheet((tmp_path / "x.html").read_text())
    assert len(page.cards) == WORST and all(len(card.images) == 3 for card in page.cards)
    assert results[3].alignment is not None
    assert ids(page) == [pair.pair_id.removeprefix("walk/") for pair in results[3].alignment.worst]


def test_refused_pairs_leave_room_for_others(tmp_path: Path) -> None:
    dataset = many_pairs(tmp_path, 120)
    loader = DifferenceLoader(dataset.path, "absolute", "jpeg", "features")
    write_contact_sheet(tmp_path / "x.html", "x", dataset, loader, results_of(dataset, refused=9))
    cards = Sheet((tmp_path / "x.html").read_text()).cards
    assert ["a value" in card.text for card in cards] == [True] * (WORST // 2) + [False] * (WORST // 2)


SHIFTS = st.floats(-30, 30)
SIZES = st.tuples(st.integers(9, 999), st.integers(9, 999))


@given(SHIFTS, SHIFTS, st.floats(-20, 20), st.floats(0.8, 1.25), SIZES)
def test_movements_in_words(x: float, y: float, rotation: float, zoom: float, size: tuple[int, int]) -> None:
    said = movement_in_words(Movement(x, y, rotation, zoom).homography(size), size)
    numbers = {
        "right": x,
        "left": -x,
        "down": y,
        "up": -y,
        "clockwise": rotation,
        "counter-clockwise": -rotation,
        "grew": 100 * (zoom - 1),
        "shrank": 100 * (1 - zoom),
    }
    told = {way: float(number) for number, way in re.findall(r"([\d.]+) px (\w+)", said)}
    told |= {way: float(number) for number, way in re.findall(r"([\d.]+)° ([\w-]+)", said)}
    told |= {way: float(number) for way, number in re.findall(r"(grew|shrank) by ([\d.]+) %", said)}
    for way, number in told.items():
        assert number == pytest.approx(numbers[way], abs=0.0501)
    for way, number in numbers.items():
        assert way in told or number < 0.0501


def test_a_camera_that_stood_still() -> None:
    assert movement_in_words(np.eye(3), SIZE) == "stood still"


@pytest.mark.skipif(not PETS.is_dir(), reason="shared/data/pets09_s2l1 is not beside the checkout")
def test_real_frames_lose_their_edges(tmp_path: Path) -> None:
    write_shaken_pets(tmp_path / "source", range(1, 40, 10))
    dataset = prepare(open_mot(tmp_path / "source", PairOptions(1)), tmp_path / "out", "pairs")
    page = page_of(DifferencesBuilder(dataset, name="d", out=tmp_path / "out", align="features").prepare())
    assert len(page.cards) == 3
    for card in page.cards:
        stored, plain = (cv2.imdecode(np.frombuffer(data, np.uint8), 0).mean() for data in card.images[2:])
        assert stored < 0.5 * plain

"""The groups of fields that the App shows beside the pictures, and what each field says of itself."""

import pytest

from tests.trainers.fiftyone_sets import make, run_of


def _groups(stored):
    return {group.name: list(group.paths) for group in stored.app_config.sidebar_groups}


@pytest.mark.parametrize("kind", ["images", "differences"])
def test_what_is_wanted_most_comes_first(samples, stores, fo, into, kind):
    dataset = make(samples, 21, images=2, kind=kind)
    stores.store(dataset, [run_of(samples, dataset, 1, "a")], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    groups = _groups(stored)
    assert list(groups)[:6] == [
        "tags", "ground truth", "predictions", "errors and cost of a", "findings of ingest", "image",
    ]  # fmt: skip
    assert groups["predictions"] == ["pred_a"] and groups["ground truth"] == ["ground_truth"]
    assert groups["errors and cost of a"] == ["eval_a_cost", "eval_a_fp", "eval_a_fn", "eval_a_tp"]
    # FiftyOne's own groups have what is left, so that no field is there twice and none is missing.
    shown = [path for paths in groups.values() for path in paths]
    assert len(shown) == len(set(shown))
    assert {path.partition(".")[0] for path in shown} >= set(stored.get_field_schema()) - {"group"}


def test_every_field_of_ours_says_what_it_is(samples, stores, fo, into):
    dataset = make(samples, 22, images=2, kind="differences")
    stores.store(dataset, [run_of(samples, dataset, 1, "a")], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    own = ("ground_truth", "pred_a", "eval_a_", "image_id", "split", "scene", "frame", "alignment", "prov", "findin")
    paths = [path for path in stored.get_field_schema() if path.startswith(own)]
    paths += [f"{side}.detections.eval_a{end}" for side in ("ground_truth", "pred_a") for end in ("", "_id", "_error")]
    paths += [f"ground_truth.detections.{name}" for name in ("area", "iscrowd", "object", "change")]
    assert len(paths) > 20
    assert [path for path in paths if not stored.get_field(path).description] == []
    assert "AP50 that a would gain" in stored.get_field("eval_a_cost").description


def test_what_a_user_moved_stays_and_a_later_run_is_added(samples, stores, fo, into):
    dataset = make(samples, 23, images=2)
    first = run_of(samples, dataset, 1, "a")
    stores.store(dataset, [first], split="validation", **into)
    stored = fo.load_dataset(into["name"])
    groups = stored.app_config.sidebar_groups
    for group in groups:
        group.paths = [path for path in group.paths if path != "scene"]
    groups.append(fo.SidebarGroupDocument(name="mine", paths=["scene"]))
    stored.save()
    before = _groups(stored)
    stores.store(dataset, [first], split="validation", **into)
    stored.reload()
    assert _groups(stored) == before
    stores.store(dataset, [run_of(samples, dataset, 2, "b")], split="validation", **into)
    stored.reload()
    after = _groups(stored)
    assert after["mine"] == ["scene"] and after["predictions"] == ["pred_a", "pred_b"]
    assert after["errors and cost of b"] == ["eval_b_cost", "eval_b_fp", "eval_b_fn", "eval_b_tp"]


def test_a_run_is_called_by_its_label_for_as_long_as_it_is_stored(samples, stores, fo, into):
    """Ids of runs are too long for a sidebar, and alike but for their ends."""
    dataset = make(samples, 24, images=2)
    runs = [run_of(samples, dataset, seed, f"dense_cnn_small-7887e83d87d{seed}") for seed in (1, 2)]
    summary = stores.store(dataset, runs, split="validation", labels=["short", "Long run"], **into)
    assert list(summary.fields.values()) == ["pred_short", "pred_long_run"]
    again = stores.store(dataset, runs[:1], split="validation", labels=["another"], **into)
    assert list(again.fields.values()) == ["pred_short"]
    stored = fo.load_dataset(into["name"])
    assert "errors and cost of Long run" in _groups(stored) and "short: worst images" in stored.list_saved_views()

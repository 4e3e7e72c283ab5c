"""Spaces: what their text means, what they refuse, and what values do to a recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflow.errors import UsageError
from trainers.recipes.catalogue import RECIPES, find_recipe
from trainers.recipes.dense import dense_cnn_small, dense_deit
from trainers.recipes.stages import Stage
from trainers.tuning.search_space import (
    NAMES,
    Choice,
    Range,
    check_space,
    default_space,
    own_values,
    parse,
    parse_vary,
    read_space,
    with_values,
)

EVERY = [make() for make in RECIPES]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4..1e-2", Range(1e-4, 1e-2)),
        ("batch_size=4,8,16", Choice((4, 8, 16))),
        ("warm_up_steps=0..40", Range(0, 40, whole=True)),
        ("flip=0", Choice((0.0,))),
        ("schedule=cosine, linear", Choice(("cosine", "linear"))),
        ("augment=true,false", Choice((True, False))),
    ],
)
def test_text_and_what_it_means(text: str, expected: Range | Choice) -> None:
    name, _, values = text.partition("=")
    assert parse_vary([text]) == {name: expected}
    assert parse(name, str(expected), "again") == expected
    assert parse(name, values, "here") == expected


@given(st.floats(1e-9, 1e2), st.floats(1.001, 1e6))
def test_ranges_return_from_text(low: float, factor: float) -> None:
    low, high = float(f"{low:g}"), float(f"{low * factor:g}")
    if low < high <= 1e3:
        found = parse("learning_rate", str(Range(low, high)), "text")
        assert found == Range(low, high)
        assert found.logarithmic == (high / low >= 10)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate", "write --vary NAME=LOW..HIGH"),
        ("rate=1..2", "nothing is called 'rate'; vary one of learning_rate, "),
        ("learning_rate=1e-2..1e-4", "a lower to a higher number"),
        ("learning_rate=0..1", "give a number from 1e-12 to 1000"),
        ("learning_rate=nan..1", "give a number"),
        ("learning_rate=", "give a number"),
        ("batch_size=2.5", "give a whole number from 1"),
        ("batch_size=0..4", "give a whole number from 1"),
        ("flip=0..2", "from 0 to 1"),
        ("flip=0.5,0.5", "every value once"),
        ("schedule=sine", "among cosine, linear, constant"),
        ("schedule=cosine..linear", "among cosine, linear, constant"),
        ("augment=yes", "among false, true"),
    ],
)
def test_text_that_means_nothing(text: str, said: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_vary([text])
    assert said in str(told.value)


def test_a_name_twice() -> None:
    with pytest.raises(UsageError, match="flip twice"):
        parse_vary(["flip=0", "flip=0.5"])


def test_a_file_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("learning_rate: 1e-4..1e-2\nbatch_size: [4, 8]\naugment: [true, false]\nflip: 0\n")
    expected = parse_vary(["learning_rate=1e-4..1e-2", "batch_size=4,8", "augment=true,false", "flip=0"])
    assert read_space(path) == expected


@pytest.mark.parametrize("content", ["", "- 1", "3", "{", "\0", "flip: 7", "what: 1..2"])
def test_a_file_that_is_no_space(content: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"space\.yaml"):
        read_space(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_space(tmp_path / "absent.yaml")


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_the_usual_space_holds_what_the_recipe_has(recipe) -> None:
    space = default_space(recipe)
    check_space(space, recipe)
    own = own_values(space, recipe)
    assert own is not None and set(own) == set(space) <= set(NAMES)
    assert with_values(recipe, own).settings() == recipe.settings()
    assert "augment" not in default_space(recipe, augment=True)


def test_own_values_outside_of_a_space_are_none_of_it() -> None:
    recipe = dense_cnn_small()
    assert own_values({"learning_rate": Range(1e-3, 1e-2)}, recipe) == {"learning_rate": 2e-3}
    assert own_values({"learning_rate": Range(1e-5, 1e-3)}, recipe) is None
    assert own_values({"schedule": Choice(("linear",))}, recipe) is None


def test_values_make_another_recipe() -> None:
    recipe = dense_deit()
    changed = with_values(recipe, {"learning_rate": 3e-4, "flip": 0.0, "augment": True})
    assert (changed.learning_rate, changed.flip) == (3e-4, 0.0)
    assert changed.backbone_learning_rate == pytest.approx(3 * recipe.backbone_learning_rate)
    apart = with_values(recipe, {"learning_rate": 3e-4, "backbone_learning_rate": 1e-6})
    assert (apart.learning_rate, apart.backbone_learning_rate) == (3e-4, 1e-6)
    assert replace(apart, learning_rate=recipe.learning_rate, backbone_learning_rate=2e-5) == recipe


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 400), (8, 200), (16, 100), (3, 533)])
def test_another_batch_size_sees_as_many_images(batch_size: int, steps: int) -> None:
    assert with_values(dense_cnn_small(), {"batch_size": batch_size}).steps == steps


def test_what_a_recipe_does_not_have_is_not_varied() -> None:
    with pytest.raises(UsageError, match="has no backbone_learning_rate"):
        check_space(parse_vary(["backbone_learning_rate=1e-5..1e-4"]), dense_cnn_small())
    staged = replace(dense_cnn_small(), stages=(Stage(1e-3), Stage(1e-4)))
    with pytest.raises(UsageError, match="has stages, each with its own warm_up_steps"):
        check_space(parse_vary(["warm_up_steps=0..5"]), staged)


class TestRecipeFiles:
    def test_it_is_the_recipe_with_its_values(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.json"
        path.write_text('{"recipe": "dense_cnn_small", "values": {"learning_rate": 0.003123456789, "batch_size": 4}}')
        recipe = find_recipe(str(path))
        assert recipe == with_values(dense_cnn_small(), {"learning_rate": 0.003123456789, "batch_size": 4})

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{", "holds no recipe"),
            ("[]", "holds no recipe"),
            ('{"recipe": "dense_cnn_small"}', "holds no recipe"),
            ('{"recipe": "none", "values": {}}', "no recipe 'none'"),
            ('{"recipe": "dense_cnn_small", "values": {"learning_rate": -1}}', "give a number"),
            ('{"recipe": "dense_cnn_small", "values": {"seed": 1}}', "nothing is called 'seed'"),
            ('{"recipe": "dense_cnn_small", "values": {"backbone_learning_rate": 1e-5}}', "has no backbone"),
        ],
    )
    def test_what_is_none_is_refused(self, content: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "recipe.json"
        path.write_text(content)
        with pytest.raises(UsageError) as told:
            find_recipe(str(path))
        assert said in str(told.value)
        with pytest.raises(UsageError, match="No such file"):
            find_recipe(str(tmp_path / "absent.json"))

"""All recipes, by name."""

import json
from collections.abc import Callable
from pathlib import Path

from dataflow.errors import UsageError
from dataflow.stores.paths import location
from trainers.recipes import dense as dense_recipes
from trainers.recipes import detr as detr_recipes
from trainers.recipes.recipe import Recipe
from trainers.tuning.search_space import Choice, check_space, parse, shown, with_values

RECIPES: tuple[Callable[[], Recipe], ...] = (
    dense_recipes.dense_cnn_small,
    dense_recipes.dense_deit_small,
    dense_recipes.dense_document_dit_small,
    dense_recipes.dense_diffusion_dit_small,
    dense_recipes.faster_rcnn_small,
    dense_recipes.retinanet_small,
    dense_recipes.dense_deit,
    dense_recipes.dense_document_dit,
    dense_recipes.dense_diffusion_dit,
    dense_recipes.faster_rcnn_r50,
    detr_recipes.detr_r50,
    detr_recipes.detr_r50_staged,
    detr_recipes.detr_r50_tfds,
    detr_recipes.conditional_detr_r50,
    detr_recipes.deformable_detr_r50,
    detr_recipes.rt_detr_v2_r18,
    detr_recipes.d_fine_n,
    detr_recipes.yolos_tiny,
    detr_recipes.detr_small,
    detr_recipes.detr_small_staged,
    detr_recipes.conditional_detr_small,
    detr_recipes.deformable_detr_small,
    detr_recipes.rt_detr_v2_small,
    detr_recipes.d_fine_small,
    detr_recipes.yolos_small,
)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name, or of a file `*.json` that `shardbox tune` wrote: `{"recipe": NAME, "values": {...}}`.

    Raises:
        UsageError: there is none, or the file holds none.
    """
    if name.endswith(".json"):
        return _read_recipe(location(name))
    recipes = {make().name: make for make in RECIPES}
    if name not in recipes:
        raise UsageError(
            f"there is no recipe {name!r}",
            f"choose --recipe among {', '.join(recipes)}, or give the recipe.json of a search",
        )
    return recipes[name]()


def _read_recipe(path: Path) -> Recipe:
    """The recipe of a file, with the values that it says."""
    remedy = "give the recipe.json that `shardbox tune` wrote"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, values = content["recipe"], dict(content["values"])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", remedy) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no recipe", remedy) from error
    recipe = find_recipe(str(name))
    for key, value in values.items():
        parse(key, shown(value), str(path))
    check_space({key: Choice((value,)) for key, value in values.items()}, recipe)
    return with_values(recipe, values)

"""All recipes, by name."""

from collections.abc import Callable

from dataflow.errors import UsageError
from trainers import dense_recipes, detr_recipes
from trainers.recipe import Recipe

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
    detr_recipes.conditional_detr_r50,
    detr_recipes.deformable_detr_r50,
    detr_recipes.rt_detr_v2_r18,
    detr_recipes.d_fine_n,
    detr_recipes.yolos_tiny,
    detr_recipes.detr_small,
    detr_recipes.conditional_detr_small,
    detr_recipes.deformable_detr_small,
    detr_recipes.rt_detr_v2_small,
    detr_recipes.d_fine_small,
    detr_recipes.yolos_small,
)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UsageError: there is none.
    """
    recipes = {make().name: make for make in RECIPES}
    if name not in recipes:
        raise UsageError(f"there is no recipe {name!r}", f"choose --recipe among {', '.join(recipes)}")
    return recipes[name]()

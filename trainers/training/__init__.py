"""A prepared dataset and a recipe to a run."""

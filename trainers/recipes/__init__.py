"""Recipes: everything that decides a training run, as frozen values."""

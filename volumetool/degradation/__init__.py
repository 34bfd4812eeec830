"""Crappifiers: make from a fine image the coarse, noisy one that a fast microscope would have taken."""

from __future__ import annotations

from volumetool.degradation.crappifier import Crappifier, save_recipe
from volumetool.degradation.recipes import RECIPE_ENDINGS, RECIPES, Crappification, load_recipe

__all__ = ["RECIPES", "RECIPE_ENDINGS", "Crappification", "Crappifier", "load_recipe", "save_recipe"]

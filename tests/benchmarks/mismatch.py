"""Figure 6 of `method.py`: what it costs to train on one recipe and to meet another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scoring import Sums, difference, sum_blocks
from unseen import SCALE, Net, degrade, load_samples, restore_centre

from volumetool.degradation import RECIPES, Crappifier
from volumetool.evaluation.baselines import restore

SETS = ("fib25-val", "isbi2012", "cdeep3m-sbem")


def mismatch(data: Path, nets: Sequence[Net], recipes: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Return the gain in PSNR over bilinear enlargement: by what was met, then by net.

    Parameters
    ----------
    data : Path
        Folder with the real data.
    nets : sequence of Net
        The first is the one of all recipes.
    recipes : sequence of str
        What is met, each also with half and twice its noise, and a wider probe where it has one.
    quick : bool
        Two small sections per set.
    """
    samples = [sample for name in SETS for sample in load_samples(data, name, quick=quick)]
    table: dict[str, Any] = {}
    for met, recipe in _conditions(recipes):
        slabs = [degrade(sample.fine, recipe, sample.seed) for sample in samples]
        pairs = list(zip(slabs, samples, strict=True))
        linear = [sum_blocks(restore("bilinear", slab[each.centre], SCALE), each.truth) for slab, each in pairs]
        table[met] = {}
        for net in nets:
            ours = [sum_blocks(restore_centre(net, slab, each.centre), each.truth) for slab, each in pairs]
            table[met][net.name] = {"all": _gain(ours, linear), **_by_set(ours, linear, data, quick=quick)}
    return table


def _conditions(recipes: Sequence[str]) -> Iterator[tuple[str, Crappifier]]:
    for name in recipes:
        recipe = RECIPES[name]
        yield name, recipe
        for change in ({"noise": 0.5}, {"noise": 2.0}, {"blur": 1.5}):
            varied = recipe.varied(**change)
            if varied != recipe:
                yield f"{name}, {' '.join(f'{what} x{factor:g}' for what, factor in change.items())}", varied


def _gain(ours: Sequence[Sums], linear: Sequence[Sums]) -> dict[str, float]:
    return difference(np.concatenate(ours), np.concatenate(linear), "psnr")


def _by_set(ours: Sequence[Sums], linear: Sequence[Sums], data: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    gains, start = {}, 0
    for name in SETS:
        stop = start + len(load_samples(data, name, quick=quick))
        gains[name] = _gain(ours[start:stop], linear[start:stop])
        start = stop
    return gains

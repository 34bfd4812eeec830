"""The cut is invisible: a volume crappified in chunks is bit for bit the volume crappified at once."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from volumetool.degradation import RECIPES, Crappifier
from volumetool.degradation.compression import Jpeg
from volumetool.degradation.noise import Clip, Gaussian, LineOffset, LocalGaussian, Poisson, SaltAndPepper, Shot
from volumetool.degradation.optics import Blur, Reduce
from volumetool.degradation.scan import Charging, Jitter, Lag
from volumetool.degradation.tone import Drift, Tone

Floats = NDArray[np.float32]

STEPS: tuple[Any, ...] = (
    Blur(sigma=1.3, sigma_z=0.6),
    Poisson(intensity=1.1),
    Shot(dose=30),
    Shot(dose=3000, background=20, inverted=True),
    Gaussian(sd=9),
    LocalGaussian(),
    SaltAndPepper(share=0.1),
    LineOffset(sd=5),
    Jitter(sd=0.7),
    Lag(time=1.5),
    Charging(amount=-40, length=4, threshold=0.5),
    Tone(contrast=0.7, brightness=20, gamma=0.8),
    Drift(contrast=0.3, brightness=30, gamma=0.2, lines=7),
    Clip(),
)


def crappified_in_chunks(
    crappifier: Crappifier, volume: Floats, scale: tuple[int, int, int], cuts: tuple[list[int], ...]
) -> Floats:
    """Crappify chunk by chunk, each with the halo that the crappifier asks for."""
    whole = tuple(size // f * f for size, f in zip(volume.shape, scale, strict=True))
    halo = crappifier.halo(scale)
    result = np.full([n // f for n, f in zip(whole, scale, strict=True)], np.nan, np.float32)
    spans = [pairwise(sorted({0, *axis, size})) for axis, size in zip(cuts, whole, strict=True)]
    for core in product(*spans):
        wide = [(max(0, a - h), min(n, b + h)) for (a, b), h, n in zip(core, halo, whole, strict=True)]
        block = volume[tuple(slice(a, b) for a, b in wide)]
        made = crappifier.apply(block, scale=scale, seed=3, origin=(wide[0][0], wide[1][0], wide[2][0]))
        inner = tuple(slice((a - w) // f, (b - w) // f) for (a, b), (w, _), f in zip(core, wide, scale, strict=True))
        result[tuple(slice(a // f, b // f) for (a, b), f in zip(core, scale, strict=True))] = made[inner]
    return result


def check_any_cut(crappifier: Crappifier, draw: st.DataObject) -> None:
    scale = draw.draw(st.sampled_from([(1, 4, 4), (1, 2, 2), (2, 3, 4), (1, 1, 1)]), "scale")
    shape = tuple(draw.draw(st.integers(f, 6 if axis == 0 else 90)) for axis, f in enumerate(scale))
    volume = np.random.default_rng(5).random(shape, dtype=np.float32)
    units = crappifier.granularity(scale)
    cuts = tuple(
        [unit * n for n in draw.draw(st.lists(st.integers(0, size // f * f // unit), max_size=3))]
        for size, unit, f in zip(shape, units, scale, strict=True)
    )
    whole = crappifier.apply(volume, scale=scale, seed=3)
    assert np.array_equal(crappified_in_chunks(crappifier, volume, scale, cuts), whole)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@given(draw=st.data())
@settings(max_examples=12)
def test_a_recipe_is_the_same_in_any_cut(recipe: str, draw: st.DataObject) -> None:
    check_any_cut(RECIPES[recipe], draw)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)
@pytest.mark.parametrize("grid", ["fine", "coarse"])
@given(draw=st.data())
@settings(max_examples=6)
def test_a_step_is_the_same_in_any_cut_on_either_grid(step: Any, grid: str, draw: st.DataObject) -> None:
    steps = (step, Reduce()) if grid == "fine" else (Reduce(mode="centre"), step)
    check_any_cut(Crappifier(name="one", steps=steps), draw)


@given(draw=st.data())
@settings(max_examples=25)
def test_steps_in_any_order_are_the_same_in_any_cut(draw: st.DataObject) -> None:
    before = draw.draw(st.lists(st.sampled_from(STEPS), max_size=2))
    after = draw.draw(st.lists(st.sampled_from((*STEPS, Jpeg(quality=40))), max_size=3))
    check_any_cut(Crappifier(name="any", steps=(*before, Reduce(), *after)), draw)


@pytest.mark.parametrize("size", [9, 12, 15, 17])
def test_a_block_of_jpeg_that_a_face_cuts_depends_on_itself_alone(size: int) -> None:
    volume = np.random.default_rng(5).random((1, 4 * size, 4 * size), dtype=np.float32)
    crappifier = Crappifier(name="one", steps=(Reduce(), Jpeg(quality=40)))
    whole = crappifier.apply(volume, scale=(1, 4, 4), seed=3)
    assert np.array_equal(crappified_in_chunks(crappifier, volume, (1, 4, 4), ([], [32], [32])), whole)

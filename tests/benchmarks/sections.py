"""Bad sections planted in real stacks: how many are found, how many good ones are taken for bad, how well gaps are filled.

    python tests/benchmarks/sections.py DATA --rounds 4 --strength 1

Each round plants 40 sections of six kinds, at random places, in five stacks: FIB-SEM (2), ssTEM, ATUM-SEM, SBEM. Lost: all 0.
Blank: a grey of its own, a slope, noise. Damaged: 15 to 50 % of the section lie under a fold, dirt or a lost tile.
Doubled: the section before or after once more. Shifted: by 6 to 12 % of the section's side. Soft: blurred by 2 to 3 voxels,
with 0.7 of the section's noise.

Then 12 good sections of each stack are taken for lost, and filled: by the nearest one, by the mean of both beside it, and by
`interpolate`. Told is the root mean square difference from the section itself, in grey levels, over at most 512 x 512 voxels.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage

from volumetool.processing.sections.judge import SectionJudge
from volumetool.processing.sections.measure import SectionMeter
from volumetool.processing.sections.repair import interpolate
from volumetool.processing.survey import noise_sd

Voxels = NDArray[Any]

STACKS: Final = {
    "fib25-fibsem/fib25_train1.tif": 11,
    "fib25-fibsem/fib25_val_z0-199_y0-339.tif": 11,
    "isbi2012-sstem/isbi2012_train.tif": 5,
    "kasthuri15-atum-sem/kasthuri15_s0001-0060.tif": 10,
    "cdeep3m-sbem/cdeep3m_sbem_z020-037.tif": 3,
}
"""The stacks, and the sections that are planted in each: 40."""

OWN_FAULTS: Final = {"kasthuri15-atum-sem/kasthuri15_s0001-0060.tif": {32, 33}}
"""Sections of the stacks that are no good ones: 32 and 33 are one image, as their voxels' correlation of 0.91 shows."""

KINDS: Final = ("lost", "blank", "damaged", "doubled", "shifted", "soft")


def plant(stack: Voxels, number: int, seed: int, strength: float = 1.0) -> tuple[Voxels, dict[int, str]]:
    """Return a stack with bad sections, and their kinds by z; no two of them are closer than three sections.

    Parameters
    ----------
    stack : numpy.ndarray, shape (z, y, x)
        Good sections.
    number : int
        Bad sections to plant.
    seed : int
        Decides which, and how.
    strength : float
        Times the damaged area, the shift and the blur that are said above.
    """
    rng = np.random.default_rng(seed)
    planted, kinds = stack.copy(), dict[int, str]()
    for z in rng.permutation(np.arange(2, len(stack) - 2)).tolist():
        if len(kinds) < number and all(abs(z - other) > 2 for other in kinds):
            kinds[z] = KINDS[(seed + len(kinds)) % len(KINDS)]
            planted[z] = np.clip(np.rint(make_bad(stack[z - 1 : z + 2], kinds[z], strength, rng)), 0, 255)
    return planted, kinds


def make_bad(around: Voxels, kind: str, strength: float, rng: np.random.Generator) -> Voxels:
    """Return what the middle one of three sections is once it is bad, (y, x) in grey levels."""
    section = around[1].astype(np.float32)
    noise, (height, width) = noise_sd(section), section.shape
    if kind == "lost":
        return np.zeros_like(section)
    if kind == "blank":
        slope = np.linspace(-1, 1, width) * rng.uniform(0, 15)
        return np.asarray(section.mean() + rng.uniform(-30, 30) + slope + rng.normal(0, max(noise, 2), section.shape))
    if kind == "damaged":
        return damage(section, strength, rng)
    if kind == "doubled":
        return np.asarray(around[0 if rng.random() < 0.5 else 2])
    if kind == "shifted":
        angle, length = rng.uniform(0, 2 * np.pi), strength * rng.uniform(0.06, 0.12) * min(height, width)
        shift = (round(length * np.sin(angle)), round(length * np.cos(angle)))
        return np.asarray(ndimage.shift(section, shift, order=0, mode="mirror"))
    return np.asarray(
        ndimage.gaussian_filter(section, strength * rng.uniform(2, 3)) + rng.normal(0, 0.7 * noise, section.shape)
    )


def damage(section: Voxels, strength: float, rng: np.random.Generator) -> Voxels:
    """Lay a fold, dirt or a lost tile over a part of a section."""
    harmed, (height, width) = section.copy(), section.shape
    share, way = strength * rng.uniform(0.15, 0.5), rng.integers(3)
    if way == 0:
        y, x = np.mgrid[:height, :width]
        fold = abs(y / height - rng.uniform(0.3, 0.7) - rng.uniform(-0.5, 0.5) * (x / width - 0.5)) < share / 2
        harmed[fold] = rng.choice([20, 235]) + rng.normal(0, 6, fold.sum())
    elif way == 1:
        cloud = ndimage.gaussian_filter(rng.normal(size=section.shape), min(height, width) / 10)
        dirt = cloud > np.quantile(cloud, 1 - share)
        harmed[dirt] = harmed[dirt] * 0.2 + 10
    else:
        y, x = (int(rng.uniform(0, n * (1 - share**0.5))) for n in section.shape)
        harmed[y : y + int(height * share**0.5), x : x + int(width * share**0.5)] = 0
    return harmed


def judge(stack: Voxels) -> dict[int, str]:
    """Return the sections of a stack that are not ok, and what they are."""
    meter = SectionMeter()
    y, x = (slice(max(0, (n - 256) // 2), (n - 256) // 2 + 256 if n > 256 else n) for n in stack.shape[1:])
    for z, section in enumerate(stack):
        meter.add(z, section, np.ones(section.shape, bool), section[y, x])
    return dict(SectionJudge(meter.found).verdicts())


def fill(stack: Voxels, seed: int = 0) -> dict[str, float]:
    """Return how far filled sections are from the truth: root mean square difference by method, in grey levels."""
    stack = stack[:, :512, :512].astype(np.float32)
    low, high = np.percentile(stack, (1, 99))
    errors: dict[str, list[float]] = {}
    for z in np.random.default_rng(seed).choice(np.arange(1, len(stack) - 1), 12, replace=False):
        before, after = stack[z - 1], stack[z + 1]
        made = {"nearest": before, "linear": (before + after) / 2}
        made["filled"] = interpolate(before, after, (1, 1), (0, 0), (float(low), float(high)))
        for name, section in made.items():
            errors.setdefault(name, []).append(float(np.mean((section - stack[z]) ** 2)))
    return {name: float(np.sqrt(np.mean(values))) for name, values in errors.items()}


def main() -> None:
    """Print what is found of each kind, and the false alarms."""
    import tifffile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--strength", type=float, default=1.0)
    asked = parser.parse_args()
    console = Console()
    planted, found, named, good, alarms = Counter[str](), Counter[str](), Counter[str](), 0, Counter[str]()
    for name, number in STACKS.items():
        stack = tifffile.imread(asked.data / name)
        for seed in range(asked.rounds):
            harmed, kinds = plant(stack, number, 100 + seed, asked.strength)
            verdicts, own = judge(harmed), OWN_FAULTS.get(name, set())
            for z, kind in kinds.items():
                planted[kind] += 1
                found[kind] += z in verdicts
                named[kind] += verdicts.get(z) == ("blank" if kind == "lost" else kind)
            good += len(stack) - len({*kinds, *own})
            alarms[name] += len(set(verdicts) - {*kinds, *own})
        told = (f"{how} {error:.2f}" for how, error in fill(stack).items())
        console.print(name, *told, soft_wrap=True)
    for kind in KINDS:
        console.print(f"{kind:8} {planted[kind]:4} planted, {found[kind]:4} found, {named[kind]:4} called so")
    hits, calls = found.total() / planted.total(), named.total() / planted.total()
    console.print(f"all      {planted.total():4} planted, {hits:.1%} found, {calls:.1%} called so")
    console.print(f"good     {good:4} sections, {alarms.total()} taken for bad ({alarms.total() / good:.2%})")


if __name__ == "__main__":
    main()

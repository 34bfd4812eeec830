"""What a trust volume shows, what it cannot see, and what it costs.

pytest does not collect this file. To run it::

    python tests/benchmarks/trust.py DATA fakes       # which planted fakes the channel "consistency" finds
    python tests/benchmarks/trust.py DATA textures    # the error that em-x4 expects of textures that it has not seen
    python tests/benchmarks/trust.py DATA cost        # processor time and bytes of a job with a trust volume over one without

Fakes are drawn into the output of em-x4: filled discs (vesicles), lines of ten input pixels (membranes) and Gaussian spots
(densities; their size is the full width at half maximum), dark, of a contrast in parts of the data window, anywhere between
pixels. What the channel then shows is what it showed before plus the means of the fake: it is linear. An alarm is where the
channel, smoothed over 0, 0.7, 1.4 or 2.8 input pixels, is larger in one of them than at all but one place per 100 square
micrometres of the output as it was. Each figure is of 100 fakes. The tissue, fly brain in TEM tiles, was in no training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from unseen import SCALE, degrade

import volumetool as vt
from volumetool.degradation import RECIPES
from volumetool.storage.open import open_volume
from volumetool.training.data.textures import draw_textures

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

TILES = "temca-fly-tiles/tiles_col0060-0061_row0140-0141_level1.tif"
NM = 8.0
"""Voxel size of the tiles, and of what is made of them; the input's is four times that."""

SIZES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
CONTRASTS = (0.05, 0.1, 0.2, 0.3, 0.5)
SMOOTHED = (0.0, 0.7, 1.4, 2.8)
PLANTED, SIDE, FINER = 100, 20, 2
"""Fakes per figure; side of the square that one is drawn in, in input pixels; points per output pixel and axis."""


@dataclass(frozen=True)
class Done:
    """An output with its trust volume: image and expected error (c, y, x), consistency on the input's grid, and the input."""

    image: Floats
    error: Floats
    away: Floats
    coarse: Bytes
    noise: float

    @property
    def window(self) -> float:
        """The range from black to white."""
        low, high = np.percentile(self.coarse, (1, 99))
        return float(high - low)


def enhance(fine: Bytes, recipe: str, **options: Any) -> Done:
    """Degrade sections that are no neighbours, uint8 (c, y, x), and run a job on them as channels."""
    coarse = np.stack([degrade(section[None], RECIPES[recipe], seed) for seed, section in enumerate(fine)])  # (c, 1, y, x)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "raw.npy", coarse)
        given = {"model": "em-x4", "trust": folder / "trust.zarr", "voxel_size": (40.0, SCALE * NM, SCALE * NM)} | options
        assert vt.enhance(folder / "raw.npy", folder / "out.zarr", **given).complete
        image, trust = (open_volume(str(folder / each)) for each in ("out.zarr", "trust.zarr"))
        channels = np.asarray(trust[...], np.float32)[:, 0]  # (2c, y, x), on the input's grid
        return Done(
            np.asarray(image[...], np.float32)[:, 0],
            channels[::2].repeat(SCALE, 1).repeat(SCALE, 2),
            channels[1::2],
            coarse[:, 0],
            float(trust.attributes["noise"]),
        )


def block_means(values: Floats, side: int = SCALE) -> Floats:
    """Return means over squares of the last two axes."""
    *rest, y, x = values.shape
    means: Floats = values.reshape(*rest, y // side, side, x // side, side).mean((-3, -1), dtype=np.float32)
    return means


def draw(kind: str, size: float, random: np.random.Generator) -> Floats:
    """Return the coverage of a fake, 0 to 1, on the output's pixels: a square of `SIDE` input pixels, float32 (y, x)."""
    at = (np.arange(SIDE * SCALE * FINER) + 0.5) / (SCALE * FINER) - SIDE / 2  # input pixels
    middle, angle = random.uniform(-0.5, 0.5, 2), random.uniform(0, np.pi)
    y, x = np.meshgrid(at - middle[0], at - middle[1], indexing="ij")
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    shapes = {
        "vesicle": lambda: np.hypot(y, x) <= size / 2,
        "membrane": lambda: (abs(across) <= size / 2) & (abs(along) <= 5),
        "density": lambda: np.exp2(-((2 * np.hypot(y, x) / size) ** 2)),
    }
    return block_means(shapes[kind]().astype(np.float32), FINER)


class Detector:
    """Looks for what is conspicuous in the channel."""

    def __init__(self, away: Floats) -> None:
        self._smooth = [smooth(away, by) for by in SMOOTHED]
        self._spread = [float(each.std()) for each in self._smooth]
        score = self._score(self._smooth)
        peaks = score[(score == ndimage.maximum_filter(score, (1, 7, 7)))]
        self.area = away.size * (SCALE * NM / 1000) ** 2  # square micrometres
        self.limit = float(np.sort(peaks)[-1 - int(self.area / 100)])  # so many stand above it

    def _score(self, smoothed: list[Floats]) -> Floats:
        return np.max([abs(each) / spread for each, spread in zip(smoothed, self._spread, strict=True)], axis=0)

    def finds(self, change: Floats, random: np.random.Generator) -> bool:
        """Return whether a change of the channel, (y, x), is found where it is put: anywhere."""
        count, height, width = self._smooth[0].shape
        at = random.integers(count), random.integers(height - SIDE), random.integers(width - SIDE)
        cut = at[0], slice(at[1], at[1] + SIDE), slice(at[2], at[2] + SIDE)
        own = [each[cut] + smooth(change[None], by)[0] for each, by in zip(self._smooth, SMOOTHED, strict=True)]
        near = slice(SIDE // 2 - 4, SIDE // 2 + 4)
        return bool(self._score(own)[near, near].max() > self.limit)


def smooth(values: Floats, by: float) -> Floats:
    """Smooth sections (c, y, x) by a Gaussian."""
    smoothed: Floats = ndimage.gaussian_filter(values, (0, by, by), mode="constant") if by else values
    return smoothed


def fakes(console: Console, tiles: Bytes) -> None:
    """Print which fakes are found."""
    for recipe in ("sem-fast", "pssr2-poisson"):
        done, random = enhance(tiles, recipe), np.random.default_rng(0)
        detector = Detector(done.away)
        console.print(
            f"\n{recipe}: {detector.area:.0f} square micrometres; noise {done.noise:.1f} grey values, "
            f"{done.noise / done.window:.3f} of the window; the channel's spread {done.away.std():.1f}"
        )
        table = Table(*("fake", "size", *(f"contrast {contrast}" for contrast in CONTRASTS), "in the null space, 0.5"))
        for kind in ("vesicle", "membrane", "density"):
            for size in SIZES:
                shares = []
                for contrast in CONTRASTS:
                    changes = (-contrast * done.window * block_means(draw(kind, size, random)) for _ in range(PLANTED))
                    shares.append(np.mean([detector.finds(change, random) for change in changes]))
                hidden = []
                for _ in range(PLANTED):
                    fake = draw(kind, size, random)
                    fake -= block_means(fake).repeat(SCALE, 0).repeat(SCALE, 1)
                    hidden.append(detector.finds(-0.5 * done.window * block_means(fake), random))
                table.add_row(kind, f"{size:g}", *(f"{share:.0%}" for share in shares), f"{np.mean(hidden):.0%}")
        console.print(table)


def textures(console: Console, tiles: Bytes) -> None:
    """Print the expected and the made error of tissue and of textures, and how often 90 % intervals hold."""
    table = Table("recipe", "set", "expected", "made", "expected / tissue's", "made / tissue's", "within 90 %")
    factor = vt.load_model("em-x4").card.error_factor or 1.0
    drawn = {kind: draw_textures((4, 512, 512), (NM, NM, NM), (kind,), 2000) for kind in ("granules", "chromatin")}
    for recipe in ("pssr-em", "pssr2-poisson", "sem-fast"):
        known = (1.0, 1.0)
        for name, fine in {"tissue": tiles, **drawn}.items():
            done = enhance(fine, recipe)
            wrong = abs(done.image - fine)
            means = float(done.error.mean() / done.window), float(wrong.mean() / done.window)
            known = means if name == "tissue" else known
            held = float((wrong <= np.log(10) * factor * done.error + 0.5).mean())
            ratios = (f"{mean / of:.2f}" for mean, of in zip(means, known, strict=True))
            table.add_row(recipe, name, f"{means[0]:.4f}", f"{means[1]:.4f}", *ratios, f"{held:.0%}")
    console.print(table)


def cost(console: Console, tiles: Bytes) -> None:
    """Print processor seconds of one core, and stored bytes, of jobs with and without a trust volume, in turn."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait for each other would count, too
    deep = np.concatenate(
        [np.roll(tiles[:, :536, :640], shift, 2) for shift in range(0, 512, 32)]
    )  # 64 sections: whole chunks of both volumes
    for precision in ("bfloat16", "float32"):
        plain, trusted = [], []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "raw.npy", degrade(deep, RECIPES["sem-fast"], 0))
            for turn in range(5):
                plain.append(measured(folder, f"plain-{turn}", precision=precision))
                trusted.append(
                    measured(folder, f"trusted-{turn}", precision=precision, trust=folder / f"trusted-{turn}-t.zarr")
                )
        (alone, bytes_alone), (both, bytes_both) = min(plain[1:]), min(trusted[1:])  # the first ones warm up
        console.print(
            f"{precision}: {1e9 * alone / deep.size:.0f} ns for each voxel without, {1e9 * both / deep.size:.0f} with, "
        )
        console.print(f"ratio {both / alone:.2f}; stored bytes, ratio {bytes_both / bytes_alone:.2f}")


def measured(folder: Path, name: str, **options: Any) -> tuple[float, int]:
    """Run a job; return its processor seconds, and the bytes of all shards that it stored."""
    given = {"input": str(folder / "raw.npy"), "output": str(folder / f"{name}.zarr"), "model": "em-x4"}
    plan = vt.plan(vt.Job(**given, voxel_size=(40.0, SCALE * NM, SCALE * NM), **options))
    before = sum(os.times()[:4])
    assert vt.run(plan).complete
    seconds = sum(os.times()[:4]) - before
    return seconds, sum(file.stat().st_size for file in folder.glob(f"{name}*/**/c/**/*") if file.is_file())


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("what", choices=("fakes", "textures", "cost"))
    given = parser.parse_args()
    tiles = tifffile.imread(given.data / TILES)[:, :1072, :1280]  # (4, y, x)
    {"fakes": fakes, "textures": textures, "cost": cost}[given.what](Console(width=140), tiles)


if __name__ == "__main__":
    main()

"""Made-up textures that few data sets show: fine grain everywhere, sheaths, bundles, and nothing at all; drawn without noise.

A network that has seen neuropil alone takes ribosomes and chromatin for noise, wipes them off, and draws membranes in their
place. Here they are, with their sizes in nm, for voxels of any size. To write a TIFF stack that a training takes as a source::

    python -m volumetool.training.data.textures data/textures.tif --voxel-size 8,8,8 --shape 96,512,512
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from volumetool.training.data.phantom import distance_to_border, smooth_noise

Floats = NDArray[np.float32]

TERRITORY = 1100.0
"""nm: about the side of a region of one texture."""

_MEMBRANE = 6.0  # nm, standard deviation of a membrane's profile
_AT_ONCE = 2**20  # points


@dataclass(frozen=True)
class _Grid:
    """The grid on which a texture is drawn.

    Attributes
    ----------
    shape : tuple of int
        Voxels along z, y, x.
    voxel : ndarray
        float64 (3,), voxel size along z, y, x in nm.
    rng : numpy.random.Generator
        Source of all random numbers.
    """

    shape: tuple[int, int, int]
    voxel: NDArray[np.float64]
    rng: np.random.Generator

    @property
    def size(self) -> NDArray[np.float64]:
        """The sides in nm, float64 (3,)."""
        return np.array(self.shape) * self.voxel

    def noise(self, sigma: float) -> Floats:
        """Draw smooth noise of unit variance, float32 (z, y, x), with bumps of a standard deviation of `sigma` nm."""
        return smooth_noise(self.shape, (sigma / self.voxel).tolist(), self.rng)

    def scatter(self, density: float, where: Floats | None = None) -> NDArray[np.float64]:
        """Scatter points, so many per cubic micrometre: float64 (points, 3) in nm; kept with probability `where` if given."""
        room = self.size + 200  # some lie beyond the faces and reach in
        points = self.rng.random((self.rng.poisson(density * float(np.prod(room / 1000))), 3)) * room - 100
        if where is None:
            return points
        index = tuple(np.clip((points / self.voxel).astype(int), 0, np.array(self.shape) - 1).T)
        kept: NDArray[np.float64] = points[self.rng.random(len(points)) < where[index]]
        return kept

    def blobs(self, points: NDArray[np.float64], radius: float) -> Floats:
        """Draw soft balls of one radius, 1 in their middle; a voxel larger than a ball shows only its share of it.

        Parameters
        ----------
        points : ndarray
            float64 (points, 3), centres of the balls in nm.
        radius : float
            Radius of all balls, in nm.

        Returns
        -------
        ndarray
            float32 (z, y, x).
        """
        drawn = np.zeros(int(np.prod(self.shape)), np.float32)
        for some in np.array_split(points, 1 + len(points) // _AT_ONCE):
            place = some / self.voxel - 0.5  # voxel centres are whole numbers
            first = np.floor(place).astype(int)
            part = place - first
            for corner in np.ndindex(2, 2, 2):
                at = first + corner
                inside = np.all((at >= 0) & (at < self.shape), axis=1)
                weight = np.prod(np.where(np.array(corner) == 1, part, 1 - part), axis=1)[inside]
                np.add.at(drawn, np.ravel_multi_index(tuple(at[inside].T), self.shape), weight.astype(np.float32))
        sigma = 0.6 * radius / self.voxel
        peak = (2 * np.pi) ** 1.5 * float(np.prod(sigma))
        balls: Floats = ndimage.gaussian_filter(drawn.reshape(self.shape), sigma) * np.float32(peak)
        return balls


def draw_textures(
    shape: tuple[int, int, int],
    voxel_size: tuple[float, float, float],
    kinds: tuple[str, ...] = (),
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draw a volume of textures, without acquisition noise.

    Parameters
    ----------
    shape : tuple of int
        Voxels along z, y, x. 96 x 512 x 512 takes a minute or two and 2 GB.
    voxel_size : tuple of float
        nm along z, y, x. Textures are isotropic in nm; a voxel larger than a grain shows it paler.
    kinds : tuple of str
        Names in `TEXTURES`; all by default. Regions of about a micrometre hold one each, with a membrane where two kinds meet;
        a volume of one kind has no such borders.
    seed : int
        Another seed, another volume; all arguments the same, the same bytes.

    Returns
    -------
    ndarray
        uint8 (z, y, x); membranes dark (about 60), empty resin bright (about 190).
    """
    grid = _Grid(shape, np.array(voxel_size), np.random.default_rng(seed))
    chosen = kinds or tuple(TEXTURES)
    grey = TEXTURES[chosen[0]](grid)
    if len(chosen) > 1:
        border, kind = _territories(grid, len(chosen))
        for number, name in enumerate(chosen[1:], start=1):
            np.copyto(grey, TEXTURES[name](grid), where=kind == number)
        _darken(grey, 60 + 6 * grid.noise(100), np.exp(-0.5 * np.square(border / _MEMBRANE)))
    drawn: NDArray[np.uint8] = np.rint(np.clip(ndimage.gaussian_filter(grey, 0.7), 8, 235)).astype(np.uint8)
    return drawn


def _territories(grid: _Grid, kinds: int) -> tuple[Floats, NDArray[np.intp]]:
    """Return the distance in nm to the next region of another kind, and the kind, both (z, y, x)."""
    room = grid.size + 2 * TERRITORY
    count = max(kinds, round(float(np.prod(room / TERRITORY))))
    points = (grid.rng.random((count, 3)) * room - TERRITORY).astype(np.float32)
    kind = grid.rng.permutation(np.arange(count) % kinds)
    step = [max(1, int(16 / side)) for side in grid.voxel]  # found about every 16 nm and interpolated
    coarse = [-(-size // by) + 1 for size, by in zip(grid.shape, step, strict=True)]
    axes = (
        np.arange(n, dtype=np.float32) * np.float32(by * side) for n, by, side in zip(coarse, step, grid.voxel, strict=True)
    )
    place: NDArray[Any] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (z, y, x, 3), nm
    for axis in range(3):
        for amplitude, sigma in ((60, 250), (12, 60)):
            place[..., axis] += amplitude * smooth_noise(tuple(coarse), (sigma / grid.voxel / step).tolist(), grid.rng)
    border, label = distance_to_border(cKDTree(points), place.reshape(-1, 3), points, kind, near=min(count, 8))
    far = np.nan_to_num(border, nan=TERRITORY).reshape(coarse)
    fine: Floats = ndimage.affine_transform(far, 1 / np.array(step), output_shape=grid.shape, order=1)
    nearest = np.ix_(*(np.arange(n) // by for n, by in zip(grid.shape, step, strict=True)))
    return fine, label.reshape(coarse)[nearest]


def _cytoplasm(grid: _Grid, tone: float) -> Floats:
    cytoplasm: Floats = tone + 6 * grid.noise(300) + 5 * grid.noise(40) + 5 * grid.noise(12)
    return cytoplasm


def _granules(grid: _Grid) -> Floats:
    """Draw cytoplasm full of ribosomes, 15 to 30 nm wide, in crowds and clearings."""
    grey = _cytoplasm(grid, 172)
    crowd = _share(grid.noise(150) + grid.noise(50))
    for radius in (7.5, 9.0, 11.0, 13.0, 15.0):
        _darken(grey, 55, grid.blobs(grid.scatter(6000, crowd), radius))
    return grey


def _dense_cores(grid: _Grid) -> Floats:
    """Draw secretory granules, 80 to 350 nm wide, dark all through or with a clear rim, among sparse ribosomes."""
    grey = _cytoplasm(grid, 165)
    for radius in (8.0, 11.0, 14.0):
        _darken(grey, 70, grid.blobs(grid.scatter(1500), radius))
    for centre in grid.scatter(14):
        radius = float(grid.rng.uniform(40, 175))
        rim = float(grid.rng.choice((0.0, 0.15, 0.3))) * radius
        box = tuple(
            slice(max(0, int((c - radius - 15) / v)), max(0, min(n, int((c + radius + 15) / v) + 2)))
            for c, v, n in zip(centre, grid.voxel, grid.shape, strict=True)
        )
        axes = [(np.arange(part.start, part.stop) + 0.5) * v for part, v in zip(box, grid.voxel, strict=True)]
        away = [np.square(axis - c) for axis, c in zip(axes, centre, strict=True)]
        depth = radius - np.sqrt(away[0][:, None, None] + away[1][:, None] + away[2]).astype(np.float32)  # nm below its surface
        _darken(grey[box], 178, np.clip(depth / 8, 0, 1))
        _darken(grey[box], float(grid.rng.uniform(45, 115)), np.clip((depth - rim) / 12, 0, 1))
        _darken(grey[box], 75, 0.7 * np.exp(-0.5 * np.square(depth / _MEMBRANE)))
    return grey


def _chromatin(grid: _Grid) -> Floats:
    """Draw the inside of a nucleus: bright euchromatin with dark grains, clumps of heterochromatin, no membrane."""
    grey = 168 + 5 * grid.noise(300) + 7 * grid.noise(30) + 9 * grid.noise(11)
    clumps = _share(4 * (grid.noise(130) + 0.5 * grid.noise(45) - 0.6))
    _darken(grey, 118, 0.8 * clumps)
    for radius in (6.0, 9.0, 13.0, 18.0):
        _darken(grey, 66, 0.9 * grid.blobs(grid.scatter(70_000 / radius, 0.25 + 0.75 * clumps), radius))
    return grey


def _myelin(grid: _Grid) -> Floats:
    """Draw sheaths of lamellae, 12 to 22 nm apart, around bright axons."""
    grey = _cytoplasm(grid, 150)
    place = _places(grid.shape, grid.voxel)
    for axis in range(3):
        place[..., axis] += 60 * grid.noise(260) + 8 * grid.noise(70)
    for _ in range(max(1, round(float(np.prod(grid.size)) ** (2 / 3) / 700**2))):
        heading = _direction(grid.rng)
        away = place - (grid.rng.random(3) * grid.size).astype(np.float32)
        distance = np.sqrt(np.maximum(np.sum(away**2, axis=-1) - (away @ heading) ** 2, 0))
        outer = float(grid.rng.uniform(200, 600))
        inner = outer * float(grid.rng.uniform(0.45, 0.8))
        period = float(grid.rng.uniform(12, 22))
        waves = np.cos(2 * np.pi * (outer - distance) / period)
        for axis, n in enumerate(grid.shape):  # a voxel averages over the lamellae that cross it
            if n > 1:
                waves *= np.maximum(np.sinc(np.gradient(distance, axis=axis) / period), 0)
        _darken(grey, 176 + 5 * grid.noise(20), np.clip((inner + 6 - distance) / 6, 0, 1))
        sheath = np.clip((outer - distance) / 5, 0, 1) * np.clip((distance - inner) / 5, 0, 1)
        _darken(grey, 88 - 42 * waves, sheath)
    return grey


def _filaments(grid: _Grid) -> Floats:
    """Draw bundles of thin filaments and of microtubules, each with a direction of its own."""
    grey = _cytoplasm(grid, 172)
    rods: dict[float, list[NDArray[np.float64]]] = {5.0: [], 12.0: []}  # by radius in nm
    for _ in range(max(3, round(12 * float(np.prod(grid.size / 1000))))):
        heading, centre = _direction(grid.rng), grid.rng.random(3) * grid.size
        radius = float(grid.rng.choice(list(rods)))
        width, gap = float(grid.rng.uniform(60, 300)), radius * float(grid.rng.uniform(2.2, 5))
        count = max(3, round((2 * width / gap) ** 2))
        offsets = grid.rng.normal(0, width / 2, (count, 3))  # along the heading too: they end at different places
        along = np.arange(-700, 700, radius / 2)
        sway = np.cumsum(np.cumsum(grid.rng.normal(0, 2e-4 * radius**2, (3, len(along))), axis=1), axis=1).T
        points = ((along[:, None] * heading + sway)[None] + offsets[:, None] + centre).reshape(-1, 3)
        rods[radius].append(points[np.all((points > -50) & (points < grid.size + 50), axis=1)])
    for radius, points_of_all in rods.items():
        if points_of_all:
            _darken(grey, 85, grid.blobs(np.concatenate(points_of_all), radius) / 2.4)
    return grey


def _resin(grid: _Grid) -> Floats:
    """Draw empty resin: flat, with a weak texture."""
    resin: Floats = 190 + 3 * grid.noise(400) + 2.5 * grid.noise(40) + 1.5 * grid.noise(10)
    return resin


TEXTURES: Mapping[str, Callable[[_Grid], Floats]] = MappingProxyType(
    {
        "granules": _granules,
        "dense-cores": _dense_cores,
        "chromatin": _chromatin,
        "myelin": _myelin,
        "filaments": _filaments,
        "resin": _resin,
    }
)
"""The textures by name."""


def _darken(grey: Floats, tone: Floats | float, weight: Floats) -> None:
    grey += np.minimum(weight, 1) * (tone - grey)  # in place, towards a tone: what overlaps does not add up to black


def _places(shape: Sequence[int], step: NDArray[np.float64]) -> Floats:
    axes = (np.arange(n, dtype=np.float32) * np.float32(by) for n, by in zip(shape, step, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)  # (z, y, x, 3), nm


def _share(noise: NDArray[Any]) -> Floats:
    return np.asarray(1 / (1 + np.exp(-2 * noise)), np.float32)


def _direction(rng: np.random.Generator) -> NDArray[np.float32]:
    direction = rng.normal(size=3)
    unit: NDArray[np.float32] = (direction / np.linalg.norm(direction)).astype(np.float32)
    return unit


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a TIFF stack as the command line asks."""
    parser = argparse.ArgumentParser(description="Draw textures into a TIFF stack.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", default="96,512,512", help="voxels, z,y,x")
    parser.add_argument("--voxel-size", default="8,8,8", help="nm, z,y,x")
    parser.add_argument("--kinds", nargs="*", choices=TEXTURES, default=[], help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    z, y, x = (int(part) for part in options.shape.split(","))
    nm = tuple(float(part) for part in options.voxel_size.split(","))
    volume = draw_textures((z, y, x), (nm[0], nm[1], nm[2]), tuple(options.kinds), options.seed)
    tifffile.imwrite(options.output, volume, compression="zlib")


if __name__ == "__main__":
    main()

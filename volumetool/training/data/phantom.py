"""A made-up piece of brain: an EM-like volume for demos and tests, drawn from a seed and free of anybody's licence.

Neurites are chains of points that walk through the volume. A voxel belongs to the chain whose point is nearest, and its
distance to the border with the next chain draws the membrane. Mitochondria lie along thick chains, vesicles gather where a
synapse darkens a membrane. Sizes are meant for voxels of 8 nm, equal on all axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Floats = NDArray[np.float32]

_SPACING = 19.0  # voxels between the points of a chain
_COARSE = 2  # the border distance is found on every second voxel and interpolated


@dataclass(frozen=True)
class Phantom:
    """An EM-like volume and what it shows.

    Attributes
    ----------
    grey : ndarray
        uint8 (z, y, x); membranes dark (about 60), cytoplasm bright (about 165), isotropic, without acquisition noise.
    labels : ndarray
        int32 (z, y, x), the neurite that each voxel belongs to, from 1; borders are known to two voxels.
    vesicles : ndarray
        float32 (vesicles, 3), their centres along z, y, x in voxels; each is a dark shell of radius 2.2 to 3.0.
    """

    grey: NDArray[np.uint8]
    labels: NDArray[np.int32]
    vesicles: Floats


def phantom(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Draw an EM-like volume: the grey values of `draw_phantom`.

    Parameters
    ----------
    shape : tuple of int
        Voxels along z, y, x. 64 x 512 x 512 takes some ten seconds.
    seed : int
        Another seed, another volume; the same seed and shape, the same bytes.

    Returns
    -------
    ndarray
        uint8 (z, y, x); membranes dark (about 60), cytoplasm bright (about 165), isotropic, without acquisition noise.
    """
    return draw_phantom(shape, seed).grey


def draw_phantom(shape: tuple[int, int, int], seed: int = 0, *, room: float = 0.0) -> Phantom:
    """Draw an EM-like volume and say what it shows.

    Parameters
    ----------
    shape, seed
        As for `phantom`.
    room : float
        Smallest distance between the centres of two vesicles of a cluster, in voxels. At 0 they overlap to a dark cloud; from
        about 7 on they only touch and can be told apart.

    Returns
    -------
    Phantom
        Grey values, labels, vesicles.
    """
    rng = np.random.default_rng(seed)
    chains = _grow(shape, rng)
    border, label = _partition(shape, chains, rng)
    tone = rng.normal(168, 9, chains.labels.max() + 1).astype(np.float32)
    tone[rng.random(tone.size) < 0.06] -= 30  # some cells are dark all over
    grey = tone[label] + 5 * smooth_noise(shape, 5, rng) + 5 * smooth_noise(shape, 2.2, rng) + 9 * smooth_noise(shape, 1.1, rng)
    _draw_mitochondria(grey, border, label, chains, rng)
    vesicles = _draw_synapses(grey, border, label, rng, room)
    _stain(grey, 58 + 8 * smooth_noise(shape, 14, rng), np.exp(-0.5 * np.square(border / 1.45)))
    grey = ndimage.gaussian_filter(grey, 0.7)
    drawn = np.rint(np.clip(grey, 8, 235)).astype(np.uint8)
    return Phantom(drawn, (label + 1).astype(np.int32), vesicles)


@dataclass(frozen=True)
class _Chains:
    points: Floats  # (points, 3), voxels
    labels: NDArray[np.intp]  # (points,), the chain that each point belongs to
    thick: NDArray[np.bool_]  # (chains,)


def _grow(shape: tuple[int, int, int], rng: np.random.Generator) -> _Chains:
    room = np.array(shape) + 4 * _SPACING  # the tissue goes on beyond the faces
    volume = float(np.prod(room))
    points: list[Floats] = []
    labels: list[int] = []
    thick: list[bool] = []
    filled = 0.0
    while filled < 1.0:
        radius = _SPACING * min(1.8, float(rng.lognormal(-0.15, 0.65)))
        heading = rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        spot = rng.uniform(0, 1, 3) * room - 2 * _SPACING
        for _ in range(int(rng.integers(4, 40))):
            # A thick chain is a bundle of points around its axis, so that it claims a wider territory.
            count = max(1, round((radius / _SPACING) ** 2 * 2))
            points.append((spot + rng.normal(0, 0.45 * radius, (count, 3))).astype(np.float32))
            labels += [len(thick)] * count
            filled += count * (0.95 * _SPACING) ** 3 / volume
            heading += 0.28 * rng.normal(size=3)
            heading /= np.linalg.norm(heading)
            spot = spot + heading * _SPACING
            if np.any(spot < -2 * _SPACING) or np.any(spot > room - 2 * _SPACING):
                break
        thick.append(radius > 0.95 * _SPACING)
    return _Chains(np.concatenate(points), np.array(labels), np.array(thick))


def _partition(shape: tuple[int, int, int], chains: _Chains, rng: np.random.Generator) -> tuple[Floats, NDArray[np.intp]]:
    coarse = [-(-size // _COARSE) + 1 for size in shape]
    place = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) * _COARSE for n in coarse), indexing="ij"), axis=-1)
    for axis in range(3):
        place[..., axis] += 4.5 * smooth_noise(tuple(coarse), 8, rng) + 1.4 * smooth_noise(tuple(coarse), 3.5, rng)
    tree = cKDTree(chains.points)
    voxels = place.reshape(-1, 3)
    border, label = distance_to_border(tree, voxels, chains.points, chains.labels, near=6)
    inner = np.flatnonzero(np.isnan(border))  # all near points belong to one chain: look farther
    border[inner], label[inner] = distance_to_border(tree, voxels[inner], chains.points, chains.labels, near=min(64, tree.n))
    border[np.isnan(border)] = 1.5 * _SPACING
    fine = border.reshape(coarse).astype(np.float32)
    for axis, size in enumerate(shape):
        fine = _double(fine, axis).take(range(size), axis)
    nearest = np.ix_(*(np.arange(size) // _COARSE for size in shape))
    return fine, label.reshape(coarse)[nearest]


def distance_to_border(
    tree: cKDTree, voxels: Floats, points: Floats, labels: NDArray[np.intp], near: int
) -> tuple[Floats, NDArray[np.intp]]:
    """Find where voxels lie among labelled points, of which each owns what is nearest to it.

    Parameters
    ----------
    tree : scipy.spatial.cKDTree
        Tree of the points.
    voxels : ndarray
        float32 (voxels, 3).
    points, labels : ndarray
        float32 (points, 3) and whole numbers (points,).
    near : int
        So many of the nearest points are looked at.

    Returns
    -------
    border : ndarray
        float32 (voxels,), the distance to the territory of another label; NaN where all near points have the same.
    label : ndarray
        (voxels,), that of the nearest point.
    """
    distance, index = map(np.asarray, tree.query(voxels, k=near, workers=-1))  # (voxels, near)
    found = labels[index]
    other = np.argmax(found != found[:, :1], axis=1)  # the nearest point of another chain; 0 if there is none
    rows = np.arange(len(other))
    mine, its = points[index[:, 0]], points[index[rows, other]]
    apart = np.linalg.norm(mine - its, axis=1) + 1e-3
    border = (distance[rows, other] ** 2 - distance[:, 0] ** 2) / (2 * apart)  # to the plane halfway between the two
    return np.where(other == 0, np.nan, border).astype(np.float32), found[:, 0]


def _double(grid: Floats, axis: int) -> Floats:
    first, second = np.delete(grid, -1, axis), np.delete(grid, 0, axis)
    pairs = np.stack([first, (first + second) / 2], axis + 1)  # linear interpolation on every second place
    return pairs.reshape(*grid.shape[:axis], -1, *grid.shape[axis + 1 :])


def _stain(grey: Floats, tone: Floats | float, weight: Floats) -> None:
    grey += weight * (tone - grey)  # in place, towards a tone: stains that overlap do not add up to black


def _draw_mitochondria(
    grey: Floats, border: Floats, label: NDArray[np.intp], chains: _Chains, rng: np.random.Generator
) -> None:
    inside = np.argwhere(border[::4, ::8, ::8] > 9) * (4, 8, 8)
    count = round(grey.size / 300_000)
    for spot in rng.permutation(inside)[:count]:
        if not chains.thick[label[tuple(spot)]]:
            continue
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        length, radius = float(rng.uniform(8, 60)), float(rng.uniform(11, 22))
        box, offset = _box(spot, length + radius + 6, grey.shape)
        along = offset @ axis
        bent = offset - 0.004 * along[..., None] ** 2 * np.cross(axis, (1.0, 0.3, 0.2))
        rest = bent - np.clip(bent @ axis, -length, length)[..., None] * axis
        wobble = 2.5 * smooth_noise(rest.shape[:-1], 7, rng)
        # Distance to its surface, positive inside; it keeps clear of the cell's own membrane.
        depth = np.minimum(radius - np.linalg.norm(rest, axis=-1) + wobble, border[box] - 3.5)
        depth[label[box] != label[tuple(spot)]] = -9
        folds = np.sin(along / 1.4 + 2.2 * smooth_noise(along.shape, 7, rng)) * np.clip((depth - 2.5) / 3, 0, 1)
        matrix = 100 + 16 * folds + 7 * smooth_noise(along.shape, 2, rng)
        _stain(grey[box], matrix, np.clip(depth + 0.5, 0, 1))
        _stain(grey[box], 62.0, 0.85 * np.exp(-0.5 * np.square(depth / 1.4)))


def _draw_synapses(grey: Floats, border: Floats, label: NDArray[np.intp], rng: np.random.Generator, room: float) -> Floats:
    centres: list[Floats] = []
    close = np.argwhere(np.abs(border[2::4, 4::8, 4::8] - 7) < 2) * (4, 8, 8) + (2, 4, 4)
    for spot in rng.permutation(close)[: round(grey.size / 250_000)]:
        box, offset = _box(spot, 26, grey.shape)
        mine = label[box] == label[tuple(spot)]
        far = np.linalg.norm(offset, axis=-1)
        # The membrane near the cluster thickens and darkens towards the cluster's side.
        active = np.exp(-0.5 * np.square(far / 8)) * np.exp(-0.5 * np.square(border[box] / 4))
        _stain(grey[box], 42.0, 0.9 * active)
        places = np.argwhere(mine & (border[box] > 4.5) & (far < 25)) + [part.start for part in box]
        order, count = rng.permutation(places), int(rng.integers(30, 120))
        cluster = order[:count] if room <= 0 else _spread(order, count, room)
        centres += [_draw_vesicle(grey, voxel, rng) for voxel in cluster]
    return np.reshape(centres, (-1, 3)).astype(np.float32)


def _spread(order: NDArray[np.intp], count: int, room: float) -> list[NDArray[np.intp]]:
    chosen: list[NDArray[np.intp]] = []
    for voxel in order:
        if len(chosen) == count:
            break
        if all(np.sum((voxel - other) ** 2) >= room**2 for other in chosen):
            chosen.append(voxel)
    return chosen


def _draw_vesicle(grey: Floats, voxel: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    box, offset = _box(voxel, 6, grey.shape)
    shift = rng.uniform(-0.5, 0.5, 3)
    far = np.linalg.norm(offset + shift, axis=-1)
    _stain(grey[box], 105.0, 0.9 * np.exp(-0.5 * np.square((far - rng.uniform(2.2, 3.0)) / 0.8)))
    centre: Floats = (voxel - shift).astype(np.float32)
    return centre


def _box(centre: NDArray[np.intp], reach: float, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    box = tuple(slice(max(0, int(c - reach)), min(n, int(c + reach) + 1)) for c, n in zip(centre, shape, strict=True))
    grid = np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij")
    offset = (np.stack(grid, axis=-1) - centre).astype(np.float64)
    return box, offset


def smooth_noise(shape: tuple[int, ...], sigma: float | Sequence[float], rng: np.random.Generator) -> Floats:
    """Draw smooth noise of unit variance: Gaussian bumps of random height on a grid, summed axis by axis.

    Parameters
    ----------
    shape : tuple of int
        Shape of the noise.
    sigma : float or sequence of float
        Standard deviation of a bump in voxels, of all axes or of each.
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    ndarray
        float32 of `shape`.
    """
    sigmas = [sigma] * len(shape) if isinstance(sigma, int | float) else sigma
    bumps = [int(size / width) + 7 for size, width in zip(shape, sigmas, strict=True)]
    noise = rng.standard_normal(bumps, dtype=np.float32)
    for axis, (size, count, width) in enumerate(zip(shape, bumps, sigmas, strict=True)):
        steps = np.arange(size)[:, None] / width - (np.arange(count) - 3)
        weights = np.exp(-0.5 * steps**2).astype(np.float32)  # (size, count)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        noise = np.moveaxis(np.tensordot(weights, noise, (1, axis)), 0, axis)
    return noise

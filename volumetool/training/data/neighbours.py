"""Neighbouring sections as they are in daily life: displaced, differently stained, out of focus, lost.

A 2.5D network that has seen nothing but well aligned neighbours relies on them, and does harm where they are not. So training
displaces and spoils them, and the section in the middle, whose truth is asked for, stays as it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from volumetool.geometry import mirror_index

Floats = NDArray[np.float32]


class NeighbourConfig(BaseModel):
    """Degradation of the neighbouring sections of a 2.5D model.

    Parameters
    ----------
    displaced : float
        Share of the crops whose sections are shifted and sheared against each other.
    shift : float
        Largest shift of a neighbour, in input voxels along y and x.
    shear : float
        Largest shear of a neighbour, in voxels along x per voxel along y.
    tone : float
        Standard deviation, from section to section, of the gain (as a factor) and of the offset (as a share of the range).
    spoilt : float
        Share of the crops with spoilt neighbours: some blank, blurred, repeated, noisier or of another place; or all
        of them; or mirrored at a face of the volume; or none at all, so that the section stands alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    displaced: float = Field(0.5, ge=0, le=1)
    shift: float = Field(3.0, ge=0)
    shear: float = Field(0.02, ge=0, lt=1)
    tone: float = Field(0.05, ge=0)
    spoilt: float = Field(0.4, ge=0, le=1)

    def margin(self, side: int, scale: int) -> int:
        """Return the fine voxels in plane that displacing a crop needs on each side."""
        if not self.displaced:
            return 0
        return int(np.ceil(self.shift * scale + self.shear * (side / 2 + self.shift * scale)))


def displace(fine: Floats, config: NeighbourConfig, margin: int, scale: int, rng: np.random.Generator) -> Floats:
    """Cut the margin off a stack of sections, the neighbours' displaced and of another tone.

    Parameters
    ----------
    fine : ndarray
        float32 (sections, y + 2 margin, x + 2 margin) in 0..1; the section in the middle stays where and as it is.
    config : NeighbourConfig
        How far sections are displaced, and how much their tone differs.
    margin : int
        Fine voxels on each side, at least `config.margin`.
    scale : int
        Fine voxels per input voxel, in plane.
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    ndarray
        float32 (sections, y, x), clipped to 0..1.
    """
    count, middle = len(fine), len(fine) // 2
    y, x = (size - 2 * margin for size in fine.shape[1:])
    shifts, shears = np.zeros((count, 2)), np.zeros(count)
    if config.displaced and rng.random() < config.displaced:
        most = config.shift * scale
        # Slow drift and independent jitter, each of any size up to the largest.
        drift = rng.normal(0, 1, 2) * (np.arange(count) - middle)[:, None] / max(1, middle)
        jitter = rng.normal(0, 1, (count, 2))
        shifts = np.clip(most * (rng.random() * drift + rng.random() ** 2 * jitter), -most, most)
        shears = np.clip(config.shear * rng.random() * rng.normal(0, 0.5, count), -config.shear, config.shear)
    shifts[middle], shears[middle] = 0, 0
    rows = margin + np.arange(y)
    cut = np.empty((count, y, x), np.float32)
    for number, ((down, right), shear) in enumerate(zip(np.rint(shifts).astype(int), shears, strict=True)):
        lean = np.rint(shear * (np.arange(y) - y / 2)).astype(int)  # (y,)
        columns = margin + right + lean[:, None] + np.arange(x)  # (y, x)
        cut[number] = fine[number][(rows + down)[:, None], columns]  # (y, x), without the margin
    if not config.tone:
        return cut
    gains, offsets = 1 + rng.normal(0, config.tone, count), rng.normal(0, config.tone, count)
    gains[middle], offsets[middle] = 1, 0
    toned = (cut - np.float32(0.5)) * _column(gains) + _column(0.5 + offsets)  # (sections, y, x)
    clipped: Floats = np.clip(toned, 0, 1)
    return clipped


def spoil(coarse: Floats, config: NeighbourConfig, rng: np.random.Generator) -> Floats:
    """Spoil the neighbours of some crops, in place.

    Parameters
    ----------
    coarse : ndarray
        float32 (crops, sections, y, x) in 0..1, as a detector gives them.
    config : NeighbourConfig
        The share of crops to spoil.
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    ndarray
        `coarse`.
    """
    for crop in coarse:
        if not config.spoilt or rng.random() >= config.spoilt:
            continue
        middle = len(crop) // 2
        how = rng.choice(("some", "all", "face", "alone"), p=(0.5, 0.15, 0.2, 0.15))
        if how == "alone":
            crop[:] = crop[middle]
        elif how == "face":
            crop[:] = _at_face(crop, int(rng.integers(1, middle + 1)), below=rng.random() < 0.5)
        else:
            share = 1.0 if how == "all" else rng.uniform(0.1, 0.7)
            foreign = coarse[int(rng.integers(len(coarse)))]
            for z in np.flatnonzero(rng.random(len(crop)) < share):
                if z != middle:
                    crop[z] = _spoilt(crop, int(z), foreign, rng)
    return coarse


def _at_face(crop: Floats, missing: int, *, below: bool) -> Floats:
    """Return the sections as at a face of the volume, beyond which `missing` of them are mirrored."""
    mirrored = mirror_index(-missing, len(crop) - missing, len(crop) - missing) + missing
    return crop[::-1][mirrored] if below else crop[mirrored]


def _spoilt(crop: Floats, z: int, foreign: Floats, rng: np.random.Generator) -> Floats:
    """Return what stands for a section of a crop (sections, y, x) when something went wrong with it: float32 (y, x)."""
    section = crop[z]
    how = rng.choice(("blank", "blurred", "repeated", "noisier", "foreign"))
    spoilt: Floats
    if how == "blank":
        spoilt = np.full_like(section, rng.choice((0.0, 1.0, rng.random())))
    elif how == "blurred":
        spoilt = ndimage.gaussian_filter(section, rng.uniform(1, 4))
    elif how == "repeated":
        spoilt = crop[int(np.clip(z + rng.choice((-1, 1)), 0, len(crop) - 1))]
    elif how == "noisier":
        noise = rng.standard_normal(section.shape, dtype=np.float32)
        spoilt = np.clip(section + np.float32(rng.uniform(0.05, 0.3)) * noise, 0, 1)
    else:
        spoilt = foreign[z]
    return spoilt


def _column(values: NDArray[np.float64]) -> Floats:
    column: Floats = values.astype(np.float32)[:, None, None]  # (sections, 1, 1)
    return column

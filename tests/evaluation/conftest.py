"""Small volumes on disk, for tests of the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.evaluation.scores.align import Volumes
from volumetool.geometry.levels import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume

VOXEL = (8.0, 4.0, 4.0)
SCALE = (1, 4, 4)


def write(
    path: Path,
    voxels: NDArray[Any],
    voxel_size: tuple[float, float, float] = VOXEL,
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Volume:
    """Write an OME-Zarr volume with the voxels on its level 0."""
    layout = VolumeLayout(voxels.dtype.name, plan_levels(voxels.shape, voxel_size, translation), name=path.name)  # type: ignore[arg-type]
    volume = create_volume(str(path), layout, {})
    open_for_writing(volume.url, layout).write(voxels).result()
    return open_volume(volume.url)


@dataclass(frozen=True)
class Field:
    """One made-up piece of tissue, seen fine, coarse, and restored from two coarse acquisitions."""

    truth: NDArray[np.uint8]
    low: NDArray[np.uint8]
    restored: NDArray[np.uint8]
    second: NDArray[np.uint8]
    volumes: Volumes


def make(folder: Path, shape: tuple[int, int, int] = (4, 200, 236), scale: tuple[int, int, int] = SCALE) -> Field:
    """Make a field; the "network" knows the tissue, so that it beats every classical method."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    tissue = 128 + 45 * np.sin(y / 1.7 + z / 3) * np.cos(x / 1.9) + 25 * np.sin((x + y + z) / 11)
    truth = _grey(tissue + rng.normal(0, 4, shape))
    blocks = tissue.reshape(*(part for n, f in zip(shape, scale, strict=True) for part in (n // f, f)))
    low, restored = [], []
    for _ in range(2):
        low.append(_grey(blocks.mean(axis=(1, 3, 5)) + rng.normal(0, 8, tuple(np.floor_divide(shape, scale)))))
        restored.append(_grey(0.9 * tissue + 8 + rng.normal(0, 5, shape)))
    size = tuple(v * f for v, f in zip(VOXEL, scale, strict=True))
    corner = tuple((a - b) / 2 for a, b in zip(size, VOXEL, strict=True))
    volumes = Volumes(
        write(folder / "restored.zarr", restored[0]),
        write(folder / "truth.zarr", truth),
        write(folder / "low.zarr", low[0], size, corner),  # type: ignore[arg-type]
        write(folder / "second.zarr", restored[1]),
    )
    return Field(truth, low[0], restored[0], restored[1], volumes)


def _grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Give a field of 4 sections, 4 times coarser in plane; nobody may write to it."""
    return make(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Give a field of 16 sections that is coarser along z too."""
    return make(tmp_path_factory.mktemp("deep"), (16, 48, 64), (2, 4, 4))


@pytest.fixture
def write_volume() -> Callable[..., Volume]:
    """Give the function that writes voxels as a volume."""
    return write

"""The demonstration: the main job on a small EM-like volume that volumetool makes itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.degradation import load_recipe
from volumetool.evaluation.pictures import Panel, draw_row, enlarge_bilinear
from volumetool.evaluation.scores.metrics import psnr
from volumetool.events import Observer, ignore
from volumetool.geometry import Size, plan_levels
from volumetool.jobs.api import enhance
from volumetool.jobs.run import RunResult
from volumetool.storage.create import VolumeLayout, create_levels, create_volume, open_for_writing
from volumetool.storage.downsample import build_level, require_stored
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source
from volumetool.training.data.phantom import phantom

SHAPE = (32, 512, 512)
SCALE = 4
FINE: Size = (8.0, 8.0, 8.0)
COARSE: Size = (8.0, 32.0, 32.0)
SEED = 7
CROP = 256
"""Side of the field that the picture shows, in fine voxels."""


@dataclass(frozen=True)
class Demo:
    """The outputs of the demonstration.

    Attributes
    ----------
    low, enhanced, truth, picture : Path
        The degraded volume, the result, the volume before it was degraded, and a picture of all.
    psnr_bilinear, psnr_enhanced : float
        Raw PSNR against the truth over all sections, in dB.
    outcome : RunResult
        Outcome of the job.
    """

    low: Path
    enhanced: Path
    truth: Path
    picture: Path
    psnr_bilinear: float
    psnr_enhanced: float
    outcome: RunResult


def run_demo(folder: Path, model: str = "em-x4", observer: Observer = ignore) -> Demo:
    """Make an EM-like volume, degrade it as a fast scan would, enhance it, and draw both beside the truth.

    Parameters
    ----------
    folder : Path
        Folder for all files. Those that an earlier demonstration left there are used again.
    model : str
        Name or path of the model.
    observer : Observer, optional
        Is told what happens in the job.
    """
    truth, low, enhanced = (folder / name for name in ("truth.zarr", "low.zarr", "enhanced.zarr"))
    fine = phantom(SHAPE, SEED)
    degraded = load_recipe("pssr-em").apply(fine.astype(np.float32) / 255, scale=(1, SCALE, SCALE), seed=SEED)
    coarse = np.rint(degraded * 255).astype(np.uint8)
    write_volume(truth, fine, FINE)
    write_volume(low, coarse, COARSE)
    outcome = enhance(low, enhanced, model=model, observer=observer)
    result = np.asarray(open_volume(str(enhanced)).open().read().result())
    bilinear = np.stack([enlarge_bilinear(section, SCALE) for section in coarse])
    picture = folder / "picture.png"
    _draw(picture, coarse, bilinear, result, fine)
    return Demo(low, enhanced, truth, picture, psnr(bilinear, fine), psnr(result, fine), outcome)


def write_volume(path: Path, voxels: NDArray[Any], voxel_size: Size) -> None:
    """Write an array as an OME-Zarr volume with all its levels; writing the same again changes nothing.

    Parameters
    ----------
    path : Path
        Path of the new volume.
    voxels : numpy.ndarray, shape (z, y, x)
        One of the dtypes that volumetool writes.
    voxel_size : tuple of float
        Voxel size along z, y, x in nm.
    """
    z, y, x = voxels.shape
    layout = VolumeLayout(voxels.dtype.name, plan_levels((z, y, x), voxel_size, (0.0, 0.0, 0.0)))
    if (path / "zarr.json").exists():  # written before, or another one, which is refused
        create_volume(str(path), layout, {})
    create_levels(str(path), layout, range(len(layout.levels)))
    open_for_writing(str(path), layout).write(voxels).result()
    for number, grid in enumerate(layout.levels[1:], start=1):
        coarse = open_for_writing(str(path), layout, number)
        require_stored(coarse, build_level(Source(open_for_writing(str(path), layout, number - 1)), coarse, grid))
    create_volume(str(path), layout, {})  # last: what can be opened is whole


def _draw(path: Path, coarse: NDArray[Any], bilinear: NDArray[Any], result: NDArray[Any], fine: NDArray[Any]) -> None:
    middle = len(fine) // 2
    field = slice(CROP // 2, CROP // 2 + CROP)
    small = slice(field.start // SCALE, field.stop // SCALE)
    panels = (
        Panel("input, 16x fewer pixels", coarse[middle][small, small]),
        Panel("bilinear", bilinear[middle][field, field]),
        Panel("volumetool", result[middle][field, field]),
        Panel("truth", fine[middle][field, field]),
    )
    low, high = np.percentile(fine, (0.5, 99.5))
    draw_row(panels, CROP, (float(low), float(high))).save(path)

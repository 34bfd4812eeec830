"""Contrast: which grey values become black and white."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError
from volumetool.geometry import Box, Triple
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.plan_file import read_job
from volumetool.processing.quantize import integer_limits
from volumetool.storage.formats.npy import IN_MEMORY
from volumetool.storage.formats.precomputed import Precomputed
from volumetool.storage.io.arrays import read_part
from volumetool.storage.volume import Volume

Window = tuple[float, float]
"""Black and white, in the units of the voxels."""

PERCENTILES = (0.5, 99.5)
_ENOUGH = 2**18
"""Voxels that a level must have to be sampled; the coarsest such level is."""

_SIDE: Triple = (8, 256, 256)
_PLACES = (0.5, 0.25, 0.75)
"""Positions of the sample's boxes along the diagonal of the volume, as shares of it."""


def job_of(url: str) -> Plan | None:
    """Return the plan of the job that writes a volume; None where no job stands beside it."""
    if url.startswith("http") or url == IN_MEMORY:
        return None  # jobs write to disks and buckets, and a server answers for what is asked of it alone
    return read_job(url)


def fitted_window(plan: Plan) -> Window | None:
    """Return the medians over sections of the percentiles that a job fitted.

    None where its values are not those of its input, or where its model takes no statistics.
    """
    if plan.spec.equalise_sections or plan.spec.invert or plan.spec.dtype != plan.input_dtype:
        return None
    statistics = plan.spec.statistics
    if not statistics.low.any() and (statistics.high == 1).all():
        return None
    return float(np.median(statistics.low)), float(np.median(statistics.high))


def sampled_window(volume: Volume | Precomputed, channel: int = 0) -> Window:
    """Return percentiles of a sample of a coarse level of a channel.

    Zeros are left out: they are margins, and regions that are still to come. A blank volume is shown in the range of its dtype.
    """
    shapes = [level.shape for level in volume.levels]
    chosen = max((number for number, shape in enumerate(shapes) if np.prod(shape) >= _ENOUGH), default=0)
    array = volume.open(chosen, channel) if isinstance(volume, Volume) else volume.open(chosen)
    samples = [each for place in _PLACES if (each := _read(array, place)) is not None]
    values = np.concatenate(samples) if samples else np.empty(0)
    values = values[values != 0]
    if not values.size:
        low, high = integer_limits(volume.dtype.name)
        return (low, high) if np.isfinite(high) else (0.0, 1.0)
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    return (low, high) if high > low else (low, low + 1)


def _read(array: ts.TensorStore, place: float) -> NDArray[Any] | None:
    """Return the finite voxels of a box; None where a chunk is damaged, which is no reason not to look."""
    start = tuple(max(0, int(n * place) - side // 2) for n, side in zip(array.shape, _SIDE, strict=True))
    box = Box(_triple(start), _triple(a + side for a, side in zip(start, _SIDE, strict=True)))
    try:
        voxels: NDArray[Any] = read_part(array, box.intersection(Box.whole(_triple(array.shape))).slices)
    except (ValueError, OSError, DataError):
        return None
    finite: NDArray[Any] = voxels[np.isfinite(voxels)]
    return finite


def _triple(values: Any) -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)

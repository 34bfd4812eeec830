"""A job on a small array of NumPy: the same job as on a volume, in a folder that goes when it has ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ConfigError, DataError, ResourceError
from volumetool.events import Observer
from volumetool.jobs.clusters import plan
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.run import RunResult
from volumetool.machine import usable_memory
from volumetool.scratch import scratch_folder
from volumetool.storage.formats.npy import require_volume
from volumetool.storage.open import open_volume
from volumetool.storage.volume import DTYPES
from volumetool.units import show_bytes

LARGEST = 2**30
"""Bytes of an array that is taken: larger ones are worth a job that can be interrupted."""

_SAVED = (
    "save it, numpy.save('raw.npy', array), and give files: 'raw.npy', 'out.zarr'. Such a job goes on after an interruption"
)


def enhance_array(
    array: NDArray[Any], run: Callable[[Plan, Observer], RunResult], observer: Observer, options: dict[str, Any]
) -> NDArray[Any]:
    """Run a job on an array, and return the finest level of its output.

    Parameters
    ----------
    array : numpy.ndarray
        Axes z, y, x, with c in front, or y, x alone.
    run : callable
        Runs a plan.
    observer : Observer
        Told what happens.
    options : dict
        Fields of the job, without input and output. A box is the whole output.

    Raises
    ------
    InputError
        ``input.axes``, ``input.dtype``, ``input.no-voxel-size``.
    ResourceError
        ``resource.array``: it is too large, or its output is.
    DataError
        ``data.failing``: a region failed.
    """
    require_volume(array, options.get("voxel_size"), DTYPES)
    if array.nbytes > LARGEST:
        raise _too_large(f"the array has {show_bytes(array.nbytes)}; at most {show_bytes(LARGEST)} are taken")
    if options.get("trust") is not None:
        hint = "save the array, and give files: 'raw.npy', 'out.zarr', trust='trust.zarr'"
        raise ConfigError("config.option", "trust is for a job on files: an array becomes an array", hint=hint)
    with scratch_folder("array") as folder:
        np.save(folder / "array.npy", array, allow_pickle=False)
        places = {"input": folder / "array.npy", "output": folder / "out.zarr"}
        decided = plan(make_job(**{**options, **places, "crop": options.get("roi") is not None}), observer)
        layout = decided.spec.layout
        made = math.prod(layout.levels[0].shape) * (layout.channels or 1) * np.dtype(layout.dtype).itemsize
        if made > usable_memory() / 2:
            raise _too_large(f"the array becomes {show_bytes(made)}, more than half of the memory that is free")
        result = run(decided, observer)
        if not result.complete:
            error = result.failures[0].error
            raise DataError("data.failing", error.get("message", "a region failed"), hint=error.get("hint", ""))
        voxels = open_volume(result.output)[...]  # (z, y, x) or (c, z, y, x)
    return voxels[..., 0, :, :] if array.ndim == 2 else voxels


def _too_large(why: str) -> ResourceError:
    return ResourceError("resource.array", why, hint=_SAVED)

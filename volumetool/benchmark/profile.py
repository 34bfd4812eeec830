"""Curves of this machine: the network over precisions, calls and patch sizes, codecs, and the disk.

They say which patch this machine would like best. The model card's patch stays the default all the same, because a job's voxels
depend on it and must not depend on the machine.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Triple, default_chunk, plan_levels
from volumetool.jobs.choices import BatchingChoice
from volumetool.jobs.planning.autotune import choose_batching, measure_choices, patch_seconds
from volumetool.processing.device.arrays import computes_bfloat16, resolve_device
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.engine import Engine
from volumetool.processing.operation import Operation
from volumetool.processing.spec import Numerics
from volumetool.scratch import scratch_folder
from volumetool.storage.create import VolumeLayout, array_metadata
from volumetool.storage.io.kvstore import canonical_url, read_key, write_key

SIZES = (0.5, 0.75, 1.25, 1.5)
"""Lateral sizes of the patches that are tried, in times of the card's."""

ZSTD_LEVELS = (1, 3, 6, 9)
SIDE = 320
"""Side of the cube of voxels that is compressed, and that is written to the disk at once: whole chunks."""


@dataclass(frozen=True)
class NetworkRate:
    """The network in one way.

    Attributes
    ----------
    precision : str
        ``float32`` or ``bfloat16``.
    streams, batch : int
        Calls side by side, and patches in each.
    patch : tuple of int
        Size of a patch in input voxels along z, y, x.
    patches_per_s : float
        Patches per second.
    mvox_per_s : float
        Millions of new output voxels per second: those of a patch's stride, without its overlap.
    """

    precision: str
    streams: int
    batch: int
    patch: Triple
    patches_per_s: float
    mvox_per_s: float


@dataclass(frozen=True)
class CodecRate:
    """A codec on voxels that compress about as an enhanced volume does.

    Attributes
    ----------
    name : str
        Name of the codec.
    stored : float
        Stored bytes per byte.
    write_mb_per_s, read_mb_per_s : float
        Rate at which all cores compress and decompress voxels in memory.
    """

    name: str
    stored: float
    write_mb_per_s: float
    read_mb_per_s: float


@dataclass(frozen=True)
class Curves:
    """Measured figures.

    Attributes
    ----------
    model : str
        Name of the model.
    network : tuple of NetworkRate
        First by precision and way on the card's patch, then by patch in the way a job takes.
    codecs : tuple of CodecRate
        The job's own codec is zstd 3.
    disk_write_mb_per_s, disk_read_mb_per_s : float
        One file, synced, and read back through the cache of the file system.
    """

    model: str
    network: tuple[NetworkRate, ...]
    codecs: tuple[CodecRate, ...]
    disk_write_mb_per_s: float
    disk_read_mb_per_s: float

    @property
    def liked(self) -> tuple[NetworkRate, NetworkRate]:
        """The rate on the card's patch in the way a job takes, and the best one in the same precision."""
        best = max(self.network, key=lambda rate: rate.mvox_per_s)
        card = self.network[0].patch
        usual = max((r for r in self.network if r.patch == card), key=lambda rate: rate.mvox_per_s)
        return usual, best


def measure_curves(operation: Operation, device: DeviceName, threads: int, scratch: Path | None = None) -> Curves:
    """Measure this machine with a model.

    Parameters
    ----------
    operation : Operation
        Operation of the model.
    device : str
        Device that it runs on.
    threads : int
        CPU threads that it may use.
    scratch : Path, optional
        Folder on the disk to measure; emptied again. By default the system's temporary folder.
    """
    safe = "bfloat16" in operation.card.precision_safe and computes_bfloat16(resolve_device(device))
    rates: list[NetworkRate] = []
    for precision in ("bfloat16", "float32") if safe else ("float32",):
        paces = measure_choices(operation, precision, device, threads)
        rates.extend(_rate(operation, precision, pace, operation.card.patch) for pace in paces)
        if precision == "float32" and safe:
            continue
        chosen = choose_batching(paces, lambda _pace: True)
        for patch in _patches(operation):
            numerics = Numerics(precision, chosen.batch, pad=False)
            engine = Engine(operation, numerics, device, threads, chosen.streams)
            seconds = patch_seconds(engine, patch, max(threads, chosen.patches))
            rates.append(_rate(operation, precision, BatchingChoice(chosen.streams, chosen.batch, seconds), patch))
    voxels = _voxels()
    codecs = tuple(_codec_rate(voxels, level) for level in ZSTD_LEVELS)
    return Curves(operation.card.name, tuple(rates), codecs, *_disk_rates(voxels, scratch))


def _patches(operation: Operation) -> list[Triple]:
    """Return the card's patch in other lateral sizes, on the network's grid, longer than their overlap by as much again."""
    card = operation.card
    sizes = []
    for factor in SIZES:
        y, x = (round(factor * n / g) * g for n, g in zip(card.patch[1:], card.granularity[1:], strict=True))
        if y >= 2 * card.overlap[1] and x >= 2 * card.overlap[2]:
            sizes.append((card.patch[0], y, x))
    return sizes


def _rate(operation: Operation, precision: str, pace: BatchingChoice, patch: Triple) -> NetworkRate:
    stride = [(n - o) * f for n, o, f in zip(patch, operation.card.overlap, operation.card.scale, strict=True)]
    per_second = 1 / pace.patch_seconds
    return NetworkRate(precision, pace.streams, pace.batch, patch, per_second, math.prod(stride) * per_second / 1e6)


def _voxels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).normal(128, 10, (SIDE, SIDE, SIDE)).astype(np.uint8)


def _codec_rate(voxels: NDArray[np.uint8], level: int) -> CodecRate:
    """Compress and decompress in memory, as the output is, but with another level of zstd."""
    size = (8.0, 8.0, 8.0)
    grids = plan_levels((voxels.shape[0], voxels.shape[1], voxels.shape[2]), size, (0.0, 0.0, 0.0), default_chunk(size))
    metadata = copy.deepcopy(array_metadata(VolumeLayout("uint8", grids[:1]), 0))
    _set_level(metadata["codecs"], level)
    array = ts.open({"driver": "zarr3", "kvstore": "memory://", "metadata": metadata}, create=True).result()
    started = time.perf_counter()
    array.write(voxels).result()
    written = time.perf_counter()
    array.read().result()
    read = time.perf_counter()
    store = array.kvstore
    assert store is not None  # noqa: S101  (zarr3 always has one)
    stored = sum(len(store.read(key).result().value) for key in store.list().result())
    megabytes = voxels.nbytes / 1e6
    return CodecRate(f"zstd {level}", stored / voxels.nbytes, megabytes / (written - started), megabytes / (read - written))


def _set_level(codecs: list[dict[str, Any]], level: int) -> None:
    for codec in codecs:
        settings = codec.get("configuration", {})
        if codec["name"] == "zstd":
            settings["level"] = level
        _set_level(settings.get("codecs", []), level)


def _disk_rates(voxels: NDArray[np.uint8], scratch: Path | None) -> tuple[float, float]:
    data = voxels.tobytes()
    with scratch_folder("curves", scratch) as folder:
        place = canonical_url(folder)
        started = time.perf_counter()
        write_key(place, "file", data)
        written = time.perf_counter()
        read_key(place, "file")
        read = time.perf_counter()
    return len(data) / 1e6 / (written - started), len(data) / 1e6 / (read - written)

"""Small jobs to test with: volumes made here, and independent ways of looking at outputs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.events import Event, Observer, RegionEnded, ignore
from volumetool.geometry import plan_levels
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.run import RunResult
from volumetool.jobs.run import run as run_plan
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.open import open_volume

Voxels = NDArray[Any]
Triple = tuple[int, int, int]
Size = tuple[float, float, float]

COARSE: Size = (8.0, 32.0, 32.0)

SMALL: dict[str, Any] = {
    "model": "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1",
    "chunk": "2,16,16",
    "shard": "8,64,64",
    "region": "1,1,2",
    "batch": 32,
    "memory": "4GiB",
    "device": "cpu",
}
"""Options of a small job: over a few dozen voxels a side it has ragged edges, three fused levels and coarse ones."""


SMALL_3D: dict[str, Any] = SMALL | {
    "model": "fake:position?dims=3&scale=2,2,2&patch=8,16,16&overlap=4,4,4&trim=1,1,1",
    "shard": "8,32,32",
    "region": "1,1,1",
}
"""The same of a 3D model that betrays any patch in a wrong place; regions share patches along all axes."""


ROOTS = ("zarr.json", ".zattrs", "attributes.json", "info")
"""Files that describe a volume, in one format or another."""


class NeverTimer:
    """A clock that never strikes: what waits, waits."""

    def __init__(self, seconds: float, function: Callable[[], None]) -> None: ...

    def start(self) -> None: ...

    def cancel(self) -> None: ...


def prepared(options: dict[str, Any]) -> Plan:
    """Plan a job, and make its folder and output."""
    decided = plan(make_job(**options))
    prepare(decided)
    return decided


def noise(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> Voxels:
    """Return noise that fills an integer dtype's range, or some real numbers; never 0."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(100, 30, shape).astype(dtype)
    limits = np.iinfo(dtype)
    voxels = random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return np.where(voxels == 0, np.asarray(1, dtype), voxels)


def write_input(
    path: Path,
    voxels: Voxels,
    *,
    voxel_size: Size = COARSE,
    chunk: Triple = (4, 16, 16),
    levels: int = 1,
) -> Path:
    """Write a volume of shape (z, y, x) or (c, z, y, x), one chunk a shard; level n is level 0 thinned out."""
    z, y, x = voxels.shape[-3:]
    channels = voxels.shape[0] if voxels.ndim == 4 else None
    layout = VolumeLayout(
        voxels.dtype.name, plan_levels((z, y, x), voxel_size, (0.0, 0.0, 0.0), chunk, chunk)[:levels], channels
    )
    create_volume(str(path), layout, {})
    for channel, level in itertools.product(range(channels or 1), range(levels)):
        part = voxels if channels is None else voxels[channel]
        fz, fy, fx = (-(-a // b) for a, b in zip(layout.levels[0].shape, layout.levels[level].shape, strict=True))
        open_for_writing(str(path), layout, level, channel).write(part[::fz, ::fy, ::fx]).result()
    return path


def run(observer: Observer = ignore, **options: Any) -> RunResult:
    """Plan and run a job."""
    return run_plan(plan(make_job(**options)), observer)


def read_levels(path: Path | str) -> list[Voxels]:
    """Return all levels of a volume, read by tensorstore: zarr-python takes longer than the job for these small chunks."""
    names = sorted((entry.name for entry in Path(path).iterdir() if entry.name.isdecimal()), key=int)
    stores = [{"driver": "file", "path": f"{path}/{name}"} for name in names]
    opened = [ts.open({"driver": "zarr3", "kvstore": store}, open=True, read=True) for store in stores]
    return [np.asarray(array.result().read().result()) for array in opened]


def digest(path: Path | str) -> str:
    """Return one digest of all decoded levels."""
    total = hashlib.sha256()
    for level in read_levels(path):
        total.update(f"{level.dtype} {level.shape}".encode())
        total.update(np.ascontiguousarray(level).tobytes())
    return total.hexdigest()


def voxels_of(path: Path | str) -> str:
    """Return one digest of all levels, as `digest` does of the default format."""
    volume, total = open_volume(path), hashlib.sha256()
    for level in range(len(volume.levels)):
        voxels = np.asarray(volume.open(level).read().result())
        total.update(f"{voxels.dtype} {voxels.shape}".encode())
        total.update(np.ascontiguousarray(voxels).tobytes())
    return total.hexdigest()


def replicated(voxels: Voxels, scale: Triple) -> Voxels:
    """Repeat every voxel along the last three axes."""
    for axis, factor in enumerate(scale, start=voxels.ndim - 3):
        voxels = np.repeat(voxels, factor, axis=axis)
    return voxels


def block_means(voxels: Voxels, factor: Triple, nodata: int | None = None) -> Voxels:
    """Return means over blocks, written from the definition: for integers half to even in whole numbers alone."""
    integer = voxels.dtype.kind in "iu"
    wide = voxels.astype(np.int64 if integer else np.float64)
    valid = np.ones(voxels.shape, np.int64) if nodata is None else (voxels != nodata).astype(np.int64)
    sums, counts = (_block_sums(values, factor) for values in (wide * valid, valid))
    if not integer:
        means: Voxels = (sums / counts).astype(voxels.dtype)
        return means
    quotient, rest = np.divmod(sums, np.maximum(counts, 1))
    up = (2 * rest > counts) | ((2 * rest == counts) & (quotient % 2 == 1))
    means = quotient + up
    if nodata is not None:
        means = np.where(counts == 0, nodata, means)
    return means.astype(voxels.dtype)


def _block_sums(values: Voxels, factor: Triple) -> Voxels:
    padded = np.pad(values, [(0, -n % f) for n, f in zip(values.shape, factor, strict=True)])
    (z, y, x), (fz, fy, fx) = padded.shape, factor
    sums: Voxels = padded.reshape(z // fz, fz, y // fy, fy, x // fx, fx).sum(axis=(1, 3, 5))
    return sums


def factors(path: Path | str) -> list[Triple]:
    """Return the factor between each level and the next, from the voxel sizes in the metadata alone."""
    ome = json.loads((Path(path) / "zarr.json").read_text())["attributes"]["ome"]
    sizes = [dataset["coordinateTransformations"][0]["scale"][-3:] for dataset in ome["multiscales"][0]["datasets"]]
    steps = [[round(b / a) for a, b in zip(fine, coarse, strict=True)] for fine, coarse in itertools.pairwise(sizes)]
    return [(z, y, x) for z, y, x in steps]


def assert_means(output: str, nodata: int | None = None) -> None:
    """Every level is the mean of the stored one before it, by other code: integers bit for bit, floats closely."""
    levels = read_levels(output)
    steps = factors(output)
    assert len(levels) == len(steps) + 1
    for fine, coarse, factor in zip(levels, levels[1:], steps, strict=False):
        for channel in np.ndindex(fine.shape[:-3]):
            expected = block_means(fine[channel], factor, nodata)
            if fine.dtype.kind == "f":
                np.testing.assert_allclose(coarse[channel], expected, rtol=1e-4)
            else:
                np.testing.assert_array_equal(coarse[channel], expected, strict=True)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of everything below a folder."""
    stats = {str(entry.relative_to(folder)): entry.stat() for entry in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def shard_files(path: Path | str) -> list[Path]:
    """Return the stored shards of a volume, in a fixed order."""
    return sorted(file for file in Path(path).rglob("*") if file.is_file() and file.name not in VOLUME_METADATA)


def attributes(path: Path | str) -> dict[str, Any]:
    """Return what volumetool wrote into a volume."""
    (root,) = (file for name in ROOTS if (file := Path(path) / name).is_file())
    content = json.loads(root.read_text())
    own: dict[str, Any] = content.get("attributes", content)["volumetool"]
    return own


def states(outcome: RunResult) -> list[int]:
    """Return the states of all regions as the ledger on disk has them."""
    stored: list[int] = open_ledger(outcome.plan).states.tolist()
    return stored


class Recording:
    """Observes a run, and keeps what its regions ended with."""

    def __init__(self) -> None:
        self.ended: list[RegionEnded] = []

    def __call__(self, event: Event) -> None:
        """Keep how a region ended."""
        if isinstance(event, RegionEnded):
            self.ended.append(event)
            self.after_region(event)

    def after_region(self, _: RegionEnded) -> None:
        """Do nothing."""


class Interrupting(Recording):
    """Presses Ctrl-C once a number of regions ended."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def after_region(self, _: RegionEnded) -> None:
        """Interrupt the run."""
        if len(self.ended) == self.after:
            raise KeyboardInterrupt


def empty_input(path: Path, shape: tuple[int, int, int], voxel_size: tuple[float, float, float]) -> str:
    """Create a volume of metadata alone."""
    create_volume(str(path), VolumeLayout("uint8", plan_levels(shape, voxel_size, (0.0, 0.0, 0.0))[:1]), {})
    return str(path)

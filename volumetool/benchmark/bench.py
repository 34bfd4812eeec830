"""The benchmark: which share of this machine a real job turns into output.

The floor is the work that no program can leave out: the network once on each patch of the lattice, and every byte of the output
compressed and written once. Floor and job run in turns, because a machine's speed drifts by more than what is measured. What
the floor takes and what the job takes is defined in `floor_seconds` and `job_seconds`, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.benchmark.demo import write_volume
from volumetool.benchmark.flops import count_operations, product_rate
from volumetool.benchmark.result import BenchResult, Pair
from volumetool.errors import ConfigError, DataError, ResourceError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, Region, Size, Triple
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan as make_plan
from volumetool.jobs.records.ledger import Totals
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.run import run
from volumetool.machine import memory_limit, usable_memory
from volumetool.processing.columns import read_columns
from volumetool.processing.engine import Engine
from volumetool.processing.operation import open_operation
from volumetool.scratch import scratch_folder
from volumetool.storage.create import create_volume, open_for_writing
from volumetool.storage.io.kvstore import delete_prefix
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source
from volumetool.training.data.phantom import phantom
from volumetool.units import show_bytes

SIZE: Triple = (64, 512, 512)
"""Input voxels of the made-up volume."""

TILE: Triple = (32, 256, 256)
"""The made-up volume is drawn up to this size and mirrored on from there."""

VOXEL_SIZE: Size = (8.0, 32.0, 32.0)
NOISE = 10.0
"""Grey levels of noise in the made-up volume, so that its output compresses about as badly as a real one."""

AT_ONCE = 4
"""Batches per stream that the floor hands to the network at once."""

MEMORY_SHARE = 0.5
"""Share of the free memory that the output, kept for the floor's writing, may take."""


def bench(
    volume: str | None = None,
    *,
    pairs: int = 5,
    size: Triple = SIZE,
    scratch: Path | None = None,
    observer: Observer = ignore,
    **options: Any,
) -> BenchResult:
    """Measure job against floor, in turns, after one job that is not counted: it loads and warms everything.

    Parameters
    ----------
    volume : str, optional
        The input; without it an EM-like volume is made.
    pairs : int, default 5
        Number of pairs of a floor and a job.
    size : tuple of int
        Input voxels of the volume that is made.
    scratch : Path, optional
        Folder on the disk to measure; outputs there are deleted again. By default the system's temporary folder.
    observer : Observer, optional
        Is told by `Progressed` how many of the runs are done.
    **options
        Any field of :class:`volumetool.Job`, such as ``model="em-x4"``. A ``roi`` is the whole output.

    Raises
    ------
    ConfigError
        ``config.pairs``: fewer than one.
    ResourceError
        ``resource.memory``: the output, which the floor writes from memory, is too large for it.
    DataError
        ``data.incomplete``: the job failed.
    """
    if pairs < 1:
        raise ConfigError("config.pairs", f"{pairs} pairs measure nothing", hint="--pairs 5 gives a median and a spread")
    count = counting(observer, "measuring", 1 + 2 * pairs)
    with scratch_folder("bench", scratch) as folder:
        if volume is None:
            volume = str(folder / "input.zarr")
            write_volume(Path(volume), made_up(size), VOXEL_SIZE)
        options |= {"input": volume, "output": str(folder / "warm.zarr"), "crop": options.get("roi") is not None}
        plan = make_plan(make_job(**options))
        _check_memory(plan)
        job_seconds(plan)
        totals = open_ledger(plan).totals()
        levels = _stored(plan)
        _delete(plan)
        count(1)
        bed = _Bed(plan, levels, Path(folder))
        measured = []
        for number in range(pairs):
            measured.append(bed.pair(number))
            count(2)
    return bed.result(tuple(measured), totals)


def made_up(size: Triple, seed: int = 0) -> NDArray[np.uint8]:
    """Return an EM-like volume (z, y, x) of `size` voxels with noise: a drawn block, repeated by mirroring at its faces."""
    block = phantom((min(size[0], TILE[0]), min(size[1], TILE[1]), min(size[2], TILE[2])), seed)
    whole = np.pad(block, [(0, n - drawn) for n, drawn in zip(size, block.shape, strict=True)], mode="symmetric")
    noise = np.random.default_rng(seed).normal(0, NOISE, size).astype(np.float32)
    voxels: NDArray[np.uint8] = np.clip(np.rint(whole + noise), 0, 255).astype(np.uint8)
    return voxels


def job_seconds(plan: Plan) -> float:
    """Run a job from disk to disk into a fresh output; planning is not counted, everything else is.

    Raises
    ------
    DataError
        ``data.incomplete``: regions failed.
    """
    started = time.perf_counter()
    outcome = run(plan)
    seconds = time.perf_counter() - started
    if not outcome.complete:
        error = outcome.failures[0].error if outcome.failures else {}
        raise DataError(
            "data.incomplete",
            f"{outcome.failed} of {outcome.regions} regions failed, the first with: {error.get('message', 'no message')}",
            hint=error.get("hint", "run `volumetool enhance` on the same input to see more"),
        )
    return seconds


def network_seconds(plan: Plan, engine: Engine) -> tuple[float, int]:
    """Measure the network on each patch of the job, once, in full batches.

    The patches are the job's own. Reading, cutting and normalising them is not counted.

    Returns
    -------
    seconds : float
        Time that the network took.
    patches : int
        Number of patches.
    """
    before = engine.seconds
    size = AT_ONCE * engine.streams * engine.numerics.batch
    patches = sum(len(engine.predict(batch)) for batch in _batches(plan, size))
    return engine.seconds - before, patches


def write_seconds(plan: Plan, levels: dict[tuple[int, int], NDArray[Any]]) -> float:
    """Compress and write every level from memory, all shards at once, synced; creating the volume is not counted.

    Parameters
    ----------
    plan : Plan
        Plan whose output is written.
    levels : dict of (level, channel) to numpy.ndarray
        Voxels (z, y, x) of each level and channel.
    """
    create_volume(plan.output, plan.spec.layout, {})
    targets = {key: open_for_writing(plan.output, plan.spec.layout, *key) for key in levels}
    started = time.perf_counter()
    writes = [targets[key].write(levels[key], can_reference_source_data_indefinitely=True) for key in levels]
    for write in writes:
        write.result()
    return time.perf_counter() - started


def floor_seconds(network: float, write: float, device: str) -> float:
    """Return the least seconds that a job can take.

    On a CPU the network and the writing want the same cores; beside a GPU the cores are free to write.

    Parameters
    ----------
    network : float
        Seconds of the network, see :func:`network_seconds`.
    write : float
        Seconds of compressing and writing, see :func:`write_seconds`.
    device : str
        Device of the network; ``cpu`` adds both, any other takes the longer one.
    """
    return network + write if device == "cpu" else max(network, write)


class _Bed:
    """Parts that all pairs share: the engine, the bytes to write, a folder for outputs."""

    def __init__(self, plan: Plan, levels: dict[tuple[int, int], NDArray[Any]], folder: Path) -> None:
        self.plan, self.levels, self.folder = plan, levels, folder
        # One engine with what the workers of the job have together.
        threads, streams = plan.threads * plan.workers, plan.streams * plan.workers
        self.operation = open_operation(plan.model_spec)
        self.engine = Engine(self.operation, plan.numerics, plan.job.device, threads, streams)
        self.engine.probe(plan.spec.lattice.patch)  # as a worker does before its first region: it warms the network up
        self.patches = 0

    def pair(self, number: int) -> Pair:
        """Run a floor and a job; every second pair begins with the job, so that a drift favours neither."""
        if number % 2:
            job, totals = self._job(number)
        network, write = self._floor(number)
        if number % 2 == 0:
            job, totals = self._job(number)
        floor = floor_seconds(network, write, self.engine.device.type)
        return Pair(network, write, floor, job, totals.network_seconds, totals.stages)

    def result(self, pairs: tuple[Pair, ...], totals: Totals) -> BenchResult:
        """Return what was found, with the records of the job that warmed up."""
        plan = self.plan
        operations = count_operations(self.operation, plan.spec.lattice.patch)
        return BenchResult(
            model=plan.title,
            device=self.engine.device.type,
            precision=plan.numerics.precision,
            batch=plan.numerics.batch,
            streams=plan.streams,
            threads=plan.threads,
            workers=plan.workers,
            input_shape=_input_shape(plan),
            output_shape=plan.spec.box.shape,
            patches=self.patches,
            computed=totals.patches - totals.skipped,
            stored_bytes=sum(voxels.nbytes for voxels in self.levels.values()),
            operations=operations,
            product_rate=product_rate(self.engine.device, plan.numerics.precision) if operations else 0.0,
            pairs=pairs,
            notes=plan.notes,
        )

    def _job(self, number: int) -> tuple[float, Totals]:
        plan = self._fresh(f"job-{number}")
        seconds = job_seconds(plan)
        totals = open_ledger(plan).totals()
        _delete(plan)
        return seconds, totals

    def _floor(self, number: int) -> tuple[float, float]:
        plan = self._fresh(f"floor-{number}")
        network, self.patches = network_seconds(plan, self.engine)
        write = write_seconds(plan, self.levels)
        _delete(plan)
        return network, write

    def _fresh(self, name: str) -> Plan:
        output = str(self.folder / f"{name}.zarr")
        return self.plan.model_copy(update={"job": self.plan.job.model_copy(update={"output": output})})


def _batches(plan: Plan, size: int) -> Iterator[NDArray[np.float32]]:
    """Yield the patches that a job asks the network for, each once, in batches."""
    spec = plan.spec
    volume = open_volume(plan.job.input, voxel_size=plan.job.voxel_size)
    waiting: list[NDArray[np.float32]] = []
    for channel in range(plan.grid.channels):
        whole = Region(0, channel, Box.whole(plan.spec.box.shape))
        for column in read_columns(spec, whole, Source(volume.open(plan.job.level, channel, strict=True)), size):
            waiting.extend(column.patches[column.active])
            while len(waiting) >= size:
                yield np.stack(waiting[:size])
                del waiting[:size]
    if waiting:
        yield np.stack(waiting)


def _stored(plan: Plan) -> dict[tuple[int, int], NDArray[Any]]:
    """Return the voxels of a finished output by level and channel."""
    keys = [(level, channel) for level in range(len(plan.spec.layout.levels)) for channel in range(plan.spec.channels or 1)]
    stores: dict[tuple[int, int], ts.TensorStore] = {key: open_for_writing(plan.output, plan.spec.layout, *key) for key in keys}
    return {key: np.asarray(store.read().result()) for key, store in stores.items()}


def _check_memory(plan: Plan) -> None:
    voxels = sum(level.shape[0] * level.shape[1] * level.shape[2] for level in plan.spec.levels)
    needed = voxels * (plan.spec.channels or 1) * np.dtype(plan.spec.dtype).itemsize
    allowed = int(MEMORY_SHARE * usable_memory())
    if needed > allowed:
        raise ResourceError(
            "resource.memory",
            f"the output of {show_bytes(needed)} has to stay in memory to be written at once, {show_bytes(allowed)} may be "
            f"(limit: {memory_limit()})",
            hint="measure a part of the volume with --roi z0:z1,y0:y1,x0:x1",
        )


def _input_shape(plan: Plan) -> Triple:
    lattice = plan.spec.lattice
    return lattice.in_input(plan.spec.box.coarsened(lattice.scale).shape)


def _delete(plan: Plan) -> None:
    delete_prefix(plan.job_dir.place)
    delete_prefix(plan.job_dir.url)

"""A worker: it gets the number of a region and returns a record. No voxel leaves it but to the store."""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tensorstore as ts

from volumetool.errors import (
    ClusterError,
    DeviceError,
    InputError,
    LedgerError,
    NumericsError,
    StorageFullError,
    VolumetoolError,
)
from volumetool.geometry import Region, RegionTask
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import PATCHES, roles_of
from volumetool.jobs.plan import EarlierStep, Plan
from volumetool.jobs.records.input_digest import RegionInput
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import plan_digest, read_plan
from volumetool.jobs.records.shard_digests import open_owned, region_shards
from volumetool.jobs.records.volumes import volume_of
from volumetool.logs import join_log
from volumetool.processing.columns import input_windows
from volumetool.processing.device.device_errors import kind_of
from volumetool.processing.device.malloc import keep_freed_memory
from volumetool.processing.engine import Engine
from volumetool.processing.operation import reopen_operation
from volumetool.processing.patch_cache import PatchStore, RegionPatchCache
from volumetool.processing.pipeline import silent
from volumetool.processing.predictor import BatchPredictor, Predictor
from volumetool.processing.region import ChainStep, RegionStats, computed, enhance_region, stored_region
from volumetool.processing.spec import NUMERICS_VERSION, check_version
from volumetool.redaction import printable, redact
from volumetool.storage.create import open_in_memory
from volumetool.storage.io.kvstore import join_url, limit_open_files, open_unsynced
from volumetool.storage.io.roles import name_roles
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.io.stores.traffic import limit_io, traffic
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source
from volumetool.version import __version__

_log = logging.getLogger(__name__)

SOFTWARE = f"{__version__} (numerics version {NUMERICS_VERSION})"
"""Version of volumetool with that of its numerics: a worker's must be the driver's."""


class Worker:
    """Runs regions of one job in this process.

    Parameters
    ----------
    plan : Plan
        The job's plan.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: the version of volumetool that made the plan makes other bytes than this one.
    NumericsError
        ``numerics.other-class``: this machine computes other bytes than the plan's probe.
    """

    def __init__(self, plan: Plan) -> None:
        check_version(plan.output, plan.spec.numerics_version)
        keep_freed_memory()
        join_log()
        limit_io(None if plan.job.io_limit is None else plan.job.io_limit / plan.workers)
        limit_open_files(None if plan.job.open_files is None else max(1, plan.job.open_files // plan.workers))
        self.plan = plan
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.steps = tuple(ChainStep(each.spec, self._engine(each), each.mask_factor) for each in plan.earlier)
        self.engine = self._engine(plan)
        self.probe = self.engine.probe(plan.spec.lattice.patch)
        volume = open_volume(plan.job.input, voxel_size=plan.job.voxel_size)
        mask = None if plan.job.second is None else open_volume(plan.job.second, voxel_size=(1.0, 1.0, 1.0))
        found = (volume.identity_of(plan.job.level), None if mask is None else mask.identity_of(0))
        if found != (plan.first.input, plan.first.mask):
            other = plan.job.input if found[0] != plan.first.input else plan.job.second
            raise InputError(
                "input.changed",
                f"worker {self.name} finds another volume at {other} than the plan was made for",
                hint="give a path that is the same volume on every worker, and leave it as it is while the job runs",
                where=plan.job.input,
            )
        self._input = RegionInput(plan.job, volume, mask, plan.first_mask_factor)

    def _engine(self, step: Plan | EarlierStep) -> Engine:
        """Return an operation on its device, whose probe is the plan's."""
        plan = self.plan
        operation = reopen_operation(step.model_spec, step.spec.model)
        engine = Engine(operation, step.numerics, plan.job.device, plan.threads, step.streams)
        probe = engine.probe(step.spec.lattice.patch)
        if probe != step.probe and not plan.job.allow_mixed_numerics:
            raise NumericsError(
                "numerics.other-class",
                f"worker {self.name} computes other bytes than the job began with: "
                f"its probe is {probe[:12]}, the plan's {step.probe[:12]}",
                hint="use workers with the same processor, device and torch version; "
                "--allow-mixed-numerics records the class per region instead",
            )
        return engine

    def run(self, turn: RegionTask, predictor: Predictor | None = None) -> Record:
        """Enhance a region; an error becomes a failed record, so that one bad region never stops the others.

        Parameters
        ----------
        turn : RegionTask
            The region to run, with its neighbours.
        predictor : Predictor, optional
            Asks this worker's engine; in full batches without it.

        Raises
        ------
        StorageFullError
            ``output.full``: no region's own trouble, and no other would fare better.
        DeviceError
            ``device.lost``: the device answers this process no more. It must not be used again.
        """
        started = time.time()
        predictor = predictor or BatchPredictor(self.engine)
        made = self._made(turn, predictor)
        if made is None:  # short of memory beside the network: once more, with fewer patches in it
            self.engine.make_room(self.engine.room)
            made = self._made(turn, predictor, last=True)
        failed = Record(
            region=turn.region,
            state="failed",
            seconds=time.time() - started,
            worker=self.name,
            device=str(self.engine.device),
            numerics=self.probe,
            error=made if isinstance(made, dict) else {},
            finished=time.time(),
        )
        record = made if isinstance(made, Record) else failed
        _log.info("region %d is %s after %.2f s %s", record.region, record.state, record.seconds, record.error or "")
        return record

    def _made(self, turn: RegionTask, predictor: Predictor, *, last: bool = False) -> Record | dict[str, str] | None:
        """Return the record of a region, or its error; None where memory was short and another try may have more."""
        try:
            with name_roles(*roles_of(self.plan.job)):
                return self._enhance(turn, predictor)
        except StorageFullError:
            raise
        except Exception as error:
            if (stop := told_to_stop(error)) is not None:
                raise stop from error
            kind = kind_of(error)
            if kind == "lost":
                raise lost(self.name, error) from error
            return describe(error) if last or kind != "memory" else None

    def _enhance(self, turn: RegionTask, predictor: Predictor) -> Record:
        region = self.plan.grid.region(turn.region)
        targets, channels = self._targets(region.channel), self.plan.spec.output_channels(region.channel)
        for target, (number, level, box) in zip(targets, self.plan.spec.shadows(region.box), strict=True):
            volume, own = volume_of(self.plan, channels[number])
            delete_torn_shards(target, volume.layout, level, box, own)

        def make(source: Source) -> RegionStats:
            kept = None if self.plan.keep == "none" else RegionPatchCache(self._shelf, turn)
            return enhance_region(self.plan.spec, region, predictor, source, targets, kept)

        before = traffic()
        made, read = self._read(region, make, predictor.heartbeat)
        stored = region_shards(self.plan, region)
        moved = traffic() - before
        return Record(
            region=turn.region,
            state="done",
            checksums=made.checksums,
            stored=stored,
            read=read,
            moved=moved.bytes,
            opens=moved.opens,
            patches=made.patches,
            recomputed=made.recomputed,
            skipped=made.skipped,
            seconds=round(made.seconds, 4),
            network_seconds=round(made.network_seconds, 4),
            stages={stage: round(seconds, 4) for stage, seconds in made.stages.items()},
            consistency=None if made.consistency is None else round(made.consistency, 5),
            worker=self.name,
            device=str(self.engine.device),
            numerics=self.probe,
            finished=time.time(),
        )

    def again(self, index: int) -> list[ts.TensorStore]:
        """Enhance a region in memory, from its input alone; return its fused levels, channel by channel.

        Raises
        ------
        VolumetoolError
            As :func:`volumetool.processing.region.enhance_region` and :meth:`RegionInput.read_in_one_state`.
        """
        region = self.plan.grid.region(index)
        volumes = [volume_of(self.plan, channel) for channel in self.plan.spec.output_channels(region.channel)]
        shadows = self.plan.spec.shadows(region.box)
        targets = [open_in_memory(volumes[number][0].layout, level, volumes[number][1]) for number, level, _ in shadows]
        make = functools.partial(enhance_region, self.plan.spec, region, BatchPredictor(self.engine), targets=targets)
        self._read(region, make)
        return targets

    def _read(
        self, region: Region, make: Callable[[Source], RegionStats], heartbeat: Callable[[], None] = silent
    ) -> tuple[RegionStats, dict[str, Any]]:
        """Make a region of its input, which the earlier operations of a chain compute as it is read."""
        spec, windows = self.plan.spec, list(input_windows(self.plan.spec, region))

        def through(source: Source) -> RegionStats:
            own = replace(source, mask_factor=self.plan.mask_factor)
            with computed(self.steps, region.channel, windows, own, heartbeat) as inner:
                return make(inner)

        return self._input.read_in_one_state(*stored_region(self.steps, spec, region), through)

    @functools.cached_property
    def _shelf(self) -> PatchStore:
        store = open_unsynced(join_url(self.plan.run_dir, PATCHES))
        return PatchStore(store, self.probe, self.plan.fingerprint, self.plan.sharing, self.plan.spec.predicted or None)

    @functools.cached_property
    def _targets(self) -> Callable[[int], Sequence[ts.TensorStore]]:
        return functools.cache(functools.partial(open_owned, self.plan))  # not this worker, which would then live on


def lost(worker: str, error: Exception) -> DeviceError:
    """Return the error of a process whose device answers no more."""
    return DeviceError(
        "device.lost",
        f"the device is lost to worker {worker}: {type(error).__name__}: {error}",
        hint="nothing wrong was recorded; run the same command again: a new process may find the device well",
    )


def told_to_stop(error: BaseException) -> BaseException | None:
    """Return the request to stop, Ctrl-C or a signal, that an error hides; None where there is none.

    A request comes at any moment, also while stages are closed. What then cannot be closed in order raises an error of its own,
    which is not the region's.
    """
    seen: BaseException | None = error
    while seen is not None and (isinstance(seen, Exception | GeneratorExit)):
        seen = seen.__cause__ or seen.__context__
    return seen


def describe(error: Exception) -> dict[str, str]:
    """Return an error as plain strings for the ledger."""
    if isinstance(error, VolumetoolError):
        return error.as_dict()
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({last[0].filename.rpartition('/')[2]}:{last[0].lineno})" if last else ""
    return {"code": "region.unexpected", "message": printable(redact(f"{type(error).__name__}: {error}{place}"))}


@functools.lru_cache(maxsize=1)
def _worker(plan_text: str) -> Worker:
    return Worker(Plan.model_validate_json(plan_text))


def runtime_of(plan: Plan, run: str | None = None) -> str:
    """Return what a worker elsewhere must know beside the job's folder.

    Parameters
    ----------
    plan : Plan
        As this run goes by it, which may differ from the stored one.
    run : str, optional
        The run that owns the job; without it the worker never checks whether another run took over.

    Returns
    -------
    str
        JSON of the job as this run asked for it, how each worker runs the network, the digest of the stored plan, so that a
        worker that outlives a run never works by an old one, the run, and the version of volumetool.
    """
    job = plan.job.placed.model_dump(mode="json")  # workers may have been started in another directory
    running = {"threads": plan.threads, "streams": plan.streams}
    return json.dumps({"job": job, "running": running, "plan": plan_digest(plan.job_dir.url), "run": run, "software": SOFTWARE})


def worker_of(url: str, runtime: str) -> Worker:
    """Return this process's worker for a job: the one before, while nothing has changed.

    Raises
    ------
    ClusterError
        ``cluster.other-version``: this process has another version of volumetool than the driver.
    LedgerError
        ``ledger.plan``: this process finds another plan than the driver, or none.
    VolumetoolError
        As :class:`Worker`.
    """
    return _worker(_plan_text(url, runtime))


@functools.lru_cache(maxsize=1)
def _plan_text(url: str, runtime: str) -> str:
    update = json.loads(runtime)
    if update["software"] != SOFTWARE:
        raise ClusterError(
            "cluster.other-version",
            f"worker {socket.gethostname()}:{os.getpid()} has volumetool {SOFTWARE}, and the driver has {update['software']}",
            hint="install one version on all machines",
        )
    stored = read_plan(url)
    if stored is None or plan_digest(url) != update["plan"]:
        raise LedgerError(
            "ledger.plan",
            f"{url} holds {'no plan' if stored is None else 'another plan'} for worker {socket.gethostname()}",
            hint="every worker must see the job's folder, and no other run may begin it anew meanwhile",
            where=url,
        )
    return stored.model_copy(update={**update["running"], "job": Job.model_validate(update["job"])}).model_dump_json()

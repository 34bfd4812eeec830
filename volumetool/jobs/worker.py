"""A worker: it gets the number of a region and returns a record. No voxel leaves it but to the store."""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
from collections.abc import Sequence

import tensorstore as ts

from volumetool.enhancement.columns import Source
from volumetool.enhancement.engine import Engine
from volumetool.enhancement.kept import KeptPatches, Shelf
from volumetool.enhancement.region import Enhanced, enhance_region
from volumetool.enhancement.writer import slab_boxes
from volumetool.errors import InputError, LedgerError, NumericsError, VolumetoolError
from volumetool.geometry import Turn
from volumetool.jobs.clean import delete_shards
from volumetool.jobs.clusters.begun import say_begun
from volumetool.jobs.folder import job_url, plan_digest, read_plan, read_statistics
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.models.package import reload_model
from volumetool.store.create import open_for_writing
from volumetool.store.kvstore import open_unsynced
from volumetool.store.open import open_volume


class Worker:
    """Runs regions of one job in this process.

    Parameters
    ----------
    plan : Plan
        The job's plan.

    Raises
    ------
    NumericsError
        ``numerics.other-class``: this machine computes other bytes than the plan's probe.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.recipe = plan.recipe(read_statistics(job_url(plan.job.output), plan))
        self.engine = Engine(
            reload_model(plan.model_spec, plan.terms.model), plan.numerics, plan.job.device, plan.threads, plan.streams
        )
        self.probe = self.engine.probe(plan.terms.lattice.patch)
        if self.probe != plan.probe and not plan.job.allow_mixed_numerics:
            raise NumericsError(
                "numerics.other-class",
                f"worker {self.name} computes other bytes than the job began with: "
                f"its probe is {self.probe[:12]}, the plan's {plan.probe[:12]}",
                hint="use workers with the same processor, device and torch version; "
                "--allow-mixed-numerics records the class per region instead",
            )
        self._volume = open_volume(plan.job.input, voxel_size=plan.job.voxel_size)
        if self._volume.identity != plan.terms.input:
            raise InputError(
                "input.changed",
                f"worker {self.name} finds another volume at {plan.job.input} than the plan was made for",
                hint="give a path that is the same volume on every worker, and leave it as it is while the job runs",
                where=plan.job.input,
            )
        self._mask = None if plan.job.mask is None else open_volume(plan.job.mask, voxel_size=(1.0, 1.0, 1.0))

    def run(self, turn: Turn) -> Record:
        """Enhance a region; an error becomes a failed record, so that one bad region never stops the others."""
        started = time.time()
        index = turn.region
        try:
            made = self._enhance(turn)
        except Exception as error:  # noqa: BLE001  (whatever went wrong belongs into the ledger)
            return Record(
                region=index,
                state="failed",
                seconds=time.time() - started,
                worker=self.name,
                numerics=self.probe,
                error=describe(error),
                finished=time.time(),
            )
        return Record(
            region=index,
            state="done",
            checksums=made.checksums,
            patches=made.patches,
            recomputed=made.recomputed,
            skipped=made.skipped,
            seconds=round(made.seconds, 4),
            network_seconds=round(made.network_seconds, 4),
            stages={stage: round(seconds, 4) for stage, seconds in made.stages.items()},
            consistency=None if made.consistency is None else round(made.consistency, 5),
            worker=self.name,
            numerics=self.probe,
            finished=time.time(),
        )

    def _enhance(self, turn: Turn) -> Enhanced:
        region = self.plan.grid.region(turn.region)
        targets = self._targets(region.channel)
        channel = None if self.plan.terms.channels is None else region.channel
        for target, level, box in zip(targets, self.recipe.fused, slab_boxes(region.box, self.recipe.fused), strict=True):
            delete_shards(target, level, box, channel)
        kept = None if self.plan.keep == "none" else KeptPatches(self._shelf, turn)
        return enhance_region(self.recipe, region, self.engine, self._source(region.channel), targets, kept)

    @functools.cached_property
    def _shelf(self) -> Shelf:
        folder = open_unsynced(job_url(self.plan.job.output))
        return Shelf(folder, self.probe, self.plan.fingerprint, self.plan.sharing)

    @functools.cache  # noqa: B019  (a process has one worker, for the life of the process)
    def _source(self, channel: int) -> Source:
        mask = None if self._mask is None else self._mask.open(0, 0)
        return Source(self._volume.open(self.plan.job.level, channel), mask, self.plan.mask_factor)

    @functools.cache  # noqa: B019
    def _targets(self, channel: int) -> Sequence[ts.TensorStore]:
        layout = self.plan.layout
        return [open_for_writing(self.plan.job.output, layout, level, channel) for level in range(len(self.recipe.fused))]


def describe(error: Exception) -> dict[str, str]:
    """Return an error as plain strings for the ledger."""
    if isinstance(error, VolumetoolError):
        return error.as_dict()
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({last[0].filename.rpartition('/')[2]}:{last[0].lineno})" if last else ""
    return {"code": "region.unexpected", "message": f"{type(error).__name__}: {error}{place}"}


@functools.lru_cache(maxsize=1)
def _worker(plan_text: str) -> Worker:
    return Worker(Plan.model_validate_json(plan_text))


def run_region(url: str, runtime: str, turn: Turn) -> Record:
    """Run a region in a dask worker.

    Parameters
    ----------
    url : str
        The job's folder.
    runtime : str
        JSON of the job as this run asked for it and how each worker runs the network, which may differ from the stored
        plan, and of that plan's digest: a worker that outlives a run never works by an old plan.
    turn : Turn
        The region.
    """
    worker = _worker(_plan_text(url, runtime))
    say_begun(url, turn.region)
    return worker.run(turn)


@functools.lru_cache(maxsize=1)
def _plan_text(url: str, runtime: str) -> str:
    import json

    from volumetool.jobs.job import Job

    update = json.loads(runtime)
    stored = read_plan(url)
    if stored is None or plan_digest(url) != update["plan"]:
        raise LedgerError(
            "ledger.plan",
            f"{url} holds {'no plan' if stored is None else 'another plan'} for worker {socket.gethostname()}",
            hint="every worker must see the job's folder, and no other run may begin it anew meanwhile",
            where=url,
        )
    return stored.model_copy(update={**update["running"], "job": Job.model_validate(update["job"])}).model_dump_json()

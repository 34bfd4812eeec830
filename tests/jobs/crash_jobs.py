"""What the tests of crashes run in processes of their own: a small job, and a look at what it left."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from small_jobs import ROOTS, SMALL, attributes, noise, write_input

from volumetool.geometry import LevelGrid
from volumetool.jobs.clusters import local  # noqa: F401  (loaded once, not by every run)
from volumetool.jobs.execution import worker as worker_module
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records import ledger as ledger_module
from volumetool.jobs.records.ledger import DONE
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.run import run
from volumetool.storage.info import describe_volume
from volumetool.storage.io import retries
from volumetool.storage.open import open_volume

SHAPES = {"least": (2, 8, 14), "tiny": (3, 12, 20), "small": (10, 37, 45)}
"""Voxels of the input, and so 2, 6 or 12 regions."""

OPTIONS = {size: SMALL | {"shard": "4,32,32", "region": "1,1,1"} for size in ("least", "tiny")} | {"small": SMALL}


@dataclass(frozen=True)
class Job:
    """A planned job, and what an uninterrupted run of it makes.

    Attributes
    ----------
    plan : Plan
        As `run` takes it.
    files : dict of str to str
        SHA-256 of every file of the output but the group's metadata, by its path: equal files are equal voxels.
    """

    plan: Plan
    files: dict[str, str]

    @property
    def told(self) -> str:
        """What another process needs to know of it."""
        return json.dumps([self.plan.model_dump_json(), self.files])

    @classmethod
    def read(cls, told: str) -> Job:
        """Return a job of which another process told."""
        plan, files = json.loads(told)
        return cls(Plan.model_validate_json(plan), files)


def of_told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function take a job, or what another process told of it."""

    @functools.wraps(function)
    def call(job: Job | str, *arguments: Any, **options: Any) -> Any:
        return function(Job.read(job) if isinstance(job, str) else job, *arguments, **options)

    return call


def make(folder: str, size: str, options: dict[str, Any]) -> str:
    """Write an input, plan a job, run it once; tell of it."""
    source = write_input(Path(folder) / "in.zarr", noise(SHAPES[size]))
    (Path(folder) / "work").mkdir()
    output = Path(folder) / "work" / ("out" if "format" in options else "out.zarr")
    decided = plan(make_job(**{**OPTIONS[size], "input": str(source), "output": str(output), **options}))
    assert run(decided).complete
    return Job(decided, shards(output)).told


def shards(output: Path) -> dict[str, str]:
    """Return the SHA-256 of every stored shard and piece of metadata but the group's own."""
    files = (file for file in output.rglob("*") if file.is_file() and not (file.name in ROOTS and file.parent == output))
    return {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def begin_anew(job: Job) -> Path:
    """Empty the folder of the output and its records; return it."""
    work = Path(job.plan.output).parent
    shutil.rmtree(work)
    work.mkdir()
    return work


def _no_time(_seconds: float) -> None:
    """Let no time pass between two tries."""


@of_told
def go(job: Job) -> int:
    """Run the job; return how many regions this run finished."""
    retries.STORAGE._sleep = _no_time
    outcome = run(job.plan)
    assert outcome.complete, outcome.failures
    return outcome.ran


def go_there(job: str, environment: dict[str, str]) -> int:
    """Run the job with the environment of who asks: with the credentials of a bucket."""
    os.environ.update(environment)
    return int(go(job))


@of_told
def go_without_dask(job: Job) -> None:
    """Run the job, and see that nothing of dask was imported."""
    go(job)
    assert not {"dask", "distributed"} & sys.modules.keys()


@of_told
def go_without_waiting(job: Job, tally: str) -> int:
    """Run the job with every record written at once, and a line in a file for every region that is begun."""
    ledger_module.FLUSH_SECONDS = 0.0
    enhance = worker_module.Worker.run

    def noted(worker: Any, turn: Any, *rest: Any) -> Any:
        with Path(tally).open("a") as file:
            file.write(f"{turn.region}\n")
        return enhance(worker, turn, *rest)

    worker_module.Worker.run = noted  # type: ignore[method-assign]
    return go(job)


@of_told
def try_to_go(job: Job) -> list[str]:
    """Run the job; return the codes of the errors of its failed regions. The run's own errors are raised."""
    retries.STORAGE._sleep = _no_time
    return sorted({record.error["code"] for record in run(job.plan).failures})


@of_told
def go_with_small_files(job: Job, limit: int) -> None:
    """Run the job where no file may be larger than a limit, as on a full disk or with a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    go(job)


@of_told
def inspect(job: Job, *, torn: bool = False) -> None:
    """Hold what a dead run left against the promises; `torn` where the disk lied, so that a shard on no record may be wrong."""
    output = Path(job.plan.output)
    ledger = open_ledger(job.plan)
    # Over regions that failed the coarse levels have holes.
    holes = {str(number) for number, level in enumerate(job.plan.spec.levels) if ledger.failures and not level.fused}
    sound = set()
    for name, found in shards(output).items() if output.is_dir() else ():
        if not name.endswith(".__lock") and name.partition("/")[0].lstrip("s") not in holes:
            assert torn or found == job.files[name], f"{name} is torn or another shard"
            sound |= {name} if found == job.files[name] else set()
    finished, made = False, any((output / name).exists() for name in ROOTS)
    if made:
        status = attributes(output)["status"]
        assert describe_volume(open_volume(str(output)))["status"] == status
        assert status in ("unfinished", "complete")
        finished = status == "complete"
    if finished:
        assert shards(output) == job.files, "it says complete and is not"
    assert ledger.damaged == 0
    assert not ledger.done or made
    for region in np.flatnonzero(ledger.states == DONE):
        missing = sorted((region_files(job.plan, int(region)) & job.files.keys()) - sound)
        assert not missing, f"the ledger says that region {region} is done, and these shards are not there: {missing}"


def region_files(plan: Plan, region: int) -> set[str]:
    """Return the shards that a region owns, by whole numbers alone; those of nothing but background are not stored."""
    low, high = np.array(plan.grid.region(region).box.start), np.array(plan.grid.region(region).box.stop)
    names = set()
    for number, level in enumerate(plan.spec.levels):
        if not level.fused:
            break
        low, high = low // level.factor, -(-high // np.array(level.factor))
        places = [range(a // n, -(-b // n)) for a, b, n in zip(low, high, level.shard, strict=True)]
        names |= {key_of(plan.spec.format, number, level, place) for place in itertools.product(*places)}
    return names


def key_of(name: str, number: int, level: LevelGrid, place: tuple[int, ...]) -> str:
    """Return the name of a shard or chunk by its place, written from the definitions of the formats."""
    z, y, x = place
    if name == "n5":
        return f"s{number}/{x}/{y}/{z}"
    if name == "precomputed":  # of a volume that begins at its origin
        ends = zip(place, level.chunk, level.shape, strict=True)
        spans = [f"{n * size}-{min((n + 1) * size, whole)}" for n, size, whole in ends]
        return f"s{number}/{'_'.join(reversed(spans))}"
    return f"{number}/{z}/{y}/{x}" if name == "ome-zarr-0.4" else f"{number}/c/{z}/{y}/{x}"


@of_told
def inspect_and_resume(job: Job, torn: bool = False) -> int:  # noqa: FBT001, FBT002  (it comes as JSON)
    """Look at what a dead run left, run the job again, and look at what that made; return the regions run again."""
    inspect(job, torn=torn)
    before = open_ledger(job.plan).done
    again = go(job)
    assert before + again >= job.plan.grid.count
    output = Path(job.plan.output)
    inspect(job)
    assert shards(output) == job.files
    # Notes and kept patches are not synced: a loss of power may bring their temporary files back. They go a minute later.
    hints = {"attempts", "patches"}
    strays = sorted(str(file) for file in output.parent.rglob("*.__lock") if not hints & set(file.parts))
    assert not strays, strays
    return again

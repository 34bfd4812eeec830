"""From bucket to bucket: the server dies and comes back, or the job does; the voxels are those of a job on a disk."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from bucket_server import BucketServer
from crash_jobs import OPTIONS, SHAPES, Job, shards
from small_jobs import digest, noise, run, write_input

from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.verification.verify import verify
from volumetool.storage.io.kvstore import delete_prefix
from volumetool.testing import CrashRunner

Options = dict[str, Any]


@pytest.fixture
def server(kept: BucketServer) -> BucketServer:
    """Give a server with the input of a job in its bucket."""
    write_input(kept.folder / "bucket" / "in.zarr", noise(SHAPES["tiny"]))
    return kept


@pytest.fixture
def options() -> Options:
    return OPTIONS["tiny"] | {"input": "s3://bucket/in.zarr", "output": "s3://bucket/out.zarr"}


@pytest.fixture
def output(server: BucketServer) -> Path:
    """Give the folder that is the output: what is there is looked at without the product's help."""
    return server.folder / "bucket" / "out.zarr"


@pytest.fixture
def straight(tmp_path: Path) -> Path:
    """Give the output of the same job on a disk."""
    source = write_input(tmp_path / "in.zarr", noise(SHAPES["tiny"]))
    output = tmp_path / "straight.zarr"
    assert run(**OPTIONS["tiny"], input=str(source), output=str(output)).complete
    return output


def objects(output: Path) -> dict[str, str]:
    """Return digests of the objects that are stored, without what a killed server was writing: that is in no listing."""
    while True:
        try:
            return {name: digest for name, digest in shards(output).items() if "/.localbucket-" not in name}
        except FileNotFoundError:  # which it gave its name just now: what a killed job asked for last may still be done
            continue


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("requests", "deaths"), [(180, 2), pytest.param(25, 50, marks=pytest.mark.slow)], ids=["2", "50"])
def test_a_job_outlives_its_server(
    server: BucketServer, options: Options, straight: Path, output: Path, requests: int, deaths: int
) -> None:
    """Whenever the server had so many requests it dies, before or after the last took effect, and comes back: one run."""
    server.requests = requests
    server.kill()
    while server.deaths <= deaths:
        outcome = run(**options, overwrite=True)
        assert outcome.complete
        assert objects(output) == shards(straight)
        assert open_ledger(outcome.plan).damaged == 0
    assert digest(output) == digest(straight)
    assert verify(outcome.plan).ok


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_job_that_is_killed_leaves_nothing_torn_in_a_bucket(
    options: Options, straight: Path, output: Path, runner: CrashRunner, kills: int
) -> None:
    """SIGKILL at random moments, from kill to kill of one job; then it ends with the same objects."""
    told = Job(plan(make_job(**options)), shards(straight)).told
    begun = time.monotonic()
    assert runner.run("crash_jobs:go_there", told, dict(os.environ)).code == 0
    duration, random = time.monotonic() - begun, Random(7)  # noqa: S311
    killed = 0
    while killed < kills:
        delete_prefix(options["output"])
        delete_prefix(options["output"] + ".job")
        left = True
        while left and killed < kills:
            died = runner.run("crash_jobs:go_there", told, dict(os.environ), kill_after=random.random() * duration)
            assert died.error is None, died.text
            left = died.killed
            killed += left
            assert objects(output).items() <= shards(straight).items()
        assert run(**options).complete
        assert objects(output) == shards(straight)
    done = stored_plan(options["output"])
    assert done is not None
    assert open_ledger(done).damaged == 0
    assert verify(done).ok


@pytest.mark.slow
def test_parts_of_a_job_write_the_objects_of_one_run_into_a_bucket(options: Options, straight: Path, output: Path) -> None:
    """Each has its claim and its ledger there; whoever ends last builds the coarse levels."""
    first = run(**options, part="1/2")
    assert (first.complete, first.exit_code, first.left) == (False, 0, 0)
    last = run(**options, part="any")
    assert last.complete
    assert last.ran == last.regions - first.ran
    assert objects(output) == shards(straight)
    assert digest(output) == digest(straight)
    assert verify(last.plan).ok

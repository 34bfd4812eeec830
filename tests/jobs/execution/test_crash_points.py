"""Killed at every single thing that it does to a disk, a job leaves nothing torn and ends with the same bytes.

A point is an operation below the job's folders: a file created, written, synced, renamed or deleted, a folder made; by any
library. The process is killed before it, after it, or in the middle of a write.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest
from crash_jobs import Job, begin_anew

from volumetool.testing import CrashRunner, DiskFault
from volumetool.testing.disk import Action

FORMATS = ("ome-zarr-0.5-unsharded", "ome-zarr-0.4", "n5", "precomputed")
UNSHARDED = {"shard": None, "chunk": "2,16,16", "region": "1,1,2"}


def points(runner: CrashRunner, job: Job) -> int:
    whole = runner.run("crash_jobs:go", job.told, root=begin_anew(job))
    assert whole.value == job.plan.grid.count, whole.text
    return len(whole.events)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "step", "least"),
    [
        ("tiny", 41, 250),
        pytest.param("small", 1, 250, marks=pytest.mark.slow),
        (("least", UNSHARDED | {"format": "ome-zarr-0.4"}), 60, 200),
        *(pytest.param(("least", UNSHARDED | {"format": name}), 3, 200, marks=pytest.mark.slow) for name in FORMATS),
    ],
    indirect=["job"],
    ids=["some", "all", "ome-zarr-0.4, some", *FORMATS],
)
def test_a_kill_at_any_point_tears_nothing_and_costs_nothing_but_time(
    runner: CrashRunner, job: Job, step: int, least: int
) -> None:
    total = points(runner, job)
    assert total >= least
    actions: tuple[Action, ...] = ("kill-before", "kill-within", "kill-after")
    for number in range(1, total + 1, step):
        work = begin_anew(job)
        died = runner.run("crash_jobs:go", job.told, root=work, fault=DiskFault(actions[number % 3], number))
        assert died.killed or died.code == 0, died.text  # threads: the last operations may be some fewer
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"point {number} of {total}, {died.events[-1]}: {again.text}"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "chains"), [("tiny", 1), pytest.param("small", 100, marks=pytest.mark.slow)], indirect=["job"], ids=["1", "100"]
)
def test_a_chain_of_five_crashes_ends_with_the_same_bytes(runner: CrashRunner, job: Job, chains: int) -> None:
    total = points(runner, job)
    random = Random(5)  # noqa: S311
    for chain in range(chains):
        work = begin_anew(job)
        for _ in range(5):
            runner.run("crash_jobs:go", job.told, root=work, fault=DiskFault("kill-within", random.randrange(1, total // 2)))
            seen = runner.run("crash_jobs:inspect", job.told)
            assert seen.error is None, f"chain {chain}: {seen.text}"
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"chain {chain}: {again.text}"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "kills"), [("tiny", 3), pytest.param("small", 500, marks=pytest.mark.slow)], indirect=["job"], ids=["3", "500"]
)
def test_a_kill_at_a_random_moment_tears_nothing(runner: CrashRunner, job: Job, kills: int) -> None:
    """SIGKILL from outside, by the clock: it meets what no list of operations has. The run goes on from kill to kill."""
    begun = time.monotonic()
    points(runner, job)
    duration = time.monotonic() - begun
    random = Random(7)  # noqa: S311
    killed = 0
    while killed < kills:
        begin_anew(job)
        left = True
        while left and killed < kills:
            died = runner.run("crash_jobs:go", job.told, kill_after=random.random() * duration)
            left = died.killed
            killed += left
            assert died.error is None, died.text
            seen = runner.run("crash_jobs:inspect", job.told)
            assert seen.error is None, f"kill {killed}: {seen.text}"
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"kill {killed}: {again.text}"


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "kills"), [("tiny", 2), pytest.param("small", 200, marks=pytest.mark.slow)], indirect=["job"], ids=["2", "200"]
)
def test_a_kill_costs_the_region_in_flight_and_no_other(runner: CrashRunner, job: Job, tmp_path: Path, kills: int) -> None:
    """Of regions longer than a second: shorter ones wait that long for their record, and are lost with it."""
    random = Random(9)  # noqa: S311
    total = points(runner, job)
    tally = tmp_path / "begun"
    killed = 0
    while killed < kills:
        work = begin_anew(job)
        tally.unlink(missing_ok=True)
        dead = 0
        ended = False
        while not ended:
            fault = DiskFault("kill-before", random.randrange(1, total)) if killed < kills else DiskFault()
            died = runner.run("crash_jobs:go_without_waiting", job.told, str(tally), root=work, fault=fault)
            ended = died.code == 0
            dead += died.killed
            killed += died.killed
            assert died.error is None, died.text
        begun = len(tally.read_text().splitlines())
        assert job.plan.grid.count <= begun <= job.plan.grid.count + dead


@pytest.mark.parametrize("job", ["tiny"], indirect=True)
def test_the_harness_sees_a_shard_that_is_not_replaced_whole(runner: CrashRunner, job: Job) -> None:
    """Otherwise the tests above would pass for the wrong reason."""
    begin_anew(job)
    assert runner.run("crash_jobs:go", job.told).code == 0
    shard = next(file for file in sorted(Path(job.plan.output).rglob("c/*/*/*")) if file.is_file())
    shard.write_bytes(shard.read_bytes()[:-5])
    torn = runner.run("crash_jobs:inspect", job.told)
    assert "is torn or another shard" in torn.text
    shard.unlink()
    missing = runner.run("crash_jobs:inspect", job.told)
    assert "it says complete and is not" in missing.text

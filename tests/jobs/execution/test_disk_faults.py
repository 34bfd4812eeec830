"""Whatever the disk refuses, and whenever: an error that has a name, and no region lost or wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from crash_jobs import Job, begin_anew

from volumetool.errors import VolumetoolError
from volumetool.jobs.records.ledger import DONE
from volumetool.testing import CrashRunner, DiskFault, Ended, Kind
from volumetool.testing.disk import CHANGES

ALL: tuple[Kind, ...] = (*CHANGES, "open", "read")


def assert_named(ended: Ended) -> None:
    """Make sure that a failure has a code of its own, and that nothing is said behind the error's back."""
    assert ended.error is None or isinstance(ended.error, VolumetoolError), ended.text
    assert "region.unexpected" not in (ended.value or []), ended.value
    assert "Exception in thread" not in ended.text


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("action", ["fail-before", "fail-after"])
@pytest.mark.parametrize(
    ("job", "step"), [("least", 79), pytest.param("least", 1, marks=pytest.mark.slow)], indirect=["job"], ids=["some", "all"]
)
def test_any_operation_that_fails_once(runner: CrashRunner, job: Job, action: str, step: int) -> None:
    """Before it took effect, or after: of the input, the output and the records."""
    folder = begin_anew(job).parent
    total = len(runner.run("crash_jobs:go", job.told, root=folder, fault=DiskFault(kinds=ALL)).events)
    hits = 0
    for number in range(1, total + 1, step):
        begin_anew(job)
        fault = DiskFault("fail-before" if action == "fail-before" else "fail-after", number, kinds=ALL)
        once = runner.run("crash_jobs:try_to_go", job.told, root=folder, fault=fault)
        assert_named(once)
        hits += once.hits
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"operation {number} of {total}, {once.events[number - 1]}: {again.text}"
    assert hits


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "faults"), [("least", 12), pytest.param("tiny", 1000, marks=pytest.mark.slow)], indirect=["job"], ids=["12", "1000"]
)
def test_a_disk_that_fails_one_time_in_ten(runner: CrashRunner, job: Job, faults: int) -> None:
    """Run upon run on it ends in errors with names or gets on; once it is mended the job ends with the same bytes."""
    folder = begin_anew(job).parent
    seen = seed = 0
    while seen < faults:
        seed += 1
        fault = DiskFault("fail-either", kinds=ALL, share=0.1, seed=seed)
        stumbled = runner.run("crash_jobs:try_to_go", job.told, root=folder, fault=fault)
        assert_named(stumbled)
        seen += stumbled.hits
        if seed % 20 == 0 or seen >= faults:
            again = runner.run("crash_jobs:inspect_and_resume", job.told)
            assert again.error is None, f"seed {seed}: {again.text}"
            begin_anew(job)
        else:
            assert runner.run("crash_jobs:inspect", job.told).error is None


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("job", "step"), [("least", 7), pytest.param("tiny", 1, marks=pytest.mark.slow)], indirect=["job"], ids=["some", "all"]
)
def test_a_disk_that_stores_other_bytes_is_found_out_at_once(runner: CrashRunner, job: Job, step: int) -> None:
    """One bit of a shard: it is read back before it counts."""
    output = begin_anew(job) / "out.zarr"  # where no record is written: how many there are depends on the time
    plain = runner.run("crash_jobs:go", job.told, root=output, fault=DiskFault(kinds=("write",)))
    shards = [number for number in range(1, len(plain.events) + 1) if _is_shard(plain, number)]
    lied = 0
    for number in shards[::step]:
        begin_anew(job)
        wrong = runner.run("crash_jobs:try_to_go", job.told, root=output, fault=DiskFault("lie", number, kinds=("write",)))
        if not _is_shard(wrong, number):
            continue
        lied += 1
        assert_named(wrong)
        assert wrong.error is not None or wrong.value
        again = runner.run("crash_jobs:inspect_and_resume", job.told, True)
        assert again.error is None, again.text
    assert lied


def _is_shard(ended: Ended, number: int) -> bool:
    return len(ended.events) >= number and ended.events[number - 1].path.startswith(tuple(f"/{level}/c/" for level in range(9)))


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("fall", ["fall-short", "lie"])
@pytest.mark.parametrize(
    ("job", "step"), [("least", 79), pytest.param("least", 1, marks=pytest.mark.slow)], indirect=["job"], ids=["some", "all"]
)
def test_reads_that_are_short_or_wrong_for_as_long_as_the_file_is_open(
    runner: CrashRunner, job: Job, fall: str, step: int
) -> None:
    """A short read is read on; a wrong one of voxels or records is noticed, and the next try is right."""
    folder = begin_anew(job).parent
    kinds: tuple[Kind, ...] = ("read",)
    total = len(runner.run("crash_jobs:go", job.told, root=folder, fault=DiskFault(kinds=kinds)).events)
    for number in range(1, total + 1, step):
        begin_anew(job)
        fault = DiskFault("lie" if fall == "lie" else "fall-short", number, kinds=kinds)
        once = runner.run("crash_jobs:try_to_go", job.told, root=folder, fault=fault)
        assert_named(once)
        if fall == "fall-short":
            assert once.value == [], once.text
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"read {number} of {total}, {Path(once.events[number - 1].path)}: {again.text}"


@pytest.mark.parametrize("job", [("tiny", {"patch_cache": "always"})], indirect=True, ids=["kept"])
@pytest.mark.parametrize(
    ("folder", "kinds"),
    [("maps", ALL), ("patches", ALL), ("patches", ("open", "read")), ("patches", ("remove",))],
    ids=["maps", "patches", "patches that cannot be read", "patches that cannot be deleted"],
)
def test_what_a_job_can_do_without_ends_no_run(runner: CrashRunner, job: Job, folder: str, kinds: tuple[Kind, ...]) -> None:
    """The map of states is for views, and a kept patch is worth its time alone."""
    root = begin_anew(job) / "out.zarr.job" / folder
    refused = runner.run("crash_jobs:go", job.told, root=root, fault=DiskFault("fail-before", 1, 2**62, kinds=kinds))
    assert refused.hits
    assert (refused.error, refused.value) == (None, job.plan.grid.count), refused.text
    left = runner.run("crash_jobs:inspect_and_resume", job.told)
    assert (left.error, left.value) == (None, 0), left.text
    assert not (root.parent / "patches").exists()


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("job", ["least"], indirect=True)
def test_the_map_of_states_is_tried_again(runner: CrashRunner, job: Job, step: int) -> None:
    root = begin_anew(job) / "out.zarr.job" / "maps"
    total = len(runner.run("crash_jobs:go", job.told, root=root).events)
    assert total
    for number in range(1, total + 1, step):
        begin_anew(job)
        once = runner.run("crash_jobs:go", job.told, root=root, fault=DiskFault("fail-before", number))
        assert (once.error, once.hits) == (None, 1), once.text
        stored = zarr.open_array(root / "state", mode="r")[...]
        assert (np.asarray(stored) == DONE).all(), once.events[number - 1]

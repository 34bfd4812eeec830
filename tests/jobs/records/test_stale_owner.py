"""A run that stood still while another machine took its job over writes nothing more of the job's state."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from small_jobs import SMALL_3D, Interrupting, attributes, noise, run, write_input

from volumetool.errors import LedgerError
from volumetool.jobs.execution.finalize import finish, mark_incomplete
from volumetool.jobs.job import make_job
from volumetool.jobs.job_dir import LEASE
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records import segments
from volumetool.jobs.records.holder import decode_holder, encode_holder
from volumetool.jobs.records.lease import Lease, acquire, own
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.jobs.records.parts import join_parts, part_dir
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.records.segments import PartCut, read_cut, write_cut
from volumetool.jobs.records.shard_digests import note_unbuilt
from volumetool.storage.io.kvstore import read_version, replace_key

Files = dict[str, bytes]


def overtake(url: str) -> None:
    """Take a folder over as a run of another machine does, which waited for the time of a lease."""
    raw, generation = read_version(url, LEASE)
    assert raw is not None
    owner = decode_holder(raw, url)
    other = replace(owner, run=uuid.uuid4().hex, fence=owner.fence + 1, beat=0, place="another machine")
    assert replace_key(url, LEASE, encode_holder(other), generation) is not None


def contents(output: Path) -> Files:
    """Return the bytes of all that stands in a job's folder and of the output's metadata."""
    folders = (Path(f"{output}.job"), output)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != f"{LEASE}.__lock"]
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_input(tmp_path_factory.mktemp("in") / "in.zarr", noise((16, 40, 40)), chunk=(8, 16, 16)))


@pytest.fixture
def half_done(source: str, tmp_path: Path) -> dict[str, Any]:
    """Return the options of a job of two parts, whose drivers were stopped after three regions each."""
    job = {"input": source, "output": str(tmp_path / "out.zarr"), **SMALL_3D}
    for part in ("0/2", "1/2"):
        with pytest.raises(KeyboardInterrupt):
            run(Interrupting(after=3), part=part, **job)
    return job


WRITES: dict[str, Callable[[Plan], object]] = {
    "joins the parts": lambda job: join_parts(job.job_dir.url),
    "cuts the job": lambda job: write_cut(job.job_dir.url, PartCut(3)),
    "begins anew": lambda job: prepare(job.model_copy(update={"job": job.job.model_copy(update={"overwrite": True})})),
    "is to build coarse levels": note_unbuilt,
    "is not complete": mark_incomplete,
    "is finished": lambda job: finish(job, open_ledger(job)),
    "begins to record": lambda job: open_ledger(job).begin(),
}


@pytest.mark.parametrize("what", WRITES)
def test_an_owner_that_was_overtaken_changes_nothing_of_the_job(half_done: dict[str, Any], what: str) -> None:
    job, output = stored_plan(half_done["output"]), Path(half_done["output"])
    with own(job.job_dir.url):
        overtake(job.job_dir.url)
        before = contents(output)
        with pytest.raises(LedgerError) as caught:
            WRITES[what](job)
        assert caught.value.code == "ledger.overtaken"
        assert contents(output) == before


def test_an_owner_that_is_overtaken_at_any_step_of_joining_parts_stops_there_and_loses_no_record(
    half_done: dict[str, Any],
) -> None:
    job, output = stored_plan(half_done["output"]), Path(half_done["output"])
    folder, real, steps = job.job_dir.url, segments.confirm, itertools.count()
    while read_cut(folder) is not None:
        left, before = [next(steps)], Files()

        def fall_behind(url: str, left: list[int] = left, before: Files = before) -> None:
            if left[0] == 0:
                overtake(folder)
                before |= contents(output)
            left[0] -= 1
            real(url)

        with own(folder), mock.patch.object(segments, "confirm", fall_behind), suppress(LedgerError):
            join_parts(folder)
        assert not before or contents(output) == before
        assert open_ledger(job).done == 6
        acquire(folder, clock=itertools.count(0, 40).__next__, sleep=lambda _: None).release()


def test_a_part_that_was_claimed_and_not_begun_records_nothing_once_its_job_was_joined(half_done: dict[str, Any]) -> None:
    output = half_done["output"]
    late: Plan = plan(make_job(**half_done, part="0/2"))
    claim: Lease = acquire(late.run_dir, doing="part 0/2")
    overtake(late.run_dir)  # by a run of the whole job
    with pytest.raises(LedgerError) as caught:
        open_ledger(late).begin()
    assert caught.value.code == "ledger.overtaken"
    claim.release()
    assert read_cut(f"{output}.job") == PartCut(2)
    assert late.run_dir == part_dir(f"{output}.job", 0)


@pytest.mark.usefixtures("no_time")
def test_a_ledger_that_was_begun_again_keeps_the_numbers_that_an_earlier_owner_would_take(source: str, tmp_path: Path) -> None:
    """Otherwise its records would count for regions of another job."""
    job = {"input": source, "output": str(tmp_path / "out.zarr"), **SMALL_3D}
    run(**job)
    stale = open_ledger(stored_plan(job["output"]))
    stale.append(Record(region=0, state="failed"))
    other = job | {"fill": 7, "nodata": 3}
    assert run(**other, overwrite=True).complete
    with pytest.raises(LedgerError) as caught:
        stale.flush()
    assert caught.value.code == "ledger.overtaken"
    ledger = open_ledger(stored_plan(job["output"]))
    assert ledger.done == len(ledger.states) == int(np.count_nonzero(ledger.states))
    assert attributes(tmp_path / "out.zarr")["status"] == "complete"


def test_who_owns_nothing_may_begin_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), 4)
    ledger.begin()
    ledger.append(Record(region=1, state="done"))
    ledger.flush()
    assert Ledger(str(tmp_path), 4).done == 1

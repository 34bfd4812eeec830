"""Status names the regions that depart most from their input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_jobs import run

from volumetool.jobs.job import make_job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.planning.planner import plan as make_plan
from volumetool.jobs.planning.report import describe_start
from volumetool.jobs.records.lease import own
from volumetool.jobs.records.ledger import DONE, Record
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.status import describe_status, job_status
from volumetool.sealed import decode, encode_line


def test_the_least_consistent_regions_are_named_worst_first(options: dict[str, Any]) -> None:
    plan = run(**options).plan
    assert job_status(plan).consistency == 0.0  # of the identity
    ledger = open_ledger(plan)
    for region, consistency in {0: 0.5, 1: 0.01, 4: 0.03, 7: 0.04, 8: None}.items():
        ledger.append(Record(region, "done", consistency=consistency))
    ledger.append(Record(5, "failed"))
    ledger.flush()
    status = job_status(plan)
    assert [(each["region"], each["consistency"]) for each in status.least_consistent] == [(0, 0.5), (7, 0.04), (4, 0.03)]
    assert status.least_consistent[0]["box"] == str(plan.grid.region(0).box)
    expected = ((0.5**2 + 0.01**2 + 0.03**2 + 0.04**2) / 10) ** 0.5  # the failed one and the one that does not say are left out
    assert status.consistency == pytest.approx(expected)


def test_records_of_before_are_read_and_say_nothing(options: dict[str, Any]) -> None:
    plan = run(**options).plan
    for file in (Path(JobDir(options["output"]).url.removeprefix("file://")) / "ledger").glob("*.jsonl"):
        lines = []
        for line in file.read_bytes().splitlines():
            fields = decode(line + b"\n")
            del fields["consistency"]
            lines.append(encode_line(fields))
        file.write_bytes(b"".join(lines))
    status = job_status(plan)
    assert (status.done, status.consistency, status.least_consistent) == (plan.grid.count, None, [])
    assert run(**options).ran == 0


def test_status_tells_running_idle_and_complete_apart_and_names_the_model(options: dict[str, Any]) -> None:
    plan = run(**options | {"roi": "0:2,:,:"}).plan
    idle = job_status(plan)
    assert (idle.state, idle.model) == ("idle", "fake-identity")
    assert 0 < idle.percent == int(1000 * idle.done / idle.regions) / 10 < 100
    with own(plan.job_dir.url):
        assert job_status(plan).state == "running"
    run(**options)
    complete = job_status(plan)
    assert (complete.state, complete.percent, complete.seconds_left) == ("complete", 100.0, 0.0)


def test_the_speed_is_that_of_the_last_regions_and_not_of_the_night_between(options: dict[str, Any]) -> None:
    plan = run(**options | {"roi": "0:2,:,:"}).plan
    todo = [index for index in range(plan.grid.count) if open_ledger(plan).states[index] != DONE]
    ledger = open_ledger(plan)
    now, first, second = ledger.last_finished + 50_000, *todo[:2]
    ledger.append(Record(first, "done", seconds=8.0, finished=now))
    ledger.append(Record(second, "done", seconds=8.0, finished=now + 2.0))
    ledger.flush()
    status = job_status(plan)
    voxels = [plan.grid.region(index).box.voxels for index in range(plan.grid.count)]
    assert status.mvox_per_s == pytest.approx((voxels[first] + voxels[second]) / 10 / 1e6)
    assert status.seconds_left == pytest.approx(sum(voxels[index] for index in todo[2:]) / status.mvox_per_s / 1e6)


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "as in the input"), pytest.param(0.1, "noise is removed", marks=pytest.mark.slow), (0.5, "look where")],
)
def test_consistency_comes_with_what_is_good(options: dict[str, Any], value: float, words: str) -> None:
    plan = run(**options).plan
    text = dict(describe_status(replace(job_status(plan), consistency=value)))["consistency"]
    assert words in text.partition("(")[0]
    assert "up to 0.03" in text


def test_a_run_begins_with_what_it_makes_of_what_and_what_is_done_already(options: dict[str, Any]) -> None:
    plan = run(**options | {"roi": "0:2,:,:"}).plan
    text = describe_start(plan, 3)
    for words in ("fake-identity (as asked)", "10 x 37 x 45 voxels of 8 x 32 x 32 nm", "3 of 12 regions are done already"):
        assert words in text
    assert "\n" not in text
    chosen = plan.model_copy(update={"job": plan.job.model_copy(update={"model": "auto"})})
    assert "chosen by auto" in describe_start(chosen, 0)


def test_going_on_counts_the_bytes_of_the_whole_volume(options: dict[str, Any]) -> None:
    whole = make_plan(make_job(**options)).estimates
    run(**options | {"roi": "0:2,0:5,:"})
    again = make_plan(make_job(**options)).estimates
    ratio = whole.compression / again.compression  # each from its own sample
    assert again.written_bytes * ratio == pytest.approx(whole.written_bytes, rel=1e-3)

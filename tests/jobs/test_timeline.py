"""When regions ended, where, and how fast."""

from __future__ import annotations

from typing import Any

import pytest
from small_jobs import run
from typer.testing import CliRunner
from volumetool.cli.main import app

from volumetool.jobs.records.lease import own
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.status import describe_status, job_status
from volumetool.jobs.timeline import Timeline


def ended(worker: str, finished: float, seconds: float, device: str = "cuda:0") -> Record:
    return Record(0, "done", worker=worker, device=device, seconds=seconds, finished=finished)


def test_node_hours_count_a_machine_once_and_leave_its_nights_out() -> None:
    timeline = Timeline()
    for worker in ("a:1", "a:2"):  # two workers of one machine
        for finished in (1800.0, 3600.0):
            timeline.add(ended(worker, finished, 1800.0), 10)
    timeline.add(ended("a:3", 90_000.0, 1800.0), 10)  # after a night
    timeline.add(ended("b:1", 3600.0, 3600.0), 10)
    assert timeline.node_hours == pytest.approx(1.0 + 0.5 + 1.0)


def test_each_worker_has_its_own_speed_and_who_ended_a_region_last_comes_first() -> None:
    timeline = Timeline()
    timeline.add(ended("fast:1", 10.0, 1.0), 5_000_000)
    timeline.add(ended("fast:1", 11.0, 1.0), 5_000_000)
    timeline.add(ended("slow:1", 20.0, 10.0, "cpu"), 5_000_000)
    slow, fast = timeline.workers(now=21.0)
    assert (slow.worker, slow.device, slow.regions, slow.mvox_per_s, slow.idle_seconds) == ("slow:1", "cpu", 1, 0.5, 1.0)
    assert (fast.worker, fast.device, fast.regions, fast.mvox_per_s, fast.idle_seconds) == ("fast:1", "cuda:0", 2, 5.0, 10.0)


def test_nothing_has_taken_no_time() -> None:
    assert Timeline().node_hours == 0
    assert Timeline().workers(0.0) == []


def test_status_names_the_parts_the_workers_and_the_command_that_takes_what_nobody_runs(options: dict[str, Any]) -> None:
    plan = run(**options, part="0/3").plan.whole
    with own(f"{plan.job_dir.url}/parts/2", doing="part 2/3"):
        status = job_status(plan)
        assert status.state == "running"
        assert [(part.part, part.owner is not None) for part in status.parts] == [("0/3", False), ("1/3", False), ("2/3", True)]
        assert status.parts[0].done == status.done == status.parts[0].regions
        text = dict(describe_status(status))
        assert "process" in text["worker"] or ":" in text["worker"]
    assert status.workers[0].device == "cpu"
    assert status.workers[0].regions == status.done
    assert status.node_hours > 0
    assert status.next_command.endswith("--part=any")


def test_watching_ends_with_the_job(options: dict[str, Any]) -> None:
    run(**options)
    shown = CliRunner().invoke(app, ["status", options["output"], "--watch"])
    assert shown.exit_code == 0
    assert shown.output.count("state") == 1
    assert "complete" in shown.output

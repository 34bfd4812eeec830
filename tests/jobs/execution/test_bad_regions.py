"""One bad region never stops the others: it is named, set aside where it ends processes, and can be tried again."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bad_regions import assert_others_are_right, bad_job, bad_volume
from small_jobs import digest, run

from volumetool.errors import ClusterError, DeviceError, LedgerError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import dask_task
from volumetool.jobs.clusters.assignment import Assignment
from volumetool.jobs.clusters.dask_driver import DEATHS_IN_A_ROW, ThroughDask
from volumetool.jobs.execution.supervisor import DEATHS, RegionSupervisor, Watch
from volumetool.jobs.execution.worker import Worker, runtime_of
from volumetool.jobs.job import make_job
from volumetool.jobs.job_dir import ATTEMPTS, JobDir
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.attempts import Attempts
from volumetool.jobs.records.ledger import QUARANTINED, Record
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.status import job_status
from volumetool.sealed import decode, encode
from volumetool.testing import faults


def prepared(options: dict[str, Any]) -> Plan:
    decided = plan(make_job(**options))
    prepare(decided)
    return decided


def notes(output: Path) -> list[str]:
    """Return the regions that were begun and did not end."""
    return sorted(file.stem for file in output.with_name(output.name + ".job").glob(f"{ATTEMPTS}/*.json"))


def begin(plan: Plan, region: int, *reasons: str) -> None:
    """Leave behind what processes that died in a region leave."""
    attempts = Attempts(plan.job_dir.url)
    for reason in reasons:
        attempts.begin(region, "elsewhere:1")
        if reason:
            attempts.explain(region, reason)


PLACES = ((0,), (5, 6), (3, 12, 23))
FAST = (("error", (5, 6)), ("nan", (3, 12, 23)))


@pytest.mark.parametrize(
    ("fault", "bad"),
    [
        pytest.param(fault, bad, marks=[] if (fault, bad) in FAST else [pytest.mark.slow], id=f"{fault}-{bad}")
        for fault in ("error", "nan", "inf")
        for bad in PLACES
    ],
)
def test_all_other_regions_complete_and_the_bad_ones_are_named(tmp_path: Path, fault: str, bad: tuple[int, ...]) -> None:
    outcome = run(**bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", fault))
    assert_others_are_right(outcome, bad)
    assert [failure["region"] for failure in job_status(outcome.plan).failures] == list(bad)
    assert notes(tmp_path / "out.zarr") == []  # they ended, if badly


def test_a_region_that_ended_two_processes_is_tried_alone_once_and_then_set_aside(tmp_path: Path) -> None:
    """One of two such regions is innocent, killed from outside, and is done. The other one ends the third process, too."""
    options = bad_job(bad_volume(tmp_path / "in.zarr", (7,)), tmp_path / "out.zarr", "segfault")
    plan = prepared(options)
    for region in (7, 9):
        begin(plan, region, *[""] * DEATHS)
    outcome = run(**options)
    assert_others_are_right(outcome, (7,))
    (record,) = outcome.failures
    assert record.error["code"] == QUARANTINED
    assert "SIGSEGV" in record.error["message"]
    assert "--retry-quarantined" in record.error["hint"]
    assert notes(tmp_path / "out.zarr") == []


def test_what_is_set_aside_stays_so_until_it_is_asked_for(tmp_path: Path) -> None:
    """Two attempts that hung are enough. The next run does not try the region, names it, and one that is told to does it."""
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none")
    plan = prepared(options)
    begin(plan, 4, "no sign of life for 2 s", "no sign of life for 3 s")
    first = run(**options)
    assert_others_are_right(first, (4,))
    assert "no sign of life for 2 s; no sign of life for 3 s" in first.failures[0].error["message"]
    again = run(**options)
    assert (again.ran, again.exit_code, [record.region for record in again.failures]) == (0, 3, [4])
    (failure,) = job_status(again.plan).failures
    assert (failure["region"], failure["code"]) == (4, QUARANTINED)
    last = run(**options | {"retry_quarantined": True})
    assert (last.ran, last.exit_code, last.complete) == (1, 0, True)


def test_attempts_are_counted_on_disk_until_the_region_ends(tmp_path: Path) -> None:
    attempts = Attempts(str(tmp_path))
    assert attempts.begin(3, "a:1") == ()
    assert attempts.begin(3, "b:2") == ("",)
    attempts.explain(3, "hung")
    assert Attempts(str(tmp_path)).begin(3, "c:3") == ("", "hung")
    attempts.discard_last(3)
    attempts.discard_last(3)  # what is explained stays
    assert attempts.begin(3, "d:4") == ("", "hung")
    assert attempts.begin(4, "d:4") == ()
    attempts.end(3)
    assert attempts.begin(3, "e:5") == ()


def test_a_run_that_ends_in_order_blames_no_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none")

    def interrupted(*_: Any) -> Record:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "run", interrupted)
        for _ in range(DEATHS + 1):
            with pytest.raises(KeyboardInterrupt):
                run(**options)
            assert notes(tmp_path / "out.zarr") == []
    assert run(**options).complete


def test_a_lost_device_ends_the_process_and_blames_the_region_only_after_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run stands for a process: the poison is taken out of this one in between, as leaving it would."""
    bad = (2,)
    options = bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", "sticky")
    for _ in range(DEATHS):
        monkeypatch.setattr(faults, "_poisoned", threading.Event())
        with pytest.raises(DeviceError) as caught:
            run(**options)
        assert (caught.value.code, caught.value.exit_code) == ("device.lost", 75)
        assert "illegal memory access" in caught.value.message
        assert notes(tmp_path / "out.zarr") == ["2"]
    monkeypatch.setattr(faults, "_poisoned", threading.Event())
    outcome = run(**options)
    assert_others_are_right(outcome, bad)
    assert "illegal memory access" in outcome.failures[0].error["message"]


class Pauses(threading.Event):
    """Stands in for the time: a pause is over when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._asked, self._over = threading.Semaphore(0), threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        """Pause."""
        assert timeout == 0.05
        self._asked.release()
        assert self._over.acquire(timeout=60)
        return self.is_set()

    def set(self) -> None:
        """End the last pause, too."""
        super().set()
        self._over.release()

    def begin(self) -> None:
        """Wait for a pause."""
        assert self._asked.acquire(timeout=60)

    def end_one(self) -> None:
        """Let a pause pass, and wait for the next."""
        self._over.release()
        self.begin()


def test_silence_is_noticed_and_signs_of_life_are_heard() -> None:
    left: list[str] = []
    watch, pauses = Watch(0.2, left.append), Pauses()
    watch._over = pauses
    with watch:
        pauses.begin()
        for beats in (True,) * 8 + (False,) * 4:
            if beats:
                watch.beat()
            pauses.end_one()
        assert left == []
        pauses.end_one()
        assert left == ["no sign of life for 0 s"]


def test_a_silence_of_ten_usual_regions_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where regions take long, patience is theirs; where they are short, it is the job's."""
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none") | {"hang_timeout": 5.0}
    allowed: list[float] = []

    class Noted(Watch):
        def __init__(self, seconds: float, leave: Any) -> None:
            allowed.append(seconds)
            super().__init__(seconds, leave)

    monkeypatch.setattr("volumetool.jobs.execution.supervisor.Watch", Noted)
    worker = Worker(prepared(options))
    guard = RegionSupervisor(worker, lambda _: None)
    monkeypatch.setattr(worker, "run", lambda turn, _: Record(turn.region, "done", seconds=3.0 * turn.region))
    for number in range(4):
        guard.run(RegionTask(number), pytest.fail)
    assert allowed == [5.0, 5.0, 15.0, 30.0]


def test_a_worker_whose_job_was_taken_over_leaves_it_alone(tmp_path: Path) -> None:
    """It deletes no shard of a run that it does not belong to, neither when it begins a region nor in the midst of one."""
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none")
    outcome = run(**options)
    before = digest(tmp_path / "out.zarr")
    url = JobDir(outcome.plan.output).url
    with pytest.raises(LedgerError) as caught:
        dask_task.run_region(url, runtime_of(outcome.plan, "a run of the past"), RegionTask(0))
    assert caught.value.code == "ledger.overtaken"
    guard = RegionSupervisor(Worker(outcome.plan), lambda _: None, "a run of the past")
    guard._asked = time.monotonic() - 3600
    with pytest.raises(LedgerError):
        guard._check_owner(5.0)
    assert digest(tmp_path / "out.zarr") == before


def test_a_process_computes_one_region_at_a_time_however_many_threads_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none")
    plan = prepared(options)
    url, runtime = plan.job_dir.url, runtime_of(plan)
    at_once, most = 0, 0
    real = Worker.run

    def counted(self: Worker, turn: RegionTask, *rest: Any) -> Record:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return real(self, turn, *rest)
        finally:
            at_once -= 1

    monkeypatch.setattr(Worker, "run", counted)
    records: list[Record] = []
    threads = [
        threading.Thread(target=lambda n=n: records.append(dask_task.run_region(url, runtime, RegionTask(n))))  # type: ignore[misc]
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.state for record in records} == {"done"}
    assert most == 1


class Dying:
    """A client of a cluster in which each look finds another worker."""

    def __init__(self) -> None:
        self.looks = 0

    def scheduler_info(self, **_asked: int) -> dict[str, Any]:
        self.looks += 1
        return {"workers": {f"tcp://127.0.0.1:{self.looks}": {"name": f"{self.looks}"}}}


def test_workers_that_die_one_after_the_other_end_the_run_with_a_reason() -> None:
    cluster = ThroughDask.__new__(ThroughDask)
    cluster.client, cluster._assignment, cluster._deaths, cluster._forsaken = Dying(), Assignment(), 0, 0
    cluster._see_to, cluster._refused, cluster._running = (lambda _names: 0), set(), {}
    for _ in range(DEATHS_IN_A_ROW):
        cluster._look()
    cluster._deaths -= 3  # a region ended
    for _ in range(3):
        cluster._look()
    with pytest.raises(ClusterError) as caught:
        cluster._look()
    assert caught.value.code == "cluster.dying"
    assert f"{DEATHS_IN_A_ROW} workers" in caught.value.message


def test_a_plan_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    options = bad_job(bad_volume(tmp_path / "in.zarr", ()), tmp_path / "out.zarr", "none")
    prepared(options)
    file = tmp_path / "out.zarr.job" / "plan.json"
    plan = decode(file.read_bytes())
    for form in (json.dumps(plan).encode(), encode({**plan, "terms": {}})):  # not sealed; of other fields
        file.write_bytes(form)
        with pytest.raises(LedgerError) as caught:
            stored_plan(options["output"])
        assert caught.value.code == "ledger.plan"

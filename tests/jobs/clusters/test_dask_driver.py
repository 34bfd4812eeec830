"""Regions through dask: what is handed out, what comes back, and who is there to do it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from small_jobs import prepared, run

from volumetool.errors import ClusterError, LedgerError, NumericsError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import dask_driver, dask_task, worker_processes
from volumetool.jobs.clusters.dask_events import say_begun
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.plan import WINDOW
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger

Options = dict[str, Any]


def test_a_failed_task_is_a_failed_region_and_a_workers_own_error_ends_the_run() -> None:
    record = dask_driver._failed(5, RuntimeError("gone"))
    assert (record.region, record.state, record.error["code"]) == (5, "failed", "region.worker-failed")
    with pytest.raises(NumericsError):
        dask_driver._failed(5, NumericsError("numerics.other-class", "other bytes"))


def test_a_region_that_waits_for_its_worker_has_not_begun(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(options)
    may, begun, taken = threading.Event(), list[int](), list[int]()
    compute = Worker.run

    def held(self: Worker, turn: RegionTask, *rest: Any) -> Record:
        assert may.wait(60)
        return compute(self, turn, *rest)

    class Noting(RegionQueue):
        def take(self, flying: Collection[int]) -> RegionTask | None:
            turn = super().take(flying)
            taken.extend([] if turn is None else [turn.region])
            if len(taken) == WINDOW:
                handed_out.set()
            return turn

    monkeypatch.setattr(Worker, "run", held)

    def begin(region: int) -> None:
        begun.append(region)
        seen.set()

    seen, handed_out = threading.Event(), threading.Event()
    turns = Noting(plan, open_ledger(plan), begin)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        records = dask_driver.ThroughDask(client, plan).records(turns)
        first = threading.Thread(target=lambda: ended.append(next(records)))
        ended: list[Record] = []
        first.start()
        assert seen.wait(60)
        assert handed_out.wait(60)
        assert (taken, begun) == ([0, 1], [0])
        may.set()
        first.join(60)
        ended.extend(records)
    assert begun == [record.region for record in ended]
    assert sorted(begun) == list(range(plan.grid.count))


def test_a_bounded_number_of_regions_is_in_flight(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are taken from the list as others end: never more than two tasks a worker, of so many regions each."""
    most = 2
    monkeypatch.setattr(dask_driver, "MOST", most)
    plan = prepared(options | {"region": "1,1,1"})
    assert plan.grid.count > most * WINDOW
    taken = 0
    ended = 0

    class Counted(RegionQueue):
        def take(self, flying: Collection[int]) -> RegionTask | None:
            nonlocal taken
            turn = super().take(flying)
            taken += turn is not None
            assert taken - ended <= WINDOW * most
            return turn

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        for record in dask_driver.ThroughDask(client, plan).records(Counted(plan, open_ledger(plan))):
            assert record.state == "done", record.error
            ended += 1
    assert (taken, ended) == (plan.grid.count, plan.grid.count)


def test_short_regions_share_a_task_and_long_ones_have_their_own(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task could not begin in its moment is asked for again: every region once, in order."""
    plan = prepared(options | {"region": "1,1,1"})
    assert plan.grid.count >= 8

    def stand(_url: str, _runtime: str, turns: list[RegionTask]) -> list[Record]:
        ended = turns[:2]  # the moment has passed
        return [Record(n.region, "done", patches=len(turns), seconds=0.0 if n.region < 5 else 60.0) for n in ended]

    monkeypatch.setattr(dask_driver, "run_regions", stand)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        records = list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    together = {record.region: record.patches for record in records}
    assert together[0] == together[plan.grid.count - 1] == 1
    assert max(together.values()) > 2


def test_regions_that_are_done_count_where_a_later_one_of_their_task_cannot_be(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(options | {"region": "1,1,1"})

    def stand(_url: str, _runtime: str, turn: RegionTask) -> Record:
        if turn.region == 2:
            raise LedgerError("ledger.overtaken", "another run", hint="look")
        return Record(turn.region, "done", seconds=0.0)

    monkeypatch.setattr(dask_task, "run_region", stand)
    monkeypatch.setattr(dask_task, "worker_of", lambda _url, _runtime: None)
    turns = [RegionTask(n) for n in range(4)]
    assert [record.region for record in dask_task.run_regions("", "", turns)] == [0, 1]
    with pytest.raises(LedgerError):
        dask_task.run_regions("", "", turns[2:])
    assert plan.keep == "none"


def test_a_task_that_times_out_fails_its_region_and_records_that_are_late_are_waited_for(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_driver, "MOST", 1)
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 60.0)  # nothing else is late, however slow the machine is
    plan = prepared(options | {"region": "1,1,1"})
    asked = Counter[str]()
    result = distributed.Future.result

    def stand(_url: str, _runtime: str, turns: list[RegionTask]) -> list[Record]:
        if turns[0].region == 2:
            raise TimeoutError
        return [Record(turn.region, "done", seconds=60.0) for turn in turns]

    def late(self: Any, timeout: float | None = None) -> Any:
        """Be late with every task's records once, as where they died with their worker, and unreadable with those of one."""
        region = str(self.key).split("-")[1]
        asked[region] += 1
        if asked[region] == 1:
            raise TimeoutError
        if region == "5":
            raise ValueError("not what was sent")
        return result(self, timeout)

    monkeypatch.setattr(dask_driver, "run_regions", stand)
    monkeypatch.setattr(distributed.Future, "result", late)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        records = list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    states = [(record.region, record.state) for record in records]
    assert sorted(states) == [(n, "failed" if n in {2, 5} else "done") for n in range(plan.grid.count)]
    assert [region for region, state in states if state == "done"] == sorted(set(range(plan.grid.count)) - {2, 5})


def test_a_job_that_no_worker_comes_for_ends_and_says_so(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(options)
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dask_driver, "FORSAKEN_LOOKS", 5)
    asked = list[Collection[str]]()

    def see_to(names: Collection[str]) -> int:
        asked.append(names)
        return 0

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
        pytest.raises(ClusterError) as caught,
    ):
        list(dask_driver.ThroughDask(client, plan, see_to).records(RegionQueue(plan, open_ledger(plan))))
    assert (caught.value.code, caught.value.exit_code) == ("cluster.lost", 75)
    assert len(asked) == 5


def test_processes_that_end_before_they_work_end_the_job_and_it_says_so(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dask_driver, "DEATHS_IN_A_ROW", 3)
    monkeypatch.setattr(worker_processes, "PROGRAM", "import volumetool.no_such_module")
    with pytest.raises(ClusterError) as caught:
        run(**options | {"workers": 2})
    assert caught.value.code == "cluster.dying"


def test_processes_that_the_scheduler_gave_up_are_ended_and_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that hangs in a call that holds Python's lock: no thread of its own can end it."""
    monkeypatch.setattr(worker_processes, "GIVEN_UP", 3)
    monkeypatch.setattr(worker_processes, "PROGRAM", "import time; time.sleep(600)")
    with worker_processes.Processes(1, tmp_path) as kept, kept.working_for("tcp://127.0.0.1:1", Security()):
        (first,) = kept._processes
        assert kept.look([first.name]) == kept.look([]) == kept.look([]) == 0
        assert first.popen.poll() is None
        assert kept.look([]) == 0  # it was known
        (second,) = kept._processes
        assert (first.popen.returncode, second.popen.poll()) == (-signal.SIGKILL, None)
    assert second.popen.returncode == -signal.SIGKILL


def test_a_request_for_records_that_was_given_up_before_it_began_fails_no_region(options: Options) -> None:
    """Dask's client gathers for all who ask at once; a request that is cancelled in that moment is what later ones wait for."""
    plan = prepared(options)

    async def give_up(client: distributed.Client) -> None:
        client._gather_keys, client._gather_future = set(), asyncio.get_running_loop().create_future()
        client._gather_future.cancel()

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        client.sync(give_up, client)
        records = list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    assert {record.state for record in records} == {"done"}


def test_records_that_died_with_their_worker_are_waited_for(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may have ended, and its worker be gone before the driver has what it returned: dask does it again, nobody else."""
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 60.0)  # what is asked for once is waited for, however slow the machine is
    plan = prepared(options)
    asked, submitted = Counter[str](), list[str]()
    hand_over, submit = distributed.Future.result, distributed.Client.submit

    def lost_once(self: distributed.Future, timeout: float | None = None) -> Any:
        asked[self.key] += 1
        if asked[self.key] == 1 and self.key.startswith("region-0-"):
            self._state.status = "lost"
            raise TimeoutError
        self._state.status = "finished"
        return hand_over(self, timeout)

    def noting(self: distributed.Client, *arguments: Any, key: str, **more: Any) -> distributed.Future:
        submitted.append(key)
        return submit(self, *arguments, key=key, **more)

    monkeypatch.setattr(distributed.Future, "result", lost_once)
    monkeypatch.setattr(distributed.Client, "submit", noting)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        records = list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    assert [key for key in submitted if key.startswith("region-0-")] == [key for key in asked if asked[key] > 1]


def test_a_worker_that_hangs_at_the_end_holds_nothing_up_and_its_region_is_recorded_once(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has, begun or waiting, a worker with nothing to do computes, too; what it says later is not heard."""
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "MOST", 1)
    plan = prepared(options | {"region": "1,1,1"})
    over, begun, hung = threading.Event(), Counter[int](), list[str]()

    def stand(url: str, _runtime: str, turn: RegionTask) -> Record:
        address = distributed.get_worker().address
        say_begun(url, turn.region)
        begun[turn.region] += 1
        if turn.region == 0 and not hung:
            hung.append(address)
        if hung == [address]:
            assert over.wait(60)
            return Record(turn.region, "failed", worker=address, error={"code": "region.late"})
        return Record(turn.region, "done", seconds=0.05, worker=address)

    monkeypatch.setattr(dask_task, "run_region", stand)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        records = list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
        over.set()
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    assert {record.state for record in records} == {"done"}
    assert hung[0] not in {record.worker for record in records}
    assert begun.total() == plan.grid.count + 1


def test_no_region_is_computed_twice_where_equal_voxels_may_be_packed_into_other_bytes(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "MOST", 1)
    plan = prepared(options | {"region": "1,1,1"})
    plan = plan.model_copy(update={"spec": plan.spec.model_copy(update={"format": "n5"})})
    assert not plan.packs_alike
    begun = Counter[int]()

    def stand(url: str, _runtime: str, turn: RegionTask) -> Record:
        say_begun(url, turn.region)
        begun[turn.region] += 1
        if turn.region == 0:
            time.sleep(1.5)  # far longer than all others together
        return Record(turn.region, "done", seconds=0.01, worker=distributed.get_worker().address)

    monkeypatch.setattr(dask_task, "run_region", stand)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    assert set(begun.values()) == {1}


def test_workers_that_come_get_regions_and_those_that_go_are_not_missed(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan was made for one worker; there are four for a while, then two."""
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "MOST", 1)
    plan = prepared(options | {"region": "1,1,1", "chunk": "1,8,8"})
    together, met, recorded = threading.Barrier(4), set[str](), threading.Event()

    def stand(url: str, _runtime: str, turn: RegionTask) -> Record:
        say_begun(url, turn.region)
        address = distributed.get_worker().address
        if turn.region >= 2 and address not in met:
            met.add(address)
            together.wait(60)  # four at once, or none goes on
        elif turn.region >= 2:
            assert recorded.wait(60)  # of each of them, before two of them go
        return Record(turn.region, "done", seconds=0.05, worker=address)

    monkeypatch.setattr(dask_task, "run_region", stand)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        seen = list[Record]()
        for record in dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))):
            seen.append(record)
            if len({each.worker for each in seen}) == 4:
                recorded.set()
            if len(seen) == 1:
                cluster.scale(4)
            if len(seen) == 12:
                cluster.scale(2)
    assert plan.workers == 1
    assert sorted(record.region for record in seen) == list(range(plan.grid.count))
    assert {record.state for record in seen} == {"done"}
    assert {record.worker for record in seen} == met
    assert len(met) == 4

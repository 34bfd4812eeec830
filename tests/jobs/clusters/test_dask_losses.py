"""Schedulers that go and come back, and workers that must not compute for a run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import distributed
import pytest
from distributed import LocalCluster
from small_jobs import prepared

from volumetool.errors import ClusterError, ClusterLostError, NumericsError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import dask_driver, dask_task
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.execution.worker import SOFTWARE, runtime_of
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger

Options = dict[str, Any]


def test_a_run_waits_for_a_scheduler_that_may_come_back_and_goes_on_with_what_was_under_way(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "MOST", 1)
    plan = prepared(options)
    with ExitStack() as stack:

        def cluster() -> LocalCluster:
            return stack.enter_context(
                LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
            )

        tried = list[None]()

        def reach() -> distributed.Client:
            tried.append(None)
            if len(tried) == 1:
                raise ClusterError("cluster.unreachable", "it is not there yet")
            return stack.enter_context(dask_driver.connect(cluster()))

        first = cluster()
        client = stack.enter_context(dask_driver.connect(first))
        records = dask_driver.ThroughDask(client, plan, reach=reach).records(RegionQueue(plan, open_ledger(plan)))
        seen = [next(records)]
        first.close()
        seen.extend(records)
    assert len(tried) == 2
    assert sorted(record.region for record in seen) == list(range(plan.grid.count))
    assert {record.state for record in seen} == {"done"}


def it_is_not_there() -> distributed.Client:
    raise ClusterError("cluster.unreachable", "it is not there")


@pytest.mark.parametrize("reach", [None, it_is_not_there], ids=["of-this-run", "elsewhere"])
def test_a_run_asks_for_another_start_where_its_scheduler_does_not_come_back(
    options: Options, monkeypatch: pytest.MonkeyPatch, reach: Callable[[], distributed.Client] | None
) -> None:
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "FORSAKEN_LOOKS", 3)
    plan = prepared(options)
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
    with dask_driver.connect(cluster) as client:
        records = dask_driver.ThroughDask(client, plan, reach=reach).records(RegionQueue(plan, open_ledger(plan)))
        next(records)
        cluster.close()
        with pytest.raises(ClusterLostError) as caught:
            list(records)
    assert (caught.value.code, caught.value.exit_code) == ("cluster.lost", 75)


def test_a_worker_that_joins_and_would_compute_other_bytes_is_refused_and_the_run_goes_on_with_others(
    options: Options, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first worker goes when the second one is refused; the run waits for the third, and gives the second nothing."""
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dask_driver, "MOST", 1)
    plan = prepared(options | {"region": "1,1,1"})
    came, known = list[str](), threading.Event()

    class Driver(dask_driver.ThroughDask):
        def _refuse(self, refused: dask_task.RefusedWorker) -> None:
            super()._refuse(refused)
            known.set()  # else the first worker may do all before the driver hears of it

    def worker_of(_url: str, _runtime: str) -> None:
        address = distributed.get_worker().address
        if address not in came:
            came.append(address)
        if came.index(address) == 1:
            raise NumericsError("numerics.other-class", "its probe is 0123, the plan's 4567")

    def stand(_url: str, _runtime: str, turn: RegionTask) -> Record:
        assert turn.region < 2 or known.wait(60)
        return Record(turn.region, "done", seconds=0.05, worker=distributed.get_worker().address)

    monkeypatch.setattr(dask_task, "worker_of", worker_of)
    monkeypatch.setattr(dask_task, "run_region", stand)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        driver, seen = Driver(client, plan), list[Record]()
        for record in driver.records(RegionQueue(plan, open_ledger(plan))):
            seen.append(record)
            if len(seen) == 1:
                cluster.scale(2)
            if driver._refused and len(came) == 2:
                client.retire_workers([came[0]])
                cluster.scale(3)
    assert sorted(record.region for record in seen) == list(range(plan.grid.count))
    assert {record.worker for record in seen} == {came[0], came[2]}
    assert [record.message for record in caplog.records if "is refused" in record.message] == [
        f"worker {came[1]} is refused, and gets no regions: its probe is 0123, the plan's 4567"
    ]


def test_a_run_whose_only_worker_is_refused_ends_with_the_reason(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(options)
    runtime = runtime_of(plan).replace(SOFTWARE, "9.9.9 (numerics version 9)")
    monkeypatch.setattr(dask_driver, "runtime_of", lambda *_: runtime)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
        pytest.raises(ClusterError, match=r"has volumetool .*, and the driver has 9\.9\.9") as caught,
    ):
        list(dask_driver.ThroughDask(client, plan).records(RegionQueue(plan, open_ledger(plan))))
    assert caught.value.code == "cluster.other-version"


def test_a_run_whose_last_worker_that_was_not_refused_is_gone_ends_and_says_so(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(options)
    monkeypatch.setattr(dask_driver, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dask_driver, "FORSAKEN_LOOKS", 5)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        dask_driver.connect(cluster) as client,
    ):
        driver = dask_driver.ThroughDask(client, plan)
        driver._refused.update(client.scheduler_info()["workers"])
        with pytest.raises(ClusterError, match="the last worker that was not refused is gone") as caught:
            list(driver.records(RegionQueue(plan, open_ledger(plan))))
    assert (caught.value.code, caught.value.exit_code) == ("cluster.lost", 75)

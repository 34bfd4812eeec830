"""Workers anywhere: the same bytes from processes, a scheduler's workers and GPUs; clear words where there are none."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import threading
import types
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from small_jobs import Recording, digest, noise, run, shard_files, tree, write_input

from volumetool.errors import ClusterError, LedgerError, NumericsError, VolumetoolError
from volumetool.geometry import Turn
from volumetool.jobs import task
from volumetool.jobs import worker as worker_module
from volumetool.jobs.clusters import cuda, open_cluster, processes, through_dask
from volumetool.jobs.folder import job_url, open_ledger, plan_digest
from volumetool.jobs.job import make_job
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning import plan_with_statistics
from volumetool.jobs.run import prepare
from volumetool.jobs.task import run_region
from volumetool.jobs.turns import WINDOW, Turns
from volumetool.jobs.worker import Worker
from volumetool.models import load_model

Options = dict[str, Any]


@pytest.fixture
def local_only(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the addresses that schedulers listen on; all must be on loopback."""
    seen: list[str] = []
    begin = LocalCluster.__init__

    def watched(self: LocalCluster, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        seen.append(self.scheduler_address)
        seen.extend(worker["host"] for worker in self.scheduler_info["workers"].values())

    monkeypatch.setattr(LocalCluster, "__init__", watched)
    return seen


def prepared(options: Options) -> Plan:
    plan, statistics = plan_with_statistics(make_job(**options))
    prepare(plan, statistics)
    return plan


def runtime(plan: Plan, digest_of_plan: str | None = None) -> str:
    known = digest_of_plan or plan_digest(job_url(plan.job.output))
    return json.dumps({"job": plan.job.model_dump(mode="json"), "running": {"threads": 1}, "plan": known})


def test_two_processes_write_the_bytes_of_one(
    options: Options, tmp_path: Path, tiny_model: Path, local_only: list[str]
) -> None:
    options |= {"model": str(tiny_model)}
    run(**options)
    seen = Recording()
    outcome = run(seen, **options | {"output": str(tmp_path / "two.zarr"), "workers": 2})
    assert (outcome.complete, outcome.plan.workers) == (True, 2)
    assert len({record.worker for record in seen.records}) == 2
    assert digest(tmp_path / "two.zarr") == digest(options["output"])
    assert local_only
    assert all("127.0.0.1" in address for address in local_only)


def test_without_dask_cuda_the_cuda_cluster_says_what_to_install(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)  # as if it were not installed
    with pytest.raises(ClusterError) as caught:
        run(**options | {"cluster": "cuda"})
    assert caught.value.code == "cluster.no-dask-cuda"
    assert "pip install" in caught.value.hint


def fake_dask_cuda(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


def test_without_a_gpu_the_cuda_cluster_says_so(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(**_: Any) -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    fake_dask_cuda(monkeypatch, no_driver)
    with pytest.raises(ClusterError) as caught:
        run(**options | {"cluster": "cuda"})
    assert caught.value.code == "cluster.no-gpu"
    assert "NVML Shared Library Not Found" in caught.value.message


def test_the_cuda_path_runs_on_a_cluster_that_stands_in_for_gpus(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Options] = []

    class Stand(LocalCluster):  # type: ignore[misc]  # distributed ships no types
        def __init__(self, **kwargs: Any) -> None:
            asked.append(kwargs)
            super().__init__(**kwargs, processes=True)

    fake_dask_cuda(monkeypatch, Stand)
    run(**options)
    outcome = run(**options | {"output": str(tmp_path / "gpu.zarr"), "cluster": "cuda", "workers": 1})
    assert outcome.complete
    assert digest(tmp_path / "gpu.zarr") == digest(options["output"])
    (kwargs,) = asked
    assert (kwargs["n_workers"], kwargs["threads_per_worker"], kwargs["host"]) == (1, 1, "127.0.0.1")
    assert cuda.__doc__
    assert "The one module that imports it" in cuda.__doc__


def test_an_address_that_nobody_answers_at_is_named(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through_dask, "CONNECT_SECONDS", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError) as caught:
            run(**options | {"cluster": address})
    assert caught.value.code == "cluster.unreachable"
    assert address in caught.value.message


@pytest.mark.slow
def test_the_workers_of_an_address_do_the_job_from_any_directory(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First a scheduler without workers, which is refused; then with one, for a job whose paths are relative."""
    run(**options)
    monkeypatch.chdir(tmp_path)
    with LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp", host="127.0.0.1"
    ) as cluster:
        relative = options | {"input": "in.zarr", "output": "far.zarr", "cluster": cluster.scheduler_address}
        with pytest.raises(ClusterError) as caught:
            run(**relative)
        assert caught.value.code == "cluster.no-workers"

        cluster.scale(1)
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            assert run(**relative).complete
    assert digest(tmp_path / "far.zarr") == digest(options["output"])


def test_a_worker_that_computes_other_bytes_is_refused(options: Options) -> None:
    plan = prepared(options).model_copy(update={"probe": "0" * 64})
    with pytest.raises(NumericsError) as caught, open_cluster(plan):
        pass
    assert caught.value.code == "numerics.other-class"
    mixed = plan.model_copy(update={"job": make_job(**options, allow_mixed_numerics=True)})
    assert Worker(mixed).run(Turn(0)).numerics not in ("", "0" * 64)


def test_a_worker_never_works_by_an_old_plan(options: Options) -> None:
    """A worker that outlives a job which began anew, with the same settings but other regions, notices."""
    plan = prepared(options)
    url, first = job_url(plan.job.output), runtime(plan)
    assert run_region(url, first, Turn(0)).state == "done"
    again = prepared(options | {"overwrite": True, "region": "1,1,1"})
    assert again.fingerprint == plan.fingerprint
    second = runtime(again)
    assert second != first
    record = run_region(url, second, Turn(0))
    assert record.patches < Worker(plan).run(Turn(0)).patches
    with pytest.raises(LedgerError) as caught:
        run_region(url, runtime(plan, "0" * 64), Turn(0))
    assert caught.value.code == "ledger.plan"


def test_a_worker_that_finds_another_model_at_the_path_is_refused(options: Options, tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(tiny_model, model)
    plan = prepared(options | {"model": str(model)})
    from volumetool.models import save_model

    network = load_model(str(model)).network()
    network.head.bias += 1  # type: ignore[operator, union-attr]
    save_model(model, network, load_model(str(model)).card)
    with pytest.raises(VolumetoolError) as caught:
        Worker(plan)
    assert caught.value.code == "model.changed"


def test_a_worker_that_finds_another_volume_at_the_path_is_refused(options: Options) -> None:
    plan = prepared(options)
    shutil.rmtree(options["input"])
    write_input(Path(options["input"]), noise((10, 37, 46)))
    with pytest.raises(VolumetoolError) as caught:
        Worker(plan)
    assert caught.value.code == "input.changed"


def test_nan_as_nodata_reaches_a_worker(options: Options, tmp_path: Path) -> None:
    source = str(write_input(tmp_path / "float.zarr", noise((10, 37, 45), "float32")))
    plan = prepared(options | {"input": source, "nodata": float("nan")})
    record = run_region(job_url(plan.job.output), runtime(plan), Turn(0))
    assert record.state == "done", record.error


def test_a_failed_task_is_a_failed_region_and_a_workers_own_error_ends_the_run() -> None:
    record = through_dask._failed(5, RuntimeError("gone"))
    assert (record.region, record.state, record.error["code"]) == (5, "failed", "region.worker-failed")
    with pytest.raises(NumericsError):
        through_dask._failed(5, NumericsError("numerics.other-class", "other bytes"))


def test_a_region_that_waits_for_its_worker_has_not_begun(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(options)
    may, begun, taken = threading.Event(), list[int](), list[int]()
    compute = Worker.run

    def held(self: Worker, turn: Turn) -> Record:
        assert may.wait(60)
        return compute(self, turn)

    class Noting(Turns):
        def take(self, flying: Collection[int]) -> Turn | None:
            turn = super().take(flying)
            taken.extend([] if turn is None else [turn.region])
            return turn

    monkeypatch.setattr(Worker, "run", held)
    turns = Noting(plan, open_ledger(plan))

    def begin(region: int) -> None:
        begun.append(region)
        seen.set()

    seen = threading.Event()
    turns.began = begin
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        through_dask.connect(cluster, plan) as client,
    ):
        records = through_dask.ThroughDask(client, plan).records(turns)
        first = threading.Thread(target=lambda: ended.append(next(records)))
        ended: list[Record] = []
        first.start()
        assert seen.wait(60)
        assert (taken, begun) == ([0, 1], [0])
        may.set()
        first.join(60)
        ended.extend(records)
    assert begun == [record.region for record in ended]
    assert sorted(begun) == list(range(plan.grid.count))


def test_a_bounded_number_of_regions_is_in_flight(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are taken from the list as others end: never more than two tasks a worker, of so many regions each."""
    most = 2
    monkeypatch.setattr(through_dask, "MOST", most)
    plan = prepared(options | {"region": "1,1,1"})
    assert plan.grid.count > most * WINDOW
    taken = 0
    ended = 0

    class Counted(Turns):
        def take(self, flying: Collection[int]) -> Turn | None:
            nonlocal taken
            turn = super().take(flying)
            taken += turn is not None
            assert taken - ended <= WINDOW * most
            return turn

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        through_dask.connect(cluster, plan) as client,
    ):
        for record in through_dask.ThroughDask(client, plan).records(Counted(plan, open_ledger(plan))):
            assert record.state == "done", record.error
            ended += 1
    assert (taken, ended) == (plan.grid.count, plan.grid.count)


def test_short_regions_share_a_task_and_long_ones_have_their_own(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task could not begin in its moment is asked for again: every region once, in order."""
    plan = prepared(options | {"region": "1,1,1"})
    assert plan.grid.count >= 8

    def stand(_url: str, _runtime: str, turns: list[Turn]) -> list[Record]:
        ended = turns[:2]  # the moment has passed
        return [Record(n.region, "done", patches=len(turns), seconds=0.0 if n.region < 5 else 60.0) for n in ended]

    monkeypatch.setattr(through_dask, "run_regions", stand)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        through_dask.connect(cluster, plan) as client,
    ):
        records = list(through_dask.ThroughDask(client, plan).records(Turns(plan, open_ledger(plan))))
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    together = {record.region: record.patches for record in records}
    assert together[0] == together[plan.grid.count - 1] == 1
    assert max(together.values()) > 2


def test_regions_that_are_done_count_where_a_later_one_of_their_task_cannot_be(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = prepared(options | {"region": "1,1,1"})

    def stand(_url: str, _runtime: str, turn: Turn) -> Record:
        if turn.region == 2:
            raise LedgerError("ledger.overtaken", "another run", hint="look")
        return Record(turn.region, "done", seconds=0.0)

    monkeypatch.setattr(task, "run_region", stand)
    turns = [Turn(n) for n in range(4)]
    assert [record.region for record in task.run_regions("", "", turns)] == [0, 1]
    with pytest.raises(LedgerError):
        task.run_regions("", "", turns[2:])
    assert plan.keep == "none"


def test_a_job_that_no_worker_comes_for_ends_and_says_so(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepared(options)
    monkeypatch.setattr(through_dask, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(through_dask, "FORSAKEN_LOOKS", 5)
    asked = list[Collection[str]]()

    def see_to(names: Collection[str]) -> int:
        asked.append(names)
        return 0

    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        through_dask.connect(cluster, plan) as client,
        pytest.raises(ClusterError) as caught,
    ):
        list(through_dask.ThroughDask(client, plan, see_to).records(Turns(plan, open_ledger(plan))))
    assert caught.value.code == "cluster.no-workers"
    assert len(asked) == 5


def test_processes_that_end_before_they_work_end_the_job_and_it_says_so(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(through_dask, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(through_dask, "DEATHS_IN_A_ROW", 3)
    monkeypatch.setattr(processes, "PROGRAM", "import volumetool.no_such_module")
    with pytest.raises(ClusterError) as caught:
        run(**options | {"workers": 2})
    assert caught.value.code == "cluster.dying"


def test_processes_that_the_scheduler_gave_up_are_ended_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that hangs in a call that holds Python's lock: no thread of its own can end it."""
    monkeypatch.setattr(processes, "GIVEN_UP", 3)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", processes=True) as cluster,
        processes.Processes(1) as kept,
        kept.working_for(cluster.scheduler_address, Security()),
    ):
        (first,) = kept._processes
        assert kept.look([first.name]) == kept.look([]) == kept.look([]) == 0
        assert first.popen.poll() is None
        assert kept.look([]) == 0  # it was known
        (second,) = kept._processes
        assert (first.popen.returncode, second.popen.poll()) == (-signal.SIGKILL, None)
    assert second.popen.returncode == -signal.SIGKILL


def test_records_that_died_with_their_worker_are_waited_for(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may have ended, and its worker be gone before the driver has what it returned: dask does it again, nobody else."""
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
        through_dask.connect(cluster, plan) as client,
    ):
        records = list(through_dask.ThroughDask(client, plan).records(Turns(plan, open_ledger(plan))))
    assert sorted(record.region for record in records) == list(range(plan.grid.count))
    assert [key for key in submitted if key.startswith("region-0-")] == [key for key in asked if asked[key] > 1]


def test_a_region_that_is_begun_again_takes_nothing_away(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was taken for dead is at a region that another one has done; wherever it is ended, the shards are there."""
    plan = prepared(options)
    worker = Worker(plan)
    assert worker.run(Turn(0)).state == "done"
    before = tree(Path(plan.job.output))

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_module, "enhance_region", dies)
    with pytest.raises(KeyboardInterrupt):
        worker.run(Turn(0))
    assert tree(Path(plan.job.output)) == before


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_shard_never_stands_in_the_way(options: Options, length: int) -> None:
    plan = prepared(options)
    worker = Worker(plan)
    first = worker.run(Turn(plan.grid.count - 1))  # at the faces, where shards are read before they are written
    shards = shard_files(plan.job.output)
    before = [file.read_bytes() for file in shards]
    for file in shards:
        file.write_bytes(file.read_bytes()[:length])
    again = worker.run(Turn(plan.grid.count - 1))
    assert (again.state, again.stored) == ("done", first.stored)
    assert [file.read_bytes() for file in shards] == before


def test_a_scheduler_that_goes_ends_the_job_and_it_says_so(options: Options) -> None:
    plan = prepared(options)
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
    with through_dask.connect(cluster, plan) as client:
        records = through_dask.ThroughDask(client, plan).records(Turns(plan, open_ledger(plan)))
        next(records)
        cluster.close()
        with pytest.raises(ClusterError) as caught:
            list(records)
    assert caught.value.code == "cluster.lost"

"""Workers anywhere: the same bytes from processes, a scheduler's workers and GPUs; clear words where there are none."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import distributed
import pytest
import torch
from crash_jobs import Job as CrashJob
from crash_jobs import begin_anew
from distributed import LocalCluster
from small_jobs import Recording, digest, noise, prepared, run, shard_files, tree, write_input

from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.watch import watch
from volumetool.errors import ClusterError, ConfigError, LedgerError, NumericsError, ResourceError, VolumetoolError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import cuda, dask_driver, open_cluster, plan
from volumetool.jobs.clusters.assignment import Assignment
from volumetool.jobs.clusters.dask_task import run_region
from volumetool.jobs.execution import worker as worker_module
from volumetool.jobs.execution.worker import SOFTWARE, Worker
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.plan_file import plan_digest
from volumetool.live_view.factory import open_live
from volumetool.models import load_model
from volumetool.testing import CrashRunner

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


def runtime(plan: Plan, digest_of_plan: str | None = None) -> str:
    known = digest_of_plan or plan_digest(plan.job_dir.url)
    return json.dumps({"job": plan.job.model_dump(mode="json"), "running": {"threads": 1}, "plan": known, "software": SOFTWARE})


def test_two_processes_write_the_bytes_of_one(
    options: Options, tmp_path: Path, tiny_model: Path, local_only: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_both(self: dask_driver.ThroughDask) -> dask_driver.ThroughDask:
        self.client.wait_for_workers(2, timeout=240)
        return self

    # A run begins with the first worker, which may be done before the second one has begun; and where one is slow at first,
    # the other one would compute its regions, too.
    monkeypatch.setattr(dask_driver.ThroughDask, "wait_for_worker", wait_for_both)
    monkeypatch.setattr(Assignment, "straggler", lambda *_: None)
    options |= {"model": str(tiny_model)}
    run(**options)
    seen = Recording()
    outcome = run(seen, **options | {"output": str(tmp_path / "two.zarr"), "workers": 2})
    assert (outcome.complete, outcome.plan.workers) == (True, 2)
    assert len({ended.worker for ended in seen.ended}) == 2
    assert digest(tmp_path / "two.zarr") == digest(options["output"])
    assert local_only
    assert all("127.0.0.1" in address for address in local_only)


@pytest.mark.parametrize("job", ["least"], indirect=True)
def test_one_worker_begins_without_dask(runner: CrashRunner, job: CrashJob) -> None:
    """It takes as long to import as a small job."""
    begin_anew(job)
    assert runner.run("crash_jobs:go_without_dask", job.told).error is None


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be two GPUs, as far as this process is told."""
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.usefixtures("with_gpu")
def test_without_dask_cuda_the_cuda_cluster_says_what_to_install(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_cuda", None)  # as if it were not installed
    with pytest.raises(ClusterError) as caught:
        plan(make_job(**options | {"cluster": "cuda", "device": "auto"}))
    assert caught.value.code == "cluster.no-dask-cuda"
    assert "pip install" in caught.value.hint


def fake_dask_cuda(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    module = types.ModuleType("dask_cuda")
    module.LocalCUDACluster = cluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_cuda", module)


@pytest.mark.usefixtures("with_gpu")
def test_without_a_driver_the_cuda_cluster_says_so(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(**_: Any) -> None:
        raise RuntimeError("NVML Shared Library Not Found")

    fake_dask_cuda(monkeypatch, no_driver)
    with pytest.raises(ClusterError) as caught:
        run(**options | {"cluster": "cuda", "device": "auto"})
    assert caught.value.code == "cluster.no-gpu"
    assert "NVML Shared Library Not Found" in caught.value.message


@pytest.mark.usefixtures("with_gpu")
def test_workers_that_do_not_start_on_gpus_are_not_called_a_missing_gpu(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in allocations that let nobody choose cores."""

    def fails(**_: Any) -> None:
        try:
            raise OSError(22, "Invalid argument: sched_setaffinity")
        except OSError as error:
            raise RuntimeError("Worker failed to start.") from error

    fake_dask_cuda(monkeypatch, fails)
    with pytest.raises(ClusterError, match=r"torch sees GPUs.*OSError.*sched_setaffinity"):
        run(**options | {"cluster": "cuda", "device": "auto"})


@pytest.mark.usefixtures("with_gpu")
def test_more_workers_than_gpus_are_refused_before_anything_is_planned(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_dask_cuda(monkeypatch, None)
    with pytest.raises(ConfigError, match="--workers 3, but this machine shows 2 GPUs") as caught:
        plan(make_job(**options | {"cluster": "cuda", "device": "auto", "workers": 3}))
    assert caught.value.code == "config.option"


WITHOUT_GPU = {
    "a driver": ("12.8", [], RuntimeError("Found no NVIDIA driver on your system.\nMore"), "no NVIDIA driver"),
    "devices": (
        "12.8",
        [],
        RuntimeError("No CUDA GPUs are available"),
        "are available (CUDA_VISIBLE_DEVICES is ''",
    ),
    "a new driver": ("12.8", ["The NVIDIA driver on your system is too old"], None, "driver on your system is too old"),
    "CUDA": (None, [], None, "was built without CUDA"),
}


@pytest.mark.parametrize("what", WITHOUT_GPU)
def test_what_is_missing_for_a_gpu_is_said_before_anything_is_planned(
    options: Options, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    version, warned, error, words = WITHOUT_GPU[what]

    def available() -> bool:
        for text in warned:
            warnings.warn(text, UserWarning, stacklevel=1)
        return False

    def begin() -> None:
        if error is not None:
            raise error

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "init", begin)
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with pytest.raises(ClusterError) as caught:
        plan(make_job(**options | {"cluster": "cuda", "device": "auto"}))
    assert caught.value.code == "cluster.no-gpu"
    assert words in caught.value.message
    assert "dask-cuda does not import" in caught.value.message
    with pytest.raises(ResourceError) as alone:
        plan(make_job(**options | {"device": "cuda"}))
    assert (alone.value.code, words in alone.value.message) == ("resource.no-gpu", True)


def test_a_cluster_of_gpus_is_not_planned_for_the_cpu(options: Options) -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        plan(make_job(**options | {"cluster": "cuda", "device": "cpu"}))


@pytest.mark.usefixtures("with_gpu")
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
    outcome = run(**options | {"output": str(tmp_path / "gpu.zarr"), "cluster": "cuda", "device": "auto", "workers": 1})
    assert outcome.complete
    assert digest(tmp_path / "gpu.zarr") == digest(options["output"])
    (kwargs,) = asked
    assert (kwargs["n_workers"], kwargs["threads_per_worker"], kwargs["host"]) == (1, 1, "127.0.0.1")
    assert cuda.__doc__
    assert "The one module that imports it" in cuda.__doc__


def test_an_address_that_nobody_answers_at_is_named(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_driver, "CONNECT_SECONDS", 0.5)
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
    assert Worker(mixed).run(RegionTask(0)).numerics not in ("", "0" * 64)


def test_a_worker_never_works_by_an_old_plan(options: Options) -> None:
    """A worker that outlives a job which began anew, with the same settings but other regions, notices."""
    plan = prepared(options)
    url, first = plan.job_dir.url, runtime(plan)
    assert run_region(url, first, RegionTask(0)).state == "done"
    again = prepared(options | {"overwrite": True, "region": "1,1,1"})
    assert again.fingerprint == plan.fingerprint
    second = runtime(again)
    assert second != first
    record = run_region(url, second, RegionTask(0))
    assert record.patches < Worker(plan).run(RegionTask(0)).patches
    with pytest.raises(LedgerError) as caught:
        run_region(url, runtime(plan, "0" * 64), RegionTask(0))
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
    record = run_region(plan.job_dir.url, runtime(plan), RegionTask(0))
    assert record.state == "done", record.error


def test_a_region_that_is_begun_again_takes_nothing_away(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was taken for dead is at a region that another one has done; wherever it is ended, the shards are there."""
    plan = prepared(options)
    worker = Worker(plan)
    assert worker.run(RegionTask(0)).state == "done"
    before = tree(Path(plan.output))

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_module, "enhance_region", dies)
    with pytest.raises(KeyboardInterrupt):
        worker.run(RegionTask(0))
    assert tree(Path(plan.output)) == before


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_shard_never_stands_in_the_way(options: Options, length: int) -> None:
    plan = prepared(options)
    worker = Worker(plan)
    first = worker.run(RegionTask(plan.grid.count - 1))  # at the faces, where shards are read before they are written
    shards = shard_files(plan.output)
    before = [file.read_bytes() for file in shards]
    for file in shards:
        file.write_bytes(file.read_bytes()[:length])
    again = worker.run(RegionTask(plan.grid.count - 1))
    assert (again.state, again.stored) == ("done", first.stored)
    assert [file.read_bytes() for file in shards] == before


@pytest.mark.parametrize("name", ["slrum", "tcp://", "http://here:1", "", "Local"])
def test_a_cluster_that_there_is_not_is_refused_wherever_a_job_goes(options: Options, name: str) -> None:
    def of(**more: Any) -> Job:
        return make_job(**options | {"cluster": name} | more)

    for begin in (plan, lambda job: open_live(job).__enter__(), lambda job: watch(job, WatchConfig(), print)):
        with pytest.raises(ConfigError) as caught:
            begin(of())
        assert caught.value.code in ("config.option", "config.invalid")

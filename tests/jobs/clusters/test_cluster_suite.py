"""Our own clusters pass the suite that others are held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import LocalCluster

from volumetool.errors import ClusterError, ConfigError, VolumetoolError
from volumetool.jobs.clusters import dask_address, plan
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.run import run
from volumetool.testing.cluster_suite import ClusterSuite
from volumetool.version import __version__

GIB = 2**30


class TestInProcess(ClusterSuite):
    @pytest.fixture
    def asked(self) -> dict[str, Any]:
        return {"cluster": "local"}


@pytest.mark.slow
class TestLocal(ClusterSuite):
    @pytest.fixture
    def asked(self) -> dict[str, Any]:
        return {"cluster": "local", "workers": 2}


class TestAddress(ClusterSuite):
    @pytest.fixture
    def scheduler(self) -> Iterator[LocalCluster]:
        """Give a scheduler that somebody else started."""
        listen = {"dashboard_address": "127.0.0.1:0", "protocol": "tcp", "host": "127.0.0.1"}
        with LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=3 * GIB, processes=False, **listen) as cluster:
            yield cluster

    @pytest.fixture
    def asked(self, scheduler: LocalCluster) -> dict[str, Any]:
        return {"cluster": scheduler.scheduler_address}

    def test_memory_and_threads_are_those_of_its_workers(self, source: str, tmp_path: Path, asked: dict[str, Any]) -> None:
        """Not those of the machine that the plan is asked for on."""
        made = plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert (made.workers, made.threads, made.estimates.allowed_bytes) == (1, 1, int(0.7 * 3 * GIB))

    def test_each_says_how_fast_it_is_and_the_plan_shows_it(
        self, source: str, tmp_path: Path, scheduler: LocalCluster, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measured = iter([4e9, 1e9])
        monkeypatch.setattr(dask_address, "convolution_rate", lambda _device, _threads: next(measured))
        scheduler.scale(2)
        scheduler.wait_for_workers(2)
        made = plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert sorted(made.rates.values()) == [1e9, 4e9]
        fast, slow = sorted(made.rates, key=lambda name: -made.rates[name])
        lines = dict(describe_plan(made))
        told = f"together as fast as 1.2 of the fastest: {fast} computes 4 GFLOP/s, {slow} 0.25 times as much"
        assert lines["workers"].startswith(f"2 with 1 threads each, {told}")
        assert lines["time"].endswith("from a sample on one of the workers, and how fast each is")

    def test_a_worker_that_fails_while_it_plans_is_told_by_a_code(
        self, source: str, tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> str:
            raise RuntimeError("another version")

        monkeypatch.setattr(dask_address, "_plan_here", broken)
        with pytest.raises(ClusterError, match="RuntimeError: another version") as caught:
            plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert caught.value.code == "cluster.no-answer"

    def test_the_file_that_the_scheduler_wrote_stands_for_its_address(
        self, source: str, tmp_path: Path, scheduler: LocalCluster
    ) -> None:
        """As it is then: a scheduler that was started again has another address."""
        file = tmp_path / "scheduler.json"
        for said in (str(file), f"file:{file}", f"file://{file}"):
            with pytest.raises(ClusterError, match="names no dask scheduler") as caught:
                plan(self.job(source, tmp_path / "out.zarr", cluster=said))
            assert caught.value.code == "cluster.unreachable"
        file.write_text(json.dumps({"type": "Scheduler", "address": scheduler.scheduler_address}))
        outcome = run(plan(self.job(source, tmp_path / "out.zarr", cluster=f"file:{file}")))
        assert outcome.complete

    def test_a_number_of_workers_that_it_does_not_have_is_refused(
        self, source: str, tmp_path: Path, asked: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError, match=r"--workers 3, but the scheduler at tcp:.* has 1 workers"):
            plan(self.job(source, tmp_path / "out.zarr", **asked, workers=3))

    def test_without_workers_nothing_is_planned(
        self, source: str, tmp_path: Path, scheduler: LocalCluster, asked: dict[str, Any]
    ) -> None:
        scheduler.scale(0)
        scheduler.sync(scheduler._correct_state)
        with pytest.raises(ClusterError) as caught:
            plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert caught.value.code == "cluster.no-workers"


@pytest.mark.gpu
class TestCuda(ClusterSuite):
    @pytest.fixture
    def asked(self) -> dict[str, Any]:
        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        return {"cluster": "cuda", "device": "auto"}


@pytest.mark.parametrize(
    ("other", "code", "words"),
    [
        ({"version": "0.0.9 (numerics version 1)"}, "cluster.other-version", ["0.0.9 (numerics version 1)", __version__]),
        ({"device": "cuda"}, "numerics.other-class", ["tcp://far:1 computes on cuda", "computes on cpu"]),
    ],
)
def test_workers_that_differ_are_refused_with_both_values_before_anything_is_planned(
    tmp_path: Path, other: dict[str, str], code: str, words: list[str]
) -> None:
    said = {"tcp://near:1": dask_address.announce("cpu", 1), "tcp://far:1": dask_address.announce("cpu", 1) | other}
    job = make_job(input="in.zarr", output=str(tmp_path / "out.zarr"), cluster="tcp://here:1")
    with pytest.raises(VolumetoolError) as caught:
        dask_address._check_alike(said, job)
    assert caught.value.code == code
    assert all(each in caught.value.message for each in words)

"""Our own clusters pass the suite that others are held to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import LocalCluster

from volumetool.errors import ClusterError, ConfigError
from volumetool.jobs.clusters import dask_address, plan
from volumetool.testing.cluster_suite import ClusterSuite

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

    def test_a_worker_that_fails_while_it_plans_is_told_by_a_code(
        self, source: str, tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> str:
            raise RuntimeError("another version")

        monkeypatch.setattr(dask_address, "_plan_here", broken)
        with pytest.raises(ClusterError, match="RuntimeError: another version") as caught:
            plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert caught.value.code == "cluster.lost"

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

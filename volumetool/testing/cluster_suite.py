"""The promises that every cluster must keep, as tests to subclass."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volumetool.geometry import RegionTask, plan_levels
from volumetool.jobs.clusters import open_cluster, plan
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.plan import WINDOW
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.run import run
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing

MODEL = "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"
SHAPE = (4, 40, 50)

MOST_BYTES = 4096
"""Bytes of a record as JSON: far fewer than the voxels of a region."""


class ClusterSuite:
    """The conformance suite of a cluster: subclass it as ``Test...`` in a test module, and say how it is asked for.

    Its workers load fake models: `volumetool.testing.register_fakes` is called in each of their processes.
    """

    @pytest.fixture
    def asked(self) -> dict[str, Any]:
        """Give the options that ask for the cluster, such as ``{"cluster": "local", "workers": 2}``; it runs meanwhile."""
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> str:
        """Give a small volume."""
        place = str(tmp_path / "source.zarr")
        layout = VolumeLayout("uint8", plan_levels(SHAPE, (30.0, 8.0, 8.0), (0.0, 0.0, 0.0))[:1])
        create_volume(place, layout, {})
        voxels = np.random.default_rng(0).integers(0, 255, SHAPE, np.uint8)
        open_for_writing(place, layout, 0)[...].write(voxels).result()
        return place

    def job(self, source: str, output: Path, **asked: Any) -> Job:
        """Return a job of several regions.

        Parameters
        ----------
        source : str
            The input, as `source` gives it.
        output : Path
            Folder of the output.
        **asked : Any
            Options of the job, such as those that choose the cluster.
        """
        small = {"model": MODEL, "chunk": "1,16,16", "region": "1,1,1", "device": "cpu", "voxel_size": "30,8,8"}
        return make_job(input=source, output=str(output), **(small | asked))

    def test_every_region_is_recorded_once_with_the_bytes_of_one_process(
        self, source: str, tmp_path: Path, asked: dict[str, Any]
    ) -> None:
        """However many workers there are, and wherever."""
        alone = run(plan(self.job(source, tmp_path / "alone.zarr")))
        made = plan(self.job(source, tmp_path / "out.zarr", **asked))
        outcome = run(made)
        assert (outcome.complete, outcome.ran) == (True, made.grid.count)
        assert made.grid.count > WINDOW
        regions = [record.region for record in open_ledger(made).records()]
        assert sorted(regions) == list(range(made.grid.count))
        assert _files(tmp_path / "out.zarr") == _files(Path(alone.plan.output))

    def test_the_plan_is_for_the_workers_that_there_are(self, source: str, tmp_path: Path, asked: dict[str, Any]) -> None:
        """What `resources` says is what the plan says, and nothing is written before it runs."""
        made = plan(self.job(source, tmp_path / "out.zarr", **asked))
        assert made.workers >= 1
        assert made.threads >= 1
        assert 0 < made.estimates.worker_bytes <= made.estimates.allowed_bytes
        assert not (tmp_path / "out.zarr").exists()
        assert not (tmp_path / "out.zarr.job").exists()

    def test_a_run_that_is_given_up_goes_on_where_it_stopped(self, source: str, tmp_path: Path, asked: dict[str, Any]) -> None:
        """Few regions are in flight when the first one ends, and its record holds no voxel; the next run does the rest."""
        made = plan(self.job(source, tmp_path / "out.zarr", **asked))
        prepare(made)
        ledger = open_ledger(made)
        ledger.begin()
        turns = _Counted(made, ledger)
        with open_cluster(made) as cluster, closing(cluster.records(turns)) as records:  # type: ignore[type-var]
            first: Record = next(records)
            assert turns.taken <= WINDOW * made.workers
        assert len(json.dumps(asdict(first))) < MOST_BYTES
        ledger.append(first)
        ledger.flush()
        outcome = run(made)
        assert (outcome.complete, outcome.ran) == (True, made.grid.count - 1)


class _Counted(RegionQueue):
    """Counts the regions that are taken."""

    taken = 0

    def take(self, flying: Collection[int]) -> RegionTask | None:
        turn = super().take(flying)
        self.taken += turn is not None
        return turn


def _files(volume: Path) -> dict[str, bytes]:
    return {str(file.relative_to(volume)): file.read_bytes() for file in sorted(volume.rglob("c/**/*")) if file.is_file()}

"""Volumes to look at, and a browser to look with."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_jobs import SMALL, noise, write_input
from small_jobs import run as run_job
from small_views import write_n5, write_precomputed, write_zarr2

from volumetool.jobs.run import RunResult


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Give a finished job: 4 x enlarged noise, several shards, levels that regions wrote and coarse ones."""
    folder = tmp_path_factory.mktemp("job")
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    return run_job(input=str(folder / "in.zarr"), output=str(folder / "out.zarr"), **SMALL)


@pytest.fixture
def formats(tmp_path: Path) -> dict[str, Path]:
    """Give one volume of 6 x 10 x 14 voxels of 30 x 8 x 4 nm in every format that the client reads."""
    voxels = noise((6, 10, 14))
    made = {"ome-zarr": write_input(tmp_path / "ome.zarr", voxels, voxel_size=(30.0, 8.0, 4.0), chunk=(2, 4, 8))}
    made["n5"] = write_n5(tmp_path / "volume.n5", voxels, (30.0, 8.0, 4.0))
    made["precomputed"] = write_precomputed(tmp_path / "precomputed", voxels, (30.0, 8.0, 4.0))
    made["zarr2"] = write_zarr2(tmp_path / "bare.zarr", voxels)
    return made

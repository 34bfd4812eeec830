"""A real browser reads a live volume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import neuroglancer
import numpy as np
import pytest
from small_jobs import noise, read_levels, run, write_input
from small_views import pixels

from volumetool.jobs.job import make_job
from volumetool.live_view.show import live
from volumetool.viewer.browser import browsing

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("chromium"), pytest.mark.xdist_group("browser")]


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "model",
    [
        "fake:position?patch=1,16,16&overlap=0,4,4&trim=0,1,1",
        "fake:position?dims=3&scale=2,2,2&patch=8,16,16&overlap=4,4,4&trim=1,1,1",
    ],
)
def test_the_client_reads_the_voxels_of_the_job(model: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.zarr", noise((10, 37, 45)), voxel_size=(16.0, 32.0, 32.0), levels=2)
    _put_corners_at_0(path)
    options = {"input": str(path), "model": model, "device": "cpu"}
    run(output=str(tmp_path / "out.zarr"), **options)
    stored = read_levels(tmp_path / "out.zarr")
    with live(make_job(output="nowhere.zarr", **options), ahead=0) as shown, browsing(shown.link, (1000, 500)):
        levels = shown.opened.layout.levels
        assert [level.kind for level in levels].count("computed") > 1
        for level in levels:
            scales = [size / 1e9 for size in level.grid.voxel_size]
            dimensions = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="m", scales=scales)
            through = shown.page.volume("in.zarr enhanced", dimensions=dimensions).result(timeout=120)
            expected = stored[level.number] if level.kind == "computed" else read_levels(path)[level.number]
            np.testing.assert_array_equal(through.read().result(), expected)


@pytest.mark.slow
def test_a_picture_shows_raw_beside_live(volume: Path, tmp_path: Path) -> None:
    file, model = tmp_path / "live.png", "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"
    command = [sys.executable, "-m", "volumetool.cli.main", "live", str(volume), "--model", model, "--device", "cpu"]
    done = subprocess.run([*command, "--size", "600,300", "--screenshot", str(file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    raw, enhanced = (half[40:-60, 40:-40].astype(float) for half in np.split(pixels(file.read_bytes()), 2, axis=1))
    assert raw.shape == enhanced.shape == (200, 220, 3)
    assert min(raw.std(), enhanced.std()) > 30


def _put_corners_at_0(path: Path) -> None:
    """Put the corners of all levels on voxels of the view's grid: of other levels the client gives no voxels."""
    metadata = json.loads((path / "zarr.json").read_text())
    for level in metadata["attributes"]["ome"]["multiscales"][0]["datasets"]:
        scale, translation = level["coordinateTransformations"]
        translation["translation"] = [size / 2 for size in scale["scale"]]
    (path / "zarr.json").write_text(json.dumps(metadata))

"""A job reads MRC and TIFF files as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from small_jobs import COARSE, SMALL, read_levels, run

from volumetool.jobs.job import Job
from volumetool.jobs.planning.planner import plan
from volumetool.storage.convert_volume import convert


def test_a_real_file_is_enhanced_as_its_copy_in_zarr_is(data: Path, tmp_path: Path) -> None:
    place, copy = data / "format-fixtures" / "mrc" / "EMD-3197.map", tmp_path / "copy.zarr"
    convert(place, copy, voxel_size=COARSE)
    for name, source in (("direct", place), ("copied", copy)):
        options = {**SMALL, "voxel_size": "8,32,32"}
        run(input=str(source), output=str(tmp_path / name), **options)
    for direct, copied in zip(read_levels(tmp_path / "direct"), read_levels(tmp_path / "copied"), strict=True):
        np.testing.assert_array_equal(direct, copied)
    assert np.unique(direct).size > 1


def test_what_was_turned_round_in_reading_is_said_before_a_job_runs(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (8, 40, 48), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", voxels, photometric="miniswhite")
    options = {**SMALL, "voxel_size": "8,32,32"}
    planned = plan(Job(input=str(tmp_path / "in.tif"), output=str(tmp_path / "out.zarr"), **options))
    assert any("MinIsWhite" in note for note in planned.notes)

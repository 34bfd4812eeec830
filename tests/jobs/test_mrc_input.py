"""A job reads MRC files as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_jobs import COARSE, SMALL, read_levels, run

from volumetool.storage.convert import convert


def test_a_real_file_is_enhanced_as_its_copy_in_zarr_is(data: Path, tmp_path: Path) -> None:
    place, copy = data / "format-fixtures" / "mrc" / "EMD-3197.map", tmp_path / "copy.zarr"
    convert(place, copy, voxel_size=COARSE)
    for name, source in (("direct", place), ("copied", copy)):
        options = {**SMALL, "voxel_size": "8,32,32"}
        run(input=str(source), output=str(tmp_path / name), **options)
    for direct, copied in zip(read_levels(tmp_path / "direct"), read_levels(tmp_path / "copied"), strict=True):
        np.testing.assert_array_equal(direct, copied)
    assert np.unique(direct).size > 1

"""Arrays of NumPy in, arrays out: the voxels of the job on a volume, and nothing left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import COARSE, SMALL, noise, write_input

import volumetool as vt
from volumetool.errors import ConfigError, InputError, ResourceError
from volumetool.jobs import arrays

SCALED: dict[str, Any] = SMALL | {"model": "fake:position?scale=1,2,2&patch=1,16,16&overlap=0,4,4&trim=0,1,1"}


@pytest.mark.parametrize("shape", [(5, 40, 33), (2, 3, 24, 24)])
def test_an_array_becomes_the_voxels_that_the_job_on_a_volume_writes(shape: tuple[int, ...], tmp_path: Path) -> None:
    voxels = noise(shape)
    vt.enhance(write_input(tmp_path / "in.zarr", voxels), tmp_path / "out.zarr", **SCALED)
    made = vt.enhance(voxels, voxel_size=COARSE, **SCALED)
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.asarray(vt.open_volume(tmp_path / "out.zarr")))


def test_a_function_is_applied_to_an_array_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    voxels = noise((3, 20, 24), "uint16")
    assert np.array_equal(vt.apply(lambda block: 65535 - block, voxels, voxel_size=COARSE), 65535 - voxels)
    assert np.array_equal(vt.apply(lambda block: block, voxels[0], voxel_size=COARSE), voxels[0])
    part = vt.apply(lambda block: block, voxels, voxel_size=COARSE, roi="1:2,4:9,:")
    assert np.array_equal(part, voxels[1:2, 4:9])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "code"),
    [
        ((3, 20, 24), "uint8", {"voxel_size": None}, "input.no-voxel-size"),
        ((3, 20, 24), "float64", {}, "input.dtype"),
        ((24,), "uint8", {}, "input.axes"),
        ((0, 20, 24), "uint8", {}, "input.axes"),
        ((3, 20, 24), "uint8", {"output": "out.zarr"}, "config.option"),
    ],
)
def test_an_array_that_is_no_volume_is_refused_by_name(
    shape: tuple[int, ...], dtype: str, options: dict[str, Any], code: str
) -> None:
    with pytest.raises((InputError, ConfigError)) as caught:
        vt.enhance(np.ones(shape, dtype), **{"voxel_size": COARSE, **SMALL, **options})
    assert caught.value.code == code
    assert "None" not in str(caught.value)


def test_a_large_array_is_refused_with_a_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = noise((3, 20, 24))
    monkeypatch.setattr(arrays, "LARGEST", 1000)
    with pytest.raises(ResourceError, match=r"numpy\.save") as caught:
        vt.enhance(voxels, voxel_size=COARSE, **SMALL)
    assert caught.value.code == "resource.array"
    monkeypatch.setattr(arrays, "LARGEST", 2**20)
    monkeypatch.setattr(arrays, "usable_memory", lambda: 1000)
    with pytest.raises(ResourceError, match="becomes"):
        vt.enhance(voxels, voxel_size=COARSE, **SMALL)


def test_where_no_array_is_taken_the_error_says_what_is(tmp_path: Path) -> None:
    for call in (lambda array: vt.convert(array, tmp_path / "out.zarr"), vt.validate):
        with pytest.raises(InputError, match=r"ndarray.*\n.*numpy\.save") as caught:
            call(noise((3, 20, 24)))
        assert caught.value.code == "input.no-place"
    with pytest.raises(ConfigError, match="output is missing"):
        vt.enhance(tmp_path / "in.zarr")

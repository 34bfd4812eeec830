"""Any number can become a data type of a volume, by a window or as it is; nothing changes that was not asked for."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from volumetool.cli.main import main

from volumetool.errors import InputError
from volumetool.storage.cast import CASTABLE, Cast
from volumetool.storage.open import open_volume
from volumetool.storage.volume import DTYPES

SIZE = (30.0, 8.0, 4.0)


def test_what_volumes_hold_can_be_cast() -> None:
    assert set(DTYPES) < set(CASTABLE)


@given(arrays(st.sampled_from(["bool", "uint8", "int8", "uint16", "int16", "int32", "uint64"]), 20), st.sampled_from(DTYPES))
def test_a_window_places_integers_where_exact_arithmetic_does(voxels: np.ndarray, dtype: str) -> None:  # type: ignore[type-arg]
    low, high = -7, 300
    least, greatest = (0, 1) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = Cast(dtype, (low, high)).apply(voxels)
    assert found.dtype == dtype
    for value, got in zip(voxels.tolist(), found.tolist(), strict=True):
        part = Fraction(min(max(int(value), low), high) - low, high - low)
        assert got == pytest.approx(float(part * (greatest - least) + least), abs=1e-7 if dtype == "float32" else 0.5)


def test_what_is_no_number_becomes_the_least_and_infinity_the_end() -> None:
    voxels = np.array([np.nan, -np.inf, np.inf, 0.5, 0.25], np.float64)
    assert Cast("uint8", (0.0, 1.0)).apply(voxels).tolist() == [0, 0, 255, 128, 64]
    assert Cast("int8", (0.0, 1.0)).apply(voxels).tolist() == [-128, -128, 127, 0, -64]


@pytest.mark.parametrize(
    ("values", "stored", "dtype"),
    [([0, 255], "uint32", "uint8"), ([-128, 127], "int64", "int8"), ([2**24], "uint64", "float32"), ([True], "bool", "uint8")],
)
def test_without_a_window_values_stay_what_they_are_or_are_an_error(values: list[int], stored: str, dtype: str) -> None:
    kept = Cast(dtype).apply(np.array(values, stored))
    assert (kept.dtype, kept.tolist()) == (dtype, values)
    if stored != "bool":
        with pytest.raises(ValueError, match=f"fit into {dtype}"):
            Cast(dtype).apply(np.array([max(values) + 1], stored))


def test_floats_become_float32_where_it_can_hold_them() -> None:
    assert Cast("float32").apply(np.array([0.1, np.inf, np.nan])).tolist()[:2] == [np.float32(0.1), np.inf]
    with pytest.raises(ValueError, match="float32"):
        Cast("float32").apply(np.array([1e39, np.inf]))


def _convert(*arguments: object) -> tuple[int, str]:
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(["convert", *map(str, arguments), "--voxel-size", "30,8,4"])
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.getvalue()


def test_a_volume_of_floats_is_converted_by_the_window_that_is_asked_for(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(1000, 300, (5, 40, 50))
    zarr.create_array(str(tmp_path / "in"), data=voxels, chunks=(2, 16, 16))
    code, said = _convert(tmp_path / "in", tmp_path / "out.zarr")
    assert (code, "input.dtype" in said, "--dtype uint8 --window" in said) == (2, True, True)
    code, said = _convert(tmp_path / "in", tmp_path / "out.zarr", "--dtype", "uint8")
    assert (code, "input.dtype" in said, "--window lo,hi" in said) == (2, True, True)
    window = ("--dtype", "uint8", "--window", "100,1900")
    code, said = _convert(tmp_path / "in", tmp_path / "out.zarr", *window, "--memory", "20kB")
    assert (code, "float64 to uint8, 100 to 1900 as 0 to 255" in said) == (0, True)
    expected = np.rint(np.clip((voxels - 100) / 1800, 0, 1) * 255).astype(np.uint8)
    np.testing.assert_array_equal(open_volume(tmp_path / "out.zarr").open().read().result(), expected)
    assert _convert(tmp_path / "in", tmp_path / "out.zarr", *window)[0] == 0
    code, said = _convert(tmp_path / "in", tmp_path / "out.zarr", "--dtype", "uint8", "--window", "0,1900")
    assert (code, "output.exists" in said) == (2, True)


def test_integers_of_a_tiff_keep_their_values_or_the_error_says_where_they_do_not_fit(tmp_path: Path) -> None:
    voxels = np.arange(5 * 6 * 7, dtype=np.uint32).reshape(5, 6, 7)
    tifffile.imwrite(tmp_path / "in.tif", voxels)
    assert _convert(tmp_path / "in.tif", tmp_path / "a.zarr", "--dtype", "uint8")[0] == 0
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr").open().read().result(), voxels)
    voxels[1, 2, 3] = 70_000
    tifffile.imwrite(tmp_path / "in.tif", voxels)
    code, said = _convert(tmp_path / "in.tif", tmp_path / "b.zarr", "--dtype", "uint16")
    assert (code, "input.range" in said, "70000" in said, "--window" in said) == (2, True, True, True)


@pytest.mark.parametrize("window", ["5", "7,7", "9,1", "a,b", "0,inf"])
def test_a_window_is_two_rising_numbers(tmp_path: Path, window: str) -> None:
    code, said = _convert(tmp_path, tmp_path / "out.zarr", "--dtype", "uint8", "--window", window)
    assert (code, "config.option" in said, "two rising numbers" in said) == (2, True, True)
    assert "without dtype" in _convert(tmp_path, tmp_path / "out.zarr", "--window", "1,2")[1]


def test_what_is_no_real_number_is_refused_even_with_a_cast(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "in"), data=np.ones((2, 3, 4), np.complex64))
    with pytest.raises(InputError, match="complex64") as caught:
        open_volume(tmp_path / "in", voxel_size=SIZE, cast=Cast("uint8", (0.0, 1.0)))
    assert caught.value.code == "input.dtype"


def test_display_windows_move_with_the_grey_values() -> None:
    window = {"min": 0, "max": 65535, "start": 1000, "end": 40000}
    omero = {"name": "EM", "channels": [{"color": "FFFFFF", "window": window}]}
    assert Cast("uint16").display(omero) == omero
    shown = Cast("uint8", (1000, 52000)).display(omero)
    moved = {"min": 0, "max": 255, "start": 0, "end": 195}
    assert shown == {"name": "EM", "channels": [{"color": "FFFFFF", "window": moved}]}

"""MRC files: modes, lengths and positions as their writers mean them, and real files of other software."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from typer.testing import CliRunner
from volumetool.cli.main import app

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.random.default_rng(3).integers(-100, 100, (3, 5, 7), np.int16)


def _write(place: Path, voxels: np.ndarray[Any, Any] = VOXELS, **header: Any) -> Path:
    with mrcfile.new(place, overwrite=True) as file:
        file.set_data(voxels)
        file.voxel_size = 20.0
        file.header.ispg = 1
        for name, value in header.items():
            file.header[name] = value
    return place


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    voxels = (VOXELS / 7).astype(np.float16)
    volume = open_volume(_write(tmp_path / "v.mrc", voxels))
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume.open().read().result(), voxels.astype(np.float32))


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8")])
def test_bytes_of_imod_are_unsigned_unless_its_flags_say_otherwise(tmp_path: Path, flags: int, dtype: str) -> None:
    place = _write(tmp_path / "v.st", VOXELS.astype(np.int8))
    _stamp(place, flags)
    volume = open_volume(place)
    assert volume.dtype.name == dtype
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS.astype(np.int8).view(dtype))


@pytest.mark.parametrize(("flags", "x"), [(0, -6.0), (4, 6.0)])
def test_an_origin_of_imod_is_seen_from_the_first_voxel_unless_its_flags_say_otherwise(
    tmp_path: Path, flags: int, x: float
) -> None:
    place = _write(tmp_path / "v.ali", origin=(60.0, 0.0, 0.0))
    assert open_volume(place).translation == (0.0, 0.0, 6.0)
    _stamp(place, flags)
    assert open_volume(place).translation == (0.0, 0.0, x)


def _stamp(place: Path, flags: int) -> None:
    data = bytearray(place.read_bytes())
    data[152:160] = b"IMOD" + flags.to_bytes(4, "little")
    place.write_bytes(data)


@pytest.mark.parametrize("cell", [(0.0, 0.0, 0.0), (7.0, 5.0, 3.0)])
def test_no_voxel_size_or_one_angstrom_as_programs_write_for_none_is_asked_for(tmp_path: Path, cell: tuple[float, ...]) -> None:
    place = _write(tmp_path / "v.mrc", cella=cell, mz=3)
    with pytest.raises(InputError, match="how large its voxels are") as caught:
        open_volume(place)
    assert caught.value.code == "input.no-voxel-size"
    assert open_volume(place, voxel_size=SIZE).voxel_size == SIZE


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"mode": 4}, "input.dtype"),
        ({"mode": 101}, "input.dtype"),
        ({"ispg": 401}, "input.axes"),
        ({"mapc": 3}, "input.broken-metadata"),
        ({"nx": 0}, "input.broken-metadata"),
        ({"nsymbt": -1024}, "input.broken-metadata"),
        ({"machst": 0}, "input.broken-metadata"),
        ({"nz": 4}, "input.unreadable"),
        ({"nz": 2**31 - 1}, "input.too-large"),
    ],
)
def test_what_is_not_read_is_refused_for_what_it_is(tmp_path: Path, header: dict[str, Any], code: str) -> None:
    place = _write(tmp_path / "v.map", **header)
    with pytest.raises(InputError) as caught:
        open_volume(place)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "size", "position"),
    [
        ("EMD-3197.map", (1.14, 1.14, 1.14), (0.0, 0.0, -2.28)),
        ("serialem_map_int16.mrc", (223.6, 1788.8, 1788.8), (0.0, -447.2, -447.2)),
        ("HAADFscan.mrc", SIZE, (0.0, 0.0, 0.0)),
    ],
)
def test_real_files_are_what_mrcfile_reads(data: Path, name: str, size: Any, position: Any) -> None:
    place = data / "format-fixtures" / "mrc" / name
    given = SIZE if name.startswith("HAADF") else None  # it says nothing along z
    volume = open_volume(place, voxel_size=given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one is longer than its header says
        with mrcfile.open(place) as file:
            np.testing.assert_array_equal(volume.open().read().result(), np.atleast_3d(file.data.T).T)
    assert volume.voxel_size == pytest.approx(size)
    assert volume.translation == pytest.approx(position)


def test_what_a_real_file_does_not_say_along_one_axis_is_asked_for(data: Path) -> None:
    with pytest.raises(InputError, match="not along z") as caught:
        open_volume(data / "format-fixtures" / "mrc" / "HAADFscan.mrc")
    assert caught.value.code == "input.no-voxel-size"


def test_a_real_file_is_converted_by_the_command(data: Path, tmp_path: Path) -> None:
    place, made = data / "format-fixtures" / "mrc" / "EMD-3197.map", tmp_path / "made.zarr"
    for arguments in (["info", str(place)], ["convert", str(place), str(made)]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    with mrcfile.open(place) as file:
        np.testing.assert_array_equal(open_volume(made).open().read().result(), file.data)
    assert open_volume(made).translation == open_volume(place).translation

"""DigitalMicrograph files: real ones as their readers read them, units of each axis, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dm_files import image, preview, write_dm
from ncempy.io.dm import fileDM

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.random.default_rng(3).integers(-100, 100, (3, 5, 7), np.int16)


def _image(voxels: Any = VOXELS, sizes: Any = SIZE, units: Any = ("nm", "nm", "nm")) -> dict[str, Any]:
    return image(voxels, sizes, units, (0.0,) * len(sizes))


def _refused(place: Path, code: str, says: str) -> InputError:
    with pytest.raises(InputError, match=says) as caught:
        open_volume(place)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize(
    ("name", "size", "position"),
    [
        ("dmTest_3D_int16_64_65_66.dm3", (4000.0, 3.0, 0.002), (0.0, 0.0, 0.0)),
        ("dmTest_3D_int16_64_65_66.dm4", (4000.0, 3.0, 0.002), (0.0, 0.0, 0.0)),
        ("dmTest_float32_nonSquare_diffPixelSize.dm4", (0.2, 0.2, 1.0), (0.0, 0.0, 0.0)),
    ],
)
def test_real_files_are_what_ncempy_reads(data: Path, name: str, size: Any, position: Any) -> None:
    place = data / "format-fixtures" / "dm" / name
    volume = open_volume(place)
    with place.open("rb") as file:
        wanted = fileDM(file).getDataset(0)["data"]
    np.testing.assert_array_equal(volume.open().read().result(), wanted.reshape(volume.shape))
    assert volume.voxel_size == pytest.approx(size)
    assert volume.translation == position


def test_a_real_image_of_wide_integers_is_refused_for_its_type(data: Path) -> None:
    _refused(data / "format-fixtures" / "dm" / "test_STEM_image.dm3", "input.dtype", "uint32")


def test_each_axis_has_its_own_unit_and_what_has_none_is_asked_for(tmp_path: Path) -> None:
    write_dm(tmp_path / "v.dm3", [_image(sizes=(0.03, 80.0, 4.0), units=("\u00b5m", "A", "nm"))])
    assert open_volume(tmp_path / "v.dm3").voxel_size == pytest.approx(SIZE)
    write_dm(tmp_path / "v.dm3", [_image(units=("", "nm", "1/nm"))])
    _refused(tmp_path / "v.dm3", "input.no-voxel-size", "8 nm along y.*not along z, x")
    write_dm(tmp_path / "v.dm3", [_image(VOXELS[0], SIZE[1:], ("nm", "nm"))])
    assert open_volume(tmp_path / "v.dm3").voxel_size == (8.0, 8.0, 4.0)


def test_what_is_no_volume_is_refused_for_what_it_is(tmp_path: Path) -> None:
    place = tmp_path / "v.dm4"
    complex_numbers = _image()
    complex_numbers["ImageData"]["DataType"] = 3
    for images, code, says in (
        ([preview()], "input.not-a-volume", "0 images"),
        ([_image(), _image()], "input.not-a-volume", "2 images"),
        ([complex_numbers], "input.dtype", "type 3"),
        ([_image(np.zeros((2, 3, 4, 5), "uint8"), (1.0,) * 4, ("nm",) * 4)], "input.axes", "4 dimensions"),
    ):
        write_dm(place, images, version=4)
        _refused(place, code, says)
    tags = _image()
    tags["ImageData"]["Dimensions"]["2"] = 6
    write_dm(place, [tags], version=4)
    _refused(place, "input.broken-metadata", r"\(3, 6, 7\)")


def test_without_ncempy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dm(tmp_path / "v.dm3", [_image()])
    monkeypatch.setitem(sys.modules, "ncempy.io.dm", None)
    error = _refused(tmp_path / "v.dm3", "input.unsupported", "ncempy")
    assert "volumetool[dm]" in error.hint


def test_damaged_tags_are_an_error_or_not_met(tmp_path: Path) -> None:
    place = tmp_path / "v.dm3"
    write_dm(place, [preview(), _image()])
    whole, random = place.read_bytes(), np.random.default_rng(1)
    refused = 0
    for at in random.integers(0, len(whole), 200):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ random.integers(1, 256)]) + whole[at + 1 :])
        try:
            open_volume(place, voxel_size=SIZE).open().read().result()
        except InputError:
            refused += 1
    assert refused > 50

"""What TIFF files state of their voxels' size: by ImageJ, by the microscope, and where they contradict each other."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

VOXELS = np.arange(3 * 5 * 6, dtype=np.uint8).reshape(3, 5, 6)
FEI = "[Scan]\r\nPixelWidth={}\r\nPixelHeight={}\r\n"


def _write(file: Path, voxels: Any, pixel: tuple[float, float] | None = None, **options: Any) -> None:
    tags = [] if pixel is None else [(34682, 2, 0, FEI.format(*pixel), True)]
    tifffile.imwrite(file, voxels, extratags=tags, **options)


def _refusal(place: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_volume(place)
    assert caught.value.code == "input.no-voxel-size"
    return str(caught.value)


@pytest.mark.parametrize("name", ["FEI-Helios-Ebeam-8bits.tif", "FEI-Helios-Ebeam-16bits.tif"])
def test_pixel_sizes_of_a_real_microscope_are_told(data: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(data / "format-fixtures" / "tiff" / "tiff_FEI_Helios.zip") as archive:
        inside = next(each for each in archive.namelist() if each.endswith(name))
        (tmp_path / name).write_bytes(archive.read(inside))
    assert "--voxel-size z,3372.4,3372.4" in _refusal(tmp_path / name)


def test_digital_micrographs_tags_are_told_and_a_thickness_in_seconds_is_none(data: Path) -> None:
    said = _refusal(data / "format-fixtures" / "tiff" / "test_loading_image_saved_with_DM_stack.tif")
    assert "1686.74 nm along y, 168.674 nm along x" in said


def test_units_of_imagej_may_differ_by_axis_and_its_origin_moves_the_volume(tmp_path: Path) -> None:
    said = {"axes": "ZYX", "unit": "nm", "zunit": "\\u00B5m", "spacing": 0.03, "zorigin": -10.0, "xorigin": 2.0}
    _write(tmp_path / "a.tif", VOXELS, imagej=True, resolution=(1 / 4, 1 / 8), metadata=said)
    volume = open_volume(tmp_path / "a.tif")
    assert volume.voxel_size == pytest.approx((30.0, 8.0, 4.0))
    assert volume.translation == pytest.approx((300.0, 0.0, -8.0))


def test_sections_of_different_pixel_size_are_shown_with_their_files(tmp_path: Path) -> None:
    for z, section in enumerate(VOXELS):
        _write(tmp_path / f"s_{z}.tif", section, (4e-9, 8e-9) if z < 2 else (5e-9, 5e-9))
    said = _refusal(tmp_path)
    assert "8 x 4 nm (y, x) by the tag of FEI in s_0.tif" in said
    assert "5 x 5 nm (y, x) by the tag of FEI in s_2.tif" in said
    assert open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0)).voxel_size == (30.0, 8.0, 4.0)


@pytest.mark.parametrize("pixel", [(4e-9, 8e-9), (4e-9, 9e-9)])
def test_a_text_and_the_microscope_must_agree(tmp_path: Path, pixel: tuple[float, float]) -> None:
    nanometres = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (30, 8, 4), strict=True)}
    units = {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
    _write(tmp_path / "a.ome.tif", VOXELS, pixel, ome=True, metadata={"axes": "ZYX", **nanometres, **units})
    if pixel[1] == 8e-9:
        assert open_volume(tmp_path / "a.ome.tif").voxel_size == pytest.approx((30.0, 8.0, 4.0))
    else:
        assert "30 x 8 x 4 nm (z, y, x) by OME's PhysicalSize" in _refusal(tmp_path / "a.ome.tif")


def test_resolution_tags_say_nothing_where_a_text_does(tmp_path: Path) -> None:
    said = {"axes": "ZYX", "PhysicalSizeZ": 0.03, "PhysicalSizeY": 0.008, "PhysicalSizeX": 0.004}
    _write(tmp_path / "a.ome.tif", VOXELS, ome=True, metadata=said, resolution=(1e7, 1e7), resolutionunit="CENTIMETER")
    assert open_volume(tmp_path / "a.ome.tif").voxel_size == pytest.approx((30.0, 8.0, 4.0))


@pytest.mark.parametrize("unit", [0, 5, 77])
def test_resolution_tags_in_no_known_unit_say_nothing(tmp_path: Path, unit: int) -> None:
    _write(tmp_path / "a.tif", VOXELS[0], resolution=(1e7, 1e7), resolutionunit="CENTIMETER")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["ResolutionUnit"].overwrite(unit)
    assert "does not say how large its voxels are" in _refusal(tmp_path / "a.tif")


def test_values_that_count_from_white_are_turned_round_and_a_note_says_so(tmp_path: Path) -> None:
    _write(tmp_path / "a.tif", VOXELS, photometric="miniswhite")
    volume = open_volume(tmp_path / "a.tif", voxel_size=(30.0, 8.0, 4.0))
    np.testing.assert_array_equal(volume.open().read().result(), 255 - VOXELS)
    assert any("MinIsWhite" in note for note in volume.attributes["notes"])

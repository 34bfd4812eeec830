"""TIFF stacks and folders of TIFF sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from volumetool.errors import InputError
from volumetool.storage.images import find_images, open_images
from volumetool.storage.open import open_volume

VOXELS = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"compression": "zlib"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "rowsperstrip": 2},
        {"compression": "zlib", "tile": (16, 16)},
        {"byteorder": ">"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "TYX"}},
        {"ome": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None, "photometric": "minisblack"},
    ],
    ids=str,
)
def test_any_range_of_sections_is_read_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS, **options)
    stack = open_images(tmp_path / "stack.tif")
    assert (stack.shape, stack.dtype) == ((5, 6, 7), np.uint16)
    assert stack.dtype.isnative
    np.testing.assert_array_equal(stack.read(0, 5), VOXELS)
    np.testing.assert_array_equal(stack.read(1, 3, slice(2, 5)), VOXELS[1:3, 2:5])


def test_sections_of_a_folder_are_sorted_by_number_and_other_files_left_alone(tmp_path: Path) -> None:
    for number in (10, 8, 11, 9):
        tifffile.imwrite(tmp_path / f"section_{number}.tif", np.full((3, 4), number, np.uint8))
    (tmp_path / "notes.txt").write_text("")
    tifffile.imwrite(tmp_path / ".hidden.tif", np.zeros((1, 1), np.uint8))
    stack = open_images(tmp_path)
    assert [Path(file).name for file in stack.files] == [f"section_{number}.tif" for number in (8, 9, 10, 11)]
    assert stack.read(1, 4)[:, 0, 0].tolist() == [9, 10, 11]


@pytest.mark.parametrize(("odd", "shown"), [(np.zeros((3, 5), np.uint8), "3 x 5"), (np.zeros((3, 4), np.uint16), "uint16")])
def test_a_section_that_differs_is_named_with_both_shapes(tmp_path: Path, odd: np.ndarray[Any, Any], shown: str) -> None:
    for number in range(3):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((3, 4), np.uint8))
    tifffile.imwrite(tmp_path / "1.tif", odd)
    with pytest.raises(InputError, match=rf"1\.tif is .*{shown}.*0\.tif is 3 x 4 uint8") as caught:
        open_images(tmp_path)
    assert caught.value.code == "input.slice-shape"


def test_a_stack_between_sections_is_refused_rather_than_cut_to_its_first_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "0.tif", VOXELS[0])
    tifffile.imwrite(tmp_path / "1.tif", VOXELS)
    with pytest.raises(InputError, match=r"1\.tif has 5 pages") as caught:
        open_images(tmp_path)
    assert caught.value.code == "input.axes"


@pytest.mark.parametrize(
    ("shape", "options"),
    [((6, 7, 3), {"photometric": "rgb"}), ((2, 3, 6, 7), {"imagej": True, "metadata": {"axes": "ZCYX"}})],
)
def test_colour_and_channels_are_refused(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), **options)
    with pytest.raises(InputError) as caught:
        open_images(tmp_path / "a.tif")
    assert caught.value.code == "input.axes"


def test_single_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), bool))
    with pytest.raises(InputError, match="bool") as caught:
        open_volume(tmp_path / "a.tif")
    assert caught.value.code == "input.dtype"


def test_what_is_not_there_and_what_is_no_image_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"")
    for path, code in (("missing", "input.not-found"), ("a.gif", "input.not-images"), (".", "input.not-images")):
        with pytest.raises(InputError) as caught:
            open_images(tmp_path / path)
        assert caught.value.code == code


def test_a_file_that_is_tiff_by_name_only_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"a\.tif") as caught:
        open_images(tmp_path / "a.tif")
    assert caught.value.code == "input.unreadable"


def test_a_file_that_was_cut_off_is_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (5, 60, 70), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", noise, compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.tif") as caught:
        open_images(tmp_path / "a.tif").read(0, 5)
    assert caught.value.code == "input.unreadable"


def test_a_codec_that_is_not_installed_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, compression="zlib")
    stack = open_images(tmp_path / "a.tif")

    def missing(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    with pytest.raises(InputError) as caught:
        stack.read(0, 1)
    assert (caught.value.code, caught.value.hint) == ("input.codec", "pip install imagecodecs")


MICRONS = {"PhysicalSizeX": 0.004, "PhysicalSizeY": 0.008, "PhysicalSizeZ": 0.03}


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "ZYX", **MICRONS}},
        {
            "ome": True,
            "metadata": {
                "axes": "ZYX",
                **{key: value * 1e3 for key, value in MICRONS.items()},
                **{f"{key}Unit": "nm" for key in MICRONS},
            },
        },
        {"imagej": True, "resolution": (250, 125), "metadata": {"axes": "ZYX", "spacing": 0.03, "unit": "um"}},
        {"imagej": True, "resolution": (250, 125), "metadata": {"axes": "ZYX", "spacing": 0.03, "unit": "\\u00B5m"}},
    ],
    ids=["ome-default-unit", "ome-nm", "imagej", "imagej-escaped"],
)
def test_a_voxel_size_that_is_stated_in_full_is_taken(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, **options)
    assert open_images(tmp_path / "a.tif").voxel_size == pytest.approx((30.0, 8.0, 4.0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.004, "PhysicalSizeY": 0.004}},
        {"imagej": True, "resolution": (1, 1), "metadata": {"axes": "ZYX", "spacing": 1.0, "unit": "pixel"}},
        {"imagej": True, "resolution": (250, 125), "metadata": {"axes": "ZYX", "unit": "um"}},
    ],
    ids=["nothing", "dots-per-inch", "ome-without-z", "imagej-pixels", "imagej-without-spacing"],
)
def test_a_voxel_size_that_is_not_stated_in_full_is_not_guessed(tmp_path: Path, options: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, **options)
    assert open_images(tmp_path / "a.tif").voxel_size is None


def test_images_are_told_by_name(tmp_path: Path) -> None:
    assert find_images(str(tmp_path)) is None
    tifffile.imwrite(tmp_path / "A.TIF", VOXELS)
    assert find_images(str(tmp_path)) is not None
    assert find_images(str(tmp_path / "A.TIF")) is not None
    assert find_images(str(tmp_path / "missing.tif")) is None


@pytest.mark.parametrize("pattern", ["isbi2012-sstem/*.tif", "temca-fly-tiles/*.tif", "emdiffuse-noisy-u16/*.tif"])
def test_real_stacks_open_without_further_codecs(data: Path, pattern: str) -> None:
    file = next(iter(data.glob(pattern)))
    stack = open_images(file)
    expected = tifffile.imread(file).reshape(stack.shape)
    np.testing.assert_array_equal(stack.read(stack.shape[0] - 1, stack.shape[0]), expected[-1:])

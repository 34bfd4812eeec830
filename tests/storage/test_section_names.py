"""Folders of sections: the number is the one in which the names differ, all else agrees, and none is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from volumetool.errors import InputError
from volumetool.storage.images import open_images
from volumetool.storage.images.names import numbered, shared_pattern
from volumetool.units import in_words, runs_of

VOXELS = np.random.default_rng(0).integers(1, 255, (12, 6, 7), dtype=np.uint8)


def folder(place: Path, names: Iterable[str]) -> Path:
    for n, name in enumerate(names):
        tifffile.imwrite(place / name, VOXELS[n])
    return place


def refused(place: Path, code: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_images(place)
    assert caught.value.code == code
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["sec_{:04d}.tif", "{}.tif", "s{}_30kV_2024.tif", "run2_{:03d}_8nm.ome.tif", "a1-b2 {} c3.TIFF", "0001_{}.tif"],
)
def test_the_number_in_which_names_differ_is_the_sections(tmp_path: Path, name: str) -> None:
    stack = open_images(folder(tmp_path, (name.format(n) for n in range(2, 14))))
    np.testing.assert_array_equal(stack.read(0, 12), VOXELS)
    assert (stack.first, stack.notes) == (2, ())


def test_padding_and_endings_may_differ(tmp_path: Path) -> None:
    names = ["s_8.tif", "s_9.TIF", "s_0010.tiff", "s_11.Tif"]
    np.testing.assert_array_equal(open_images(folder(tmp_path, names)).read(0, 4), VOXELS[:4])


def test_missing_numbers_are_refused_kept_or_closed(tmp_path: Path) -> None:
    folder(tmp_path, [f"sec_{n:04d}.tif" for n in (0, 1, 2, 4, 5, 9, 10)])
    refused(tmp_path, "input.missing-sections", "0 to 10", "4 of them are missing: 3, 6 to 8", "--gaps")
    kept = open_images(tmp_path, gaps="keep")
    assert (kept.shape[0], kept.blank) == (11, (3, 6, 7, 8))
    assert "3, 6 to 8" in kept.notes[0]
    wanted = np.zeros((11, 6, 7), np.uint8)
    wanted[[0, 1, 2, 4, 5, 9, 10]] = VOXELS[:7]
    np.testing.assert_array_equal(kept.read(0, 11), wanted)
    closed = open_images(tmp_path, gaps="close")
    np.testing.assert_array_equal(closed.read(0, 7), VOXELS[:7])


def test_numbers_far_apart_take_no_memory(tmp_path: Path) -> None:
    folder(tmp_path, ["s_1.tif", "s_20240101120000.tif"])
    refused(tmp_path, "input.missing-sections")
    with pytest.raises(InputError):
        open_images(tmp_path, gaps="keep")
    assert open_images(tmp_path, gaps="close").shape[0] == 2


@pytest.mark.parametrize(
    "odd",
    [
        "sec_0003 (1).tif",
        "sec_0003 copy.tif",
        "Copy of sec_0003.tif",
        "Sec_0012.tif",
        "sec_0012_b.tif",
        "overview.tif",
        "BSE_0003.tif",
    ],
)
def test_a_name_that_does_not_agree_is_refused_with_the_name(tmp_path: Path, odd: str) -> None:
    folder(tmp_path, [f"sec_{n:04d}.tif" for n in range(11)])
    shutil.copy(tmp_path / "sec_0003.tif", tmp_path / odd)
    refused(tmp_path, "input.section-names", odd, "sec_NUMBER")


@pytest.mark.parametrize(
    "names",
    [
        [f"{detector}_{n}.tif" for detector in ("SE", "BSE") for n in range(4)],
        [f"s_{n:03d}_r{y}-c{x}.tif" for n in range(3) for y in range(2) for x in range(2)],
        [f"s_{n:03d}_{tile}.tif" for n in range(4) for tile in (0, 1)],
        [f"s_{n}_at_{17 * n}.tif" for n in range(4)],
        ["a.tif", "b.tif"],
        [*(f"s_{n}.tif" for n in range(4)), "s_4.part.tif"],
        [*(f"s_{n}.tif" for n in range(4)), "s_03.tif"],
        [*(f"s_{n}.tif" for n in range(4)), "s_3.TIF"],
    ],
    ids=["detectors", "mosaic", "tiles", "two numbers", "no number", "half written", "twice", "twice by ending"],
)
def test_what_is_no_single_stack_is_refused(tmp_path: Path, names: list[str]) -> None:
    refused(folder(tmp_path, names), "input.section-names")


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    folder(tmp_path, [f"s_{n}.tif" for n in range(4)])
    (tmp_path / "s_4.tif").symlink_to("/nowhere/s_4.tif")
    refused(tmp_path, "input.unreadable", "s_4.tif")


def test_a_file_that_is_no_section_alone_is_refused(tmp_path: Path) -> None:
    """Several planes in one page too, as ImageJ writes them."""
    folder(tmp_path, [f"s_{n}.tif" for n in range(3)])
    tifffile.imwrite(tmp_path / "s_3.tif", VOXELS, imagej=True, metadata={"axes": "ZYX"})
    refused(tmp_path, "input.axes", "12 pages")


def test_an_acquisition_that_knows_of_more_files_than_there_are_is_refused(tmp_path: Path) -> None:
    def text(n: int) -> str:
        blocks = "".join(
            f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="s_{z}.ome.tif">u{z}</UUID></TiffData>'
            for z in range(4)
        )
        pixels = (
            f'<Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="7" SizeY="6" SizeZ="4" SizeC="1" SizeT="1">{blocks}</Pixels>'
        )
        return f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="u{n}"><Image>{pixels}</Image></OME>'

    options: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}
    for n in range(4):
        tifffile.imwrite(tmp_path / f"s_{n}.ome.tif", VOXELS[n], description=text(n), **options)
    np.testing.assert_array_equal(open_images(tmp_path).read(0, 4), VOXELS[:4])
    np.testing.assert_array_equal(open_images(tmp_path / "s_2.ome.tif").read(0, 4), VOXELS[:4])
    (tmp_path / "s_3.ome.tif").unlink()
    refused(tmp_path, "input.incomplete", "4 sections", "has 3")


@given(
    before=st.from_regex(r"[a-z0-9_ ]{0,6}[a-z_ ]", fullmatch=True),
    after=st.from_regex(r"([a-z_ ][a-z0-9_ ]{0,6})?", fullmatch=True),
    numbers=st.sets(st.integers(0, 10**6), min_size=2, max_size=12),
    width=st.integers(1, 9),
)
def test_numbers_are_found_whatever_stands_around_them(before: str, after: str, numbers: set[int], width: int) -> None:
    names = {f"{before}{n:0{width}}{after}.tif": n for n in numbers}
    pattern = shared_pattern(names)
    assert {name: numbered(name, pattern) for name in names} == {name: (pattern, n) for name, n in names.items()}


def test_runs_are_put_in_words() -> None:
    assert in_words(runs_of([1, 2, 4, 5, 6, 9])) == "1, 2, 4 to 6, 9"

"""Every page of a TIFF file is a section, or the file is refused with what stands there."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from volumetool.errors import InputError
from volumetool.storage.images import open_images, pages

VOXELS = np.random.default_rng(0).integers(0, 255, (8, 40, 60), dtype=np.uint8)
Voxels = np.ndarray[Any, Any]


def refused(path: Path, code: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_images(path)
    assert caught.value.code == code
    for word in words:
        assert word in caught.value.message


def write_pages(path: Path, sections: Any, **options: Any) -> Path:
    """Write pages one by one, as most programs do, without any description of the whole."""
    with tifffile.TiffWriter(path) as writer:
        for section in sections:
            writer.write(section, contiguous=False, metadata=None, photometric="minisblack", **options)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_that_were_written_one_by_one_are_all_read(tmp_path: Path, compression: str | None) -> None:
    with tifffile.TiffWriter(tmp_path / "loop.tif") as writer:
        for section in VOXELS:
            writer.write(section, compression=compression)
    for section in VOXELS:
        tifffile.imwrite(tmp_path / "append.tif", section, append=True, compression=compression)
    for name in ("loop", "append"):
        np.testing.assert_array_equal(open_images(tmp_path / f"{name}.tif").read(0, 8), VOXELS)


@pytest.mark.parametrize(
    "odd", [VOXELS[3, :30], VOXELS[3].astype(np.uint16), VOXELS[3, :, ::2]], ids=["rows", "dtype", "columns"]
)
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_page_of_another_size_or_dtype_is_named(tmp_path: Path, odd: Voxels, at: int) -> None:
    file = write_pages(tmp_path / "a.tif", [odd if n == at else section for n, section in enumerate(VOXELS)])
    refused(file, "input.slice-shape", f"page {at + 1}: {odd.shape[0]} x {odd.shape[1]} {odd.dtype}", "40 x 60 uint8")


def test_smaller_copies_are_left_out_and_told_wherever_they_stand(tmp_path: Path) -> None:
    options: dict[str, Any] = {"metadata": None, "photometric": "minisblack", "contiguous": False}
    with tifffile.TiffWriter(tmp_path / "chain.tif") as writer:
        writer.write(VOXELS[0, ::4, ::4], subfiletype=1, **options)
        for section in VOXELS:
            writer.write(section, **options)
    with tifffile.TiffWriter(tmp_path / "below.ome.tif", ome=True) as writer:
        writer.write(VOXELS, subifds=1, metadata={"axes": "ZYX"})
        writer.write(VOXELS[:, ::2, ::2], subfiletype=1)
    for name, told in (("chain.tif", 1), ("below.ome.tif", 0)):
        stack = open_images(tmp_path / name)
        np.testing.assert_array_equal(stack.read(0, 8), VOXELS)
        assert len(stack.notes) == told
    assert "pages 1" in open_images(tmp_path / "chain.tif").notes[0]


def test_an_image_that_hides_below_its_thumbnail_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(VOXELS[0, ::4, ::4], subifds=1, metadata=None)
        writer.write(VOXELS[0], metadata=None)
    refused(tmp_path / "a.tif", "input.hidden-pages", "40 x 60")


def test_two_stacks_in_one_file_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for half in (VOXELS[:4], VOXELS[4:]):
            writer.write(half, photometric="minisblack", contiguous=False)
    refused(tmp_path / "a.tif", "input.axes", "2 stacks", "1, 5")


@pytest.mark.parametrize("big", [False, True])
def test_one_page_that_stands_for_all_sections_is_read_to_the_last(tmp_path: Path, big: bool) -> None:  # noqa: FBT001
    """ImageJ writes so what is larger than 4 GiB."""
    options: dict[str, Any] = {"bigtiff": True} if big else {"imagej": True, "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric="minisblack", truncate=True, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 1
    stack = open_images(tmp_path / "a.tif")
    np.testing.assert_array_equal(stack.read(0, 8), VOXELS)
    np.testing.assert_array_equal(stack.read(6, 8, slice(7, 31)), VOXELS[6:, 7:31])
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: -VOXELS[0].size])
    refused(tmp_path / "a.tif", "input.incomplete", "8 sections", "7")


@pytest.mark.parametrize("keep", [1, 5])
@pytest.mark.parametrize("writer", [{"imagej": True}, {}, {"ome": True}], ids=["imagej", "tifffile", "ome"])
def test_fewer_pages_than_the_file_says_are_refused(tmp_path: Path, writer: dict[str, Any], keep: int) -> None:
    """As after a copy of some pages by a program that keeps the text."""
    tifffile.imwrite(tmp_path / "whole.tif", VOXELS, photometric="minisblack", metadata={"axes": "ZYX"}, **writer)
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        text = tiff.pages.first.description
    with tifffile.TiffWriter(tmp_path / "part.tif") as part:
        for n, section in enumerate(VOXELS[:keep]):
            part.write(section, contiguous=False, metadata=None, description=None if n else text, compression="zlib")
    refused(tmp_path / "part.tif", "input.incomplete", "8 sections" if "ome" not in writer else "of its 8 sections")


def test_a_list_of_pages_that_breaks_off_or_turns_back_is_unreadable(tmp_path: Path) -> None:
    file = write_pages(tmp_path / "a.tif", VOXELS)
    whole = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff:
        offsets = [page.offset for page in tiff.pages]
    after = offsets[4] + 2 + 12 * struct.unpack_from("<H", whole, offsets[4])[0]
    for target, words in ((len(whole) + 100, "page 6 is at byte"), (offsets[2], "comes back"), (len(whole) - 1, "")):
        struct.pack_into("<I", whole, after, target)
        file.write_bytes(whole)
        refused(file, "input.unreadable", words)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_file_that_was_cut_off_anywhere_is_refused_when_it_is_opened(tmp_path: Path, compression: str | None) -> None:
    file = write_pages(tmp_path / "a.tif", VOXELS[:3], compression=compression, rowsperstrip=16)
    whole = file.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40).astype(int):
        file.write_bytes(whole[:length])
        refused(file, "input.unreadable")


def test_strips_that_were_never_written_or_are_too_short_are_refused(tmp_path: Path) -> None:
    for tag, value in (("StripOffsets", 0), ("StripByteCounts", 0), ("StripByteCounts", 40 * 60 - 1)):
        file = write_pages(tmp_path / "a.tif", VOXELS[:1])
        with tifffile.TiffFile(file, mode="r+b") as tiff:
            tiff.pages.first.tags[tag].overwrite(value)
        refused(file, "input.unreadable", "page 1")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_where_white_is_zero_black_becomes_zero(tmp_path: Path, dtype: str, compression: str | None) -> None:
    voxels = VOXELS.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(open_images(tmp_path / "a.tif").read(0, 8), np.iinfo(dtype).max - voxels)


def test_a_palette_of_greys_is_applied_and_one_of_colours_refused(tmp_path: Path) -> None:
    grey = np.arange(255, -1, -1, dtype=np.uint16) * 257
    options: dict[str, Any] = {"photometric": "palette", "metadata": None}
    tifffile.imwrite(tmp_path / "grey.tif", VOXELS, colormap=np.stack([grey] * 3), **options)
    tifffile.imwrite(tmp_path / "colour.tif", VOXELS, colormap=np.stack([grey, grey[::-1], grey]), **options)
    np.testing.assert_array_equal(open_images(tmp_path / "grey.tif").read(0, 8), 255 - VOXELS)
    refused(tmp_path / "colour.tif", "input.photometric", "palette")


@pytest.mark.parametrize(
    ("shape", "options", "code"),
    [
        ((8, 40, 60, 3), {"photometric": "rgb"}, "input.axes"),
        ((3, 40, 60), {"photometric": "rgb", "planarconfig": "separate"}, "input.axes"),
        ((8, 40, 60, 2), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}, "input.axes"),
        ((8, 48, 64, 3), {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (1, 1)}, "input.axes"),
        ((8, 40, 60, 4), {"photometric": "separated"}, "input.axes"),
        ((40, 60), {"photometric": "cfa"}, "input.photometric"),
        ((4, 2, 40, 60), {"photometric": "minisblack", "metadata": {"axes": "ZCYX"}}, "input.axes"),
        ((4, 2, 40, 60), {"photometric": "minisblack", "metadata": {"axes": "TZYX"}, "ome": True}, "input.axes"),
        ((8, 40, 60), {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "ome": True}, "input.axes"),
        ((4, 2, 40, 60), {"imagej": True, "metadata": {"axes": "TZYX"}}, "input.axes"),
        ((8, 40, 60), {"imagej": True, "metadata": {"axes": "CYX"}}, "input.axes"),
        ((16, 48, 64), {"photometric": "minisblack", "volumetric": True, "tile": (16, 16, 16)}, "input.axes"),
    ],
    ids=str,
)
def test_what_is_more_than_grey_sections_is_refused(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], code: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), **options)
    refused(tmp_path / "a.tif", code)


def test_time_points_of_an_ome_file_are_sections(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", VOXELS, metadata={"axes": "TYX"}, photometric="minisblack")
    np.testing.assert_array_equal(open_images(tmp_path / "a.ome.tif").read(0, 8), VOXELS)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib", "rowsperstrip": 3}, {"compression": "zlib", "tile": (16, 32)}, {"compression": "zlib"}],
    ids=str,
)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_any_rows_of_large_sections_are_read_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], photometric: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, photometric=photometric, **options)
    wanted = VOXELS if photometric == "minisblack" else 255 - VOXELS
    monkeypatch.setattr(pages, "BAND_BYTES", 10 * 60)
    stack = open_images(tmp_path / "a.tif")
    assert stack.rows == (40 if options == {"compression": "zlib"} else 16 if "tile" in options else 9 if options else 10)
    for top, bottom in ((0, 40), (5, 33), (16, 32), (39, 40)):
        np.testing.assert_array_equal(stack.read(0, 8, slice(top, bottom)), wanted[:, top:bottom])


def ome(planes: str, *, depth: int = 8, uuid: str = "1", more: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="60" SizeY="40" SizeZ="{depth}" SizeC="1" SizeT="1">{planes}</Pixels></Image>{more}</OME>'
    )


def block(first: int, count: int, page: int, name: str | None = None) -> str:
    other = "" if name is None else f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID>'
    return f'<TiffData IFD="{page}" FirstZ="{first}" PlaneCount="{count}">{other}</TiffData>'


def write_ome(file: Path, voxels: Voxels, text: str) -> Path:
    tifffile.imwrite(file, voxels, description=text, metadata=None, photometric="minisblack", contiguous=False)
    return file


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_an_acquisition_in_several_ome_files_is_read_whole_from_any_of_them(tmp_path: Path, order: str) -> None:
    first, second = order
    planes = block(0, 4, 0, first) + block(4, 4, 0, second)
    parts = {first: VOXELS[:4], second: VOXELS[4:]}
    for name in "ab":
        write_ome(tmp_path / f"{name}.ome.tif", parts[name], ome(planes, uuid=name))
    for name in "ab":
        np.testing.assert_array_equal(open_images(tmp_path / f"{name}.ome.tif").read(0, 8), VOXELS)
    (tmp_path / "b.ome.tif").rename(tmp_path / "c.ome.tif")
    refused(tmp_path / "a.ome.tif", "input.incomplete", "b.ome.tif")
    write_ome(tmp_path / "b.ome.tif", parts["b"], ome(planes, uuid="z"))
    refused(tmp_path / "a.ome.tif", "input.incomplete", "another one")
    write_ome(tmp_path / "b.ome.tif", parts["b"][:3], ome(planes, uuid="b"))
    refused(tmp_path / "a.ome.tif", "input.incomplete", "3 pages")
    write_ome(tmp_path / "b.ome.tif", parts["b"][:, :30], ome(planes, uuid="b"))
    refused(tmp_path / "a.ome.tif", "input.slice-shape", "30 x 60")


def test_the_order_of_ome_sections_is_that_of_their_metadata(tmp_path: Path) -> None:
    planes = "".join(block(7 - n, 1, n) for n in range(8))
    np.testing.assert_array_equal(open_images(write_ome(tmp_path / "a.ome.tif", VOXELS, ome(planes))).read(0, 8), VOXELS[::-1])
    for planes in ("", "<TiffData/>", '<TiffData IFD="0" PlaneCount="8"/>'):
        np.testing.assert_array_equal(open_images(write_ome(tmp_path / "a.ome.tif", VOXELS, ome(planes))).read(0, 8), VOXELS)


@pytest.mark.parametrize(
    ("planes", "options", "code"),
    [
        (block(0, 8, 0), {"depth": 9}, "input.incomplete"),
        (block(0, 7, 0), {"depth": 7}, "input.incomplete"),
        (block(0, 8, 0) + block(3, 1, 0), {}, "input.incomplete"),
        (block(0, 8, 1), {}, "input.incomplete"),
        (block(0, 2 * 10**9, 0), {"depth": 2 * 10**9}, "input.broken-metadata"),
        (block(0, 10**7, 0), {"depth": 10**7}, "input.incomplete"),
        (block(-1, 8, 0), {}, "input.incomplete"),
        (block(0, 8, 0).replace('"8"', '"many"'), {}, "input.broken-metadata"),
        (block(0, 8, 0), {"more": '<Image ID="Image:1"><Pixels SizeZ="1" SizeC="1" SizeT="1"/></Image>'}, "input.axes"),
    ],
)
def test_ome_metadata_that_the_file_does_not_bear_out_are_refused(
    tmp_path: Path, planes: str, options: dict[str, Any], code: str
) -> None:
    refused(write_ome(tmp_path / "a.ome.tif", VOXELS, ome(planes, **options)), code)


def test_a_file_whose_metadata_stand_elsewhere_names_the_place(tmp_path: Path) -> None:
    text = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><BinaryOnly MetadataFile="first.ome.tif"/></OME>'
    refused(write_ome(tmp_path / "a.ome.tif", VOXELS, text), "input.broken-metadata", "first.ome.tif")


def test_text_that_a_crop_left_behind_promises_nothing(tmp_path: Path) -> None:
    text = json.dumps({"shape": [99, 80, 60]})
    tifffile.imwrite(tmp_path / "a.tif", VOXELS[0], description=text, metadata=None)
    assert open_images(tmp_path / "a.tif").shape == (1, 40, 60)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "s_1.tif")
    (tmp_path / "s_2.tif").symlink_to(tmp_path / "s_1.tif")
    refused(tmp_path / "s_1.tif", "input.unreadable", "regular file")
    refused(tmp_path, "input.unreadable", "regular file")

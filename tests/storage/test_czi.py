"""CZI files, made by Zeiss' own library."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.geometry import Size
from volumetool.storage.open import open_volume
from volumetool.testing.format_suite import FormatSuite

pylib = pytest.importorskip("pylibCZIrw.czi")

SIZE = (30.0, 8.0, 4.0)
NO_SIZE = "the library writes no such file"
VOXELS = np.random.default_rng(4).integers(1, 60000, (2, 3, 40, 50), np.uint16)  # (c, z, y, x)

Tile = tuple[Mapping[str, int], NDArray[Any]]


def _write(place: Path, tiles: list[Tile], size: Size | None = SIZE) -> Path:
    """Write tiles, each with its numbers of channel, section and so on."""
    place.unlink(missing_ok=True)
    with pylib.create_czi(str(place), compression_options="zstd0:ExplicitLevel=3") as czi:
        for at, tile in tiles:
            own = {name: value for name, value in at.items() if name in ("C", "Z", "T")}
            where = {"scene": at["S"]} if "S" in at else {}
            czi.write(
                tile if tile.ndim == 3 else tile[..., None], plane=own, location=(at.get("X", 0), at.get("Y", 0)), **where
            )
        sizes = {f"scale_{axis}": nm / 1e9 for axis, nm in zip("zyx", size or (), strict=False)}
        czi.write_metadata("volume", **sizes)
    return place


def _refusal(place: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_volume(place, voxel_size=SIZE)
    assert caught.value.hint
    return caught.value


class TestCzi(FormatSuite):
    format = "czi"
    ending = ".czi"
    dtypes = ("uint16", "uint8", "float32")
    wider = ()
    position = (0.0, 0.0, 0.0)
    sparse = False
    lacks: ClassVar[dict[str, str]] = {
        "test_a_flipped_bit_is_never_other_voxels": "it has no checksum",
        "test_a_volume_that_only_says_that_it_is_huge_takes_no_memory": "its tiles say where they lie",
        "test_a_volume_without_voxels_is_refused": NO_SIZE,
        "test_voxels_of_the_other_byte_order_come_back_exactly": NO_SIZE,
    }

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it has none)
        _write(place, [({"Z": z}, np.ascontiguousarray(section)) for z, section in enumerate(voxels)], voxel_size)


def test_channels_are_an_axis_of_their_own(tmp_path: Path) -> None:
    place = _write(tmp_path / "v.czi", [({"C": c, "Z": z}, VOXELS[c, z]) for c in (0, 1) for z in (0, 1, 2)])
    volume = open_volume(place)
    assert (volume.axes, volume.channels, volume.voxel_size) == (("c", "z", "y", "x"), 2, SIZE)
    for channel in (0, 1):
        np.testing.assert_array_equal(volume.open(channel=channel).read().result(), VOXELS[channel])


def test_tiles_lie_beside_each_other(tmp_path: Path) -> None:
    tiles = [
        ({"Z": z, "Y": 7 + y, "X": 11 + x}, np.ascontiguousarray(VOXELS[0, z, y : y + 20, x : x + 25]))
        for z in (0, 1, 2)
        for y in (0, 20)
        for x in (0, 25)
    ]
    volume = open_volume(_write(tmp_path / "v.czi", tiles))
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS[0])
    np.testing.assert_array_equal(volume.open()[1, 15:25, 20:30].read().result(), VOXELS[0, 1, 15:25, 20:30])


def test_one_of_several_scenes_is_named_by_its_number(tmp_path: Path) -> None:
    tiles = [({"S": s, "Z": z, "X": 100 * s}, VOXELS[s, z]) for s in (0, 1) for z in (0, 1, 2)]
    place = _write(tmp_path / "v.czi", tiles)
    refusal = _refusal(place)
    assert (refusal.code, "0 (40 x 50 pixels), 1 (40 x 50 pixels)" in str(refusal)) == ("input.not-a-volume", True)
    assert "v.czi/0" in refusal.hint
    for scene in (0, 1):
        np.testing.assert_array_equal(open_volume(place / str(scene)).open().read().result(), VOXELS[scene])
    assert _refusal(place / "2").code == "input.not-a-volume"


def test_time_points_and_colours_are_refused_by_name(tmp_path: Path) -> None:
    refusal = _refusal(_write(tmp_path / "t.czi", [({"T": t}, VOXELS[0, 0]) for t in (0, 1)]))
    assert (refusal.code, "T (2)" in str(refusal)) == ("input.axes", True)
    refusal = _refusal(_write(tmp_path / "rgb.czi", [({"Z": 0}, np.zeros((8, 9, 3), np.uint8))]))
    assert (refusal.code, "Bgr24" in str(refusal)) == ("input.dtype", True)


def test_sections_that_were_never_taken_are_named(tmp_path: Path) -> None:
    refusal = _refusal(_write(tmp_path / "v.czi", [({"Z": z}, VOXELS[0, 0]) for z in (0, 1, 4)]))
    assert (refusal.code, "the sections 2, 3 of channel 0" in str(refusal)) == ("input.incomplete", True)


def test_a_voxel_size_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    place = _write(tmp_path / "v.czi", [({"Z": z}, VOXELS[0, z]) for z in (0, 1, 2)], None)
    with pytest.raises(InputError) as caught:
        open_volume(place)
    assert caught.value.code == "input.no-voxel-size"
    assert open_volume(place, voxel_size=SIZE).voxel_size == SIZE


def test_without_the_library_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.czi").write_bytes(b"ZISRAWFILE" + bytes(1000))
    monkeypatch.setitem(sys.modules, "pylibCZIrw.czi", None)
    refusal = _refusal(tmp_path / "v.czi")
    assert refusal.code == "input.unsupported"
    assert "volumetool[czi]" in refusal.hint
    assert "bioformats2raw" in refusal.hint


def test_what_is_no_czi_behind_its_first_bytes_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "v.czi").write_bytes(b"ZISRAWFILE" + bytes(100_000))
    assert _refusal(tmp_path / "v.czi").code == "input.unreadable"


def test_a_tile_that_says_that_it_is_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    place = _write(tmp_path / "v.czi", [({"Z": z}, VOXELS[0, z]) for z in (0, 1, 2)])
    content = bytearray(place.read_bytes())
    content[content.index(b"ZISRAWSUBBLOCK") + 46] = 9  # of the length of its pixels: 2^50 more
    place.write_bytes(content)
    assert _refusal(place).code == "input.unreadable"

"""NRRD: what headers say of voxels and places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from volumetool.errors import InputError
from volumetool.storage.info import describe_volume
from volumetool.storage.open import open_volume

VOXELS = np.random.default_rng(2).integers(1, 200, (4, 6, 10), np.uint8)
PLAIN = {"type": "uchar", "dimension": "3", "sizes": "10 6 4", "encoding": "raw"}
SIZED = PLAIN | {"spacings": "4 8 30", "units": '"nm" "nm" "nm"'}


def _write(place: Path, fields: dict[str, str], data: bytes = VOXELS.tobytes(), line: str = "\n") -> Path:
    lines = ["NRRD0005", "# https://teem.sourceforge.net/nrrd", *(f"{name}: {value}" for name, value in fields.items())]
    place.write_bytes(line.join([*lines, "key:=value", "", ""]).encode() + data)
    return place


def _refusal(place: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        open_volume(place, voxel_size=(30.0, 8.0, 4.0))
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_spacings_with_units_are_the_voxel_size(tmp_path: Path, line: str) -> None:
    volume = open_volume(_write(tmp_path / "v.nrrd", SIZED, line=line))
    assert (volume.voxel_size, volume.axes) == ((30.0, 8.0, 4.0), ("z", "y", "x"))
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)


def test_spacings_without_a_unit_are_asked_for(tmp_path: Path) -> None:
    _write(tmp_path / "v.nrrd", PLAIN | {"spacings": "4 8 30"})
    with pytest.raises(InputError, match=r"\(30\.0, 8\.0, 4\.0\) in no unit") as caught:
        open_volume(tmp_path / "v.nrrd")
    assert caught.value.code == "input.no-voxel-size"


@pytest.mark.parametrize("skip", ["3", "-1"])
def test_a_header_beside_its_voxels_names_them(tmp_path: Path, skip: str) -> None:
    (tmp_path / "v.raw").write_bytes(b"abc" + VOXELS.tobytes())
    volume = open_volume(_write(tmp_path / "v.nhdr", SIZED | {"data file": "v.raw", "byte skip": skip}, b""))
    np.testing.assert_array_equal(volume.open().read().result(), VOXELS)
    (tmp_path / "v.raw").unlink()
    assert _refusal(tmp_path / "v.nhdr").code == "input.unreadable"


@pytest.mark.parametrize(("kinds", "axes"), [("list domain domain domain", "zyxc"), ("domain domain domain vector", "czyx")])
def test_an_axis_of_another_kind_holds_channels(tmp_path: Path, kinds: str, axes: str) -> None:
    first = kinds.startswith("list")
    voxels = np.stack([VOXELS, 255 - VOXELS], axis=-1 if first else 0)
    directions = ["(4,0,0)", "(0,8,0)", "(0,0,30)"]
    directions.insert(0 if first else 3, "none")
    fields = PLAIN | {
        "dimension": "4",
        "sizes": "2 10 6 4" if first else "10 6 4 2",
        "kinds": kinds,
        "space directions": " ".join(directions),
        "space units": '"um" "um" "um"',
    }
    volume = open_volume(_write(tmp_path / "v.nrrd", fields, voxels.tobytes()))
    assert (volume.axes, volume.channels, volume.voxel_size) == (tuple(axes), 2, (30000.0, 8000.0, 4000.0))
    np.testing.assert_array_equal(volume.open(channel=1).read().result(), 255 - VOXELS)


def test_axes_that_are_turned_keep_their_voxel_sizes_and_info_says_so(tmp_path: Path) -> None:
    turned = {"space directions": "(-4,0,0) (0,8,0) (0,0,30)", "space origin": "(100,50,25)", "space units": '"nm" "nm" "nm"'}
    volume = open_volume(_write(tmp_path / "v.nrrd", PLAIN | turned))
    assert (volume.voxel_size, volume.translation) == ((30.0, 8.0, 4.0), (0.0, 0.0, 0.0))
    assert "turned or mirrored" in describe_volume(volume)["note"]


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"encoding": "gzip"}, "input.unsupported", "encoded as gzip"),
        ({"data file": "v%03d.raw 1 4 1"}, "input.unsupported", "several files"),
        ({"data file": "LIST"}, "input.unsupported", "several files"),
        ({"data file": "../v.raw"}, "input.unsupported", "Only a file beside"),
        ({"line skip": "2"}, "input.unsupported", "skips lines"),
        ({"type": "block"}, "input.dtype", "block"),
        ({"sizes": "10 6"}, "input.broken-metadata", "3 dimensions"),
        ({"type": "short"}, "input.broken-metadata", "endian"),
        ({"sizes": "10 6 5"}, "input.unreadable", "cut off"),
        ({"sizes": "10 6 0"}, "input.empty", "no voxel"),
        ({"sizes": "10 6 x"}, "input.broken-metadata", "invalid literal"),
        ({"kinds": "domain RGB-color vector"}, "input.axes", "rgb-color"),
        ({"byte skip": "-1", "sizes": "10 60 40"}, "input.broken-metadata", "more bytes"),
    ],
)
def test_what_is_not_read_is_refused_by_its_cause(tmp_path: Path, fields: dict[str, str], code: str, said: str) -> None:
    refusal = _refusal(_write(tmp_path / "v.nrrd", PLAIN | fields))
    assert (refusal.code, said in str(refusal)) == (code, True)

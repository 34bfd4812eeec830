"""Every format that is written: the same voxels at the same place, as other software reads them, whatever happens meanwhile."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from volumetool.errors import OutputError
from volumetool.geometry.levels import plan_levels, shard_boxes
from volumetool.storage import convert as convert_module
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert, convert_volume, describe_conversion
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing, open_in_memory
from volumetool.storage.downsample import MEAN
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.shards import shard_keys
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import WrittenName

Voxels = NDArray[Any]

SHAPE = (13, 22, 37)
SIZE = (30.0, 8.0, 4.0)
PLACE = (45.0, -20.0, 10.0)
"""Centre of the first voxel: its corner lies at whole voxels (1, -3, 2), as precomputed needs it."""

NAMES: tuple[WrittenName, ...] = get_args(WrittenName)
IN_ONE_FILE = "precomputed"
"""The format whose channels lie in one file."""


@pytest.fixture
def source(tmp_path: Path) -> Volume:
    return make(tmp_path / "in.zarr")


def make(place: Path, channels: int | None = None, dtype: str = "uint16") -> Volume:
    """Write a volume of one level, blank in one corner, that is called `image`."""
    layout = VolumeLayout(dtype, plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8))[:1], channels, name="image")
    for channel in range(channels or 1):
        voxels = np.random.default_rng(channel).integers(1, 120, SHAPE).astype(dtype)
        voxels[:5, :9, :9] = 0
        create_volume(str(place), layout, {})
        open_for_writing(str(place), layout, 0, channel).write(voxels).result()
    return open_volume(place)


def converted(source: Volume, name: WrittenName, place: Path) -> Volume:
    levels = plan_levels(source.shape, source.voxel_size, source.translation, (4, 8, 8), (8, 16, 16))
    return convert_volume(plan_conversion(source, place, levels=levels, format=name))


def read(volume: Volume, level: int = 0, channel: int = 0) -> Voxels:
    return np.asarray(volume.open(level, channel).read().result())


def test_the_names_of_the_option_are_those_of_the_registry_and_the_default_comes_first() -> None:
    assert tuple(WRITTEN) == NAMES


@pytest.mark.parametrize(
    ("name", "channels"),
    [*((name, None) for name in NAMES), *((name, 2) for name in NAMES if not name.startswith(IN_ONE_FILE))],
)
def test_a_volume_lies_where_it_lay_and_each_level_is_the_mean_of_the_one_before(
    tmp_path: Path, name: WrittenName, channels: int | None
) -> None:
    source = make(tmp_path / "in.zarr", channels)
    volume = converted(source, name, tmp_path / "out")
    assert name.startswith(volume.format)
    assert (volume.dtype, volume.channels, volume.attributes["status"]) == (source.dtype, channels, "complete")
    assert (volume.voxel_size, volume.translation) == (SIZE, PLACE)
    assert validate_volume(volume.url) == []
    for channel in range(channels or 1):
        np.testing.assert_array_equal(read(volume, 0, channel), read(source, 0, channel))
        for number, (fine, coarse) in enumerate(pairwise(volume.levels)):
            factor = tuple(round(a / b) for a, b in zip(coarse.voxel_size, fine.voxel_size, strict=True))
            np.testing.assert_array_equal(read(volume, number + 1, channel), MEAN(read(volume, number, channel), factor))  # type: ignore[arg-type]


def test_going_through_every_format_changes_neither_voxels_nor_places(tmp_path: Path, source: Volume) -> None:
    volume = source
    for number, name in enumerate((*NAMES, *reversed(NAMES))):
        volume = converted(volume, name, tmp_path / f"{number}")
        assert (volume.voxel_size, volume.translation) == (SIZE, PLACE)
        np.testing.assert_array_equal(read(volume), read(source))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "float32"])
def test_between_any_two_formats_voxels_and_places_stay_the_same(tmp_path: Path, dtype: str) -> None:
    source = make(tmp_path / "in.zarr", dtype=dtype)
    made = {name: converted(source, name, tmp_path / name) for name in NAMES}
    for first, second in permutations(NAMES, 2):
        volume = converted(made[first], second, tmp_path / f"{first} to {second}")
        for number, (level, wanted) in enumerate(zip(volume.levels, made[second].levels, strict=True)):
            assert (level.voxel_size, level.translation) == (wanted.voxel_size, wanted.translation)
            np.testing.assert_array_equal(read(volume, number), read(made[second], number))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_other_libraries_read_what_is_written(tmp_path: Path, name: WrittenName, dtype: str) -> None:
    source = make(tmp_path / "in.zarr", dtype=dtype)
    place = Path(converted(source, name, tmp_path / "out").url)
    expected = read(source)
    if name == "n5":
        array = ts.open({"driver": "n5", "kvstore": f"file://{place}/s0/"}).result()
        assert [unit and (unit.multiplier, unit.base_unit) for unit in array.dimension_units] == [(s, "nm") for s in SIZE[::-1]]
        found = np.asarray(array.read().result()).T  # (x, y, z) -> (z, y, x)
    elif name.startswith("precomputed"):
        array = ts.open({"driver": "neuroglancer_precomputed", "kvstore": f"file://{place}/"}).result()
        corner = [(at / size) - 0.5 for at, size in zip(PLACE, SIZE, strict=True)]
        assert list(array.domain.origin)[2::-1] == corner
        found = np.asarray(array.read().result())[..., 0].T
    else:
        group = zarr.open_group(place, mode="r")
        assert (group.metadata.zarr_format, validate_volume(str(place))) == (2 if name == "ome-zarr-0.4" else 3, [])
        found = np.asarray(group["0"])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_chunks_of_the_unsharded_format_are_files_of_their_own(tmp_path: Path, source: Volume) -> None:
    volume = converted(source, "ome-zarr-0.5-unsharded", tmp_path / "out")
    codecs = [codec["name"] for codec in json.loads(Path(volume.url, "0", "zarr.json").read_text())["codecs"]]
    assert (volume.levels[0].shard, codecs) == (None, ["bytes", "zstd", "crc32c"])


def test_n5_says_its_sizes_in_every_dialect(tmp_path: Path, source: Volume) -> None:
    volume = converted(source, "n5", tmp_path / "out")
    root = json.loads(Path(volume.url, "attributes.json").read_text())
    assert root["n5"].startswith("2.")  # z5py opens no container without
    assert (root["axes"], root["units"], root["resolution"]) == (["x", "y", "z"], ["nm"] * 3, list(SIZE[::-1]))
    assert (root["multiScale"], root["offset"]) == (True, list(PLACE[::-1]))
    assert root["pixelResolution"] == {"unit": "nm", "dimensions": list(SIZE[::-1])}
    assert (
        root["scales"] == root["downsamplingFactors"] == [[1, 1, 1], [2, 1, 1], [4, 2, 1], [8, 4, 1], [16, 8, 2], [32, 16, 4]]
    )
    (cosem,) = root["multiscales"]
    for number, (level, dataset) in enumerate(zip(volume.levels, cosem["datasets"], strict=True)):
        array = json.loads(Path(volume.url, f"s{number}", "attributes.json").read_text())
        assert dataset == {"path": f"s{number}", "transform": array["transform"]}
        assert array["transform"]["axes"] == ["z", "y", "x"]
        placed = array["transform"]["scale"], array["transform"]["translate"]
        assert placed == (list(level.voxel_size), list(level.translation))
        alone = open_volume(Path(volume.url, f"s{number}"))
        assert (alone.voxel_size, alone.translation) == (level.voxel_size, level.translation)


@pytest.mark.parametrize("name", ["n5", "precomputed"])
def test_a_level_that_lies_elsewhere_is_found_by_validate(tmp_path: Path, source: Volume, name: WrittenName) -> None:
    root = Path(converted(source, name, tmp_path / "out").url, WRITTEN[name].root)
    content = json.loads(root.read_text())
    if name == "n5":
        content["multiscales"][0]["datasets"][1]["transform"]["translate"][2] += 1
    else:
        content["scales"][1]["voxel_offset"][0] += 2
    root.write_text(json.dumps(content))
    assert [(finding.code, finding.path) for finding in validate_volume(str(root.parent))] == [("validate.translation", "s1")]


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.0), (60.0, 8.0, 0.0)])
def test_a_position_that_precomputed_does_not_have_is_the_nearest_one_and_said(
    tmp_path: Path, source: Volume, place: tuple[float, float, float]
) -> None:
    grids = plan_levels(SHAPE, SIZE, place, (4, 8, 8))
    plan = plan_conversion(source, tmp_path / "out", levels=grids, format="precomputed")
    said = " ".join(text for name, text in describe_conversion(plan) if name == "note")
    volume = convert_volume(plan)
    for number, (grid, level) in enumerate(zip(grids, volume.levels, strict=True)):
        off = [there - here for there, here in zip(level.translation, grid.translation, strict=True)]
        assert all(abs(by) <= size / 2 for by, size in zip(off, level.voxel_size, strict=True))
        assert (f"level {number} will lie {', '.join(f'{by:g}' for by in off)} nm" in said) == any(off)
    assert "level 0" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_conversion_goes_on_to_the_same_bytes(
    tmp_path: Path, source: Volume, name: WrittenName, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, notes = convert_module.write_attributes, []

    def killed(url: str, attributes: dict[str, Any]) -> None:
        notes.append(attributes)
        if len(notes) == 2:
            raise KeyboardInterrupt
        write(url, attributes)

    levels = plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (8, 16, 16))
    place = tmp_path / "out"
    expected = files(convert_volume(plan_conversion(source, place, levels=levels, format=name, memory=1)))
    shutil.rmtree(place)
    with monkeypatch.context() as patched:
        patched.setattr(convert_module, "write_attributes", killed)
        with pytest.raises(KeyboardInterrupt):
            convert_volume(plan_conversion(source, place, levels=levels, format=name, memory=1))
    assert open_volume(place).attributes["status"] == "unfinished"
    assert files(convert_volume(plan_conversion(source, place, levels=levels, format=name, memory=1))) == expected


def files(volume: Volume) -> dict[str, bytes]:
    folder = Path(volume.url)
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def chunks(level: Path) -> list[Path]:
    """Return the files below a level that hold voxels."""
    return [
        file for file in sorted(level.rglob("*")) if file.is_file() and file.suffix in ("", ".shard") and file.name != ".zarray"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_that_vanishes_before_the_end_is_missed(
    tmp_path: Path, source: Volume, name: WrittenName, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (8, 16, 16))
    plan, write = plan_conversion(source, tmp_path / "out", levels=levels, format=name), convert_module.write_attributes

    def losing(url: str, attributes: dict[str, Any]) -> None:
        write(url, attributes)
        chunks(Path(url, WRITTEN[name].path.format(0)))[0].unlink()

    monkeypatch.setattr(convert_module, "write_attributes", losing)
    with pytest.raises(OutputError) as caught:
        convert_volume(plan)
    assert caught.value.code == "output.damaged"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "precomputed"])
def test_a_flipped_bit_is_an_error_and_no_wrong_voxel(tmp_path: Path, source: Volume, name: WrittenName) -> None:
    volume = converted(source, name, tmp_path / "out")
    expected, chance = read(volume), np.random.default_rng(3)
    stored = chunks(Path(volume.url, volume.levels[0].path))
    for _ in range(20):
        file = stored[chance.integers(len(stored))]
        good = file.read_bytes()
        damaged = bytearray(good)
        damaged[chance.integers(len(good))] ^= 1 << chance.integers(8)
        file.write_bytes(damaged)
        try:
            found = read(volume)
        except ValueError:
            continue
        finally:
            file.write_bytes(good)
        np.testing.assert_array_equal(found, expected)  # gzip's header has bits without a meaning


@pytest.mark.parametrize(
    ("ending", "asked", "chosen"),
    [
        (".n5", None, "n5"),
        (".precomputed", None, "precomputed"),
        (".zarr", None, "ome-zarr-0.5"),
        (".OME.zarr", "ome-zarr-0.4", "ome-zarr-0.4"),
        ("", None, "ome-zarr-0.5"),
        ("", "n5", "n5"),
        (".n5", "ome-zarr-0.5", None),
        (".zarr", "n5", None),
        (".precomputed", "n5", None),
        (".tif", "n5", None),
    ],
)
def test_an_ending_chooses_the_format_and_one_that_contradicts_it_is_refused(
    tmp_path: Path, source: Volume, ending: str, asked: WrittenName | None, chosen: str | None
) -> None:
    if chosen is not None:
        assert plan_conversion(source, tmp_path / f"out{ending}", format=asked).layout.format == chosen
        return
    with pytest.raises(OutputError) as caught:
        plan_conversion(source, tmp_path / f"out{ending}", format=asked)
    assert caught.value.code == "output.format"


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("n5", {"fill_value": 7}, "output.fill-value"),
        ("precomputed", {"fill_value": 7}, "output.fill-value"),
        ("precomputed", {"channels": 2}, "output.channels"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(
    tmp_path: Path, name: WrittenName, change: dict[str, Any], code: str
) -> None:
    layout = VolumeLayout("uint8", plan_levels(SHAPE, SIZE, PLACE)[:1], format=name, **change)
    with pytest.raises(OutputError) as caught:
        create_volume(str(tmp_path / "out"), layout, {})
    assert (caught.value.code, (tmp_path / "out").exists()) == (code, False)


@pytest.mark.parametrize(("name", "other"), list(pairwise((*NAMES, NAMES[0]))))
def test_a_volume_of_another_format_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path, source: Volume, name: WrittenName, other: WrittenName
) -> None:
    place = tmp_path / "out"
    converted(source, other, place)
    with pytest.raises(OutputError) as caught:
        converted(source, name, place)
    assert caught.value.code == "output.exists"
    volume = convert_volume(plan_conversion(source, place, format=name), overwrite=True)
    assert files(volume).keys() == files(convert_volume(plan_conversion(source, tmp_path / "fresh", format=name))).keys()


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("precomputed")])  # it is created in one move
def test_arrays_of_a_creation_that_was_killed_do_not_stand_in_the_way(tmp_path: Path, name: WrittenName) -> None:
    layout = VolumeLayout("uint8", plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (4, 8, 8)), format=name)
    create_volume(str(tmp_path / "out"), layout, {})
    Path(tmp_path, "out", WRITTEN[name].root).unlink()
    other = VolumeLayout("uint16", plan_levels((9, 9, 9), SIZE, PLACE, (4, 8, 8), (4, 8, 8)), format=name)
    assert create_volume(str(tmp_path / "out"), other, {}).shape == (9, 9, 9)


@pytest.mark.parametrize(("of", "to"), [("ome-zarr-0.4", "ome-zarr-0.5"), ("ome-zarr-0.5", "ome-zarr-0.4")])
def test_the_name_windows_and_attributes_of_others_are_kept(
    tmp_path: Path, source: Volume, of: WrittenName, to: WrittenName
) -> None:
    omero = {"channels": [{"color": "FFFFFF", "window": {"min": 0, "max": 255, "start": 20, "end": 200}, "label": "EM"}]}
    volume = converted(source, of, tmp_path / "noted")
    root = Path(volume.url, WRITTEN[of].root)
    content = json.loads(root.read_text())
    attributes = content if of == "ome-zarr-0.4" else content["attributes"]
    (attributes if of == "ome-zarr-0.4" else attributes["ome"])["omero"] = omero
    attributes["lab"] = {"sample": 7}
    root.write_text(json.dumps(content))
    copy = converted(open_volume(volume.url), to, tmp_path / "copy")
    content = json.loads(Path(copy.url, WRITTEN[to].root).read_text())
    attributes = content if to == "ome-zarr-0.4" else content["attributes"]
    ome = attributes if to == "ome-zarr-0.4" else attributes["ome"]
    assert (ome["multiscales"][0]["name"], ome["omero"], attributes["lab"]) == ("image", omero, {"sample": 7})
    assert validate_volume(copy.url) == []
    cast = convert(volume.url, tmp_path / "cast", format=to, dtype="uint16", window=(0, 255))
    content = json.loads(Path(cast.url, WRITTEN[to].root).read_text())
    ome = content if to == "ome-zarr-0.4" else content["attributes"]["ome"]
    assert ome["omero"]["channels"][0]["window"] == {"min": 0, "max": 65535, "start": 5140, "end": 51400}


@given(shape=st.tuples(*[st.integers(1, 40)] * 3), chunk=st.tuples(*[st.integers(1, 6)] * 3), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_shard_of_precomputed_is_a_box_that_lies_in_one_file_of_its_own(
    shape: tuple[int, int, int], chunk: tuple[int, int, int], seed: int
) -> None:
    """So each has one owner; what tensorstore names it is what is asked for when it is missed."""
    form = WRITTEN["precomputed-sharded"]
    levels = form.plan_levels(shape, SIZE, (15.0, 4.0, 2.0), chunk, None)
    layout = VolumeLayout("uint8", levels, format=form.name)
    level = seed % len(levels)
    array, boxes = open_in_memory(layout, level, 0), list(shard_boxes(levels[level]))
    assert array.kvstore is not None
    box = boxes[seed % len(boxes)]
    array[box.slices].write(np.uint8(7)).result()
    assert {key.decode() for key in array.kvstore.list().result()} - {"info"} == {
        f"s{level}/{key}" for key in shard_keys(layout, level, box, 0)
    }
    assert len(set(shard_keys(layout, level, None, 0))) == len(boxes)

"""What `convert` copies and how it stores that: a level, a part, levels, chunks, shards and codecs of one's own choice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from numpy.typing import NDArray

from volumetool.errors import ConfigError, InputError, OutputError, VolumetoolError
from volumetool.geometry.levels import plan_levels
from volumetool.storage import convert as convert_module
from volumetool.storage.conversion import Conversion, plan_requested
from volumetool.storage.convert_volume import convert, describe_conversion
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing, open_in_memory
from volumetool.storage.downsample import MEAN
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import write_status
from volumetool.storage.pyramid import build_pyramid
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import WrittenName

SHAPE, SIZE, PLACE = (20, 34, 46), (8.0, 8.0, 4.0), (36.0, -20.0, 10.0)
NAMES: tuple[WrittenName, ...] = get_args(WrittenName)
ROI = "3:17,4:30,6:40"
PART = (slice(3, 17), slice(4, 30), slice(6, 40))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    place = str(tmp_path_factory.mktemp("in") / "in.zarr")
    layout = VolumeLayout("uint8", plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (8, 16, 16)))
    create_volume(place, layout, {})
    open_for_writing(place, layout).write(np.random.default_rng(0).integers(1, 250, SHAPE, dtype=np.uint8)).result()
    write_status(place, "complete")
    return build_pyramid(place)


def read(volume: Volume, level: int = 0) -> NDArray[Any]:
    return np.asarray(volume.open(level).read().result())


def files(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_a_level_lies_where_it_lay(tmp_path: Path, source: Volume, name: WrittenName) -> None:
    """Level 1 has voxels twice as wide along x: its corner, and so that of the part, stays where it was."""
    options: dict[str, Any] = {"level": 1, "roi": "4:12,6:30,5:20", "chunk": (4, 8, 8), "format": name}
    plan = plan_requested(Conversion(input=source.url, output=str(tmp_path / "out"), **options))
    volume, level = convert(source.url, tmp_path / "out", **options), source.levels[1]
    np.testing.assert_array_equal(read(volume), read(source, 1)[4:12, 6:30, 5:20])
    assert level.voxel_size == volume.voxel_size == (8.0, 8.0, 8.0)
    wanted = tuple(t + n * size for t, n, size in zip(level.translation, (4, 6, 5), level.voxel_size, strict=True))
    off = [abs(there - here) for there, here in zip(volume.translation, wanted, strict=True)]
    notes = " ".join(text for key, text in describe_conversion(plan) if key == "note")
    assert off == [0, 0, 0] or (name.startswith("precomputed") and max(off) <= 4 and "level 0 will lie" in notes)
    assert validate_volume(volume.url) == []


@pytest.mark.parametrize("format", ["ome-zarr-0.5", "n5"])
@pytest.mark.parametrize("more", [{}, {"levels": 1}, {"level": 1}, {"roi": ROI, "levels": 2, "chunk": "4,8,8"}], ids=str)
def test_a_killed_conversion_with_options_goes_on_to_the_same_bytes(
    tmp_path: Path,
    source: Volume,
    more: dict[str, Any],
    format: WrittenName,  # noqa: A002
) -> None:
    options = {"format": format, "memory": 1, **more} | ({"shard": "8,16,16", "chunk": "4,8,8"} if format != "n5" else {})
    expected = files(Path(convert(source.url, tmp_path / "out", **options).url))
    shutil.rmtree(tmp_path / "out")
    write, notes = convert_module.write_attributes, []

    def killed(url: str, attributes: dict[str, Any]) -> None:
        notes.append(attributes)
        if len(notes) == 2:
            raise KeyboardInterrupt
        write(url, attributes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(convert_module, "write_attributes", killed)
        with pytest.raises(KeyboardInterrupt):
            convert(source.url, tmp_path / "out", **options)
    assert open_volume(tmp_path / "out").attributes["status"] == "unfinished"
    assert files(Path(convert(source.url, tmp_path / "out", **options).url)) == expected


@pytest.mark.parametrize("change", [{"roi": ROI}, {"level": 1}, {"codec": "gzip"}, {"levels": 1}, {"chunk": "8,8,8"}], ids=str)
def test_a_conversion_with_other_options_is_another_one(tmp_path: Path, source: Volume, change: dict[str, Any]) -> None:
    convert(source.url, tmp_path / "out", chunk="4,8,8")
    with pytest.raises(OutputError) as caught:
        convert(source.url, tmp_path / "out", **{"chunk": "4,8,8", **change})
    assert caught.value.code == "output.exists"


def test_levels_are_at_most_as_many_as_asked_for(tmp_path: Path, source: Volume) -> None:
    every = len(convert(source.url, tmp_path / "all", chunk="4,8,8").levels)
    for asked in (1, 2, every + 1):
        volume = convert(source.url, tmp_path / f"{asked}", chunk="4,8,8", levels=asked)
        assert (len(volume.levels), volume.attributes["status"]) == (min(asked, every), "complete")
        assert validate_volume(volume.url) == []


@pytest.mark.parametrize(
    ("name", "codec"), [("ome-zarr-0.5", "gzip"), ("ome-zarr-0.5-unsharded", "raw"), ("precomputed", "png"), ("n5", "gzip")]
)
def test_every_codec_keeps_every_voxel(tmp_path: Path, source: Volume, name: WrittenName, codec: str) -> None:
    volume = convert(source.url, tmp_path / "out", format=name, codec=codec, chunk="8,16,16")
    stored = ts.open({"driver": volume.driver, "kvstore": f"file://{volume.url}/{'' if name == 'precomputed' else '0/'}"})
    assert name == "n5" or codec in str(stored.result().spec().to_json()) or codec == "raw"
    np.testing.assert_array_equal(read(volume), read(source))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"format": "n5", "shard": "8,16,16"}, "config.shard"),
        ({"shard": "5,16,16", "chunk": "4,8,8"}, "config.shard"),
        ({"format": "n5", "codec": "zstd"}, "output.codec"),
        ({"format": "ome-zarr-0.4", "codec": "png"}, "output.codec"),
        ({"format": "precomputed", "codec": "png", "dtype": "float32"}, "output.codec"),
        ({"format": "precomputed", "codec": "jpeg", "dtype": "uint16"}, "output.codec"),
        ({"codec": "jpeg"}, "output.codec"),
        ({"roi": "99:100,:,:"}, "config.roi"),
        ({"roi": "1,2,3"}, "config.option"),
        ({"roi": "5:5,:,:"}, "config.option"),
        ({"chunk": "0,8,8"}, "config.option"),
        ({"levels": 0}, "config.option"),
        ({"level": 99}, "input.level"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, source: Volume, options: dict[str, Any], code: str
) -> None:
    with pytest.raises(VolumetoolError) as caught:
        convert(source.url, tmp_path / "out", **options)
    assert isinstance(caught.value, ConfigError | InputError | OutputError)
    assert (caught.value.code, (tmp_path / "out").exists()) == (code, False)


def test_a_box_that_reaches_beyond_the_volume_is_cut_and_said(tmp_path: Path, source: Volume) -> None:
    plan = plan_requested(Conversion(input=source.url, output=str(tmp_path / "out"), roi="10:99,:,:"))
    assert plan.part.shape == (10, *SHAPE[1:])
    assert any("reaches beyond level 0" in text for key, text in describe_conversion(plan) if key == "note")


def test_what_changes_beside_the_part_is_not_asked_about(tmp_path: Path, source: Volume) -> None:
    """And what changes inside of it is, though nothing is left to be written."""
    place = tmp_path / "in.zarr"
    shutil.copytree(source.url, place)
    options = {"roi": "0:8,0:16,0:16", "chunk": "4,8,8"}
    convert(place, tmp_path / "out", **options)
    Path(place, "0/c/2/2/2").touch()
    convert(place, tmp_path / "out", **options)
    Path(place, "0/c/0/0/0").touch()
    with pytest.raises(InputError) as caught:
        convert(place, tmp_path / "out", **options)
    assert caught.value.code == "input.changed"


def test_blank_sections_of_a_part_are_counted_from_its_first(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in (0, 1, 3, 4, 6):
        tifffile.imwrite(tmp_path / "in" / f"sec_{n:04d}.tif", np.full((16, 16), n + 1, np.uint8))
    volume = convert(tmp_path / "in", tmp_path / "out", voxel_size=(30, 8, 8), gaps="keep", roi="3:7,:,:")
    said = volume.attributes["conversion"]
    assert (said["first_section"], said["blank_sections"]) == (3, [2])
    np.testing.assert_array_equal(read(volume)[:, 0, 0], [4, 5, 0, 7])


@pytest.mark.parametrize("name", ["precomputed", "precomputed-sharded"])
def test_jpeg_says_what_it_changes_and_its_levels_are_made_of_what_is_stored(tmp_path: Path, source: Volume, name: str) -> None:
    options: dict[str, Any] = {"format": name, "codec": "jpeg", "chunk": (4, 8, 8)}
    plan = plan_requested(Conversion(input=source.url, output=str(tmp_path / "out"), **options))
    (said,) = (text for key, text in describe_conversion(plan) if "JPEG changes voxels" in text)
    volume = convert(source.url, tmp_path / "out", **options)
    middle = (slice(8, 12), slice(16, 24), slice(16, 24))
    change = np.abs(read(volume).astype(int) - read(source))
    assert change.max() > 0
    assert f"{change[middle].max()} at the most" in said
    fine, coarse = volume.levels[:2]
    factor = tuple(round(a / b) for a, b in zip(coarse.voxel_size, fine.voxel_size, strict=True))
    mean = MEAN(read(volume), factor)  # type: ignore[arg-type]
    layout = replace(plan.layout, levels=(plan.layout.levels[1],))
    stored = open_in_memory(layout, 0, 0)
    stored.write(mean).result()
    np.testing.assert_array_equal(read(volume, 1), stored.read().result())
    again = convert(source.url, tmp_path / "again", **options)
    assert files(Path(again.url, "s1")) == files(Path(volume.url, "s1"))

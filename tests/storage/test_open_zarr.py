"""Bare Zarr arrays, the table of dtypes, and what stands where no volume is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from volumetool.errors import DataError, InputError
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume

SIZE = (30.0, 8.0, 4.0)


def _array(url: Path, voxels: np.ndarray[Any, Any], zarr_format: int = 3, **more: Any) -> None:
    zarr.create_array(str(url), data=voxels, chunks=(3,) * voxels.ndim, zarr_format=zarr_format, **more)


def test_a_sharded_array_tells_its_chunk_and_its_shard(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8), shards=(3, 6, 9))
    level = open_volume(tmp_path / "a", voxel_size=SIZE).levels[0]
    assert (level.chunk, level.shard) == ((3, 3, 3), (3, 6, 9))


def test_dimension_names_decide_the_axes(tmp_path: Path) -> None:
    voxels = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    _array(tmp_path / "a", voxels, dimension_names=("x", "y", "z"))
    volume = open_volume(tmp_path / "a", voxel_size=SIZE)
    assert volume.shape == (6, 5, 4)
    np.testing.assert_array_equal(volume.open().read().result(), voxels.transpose())


def test_dimension_names_that_say_nothing_are_ignored(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8), dimension_names=("dim_0", "dim_1", "dim_2"))
    assert open_volume(tmp_path / "a", voxel_size=SIZE).axes == ("z", "y", "x")


def test_dimension_names_of_version_2_stand_in_the_attributes(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8), 2, attributes={"_ARRAY_DIMENSIONS": ["y", "x", "z"]})
    assert open_volume(tmp_path / "a", voxel_size=SIZE).shape == (6, 4, 5)


@pytest.mark.parametrize("rank", [1, 5])
def test_arrays_of_another_rank_are_refused(tmp_path: Path, rank: int) -> None:
    _array(tmp_path / "a", np.ones((2,) * rank, np.uint8))
    with pytest.raises(InputError, match=str(rank)) as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.axes"


def test_an_array_of_two_dimensions_is_one_section(tmp_path: Path) -> None:
    voxels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    _array(tmp_path / "a", voxels)
    volume = open_volume(tmp_path / "a", voxel_size=SIZE)
    assert (volume.axes, volume.shape, volume.voxel_size) == (("y", "x"), (1, 5, 6), SIZE)
    np.testing.assert_array_equal(volume.open().read().result(), voxels[None])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"resolution": [30, 8, 4], "offset": [300, 80, 40]}, SIZE),
        ({"voxel_size": [0.03, 0.008, 0.004], "offset": [0.3, 0.08, 0.04], "units": ["um"] * 3}, SIZE),
        ({"voxel_size": [30, 8, 4], "offset": [300, 80, 40], "units": [""] * 3}, None),
        ({"voxel_size": [1, 1, 1], "offset": [10, 10, 10]}, None),
        ({"voxel_size": [30, 8, 4], "resolution": [8, 8, 8], "offset": [300, 80, 40]}, None),
    ],
    ids=["daisy", "funlib", "funlib-without-units", "nothing-known", "contradiction"],
)
def test_size_and_offset_of_daisy_are_read(tmp_path: Path, zarr_format: int, said: Any, size: Any) -> None:
    _array(tmp_path / "a", np.ones((2, 4, 5, 6), np.uint8), zarr_format, attributes={"axis_names": ["c^", *"zyx"], **said})
    if size is None:
        with pytest.raises(InputError) as caught:
            open_volume(tmp_path / "a")
        assert caught.value.code == "input.no-voxel-size"
    volume = open_volume(tmp_path / "a", voxel_size=None if size else SIZE)
    assert volume.channels == 2
    assert volume.voxel_size == pytest.approx(SIZE)
    assert volume.translation == pytest.approx((300.0, 80.0, 40.0))


def test_an_array_that_contradicts_its_image_is_refused(tmp_path: Path) -> None:
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    step = {"type": "scale", "scale": [30, 8, 4]}
    image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": [step]}]}
    group = zarr.create_group(tmp_path / "a", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
    array = group.create_array("s0", data=np.ones((4, 5, 6), np.uint8), attributes={"resolution": [30, 8, 4]})
    assert open_volume(tmp_path / "a").voxel_size == SIZE
    array.attrs["resolution"] = [8, 8, 8]
    for place in (tmp_path / "a", tmp_path / "a" / "s0"):
        with pytest.raises(InputError, match=r"30 x 8 x 4 nm .* multiscales, 8 x 8 x 8 nm .* resolution") as caught:
            open_volume(place)
        assert caught.value.code == "input.no-voxel-size"
        assert open_volume(place, voxel_size=SIZE).voxel_size == SIZE


def test_chunks_in_folders_that_the_metadata_keep_quiet_about_are_not_taken_for_missing(tmp_path: Path) -> None:
    voxels = np.arange(1, 121, dtype=np.uint8).reshape(4, 5, 6)
    key = {"name": "v2", "separator": "/"}
    zarr.create_array(str(tmp_path / "a"), data=voxels, chunks=(2, 3, 3), zarr_format=2, chunk_key_encoding=key)
    np.testing.assert_array_equal(open_volume(tmp_path / "a", voxel_size=SIZE).open().read().result(), voxels)
    stored = json.loads((tmp_path / "a" / ".zarray").read_text())
    del stored["dimension_separator"]  # as NestedDirectoryStore wrote it once
    (tmp_path / "a" / ".zarray").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="dimension_separator") as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.broken-metadata"


def test_a_fourth_dimension_in_front_is_channels(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((2, 4, 5, 6), np.uint8))
    volume = open_volume(tmp_path / "a", voxel_size=SIZE)
    assert (volume.channels, volume.shape) == (2, (4, 5, 6))


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), "complex64"))
    with pytest.raises(InputError, match="complex64") as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.dtype"


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)])
def test_a_voxel_size_is_three_positive_numbers(tmp_path: Path, voxel_size: Any) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "a", voxel_size=voxel_size)
    assert caught.value.code == "input.voxel-size"


def test_nothing_at_a_place_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere") as caught:
        open_volume(tmp_path / "nowhere")
    assert caught.value.code == "input.not-found"


@pytest.mark.parametrize("name", ["stack.tif", "folder/section_1.tiff"])
def test_images_are_volumes_once_their_voxel_size_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    voxels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    tifffile.imwrite(tmp_path / name, voxels)
    with pytest.raises(InputError, match="--voxel-size") as caught:
        open_volume(tmp_path / name.split("/", maxsplit=1)[0])
    assert caught.value.code == "input.no-voxel-size"
    volume = open_volume(tmp_path / name.split("/", maxsplit=1)[0], voxel_size=SIZE)
    np.testing.assert_array_equal(volume.open().read().result(), voxels[None])


def test_a_folder_of_other_things_is_met_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"notes\.txt") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.not-a-volume"


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8))
    metadata = tmp_path / "a" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"zstd"', '"imaginary"'))
    with pytest.raises(InputError, match="imaginary") as caught:
        open_volume(tmp_path / "a", voxel_size=SIZE)
    assert caught.value.code == "input.unsupported"


def test_an_array_that_vanished_after_opening_is_a_data_error(tmp_path: Path) -> None:
    _array(tmp_path / "a", np.ones((4, 5, 6), np.uint8))
    volume = open_volume(tmp_path / "a", voxel_size=SIZE)
    (tmp_path / "a" / "zarr.json").unlink()
    with pytest.raises(DataError) as caught:
        volume.open()
    assert caught.value.code == "data.unreadable"


def test_a_sharded_volume_is_read_through_http(served: str, filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    volume, voxels = filled
    remote = open_volume(f"{served}/filled.zarr")
    assert remote.identity == volume.identity
    np.testing.assert_array_equal(remote.open()[3:9, 5:40, 7:30].read().result(), voxels[3:9, 5:40, 7:30])


def test_nothing_behind_a_server_that_only_forbids_is_forbidden(served: str) -> None:
    with pytest.raises(InputError) as caught:
        open_volume(f"{served}/nowhere")
    assert caught.value.code == "input.forbidden"
    assert "does not exist, too" in str(caught.value)


def test_the_view_keeps_a_callers_context(filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    context = ts.Context({"data_copy_concurrency": {"limit": 1}})
    assert filled[0].open(context=context).read().result().shape == filled[0].shape

"""Created volumes: conformant, exact, checked, cheap to create."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import referencing
import yaozarrs
import zarr
from distributed.protocol import deserialize, serialize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image
from referencing.jsonschema import DRAFT202012

from volumetool.errors import InputError, OutputError
from volumetool.geometry.levels import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing, write_attributes
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import DTYPES, Volume

Voxels = np.ndarray[Any, Any]


def _group(url: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(url) / "zarr.json").read_text())
    return loaded


@pytest.mark.parametrize("channels", [None, 2])
def test_yaozarrs_and_ome_zarr_models_accept_a_created_volume(
    tmp_path: Path, layout: VolumeLayout, channels: int | None
) -> None:
    volume = create_volume(str(tmp_path / "v.zarr"), dataclasses.replace(layout, channels=channels), {})
    yaozarrs.validate_zarr_store(volume.url)
    Image.from_zarr(zarr.open_group(volume.url, mode="r"))
    assert validate_volume(volume.url) == []


def test_the_strict_official_schema_accepts_the_metadata(tmp_path: Path, layout: VolumeLayout, data: Path) -> None:
    group = _group(create_volume(str(tmp_path / "v.zarr"), layout, {}).url)
    schemas = [json.loads(file.read_text()) for file in (data / "ngff-spec-suites" / "0.5" / "schemas").iterdir()]
    registry = referencing.Registry().with_resources(
        (schema["$id"], referencing.Resource.from_contents(schema, default_specification=DRAFT202012)) for schema in schemas
    )
    strict = next(schema for schema in schemas if schema["$id"].endswith("strict_image.schema"))
    jsonschema.Draft202012Validator(strict, registry=registry).validate(group["attributes"])


def test_scales_and_translations_are_those_of_the_layout(tmp_path: Path, layout: VolumeLayout) -> None:
    volume = create_volume(str(tmp_path / "v.zarr"), layout, {})
    for level, grid in zip(volume.levels, layout.levels, strict=True):
        assert (level.shape, level.chunk, level.shard) == (grid.shape, grid.chunk, grid.shard)
        assert (level.voxel_size, level.translation) == (grid.voxel_size, grid.translation)
    image = _group(volume.url)["attributes"]["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in image["axes"]] == ["nanometer"] * 3
    kinds = [[step["type"] for step in dataset["coordinateTransformations"]] for dataset in image["datasets"]]
    assert kinds == [["scale", "translation"]] * len(layout.levels)


def test_zarr_python_reads_the_same_voxels(filled: tuple[Volume, Voxels]) -> None:
    volume, voxels = filled
    array = zarr.open_group(volume.url, mode="r")["0"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[...], voxels)
    assert array.metadata.to_dict()["dimension_names"] == ("z", "y", "x")


def test_every_flipped_byte_in_a_shard_is_noticed(filled: tuple[Volume, Voxels]) -> None:
    volume, voxels = filled
    shard = Path(volume.url) / "0" / "c" / "0" / "0" / "0"
    intact = shard.read_bytes()
    box = tuple(slice(0, n) for n in volume.levels[0].shard or ())
    missed = []
    for position in range(0, len(intact), max(1, len(intact) // 97)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << (position % 8)
        shard.write_bytes(damaged)
        try:
            volume.open()[box].read().result()
        except ValueError:
            continue
        missed.append(position)
    assert missed == []
    shard.write_bytes(intact)
    np.testing.assert_array_equal(volume.open()[box].read().result(), voxels[box])


def test_every_level_is_sharded_and_checksummed_even_where_a_shard_is_one_chunk(tmp_path: Path) -> None:
    levels = plan_levels((5, 6, 7), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), (8, 8, 8), (8, 8, 8))
    volume = create_volume(str(tmp_path / "v.zarr"), VolumeLayout("uint8", levels), {})
    assert volume.levels[0].shard == volume.levels[0].chunk == (8, 8, 8)
    array = json.loads((Path(volume.url) / "0" / "zarr.json").read_text())
    inner = array["codecs"][0]["configuration"]["codecs"]
    assert [codec["name"] for codec in inner] == ["bytes", "zstd", "crc32c"]


def test_shards_of_nothing_but_the_fill_value_are_not_stored(tmp_path: Path, layout: VolumeLayout) -> None:
    volume = create_volume(str(tmp_path / "v.zarr"), layout, {})
    open_for_writing(volume.url, layout)[:8, :32, :16].write(np.zeros((8, 32, 16), np.uint8)).result()
    assert [file for file in (Path(volume.url) / "0").rglob("*") if file.is_file()] == [Path(volume.url) / "0/zarr.json"]


def test_never_written_voxels_of_a_float_volume_may_be_nan(tmp_path: Path, layout: VolumeLayout) -> None:
    floats = dataclasses.replace(layout, dtype="float32", fill_value=math.nan)
    volume = create_volume(str(tmp_path / "v.zarr"), floats, {})
    assert np.isnan(volume.open()[0, 0, :3].read().result()).all()
    assert validate_volume(volume.url) == []


def test_creating_a_petavoxel_volume_writes_a_few_small_files(tmp_path: Path) -> None:
    levels = plan_levels((100_000, 100_000, 100_000), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    volume = create_volume(str(tmp_path / "v.zarr"), VolumeLayout("uint8", levels), {})
    files = [file for file in Path(volume.url).rglob("*") if file.is_file()]
    assert len(files) == len(levels) + 1
    assert sum(file.stat().st_size for file in files) < 100_000


def test_creating_the_same_again_changes_nothing(filled: tuple[Volume, Voxels], layout: VolumeLayout) -> None:
    volume, voxels = filled
    before = (Path(volume.url) / "zarr.json").read_bytes()
    again = create_volume(volume.url, layout, {"made": "for a test"})
    assert again == volume
    assert (Path(volume.url) / "zarr.json").read_bytes() == before
    np.testing.assert_array_equal(again.open().read().result(), voxels)


def test_an_interrupted_creation_is_not_a_volume_and_can_be_finished(tmp_path: Path, layout: VolumeLayout) -> None:
    url = str(tmp_path / "v.zarr")
    create_volume(url, layout, {})
    (Path(url) / "zarr.json").unlink()
    with pytest.raises(InputError):
        open_volume(url)
    assert create_volume(url, layout, {}).shape == layout.levels[0].shape


@pytest.mark.parametrize("change", [{"dtype": "uint16"}, {"channels": 3}, {"name": "other"}])
def test_another_volume_is_never_overwritten(
    filled: tuple[Volume, Voxels], layout: VolumeLayout, change: dict[str, Any]
) -> None:
    volume, voxels = filled
    with pytest.raises(OutputError) as caught:
        create_volume(volume.url, dataclasses.replace(layout, **change), {"made": "for a test"})
    assert caught.value.code == "output.exists"
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


@pytest.mark.parametrize("key", [".zgroup", ".zarray", "attributes.json", "zarr.json"])
def test_volumes_of_other_formats_are_never_overwritten(tmp_path: Path, layout: VolumeLayout, key: str) -> None:
    (tmp_path / key).write_text("{}")
    with pytest.raises(OutputError) as caught:
        create_volume(str(tmp_path), layout, {})
    assert caught.value.code == "output.exists"


def test_a_file_is_never_overwritten(tmp_path: Path, layout: VolumeLayout) -> None:
    (tmp_path / "v.zarr").write_text("precious")
    with pytest.raises(OutputError) as caught:
        create_volume(str(tmp_path / "v.zarr"), layout, {})
    assert caught.value.code == "output.exists"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"dtype": "float64"}, "output.dtype"),
        ({"dtype": "bool"}, "output.dtype"),
        ({"fill_value": 256}, "output.fill-value"),
        ({"fill_value": math.nan}, "output.fill-value"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, layout: VolumeLayout, change: dict[str, Any], code: str) -> None:
    with pytest.raises(OutputError) as caught:
        create_volume(str(tmp_path / "v.zarr"), dataclasses.replace(layout, **change), {})
    assert caught.value.code == code
    assert not (tmp_path / "v.zarr").exists()


def test_provenance_stands_beside_ome_and_is_replaced_alone(filled: tuple[Volume, Voxels]) -> None:
    volume, _ = filled
    assert volume.attributes == {"made": "for a test"}
    before = _group(volume.url)
    write_attributes(volume.url, {"job": {"n": 1}})
    after = _group(volume.url)
    assert after["attributes"].pop("volumetool") == {"job": {"n": 1}}
    before["attributes"].pop("volumetool")
    assert after == before
    assert open_volume(volume.url).attributes == {"job": {"n": 1}}


def test_provenance_needs_a_volume(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_attributes(str(tmp_path), {})
    assert caught.value.code == "input.not-a-volume"


def test_writing_refuses_an_array_that_is_not_what_the_layout_says(filled: tuple[Volume, Voxels], layout: VolumeLayout) -> None:
    volume, _ = filled
    with pytest.raises(OutputError, match="data_type") as caught:
        open_for_writing(volume.url, dataclasses.replace(layout, dtype="uint16"))
    assert caught.value.code == "output.exists"


def test_writing_refuses_a_volume_that_is_not_there(tmp_path: Path, layout: VolumeLayout) -> None:
    with pytest.raises(OutputError) as caught:
        open_for_writing(str(tmp_path / "v.zarr"), layout)
    assert caught.value.code == "output.unwritable"


def test_channels_are_written_apart(tmp_path: Path, layout: VolumeLayout) -> None:
    coloured = dataclasses.replace(layout, channels=2)
    volume = create_volume(str(tmp_path / "v.zarr"), coloured, {})
    open_for_writing(volume.url, volume, 0, 1).write(5).result()
    assert volume.channels == 2
    assert volume.open(0, 0).read().result().max() == 0
    assert volume.open(0, 1).read().result().min() == 5


def test_a_volume_travels_to_a_worker_and_opens_there(filled: tuple[Volume, Voxels]) -> None:
    volume, voxels = filled
    travelled = deserialize(*serialize(volume, on_error="raise"))
    assert travelled == volume
    np.testing.assert_array_equal(travelled.open().read().result(), voxels)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    chunk=st.tuples(*[st.integers(1, 9)] * 3),
    times=st.tuples(*[st.integers(1, 4)] * 3),
    dtype=st.sampled_from(DTYPES),
    channels=st.none() | st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_voxels_of_any_shape_and_dtype_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    times: tuple[int, int, int],
    dtype: str,
    channels: int | None,
    seed: int,
) -> None:
    shard = (chunk[0] * times[0], chunk[1] * times[1], chunk[2] * times[2])
    levels = plan_levels(shape, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0), chunk, shard)[:1]
    layout = VolumeLayout(dtype, levels, channels)
    url = str(tmp_path_factory.mktemp("v") / "v.zarr")
    volume = create_volume(url, layout, {})
    voxels = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    channel = (channels or 1) - 1
    open_for_writing(url, layout, 0, channel).write(voxels).result()
    back = volume.open(0, channel).read().result()
    assert back.dtype == voxels.dtype
    np.testing.assert_array_equal(back, voxels)


def test_creating_warns_of_nothing(tmp_path: Path, layout: VolumeLayout) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_volume(str(tmp_path / "v.zarr"), layout, {})


def test_a_creation_that_was_killed_blocks_no_other_layout_unless_it_holds_voxels(
    tmp_path: Path, layout: VolumeLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = VolumeLayout("uint8", plan_levels((9, 30, 30), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 8, 8), (8, 32, 16)))
    url = str(tmp_path / "v.zarr")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("volumetool.storage.create.write_key", die)
        with pytest.raises(KeyboardInterrupt):
            create_volume(url, layout, {})
    assert create_volume(url, other, {}).shape == (9, 30, 30)
    assert sorted(path.name for path in (tmp_path / "v.zarr").glob("*/zarr.json")) == ["zarr.json"] * len(other.levels)
    open_for_writing(url, other)[0].write(1).result()
    (tmp_path / "v.zarr" / "zarr.json").unlink()
    with pytest.raises(OutputError) as caught:
        create_volume(url, layout, {})
    assert caught.value.code == "output.exists"

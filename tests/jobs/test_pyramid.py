"""Levels built in place: means of the stored level before, the same bytes again, and metadata that stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import OutputError
from volumetool.jobs.convert import convert_volume
from volumetool.jobs.pyramid import build_pyramid
from volumetool.store.validate import validate_volume

VOXELS = np.random.default_rng(3).integers(0, 65535, (21, 150, 170)).astype(np.uint16)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def write_one_level(folder: Path, voxels: np.ndarray) -> None:
    """Write what another program might: one channel axis, micrometres, one level under a name of its own, no shards."""
    kvstore = {"driver": "file", "path": str(folder / "full")}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": {"dimension_names": ["c", "z", "y", "x"]}}
    chunks = ts.ChunkLayout(chunk_shape=(1, 16, 64, 64))
    array = ts.open(spec, create=True, dtype=voxels.dtype, shape=(1, *voxels.shape), chunk_layout=chunks).result()
    array[0].write(voxels).result()
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    multiscale = {
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [
            {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.04, 0.02, 0.01]}]},
        ],
    }
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}, "mine": 1}
    (folder / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    convert_volume(str(tmp_path / "stack.tif"), str(tmp_path / "v.zarr"), voxel_size=(30.0, 8.0, 8.0))
    before = files(tmp_path / "v.zarr")
    coarse = [name for name in before if name.startswith("1/c/")]
    (tmp_path / "v.zarr" / coarse[0]).write_bytes(b"torn")
    told: list[tuple[int, int]] = []
    build_pyramid(str(tmp_path / "v.zarr"), progress=lambda done, every: told.append((done, every)))
    assert files(tmp_path / "v.zarr") == before
    assert told[-1][0] == told[-1][1] == len(told)


def test_the_levels_of_an_enhanced_volume_are_built_to_the_same_bytes(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((18, 40, 52)))
    assert run(input=str(source), output=str(tmp_path / "out.zarr"), **SMALL).complete
    before = files(tmp_path / "out.zarr")
    build_pyramid(str(tmp_path / "out.zarr"))
    assert files(tmp_path / "out.zarr") == before


def test_a_foreign_volume_of_one_level_gets_the_others_and_keeps_what_it_says(tmp_path: Path) -> None:
    write_one_level(tmp_path, VOXELS)
    volume = build_pyramid(str(tmp_path))
    assert validate_volume(volume.url) == []
    assert [level.path for level in volume.levels[:2]] == ["full", "1"]
    assert volume.levels[1].voxel_size == pytest.approx((40, 20, 20))  # x, the finest, comes first
    assert volume.levels[1].translation == pytest.approx((0, 0, 5))
    assert volume.levels[2].voxel_size == pytest.approx((40, 40, 40))
    mean = VOXELS.reshape(21, 150, 85, 2).astype(np.float64).mean(axis=3)
    np.testing.assert_array_equal(volume.open(1).read().result(), np.rint(mean))
    group = json.loads((tmp_path / "zarr.json").read_text())
    assert group["attributes"]["mine"] == 1
    assert group["attributes"]["ome"]["multiscales"][0]["axes"][1]["unit"] == "micrometer"


def test_levels_that_are_no_means_of_whole_blocks_are_refused_and_stay(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    convert_volume(str(tmp_path / "stack.tif"), str(tmp_path / "v.zarr"), voxel_size=(30.0, 8.0, 8.0))
    place = tmp_path / "v.zarr" / "zarr.json"
    group = json.loads(place.read_text())
    group["attributes"]["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] = [30.0, 20.0, 20.0]
    place.write_text(json.dumps(group))
    before = files(tmp_path / "v.zarr")
    with pytest.raises(OutputError, match="no division by whole factors") as caught:
        build_pyramid(str(tmp_path / "v.zarr"))
    assert caught.value.code == "output.levels"
    assert files(tmp_path / "v.zarr") == before


def test_other_formats_are_not_written_into(tmp_path: Path) -> None:
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / "a.zarr" / "0")}}
    ts.open(spec, create=True, dtype="uint8", shape=(4, 4, 4)).result()
    axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [8, 8, 8]}]
    attributes = {
        "multiscales": [{"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    }
    (tmp_path / "a.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "a.zarr" / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(OutputError, match="volumetool convert") as caught:
        build_pyramid(str(tmp_path / "a.zarr"))
    assert caught.value.code == "output.format"

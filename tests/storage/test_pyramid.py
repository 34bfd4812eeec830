"""Levels built in place: means of the stored level before, the same bytes again, and metadata that stays what it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from small_jobs import SMALL, attributes, noise, run, write_input
from volumetool.cli.main import main

from volumetool.benchmark import demo
from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.events import Event, Progressed
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.status import job_status
from volumetool.jobs.verification.verify import verify
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert import FINEST_ALONE
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.formats.ome_zarr import ome_of
from volumetool.storage.open import open_volume
from volumetool.storage.pyramid import build_pyramid, level_grids
from volumetool.storage.validate import validate_volume

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
        "name": "full",
        "axes": [{"name": "c", "type": "channel"}, *space],
        "datasets": [
            {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [1, 0.04, 0.02, 0.01]}]},
        ],
    }
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}, "mine": 1}
    (folder / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))


def test_building_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    convert_volume(plan_conversion(str(tmp_path / "stack.tif"), str(tmp_path / "v.zarr"), voxel_size=(30.0, 8.0, 8.0)))
    before = files(tmp_path / "v.zarr")
    coarse = [name for name in before if name.startswith("1/c/")]
    (tmp_path / "v.zarr" / coarse[0]).write_bytes(b"torn")
    told: list[Event] = []
    build_pyramid(str(tmp_path / "v.zarr"), observer=told.append)
    assert files(tmp_path / "v.zarr") == before
    assert told == [Progressed("coarse levels", done, len(told) - 1) for done in range(len(told))]


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


@pytest.mark.parametrize("levels", ["new", "there"])
def test_a_finest_level_that_is_written_to_meanwhile_is_told_and_never_called_complete(tmp_path: Path, levels: str) -> None:
    folder = tmp_path / "v.zarr"
    if levels == "new":
        folder.mkdir()
        write_one_level(folder, VOXELS)
    else:
        tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
        convert_volume(plan_conversion(str(tmp_path / "stack.tif"), str(folder), voxel_size=(30.0, 8.0, 8.0)))
    chunk = next(file for file in (folder / open_volume(folder).levels[0].path / "c").rglob("*") if file.is_file())
    with pytest.raises(InputError) as caught:
        build_pyramid(str(folder), observer=lambda _: os.utime(chunk, ns=(7, 7)))
    assert caught.value.code == "input.changed"
    found = open_volume(folder)
    assert len(found.levels) == 1 if levels == "new" else found.attributes["status"] == FINEST_ALONE
    assert len(build_pyramid(str(folder)).levels) > 1


def test_a_shard_that_is_deleted_while_the_next_level_is_built_is_missed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    folder = tmp_path / "v.zarr"
    convert_volume(plan_conversion(str(tmp_path / "stack.tif"), str(folder), voxel_size=(30.0, 8.0, 8.0)))
    before = files(folder)

    def delete(event: Event) -> None:
        if isinstance(event, Progressed) and event.done == event.total:
            for file in (folder / "1" / "c").rglob("*"):
                file.unlink() if file.is_file() else None

    with pytest.raises(OutputError) as caught:
        build_pyramid(str(folder), observer=delete)
    assert caught.value.code == "output.damaged"
    assert open_volume(folder).attributes["status"] == FINEST_ALONE
    build_pyramid(str(folder))
    assert files(folder) == before


def one_level(folder: Path, axes: str, path: str = "full") -> Path:
    """Write the metadata and an empty array of a volume of one level, with any axes."""
    kvstore = {"driver": "file", "path": str(folder / path)}
    shape = [1 if axis in "tc" else 80 for axis in axes]
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": {"dimension_names": list(axes)}}
    ts.open(spec, create=True, dtype="uint8", shape=shape).result()
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    named = [{"name": axis, **kinds.get(axis, {"type": "space", "unit": "nanometer"})} for axis in axes]
    datasets = [{"path": path, "coordinateTransformations": [{"type": "scale", "scale": [8.0] * len(axes)}]}]
    ome = {"version": "0.5", "multiscales": [{"axes": named, "datasets": datasets}]}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    (folder / "zarr.json").write_text(json.dumps(group))
    return folder


@pytest.mark.parametrize(("axes", "path"), [("tczyx", "full"), ("xyz", "full"), ("zyx", "1")])
def test_a_volume_that_cannot_be_extended_is_left_as_it_was(axes: str, path: str, tmp_path: Path) -> None:
    folder = one_level(tmp_path, axes, path)
    before = files(folder)
    with pytest.raises(OutputError, match="volumetool convert") as caught:
        build_pyramid(str(folder))
    assert caught.value.code == "output.levels"
    assert files(folder) == before


def test_one_level_of_a_volume_is_not_taken_for_a_volume(tmp_path: Path) -> None:
    write_input(tmp_path / "in.zarr", noise((18, 40, 52)))
    before = files(tmp_path / "in.zarr")
    with pytest.raises(OutputError, match="single array"):
        build_pyramid(str(tmp_path / "in.zarr" / "0"))
    assert files(tmp_path / "in.zarr") == before


def test_a_killed_build_leaves_a_volume_of_one_level_and_goes_on(tmp_path: Path) -> None:
    write_one_level(tmp_path, VOXELS)

    def die(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(str(tmp_path), observer=die)
    assert len(open_volume(str(tmp_path)).levels) == 1
    assert len(build_pyramid(str(tmp_path)).levels) > 1
    mean = VOXELS.reshape(21, 150, 85, 2).astype(np.float64).mean(axis=3)
    np.testing.assert_array_equal(open_volume(str(tmp_path)).open(1).read().result(), np.rint(mean))


def test_levels_that_are_rebuilt_miss_no_shard_meanwhile_and_complete_is_said_at_the_end(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((18, 40, 52)))
    output = tmp_path / "out.zarr"
    assert run(input=str(source), output=str(output), **SMALL).complete
    before = files(output)
    plan = stored_plan(str(output))

    def look(event: Event) -> None:
        assert before.keys() <= files(output).keys()
        assert attributes(output)["status"] == FINEST_ALONE
        assert job_status(plan).state != "complete"
        if isinstance(event, Progressed) and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pyramid(str(output), observer=look)
    assert verify(plan).ok
    build_pyramid(str(output))
    assert files(output) == before


def test_a_volume_of_the_demo_cannot_be_opened_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    place = tmp_path / "truth.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(demo, "build_level", die)
        with pytest.raises(KeyboardInterrupt):
            demo.write_volume(place, VOXELS, (30.0, 8.0, 8.0))
    with pytest.raises(InputError):
        open_volume(place)
    for _ in range(2):
        demo.write_volume(place, VOXELS, (30.0, 8.0, 8.0))
        np.testing.assert_array_equal(open_volume(place).open().read().result(), VOXELS)


def test_the_levels_of_a_job_with_missing_voxels_leave_them_out_unasked(tmp_path: Path) -> None:
    voxels = noise((18, 40, 52))
    voxels[:, :13] = 0
    source = write_input(tmp_path / "in.zarr", voxels)
    output = tmp_path / "out.zarr"
    assert run(input=str(source), output=str(output), nodata=0, **SMALL).complete
    before = files(output)
    build_pyramid(str(output))
    assert files(output) == before
    with pytest.raises(ConfigError, match="knows its own"):
        build_pyramid(str(output), nodata=7)


def commonest(voxels: np.ndarray, factor: tuple[int, ...]) -> np.ndarray:
    """Reduce blocks to their most frequent value, of several the least, by counting."""
    shape = tuple(-(-n // f) for n, f in zip(voxels.shape, factor, strict=True))
    out = np.empty(shape, voxels.dtype)
    for place in np.ndindex(shape):
        block = voxels[tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, factor, strict=True))]
        values, counts = np.unique(block, return_counts=True)
        out[place] = values[counts.argmax()]
    return out


@pytest.mark.parametrize("form", ["ome-zarr-0.5", "ome-zarr-0.4", "n5"])
def test_levels_of_labels_hold_labels_alone(form: str, tmp_path: Path) -> None:
    """With --reduction mode no level holds a number that no voxel had, and the metadata say so."""
    labels = np.kron(np.random.default_rng(1).choice([0, 7, 900, 65535], (4, 13, 11)), np.ones((3, 5, 7))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    output = tmp_path / "out"
    words = ["convert", str(tmp_path / "labels.tif"), str(output), "--voxel-size", "30,8,8", "--format", form]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--reduction", "mode"])
    assert ended.value.code == 0
    volume = open_volume(str(output))
    assert len(volume.levels) > 1
    stored = [np.asarray(volume.open(number).read().result()) for number in range(len(volume.levels))]
    for fine, coarse, grid in zip(stored, stored[1:], level_grids(volume)[1:], strict=False):
        np.testing.assert_array_equal(coarse, commonest(fine, grid.factor))
    if form.startswith("ome-zarr"):  # it says so, and levels that are written again, and copies, stay what they are
        root = json.loads((output / ("zarr.json" if form == "ome-zarr-0.5" else ".zattrs")).read_text())
        assert ome_of(root.get("attributes", root))["multiscales"][0]["type"] == "mode"
        copy = tmp_path / "copy.zarr"
        convert_volume(plan_conversion(str(output), str(copy)))
        before = files(output)
        build_pyramid(str(output))
        assert files(output) == before
        np.testing.assert_array_equal(open_volume(str(copy)).open(1).read().result(), stored[1])
        with pytest.raises(ConfigError, match="made as mode"):
            build_pyramid(str(output), nodata=0)
    build_pyramid(str(output), reduction="mean")
    assert not np.isin(np.asarray(open_volume(str(output)).open(1).read().result()), labels).all()


def test_the_output_of_an_unfinished_job_is_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((18, 40, 52)))
    run(input=str(source), output=str(tmp_path / "out.zarr"), roi="0:4,0:16,0:16", **SMALL)
    with pytest.raises(OutputError, match="to its end"):
        build_pyramid(str(tmp_path / "out.zarr"))


def test_levels_that_are_no_means_of_whole_blocks_are_refused_and_stay(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS)
    convert_volume(plan_conversion(str(tmp_path / "stack.tif"), str(tmp_path / "v.zarr"), voxel_size=(30.0, 8.0, 8.0)))
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

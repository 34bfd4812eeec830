"""What the plugin gives to napari: layers of every format, in place, and previews with the voxels of the job."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import yaml
from small_jobs import SMALL, noise, write_input

import volumetool as vt
from volumetool.errors import InputError
from volumetool.geometry import Box
from volumetool.napari.image_layers import find_reader
from volumetool.napari.previews import Previews
from volumetool.storage.formats.registry import FORMATS
from volumetool.storage.io.stores.zip_file import ZIP_ENDINGS

SIZE = (30.0, 8.0, 4.0)


def read(place: Path) -> list[Any]:
    """Return the layers of a volume."""
    reader = find_reader(str(place))
    assert reader is not None
    return reader(str(place))


@pytest.mark.parametrize("name", ["in.n5", "in.precomputed", "in.zarr"])
def test_a_volume_is_a_lazy_layer_of_all_levels_in_its_place(name: str, tmp_path: Path) -> None:
    voxels = noise((6, 40, 30), "uint16")
    write_input(tmp_path / "raw.zarr", voxels, levels=2, voxel_size=SIZE)
    vt.convert(tmp_path / "raw.zarr", tmp_path / name) if name != "in.zarr" else (tmp_path / "raw.zarr").rename(tmp_path / name)
    opened = vt.open_volume(tmp_path / name)
    ((found, options, kind),) = read(tmp_path / name)
    levels = found if isinstance(found, list) else [found]  # the copies have one
    assert kind == "image"
    assert [level.shape for level in levels] == [level.shape for level in opened.levels]
    assert np.array_equal(levels[0].compute(), voxels)
    assert (options["name"], options["scale"], options["translate"]) == (name, SIZE, opened.translation)
    assert (options["units"], options["axis_labels"]) == (("nm", "nm", "nm"), ("z", "y", "x"))
    low, high = options["contrast_limits"]
    assert voxels.min() <= low < high <= voxels.max()


def test_each_channel_is_a_layer_with_its_own_contrast(tmp_path: Path) -> None:
    voxels = noise((2, 3, 20, 24))
    voxels[1] //= 4
    layers = read(write_input(tmp_path / "in.zarr", voxels))
    assert [options["name"] for _, options, _ in layers] == ["in.zarr 0", "in.zarr 1"]
    for channel, (level, options, _) in enumerate(layers):
        assert np.array_equal(level.compute(), voxels[channel])
        assert options["metadata"]["channel"] == channel
    assert layers[0][1]["contrast_limits"][1] > 200 > 64 > layers[1][1]["contrast_limits"][1]


def test_labels_are_a_layer_of_labels(tmp_path: Path) -> None:
    labels = noise((3, 8, 16), "uint64")
    scale = {"resolution": list(reversed(SIZE)), "encoding": "raw", "chunk_size": [8, 8, 3]}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{tmp_path}/labels/",
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint64", "num_channels": 1},
        "scale_metadata": {**scale, "size": [16, 8, 3]},
    }
    ts.open(spec, create=True).result().write(labels.T[..., None]).result()
    ((voxels, options, kind),) = read(tmp_path / "labels")
    assert kind == "labels"
    assert options["scale"] == SIZE
    assert np.array_equal(np.asarray(voxels), labels)


def test_what_is_no_volume_is_left_to_other_readers_and_a_broken_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert find_reader(str(tmp_path / "empty")) is None
    assert find_reader(str(tmp_path / "nothing.zarr")) is None
    assert find_reader([str(tmp_path / "a.mrc"), str(tmp_path / "b.mrc")]) is None
    source = write_input(tmp_path / "in.zarr", noise((3, 20, 24)))
    (source / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"in\.zarr"):
        find_reader(str(source))


def test_the_manifest_names_what_there_is_and_every_format_that_napari_does_not_read_itself() -> None:
    manifest = yaml.safe_load(files("volumetool.napari").joinpath("napari.yaml").read_text())["contributions"]
    for command in manifest["commands"]:
        module, _, name = command["python_name"].partition(":")
        if module != "volumetool.napari.widget":  # which imports napari
            assert callable(getattr(import_module(module), name))
    (reader,) = manifest["readers"]
    assert reader["accepts_directories"]
    by_napari = {"images (TIFF, PNG, JPEG, BMP)", "NumPy"}
    endings = {ending for each in FORMATS if each.name not in by_napari for ending in each.endings} | set(ZIP_ENDINGS)
    assert set(reader["filename_patterns"]) >= {f"*{ending}" for ending in endings}


@pytest.mark.parametrize("model", [SMALL["model"], pytest.param("bin:factor=1,2,2", marks=pytest.mark.slow)])
def test_a_preview_has_the_voxels_and_the_place_of_the_job(model: str, tmp_path: Path) -> None:
    options = {"device": "cpu", "memory": "4GiB", "model": model}
    source = write_input(tmp_path / "in.zarr", noise((2, 4, 36, 40)))
    output = vt.open_volume(vt.enhance(source, tmp_path / "out.zarr", workers=1, **options).output)
    previews, job = Previews(), vt.Job(input=source, output="nothing.zarr", **options)
    for channel, box in ((0, Box((1, 5, 7), (2, 21, 30))), (1, Box((0, 0, 0), (4, 36, 40)))):
        ((voxels, told, kind),) = previews(job, box, channel, (10.0, 200.0))
        assert (kind, told["contrast_limits"]) == ("image", (10.0, 200.0))
        assert told["scale"] == output.voxel_size
        places = zip(told["translate"], output.translation, output.voxel_size, voxels.shape, strict=True)
        where = tuple(slice(first := round((at - zero) / size), first + n) for at, zero, size, n in places)
        assert np.array_equal(voxels, output[(channel, *where)])
    assert not (tmp_path / "nothing.zarr").exists()
    previews.close()

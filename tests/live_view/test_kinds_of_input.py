"""Volumes of old and hasty writers, single sections, precomputed volumes and HDF5, through every command that reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore as ts
from numpy.typing import NDArray
from small_jobs import noise, run
from small_views import write_precomputed
from volumetool.cli.main import main

import volumetool as vt
from volumetool.viewer.layers import make_layers
from volumetool.viewer.ngff_compat import readable

SIZE = (30.0, 9.0, 8.0)
UNIT = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
STEPS: list[dict[str, Any]] = [{"type": "scale", "scale": [30.0, 9.0, 8.0]}]


def _write(path: Path, driver: str, voxels: NDArray[Any], image: dict[str, Any], **step: Any) -> Path:
    """Write an image of one level, with metadata at the root of its attributes."""
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/s0/"}}
    ts.open(spec, create=True, dtype=voxels.dtype, shape=voxels.shape).result().write(voxels).result()
    attributes = {"multiscales": [{**image, "datasets": [{"path": "s0", **step}]}]}
    if driver == "zarr":
        (path / ".zattrs").write_text(json.dumps(attributes))
        (path / ".zgroup").write_text('{"zarr_format": 2}')
    else:
        (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
    return path


def _of_kind(kind: str, path: Path) -> tuple[Path, NDArray[Any]]:
    """Write a volume and return its voxels, z, y, x."""
    voxels = noise((1 if kind == "2D" else 3, 20, 36))
    if kind == "0.1":
        return _write(path, "zarr", voxels[None, None], {"version": "0.1"}), voxels
    if kind == "0.4 in zarr.json":
        return _write(path, "zarr3", voxels, {"version": "0.4", "axes": UNIT}, coordinateTransformations=STEPS), voxels
    if kind == "2D":
        steps = [{"type": "scale", "scale": [9.0, 8.0]}]
        return _write(path, "zarr", voxels[0], {"version": "0.4", "axes": UNIT[1:]}, coordinateTransformations=steps), voxels
    if kind == "z without unit":
        axes = [{"name": "z", "type": "space"}, *UNIT[1:]]
        return _write(path, "zarr", voxels, {"version": "0.4", "axes": axes}, coordinateTransformations=STEPS), voxels
    if kind == "HDF5":
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes/raw", data=voxels, chunks=(2, 16, 16)).attrs["resolution"] = SIZE
            file["volumes/labels"] = voxels
        return path / "volumes" / "raw", voxels
    return write_precomputed(path, voxels, SIZE), voxels


@pytest.mark.parametrize(
    "kind",
    [
        "0.1",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("0.4 in zarr.json", "z without unit")),
        "2D",
        "precomputed",
        "HDF5",
    ],
)
def test_every_command_reads_it(
    kind: str, tmp_path: Path, serve: Any, flat: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path, voxels = _of_kind(kind, tmp_path / "in")
    given = {"voxel_size": SIZE} if kind in ("0.1", "2D") else {}
    with pytest.raises(SystemExit) as ended:
        main(["info", str(path), "--json", *(["--voxel-size", "30,9,8"] if given else [])])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["levels"][0]["voxel_size"] == list(SIZE)
    converted = vt.convert(path, tmp_path / "c.zarr", **given)
    assert (converted.voxel_size, converted.shape) == (SIZE, voxels.shape)
    np.testing.assert_array_equal(converted.open().read().result(), voxels)
    run(input=str(path), output=str(tmp_path / "e.zarr"), **flat, **given)
    enhanced = vt.open_volume(tmp_path / "e.zarr")
    run(input=str(tmp_path / "c.zarr"), output=str(tmp_path / "ec.zarr"), **flat)
    np.testing.assert_array_equal(enhanced.open().read().result(), vt.open_volume(tmp_path / "ec.zarr").open().read().result())
    with serve(path, **flat, **given) as served:
        np.testing.assert_array_equal(served.read("0").reshape(enhanced.shape), enhanced.open().read().result())  # (c, z, y, x)
    (layer,) = make_layers([path], SIZE)
    assert layer.voxel_size == (SIZE if kind != "2D" else (9.0, 9.0, 8.0))
    if kind != "precomputed":
        content = asyncio.run(readable(layer.volume)("zarr.json" if kind in ("0.4 in zarr.json", "HDF5") else ".zattrs"))
        assert content is not None
        group = json.loads(content.read(0, content.size))
        image = group.get("attributes", {}).get("ome", group)["multiscales"][0]
        space = [axis for axis in image["axes"] if axis["type"] == "space"]
        assert [axis["unit"] for axis in space] == ["nanometer"] * (2 if kind == "2D" else 3)

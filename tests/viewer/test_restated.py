"""What the client is told of an OME-Zarr image: the specification's own words, and no voxel beyond the volume."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_jobs import noise, write_input
from small_views import at_url, with_unit, write_zarr2

from volumetool.errors import InputError
from volumetool.storage.open import open_volume
from volumetool.viewer.layers import make_layers
from volumetool.viewer.ngff_compat import readable
from volumetool.viewer.server import KeyReader

SIZE = (30.0, 8.0, 4.0)


def told(keys: KeyReader, key: str = "zarr.json") -> Any:
    async def read() -> bytes:
        content = await keys(key)
        assert content is not None
        return content.read(0, content.size)

    return json.loads(asyncio.run(read()))


@pytest.fixture
def well_formed(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in.zarr", noise((5, 37, 45)), voxel_size=SIZE, levels=3)


@pytest.mark.parametrize(
    ("unit", "nanometres"),
    [("nm", 1), ("Nanometers", 1), ("nanometre", 1), ("µm", 1e3), ("um", 1e3), ("micron", 1e3)],
)
def test_whatever_a_unit_is_called_the_client_is_told_nanometers(
    well_formed: Path, tmp_path: Path, unit: str, nanometres: float
) -> None:
    other = with_unit(well_formed, tmp_path / "other.zarr", unit, nanometres)
    stored = (other / "zarr.json").read_bytes()
    image, wanted = (told(readable(open_volume(path)))["attributes"]["ome"]["multiscales"][0] for path in (other, well_formed))
    assert image["axes"] == wanted["axes"] == [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    for level, right in zip(image["datasets"], wanted["datasets"], strict=True):
        assert level["path"] == right["path"]
        steps = zip(level["coordinateTransformations"], right["coordinateTransformations"], strict=True)
        assert all(step[step["type"]] == pytest.approx(same[step["type"]]) for step, same in steps)
    assert (other / "zarr.json").read_bytes() == stored


def test_a_well_formed_image_keeps_its_meaning(well_formed: Path) -> None:
    group, stored = told(readable(open_volume(well_formed))), json.loads((well_formed / "zarr.json").read_text())
    ours, theirs = (each["attributes"]["ome"] for each in (group, stored))
    assert ours["version"] == theirs["version"]
    for member in ("axes", "datasets"):
        assert ours["multiscales"][0][member] == theirs["multiscales"][0][member]


def test_capitals_a_missing_version_and_transformations_of_the_whole_are_put_right(tmp_path: Path) -> None:
    path = write_zarr2(tmp_path / "old.zarr" / "s0", noise((6, 10, 14))).parent
    axes = [{"name": name, "type": "space", "unit": "um"} for name in "ZYX"]
    scale = {"type": "scale", "scale": [0.01, 0.004, 0.002]}
    image = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": [scale]}]}
    image["coordinateTransformations"] = [{"type": "scale", "scale": [3, 2, 2]}]
    (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (one,) = told(readable(open_volume(path)), ".zattrs")["multiscales"]
    assert one["version"] == "0.4"
    assert [axis["name"] for axis in one["axes"]] == ["z", "y", "x"]
    assert "coordinateTransformations" not in one
    assert one["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx(SIZE)


def test_levels_end_where_the_finest_does_and_keep_every_section(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.zarr", noise((5, 37, 45)), voxel_size=(30.0, 8.0, 8.0), levels=3)
    volume = open_volume(path)
    assert [level.shape for level in volume.levels] == [(5, 37, 45), (5, 19, 23), (5, 10, 12)]
    keys = readable(volume)
    assert [told(keys, f"{level.path}/zarr.json")["shape"] for level in volume.levels] == [[5, 37, 45], [5, 18, 22], [5, 9, 11]]
    without = told(keys, "1/zarr.json"), json.loads((path / "1" / "zarr.json").read_text())
    assert len({json.dumps({**each, "shape": None}, sort_keys=True) for each in without}) == 1


def test_a_volume_in_the_making_tells_of_its_finest_levels_alone(well_formed: Path) -> None:
    group = told(readable(open_volume(well_formed), 2))
    assert [each["path"] for each in group["attributes"]["ome"]["multiscales"][0]["datasets"]] == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unit": "nm"}, "axis z the unit 'nm'"),
        ({"name": "Z"}, "an axis 'Z', where 'z' is wanted"),
        ({"version": None}, "states no version"),
    ],
)
def test_what_the_client_would_refuse_at_a_url_is_refused_in_words(
    well_formed: Path, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    path = shutil.copytree(well_formed, tmp_path / "far.zarr")
    metadata = json.loads((path / "zarr.json").read_text())
    ome = metadata["attributes"]["ome"]
    if "version" in change:
        del ome["version"]
    else:
        ome["multiscales"][0]["axes"][0] |= change
    (path / "zarr.json").write_text(json.dumps(metadata))
    with at_url(path) as url:
        with pytest.raises(InputError, match=said) as raised:
            make_layers([url])
        assert raised.value.code == "input.unviewable"
        # As the hint says, one of its levels can be seen.
        (level,) = make_layers([f"{url}/0"])
    assert level.source(None)["transform"]["outputDimensions"]["z"] == [3e-8, "m"]
    (here,) = make_layers([str(path)])
    assert here.corners == level.corners


def test_a_well_formed_image_at_a_url_is_left_to_the_client(well_formed: Path) -> None:
    with at_url(well_formed) as url:
        (layer,) = make_layers([url])
    assert "transform" not in layer.source(None)

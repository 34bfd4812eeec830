"""Every way of breaking a volume is found, and a sound volume has no findings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volumetool.errors import InputError
from volumetool.storage.create import VolumeLayout, create_volume
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Volume

Json = dict[str, Any]


def _edit(file: Path, change: Callable[[Json], object]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def _image(group: Json) -> Json:
    image: Json = group["attributes"]["ome"]["multiscales"][0]
    return image


def _steps(group: Json, level: int) -> list[Json]:
    steps: list[Json] = _image(group)["datasets"][level]["coordinateTransformations"]
    return steps


def test_a_sound_volume_has_no_findings(filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    assert validate_volume(filled[0].url) == []


SPEC, NAMES, SHIFT = "validate.ome-zarr", "validate.dimension-names", "validate.translation"

BROKEN: dict[str, tuple[str, Callable[[Json], object]]] = {
    "scale of another length": (SPEC, lambda g: _steps(g, 0)[0]["scale"].pop()),
    "translation before scale": (SPEC, lambda g: _steps(g, 0).reverse()),
    "two scales": (SPEC, lambda g: _steps(g, 0).append(_steps(g, 0)[0])),
    "two translations": (SPEC, lambda g: _steps(g, 0).append(_steps(g, 0)[1])),
    "short unit": ("validate.unit", lambda g: _image(g)["axes"][0].update(unit="nm")),
    "no unit": ("validate.unit", lambda g: _image(g)["axes"][0].pop("unit")),
    "small before large": (SPEC, lambda g: _image(g)["datasets"].reverse()),
    "no version": (SPEC, lambda g: g["attributes"]["ome"].pop("version")),
    "version of Zarr 2": (SPEC, lambda g: g["attributes"]["ome"].update(version="0.4")),
    "one space axis twice": (SPEC, lambda g: _image(g)["axes"][0].update(name="y")),
    "scale of nothing": ("validate.scale", lambda g: _steps(g, 1)[0].update(scale=[0.0, 8.0, 8.0])),
    "negative scale": ("validate.scale", lambda g: _steps(g, 1)[0].update(scale=[-8.0, 8.0, 8.0])),
    "scale that does not fit": ("validate.level-shape", lambda g: _steps(g, 1)[0].update(scale=[8.0, 12.0, 8.0])),
    "no half-voxel shift": (SHIFT, lambda g: _steps(g, 1)[1].update(translation=_steps(g, 0)[1]["translation"])),
    "no translation at all": (SHIFT, lambda g: _steps(g, 1).pop()),
    "level that is missing": (SPEC, lambda g: _image(g)["datasets"][1].update(path="elsewhere")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_of_the_group_are_found(filled: tuple[Volume, np.ndarray[Any, Any]], name: str) -> None:
    code, change = BROKEN[name]
    _edit(Path(filled[0].url) / "zarr.json", change)
    assert code in {finding.code for finding in validate_volume(filled[0].url)}


@pytest.mark.parametrize(
    "change",
    [lambda array: array.pop("dimension_names"), lambda array: array.update(dimension_names=["x", "y", "z"])],
    ids=["absent", "other"],
)
def test_dimension_names_that_are_not_the_axes_are_found(
    filled: tuple[Volume, np.ndarray[Any, Any]], change: Callable[[Json], object]
) -> None:
    _edit(Path(filled[0].url) / "1" / "zarr.json", change)
    findings = {finding.code: finding for finding in validate_volume(filled[0].url)}
    assert findings[NAMES].path == "1"


def test_a_level_of_another_dtype_is_found_and_named(filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    _edit(Path(filled[0].url) / "2" / "zarr.json", lambda array: array.update(data_type="int8"))
    (finding,) = validate_volume(filled[0].url)
    assert (finding.code, finding.path) == ("validate.dtype", "2")
    assert "int8" in finding.message
    assert "uint8" in finding.message


def test_a_missing_array_is_found(filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    shutil.rmtree(Path(filled[0].url) / "1")
    codes = {finding.code for finding in validate_volume(filled[0].url)}
    assert {"validate.ome-zarr", "validate.unreadable"} <= codes


def test_levels_rounded_down_are_accepted_as_other_writers_make_them(
    filled: tuple[Volume, np.ndarray[Any, Any]],
) -> None:
    def smaller(array: Json) -> None:
        array["shape"] = [n - 1 for n in array["shape"]]

    _edit(Path(filled[0].url) / "3" / "zarr.json", smaller)
    assert "validate.level-shape" not in {finding.code for finding in validate_volume(filled[0].url)}


def test_volumes_far_from_the_origin_are_not_found_at_fault(tmp_path: Path, layout: VolumeLayout) -> None:
    volume = create_volume(str(tmp_path / "v.zarr"), layout, {})

    def move(group: Json) -> None:
        for level in range(len(layout.levels)):
            step = _steps(group, level)[1]
            step["translation"] = [value + 123456.789 for value in step["translation"]]

    _edit(Path(volume.url) / "zarr.json", move)
    assert validate_volume(volume.url) == []


def test_what_is_not_ome_zarr_cannot_be_validated(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        validate_volume(str(tmp_path))
    assert caught.value.code == "input.not-a-volume"


def test_real_volumes_of_version_0_4_are_judged(fixture: Callable[[str], Path]) -> None:
    findings = validate_volume(str(fixture("mobie_mri_stack.ome.zarr") / "mri-stack.ome.zarr"))
    assert [finding for finding in findings if finding.code == "validate.unit"]
    assert not [finding for finding in findings if finding.code in (SHIFT, "validate.level-shape")]


def test_invalid_images_of_the_official_suite_are_rejected(tmp_path: Path, data: Path) -> None:
    suite = json.loads((data / "ngff-spec-suites" / "0.5" / "tests" / "image_suite.json").read_text())["tests"]
    accepted = []
    for number, case in enumerate(case for case in suite if not case["valid"]):
        place = tmp_path / str(number)
        place.mkdir()
        group = {"zarr_format": 3, "node_type": "group", "attributes": case["data"].get("attributes", case["data"])}
        (place / "zarr.json").write_text(json.dumps(group))
        # The documents have no arrays: only what the specification says of the metadata counts as a verdict.
        if not any(f.code == SPEC and "does not exist" not in f.message for f in validate_volume(str(place))):
            accepted.append(case)
    assert accepted == []

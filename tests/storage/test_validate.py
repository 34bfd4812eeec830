"""Every way of breaking a volume is found, and a sound volume has no findings."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_images import Sample
from ome_zarr_models import v04, v05
from typer.testing import CliRunner
from volumetool.cli.main import app

from volumetool.errors import InputError
from volumetool.geometry.levels import plan_levels, without_shards
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.open import open_volume
from volumetool.storage.pyramid import build_pyramid
from volumetool.storage.validate import validate_volume
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import WrittenName

Json = dict[str, Any]
Change = Callable[[Json], object]

SPEC, ADVICE, NAMES = "validate.ome-zarr", "validate.ome-zarr-warning", "validate.dimension-names"
SHIFT, SCALE, OMERO, SHAPE = "validate.translation", "validate.scale", "validate.omero", "validate.level-shape"
WINDOW = {"min": 0, "max": 255, "start": 0, "end": 200}
VERSIONS: dict[str, WrittenName] = {".zattrs": "ome-zarr-0.4", "zarr.json": "ome-zarr-0.5"}


def _edit(file: Path, change: Change) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def _ome(group: Json) -> Json:
    ome: Json = group["attributes"]["ome"] if "attributes" in group else group
    return ome


def _image(group: Json) -> Json:
    image: Json = _ome(group)["multiscales"][0]
    return image


def _steps(group: Json, level: int) -> list[Json]:
    steps: list[Json] = _image(group)["datasets"][level]["coordinateTransformations"]
    return steps


def _array(group: Path, level: int, version: str) -> Path:
    return group / str(level) / (".zarray" if version == ".zattrs" else "zarr.json")


def _omero(*channels: Json) -> Change:
    return lambda g: _ome(g).update(omero={"channels": channels})


def test_a_sound_volume_has_no_findings(filled: tuple[Volume, np.ndarray[Any, Any]]) -> None:
    assert validate_volume(filled[0].url) == []


GROUP: dict[str, tuple[str, Change]] = {
    "scale of another length": (SPEC, lambda g: _steps(g, 0)[0]["scale"].pop()),
    "translation before scale": (SPEC, lambda g: _steps(g, 0).reverse()),
    "two scales": (SPEC, lambda g: _steps(g, 0).append({"type": "scale", "scale": [1.0, 1.0, 1.0]})),
    "two translations": (SPEC, lambda g: _steps(g, 0).append({"type": "translation", "translation": [0.0, 0.0, 0.0]})),
    "short unit": ("validate.unit", lambda g: _image(g)["axes"][0].update(unit="nm")),
    "no unit": ("validate.unit", lambda g: [axis.pop("unit") for axis in _image(g)["axes"]]),
    "small before large": ("validate.order", lambda g: _image(g)["datasets"].reverse()),
    "one axis of space": (SPEC, lambda g: _image(g).update(axes=_image(g)["axes"][:1])),
    "an axis twice": (SPEC, lambda g: _image(g)["axes"][0].update(name="y")),
    "channels after space": (SPEC, lambda g: _image(g)["axes"][2].update(name="c", type="channel")),
    "scale 0 of the finest level": (SCALE, lambda g: _steps(g, 0)[0].update(scale=[0.0, 4.0, 4.0])),
    "scale 0": (SCALE, lambda g: _steps(g, 1)[0].update(scale=[0.0, 8.0, 8.0])),
    "negative scale": (SCALE, lambda g: _steps(g, 1)[0].update(scale=[-8.0, 8.0, 8.0])),
    "scale that does not fit": (SHAPE, lambda g: _steps(g, 1)[0].update(scale=[8.0, 12.0, 8.0])),
    "no half-voxel shift": (SHIFT, lambda g: _steps(g, 1)[1].update(translation=_steps(g, 0)[1]["translation"])),
    "no translation at all": (SHIFT, lambda g: _steps(g, 1).pop()),
    "path of no level": (SPEC, lambda g: _image(g)["datasets"][1].update(path="elsewhere")),
    "display without window": (OMERO, _omero({"color": "FF0000"})),
    "display without color": (OMERO, _omero({"window": WINDOW})),
    "color with #": (OMERO, _omero({"color": "#FF0000", "window": WINDOW})),
    "display of three channels": (OMERO, _omero(*[{"color": "FF0000", "window": WINDOW}] * 3)),
    "no name": (ADVICE, lambda g: _image(g).pop("name")),
    "no type": (ADVICE, lambda g: _image(g).pop("type")),
    "no method": (ADVICE, lambda g: _image(g).pop("metadata")),
}
BY_HAND = {
    "scale of another length",
    "scale 0 of the finest level",
    "one axis of space",
    "an axis twice",
    "channels after space",
}
"""After these nobody but the user knows what the volume is."""

# Members that the two versions have in other places, or one of them alone.
MUTATIONS: list[tuple[str, str, str, str, Change]] = [
    *((version, "", name, code, change) for version in VERSIONS for name, (code, change) in GROUP.items()),
    (".zattrs", "", "no version", ADVICE, lambda g: _image(g).pop("version")),
    (".zattrs", "", "version of Zarr 3", SPEC, lambda g: _image(g).update(version="0.5")),
    (".zattrs", "1", "another dtype", "validate.dtype", lambda array: array.update(dtype="|i1")),
    ("zarr.json", "", "no version", SPEC, lambda g: _ome(g).pop("version")),
    ("zarr.json", "", "version of Zarr 2", SPEC, lambda g: _ome(g).update(version="0.4")),
    ("zarr.json", "1", "another dtype", "validate.dtype", lambda array: array.update(data_type="int8")),
    ("zarr.json", "0", "no dimension names", NAMES, lambda array: array.pop("dimension_names")),
    ("zarr.json", "0", "other dimension names", NAMES, lambda array: array.update(dimension_names=["x", "y", "z"])),
    *((version, "1", "missing array", "validate.unreadable", lambda array: array.clear()) for version in VERSIONS),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a sound volume of a version, in which no two voxels are the same."""
    folder, grids = tmp_path_factory.mktemp("sound"), plan_levels((6, 24, 30), (8.0, 4.0, 4.0), (4.0, -1.0, 0.5), (4, 8, 8))
    for version, name in VERSIONS.items():
        layout = VolumeLayout("uint16", without_shards(grids), name="sample", format=name)
        create_volume(str(folder / version), layout, {"made": "for a test"})
        voxels = np.arange(6 * 24 * 30, dtype=np.uint16).reshape(6, 24, 30)
        open_for_writing(str(folder / version), layout, 0).write(voxels).result()
        build_pyramid(str(folder / version))
    return folder.joinpath


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_broken_is_accepted(sound: Callable[[str], Path], version: str) -> None:
    assert validate_volume(str(sound(version))) == []


@pytest.mark.thin(3)
@pytest.mark.parametrize("mutation", [pytest.param(each, id=" ".join(each[:3])) for each in MUTATIONS])
def test_what_is_broken_is_told_plainly_and_mended_by_the_command_that_is_told(
    sound: Callable[[str], Path], tmp_path: Path, mutation: tuple[str, str, str, str, Change]
) -> None:
    version, level, name, code, change = mutation
    place = tmp_path / "a broken one"
    shutil.copytree(sound(version), place)
    file = _array(place, int(level), version) if level else place / version
    _edit(file, change)
    if not json.loads(file.read_text()):
        file.unlink()
    findings = validate_volume(str(place))
    assert code in {finding.code for finding in findings}
    for finding in findings:
        assert not re.search(r"\n|pydantic|\[type=|discriminator|ZarrGroup|Value error", finding.message), finding.message
    (hint,) = {finding.hint.rpartition("Write it anew: ")[2] for finding in findings if "volumetool" in finding.hint} or {""}
    if name in BY_HAND:
        assert all(f"Correct {place / version} by hand" in finding.hint for finding in findings)
        return
    command = shlex.split(hint.split(". ")[0].removesuffix("."))
    told = {"NEW.zarr": str(tmp_path / "NEW.zarr"), "z,y,x": "8,4,4"}
    result = CliRunner().invoke(app, [told.get(part, part) for part in command[1:]])
    assert (command[0], result.exit_code) == ("volumetool", 0), result.output
    copy = open_volume(tmp_path / "NEW.zarr")
    assert validate_volume(copy.url) == []
    (v04 if version == ".zattrs" else v05).Image.from_zarr(zarr.open_group(copy.url, mode="r"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(copy.open().read().result(), open_volume(sound(version)).open().read().result())
    assert (copy.voxel_size, copy.format) == ((8.0, 4.0, 4.0), VERSIONS[version])
    # In the order in which they are written, the translation of that mutation is scaled, too.
    assert copy.translation == ((32.0, -4.0, 2.0) if name == "translation before scale" else (4.0, -1.0, 0.5))
    assert str(copy.translation) in hint or "z,y,x" in hint


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


def test_labels_are_sent_to_their_image_and_not_copied(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    _edit(tmp_path / "zarr.json", lambda root: _ome(root).update({"image-label": {}}))
    hints = {finding.code: finding.hint for finding in validate_volume(str(tmp_path))}
    assert "the image that the labels belong to" in hints["validate.unreadable"]
    assert not any("convert" in hint or "by hand" in hint for hint in hints.values())


def test_real_volumes_of_version_0_4_are_judged(fixture: Callable[[str], Path]) -> None:
    findings = validate_volume(str(fixture("mobie_mri_stack.ome.zarr") / "mri-stack.ome.zarr"))
    assert [finding for finding in findings if finding.code == "validate.unit"]
    assert not [finding for finding in findings if finding.code in (SHIFT, "validate.level-shape")]


JUDGED_OTHERWISE = {
    ("0.4", "image"): {"mismatch_axes_units"},  # two numbers for three axes: the text wants as many, the schema does not count
    ("0.4", "strict_label"): {"no_colors", "no_version"},  # advice on labels, which are no volumes
    ("0.5", "strict_label"): {"no_colors"},
}
"""By suite, documents whose verdict is not that of `validate`."""


@pytest.mark.parametrize("suite", ["image", "strict_image", "label", "strict_label"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_documents_of_the_official_suites_are_judged_as_these_say(tmp_path: Path, data: Path, version: str, suite: str) -> None:
    cases = json.loads((data / "ngff-spec-suites" / version / "tests" / f"{suite}_suite.json").read_text())["tests"]
    assert cases
    judged_otherwise = set()
    for number, case in enumerate(cases):
        place = tmp_path / str(number)
        _write_document(place, version, case["data"].get("attributes", case["data"]))
        codes = {finding.code for finding in validate_volume(str(place))}
        if bool({SPEC, OMERO} & codes) == case["valid"]:
            judged_otherwise.add(Path(case["formerly"]).stem)
    assert judged_otherwise == JUDGED_OTHERWISE.get((version, suite), set())


def _write_document(place: Path, version: str, attributes: Json) -> None:
    """Write the metadata of a document with the arrays that they name; a label that is no image becomes one."""
    ome = attributes.get("ome", {}) if version == "0.5" else attributes
    if "image-label" in ome and "multiscales" not in ome:
        Sample(version=version).write(place)
        _edit(place / ("zarr.json" if version == "0.5" else ".zattrs"), lambda root: _ome(root).update(ome))
        return
    with suppress(KeyError, TypeError, IndexError, AttributeError):
        image = ome["multiscales"][0]
        names = [axis["name"] for axis in image["axes"]]
        channels = len(ome["omero"]["channels"]) if "omero" in ome else 8
        for level, dataset in enumerate(image["datasets"]):
            shape = [channels if name == "c" else 8 >> level for name in names]
            named = {"dimension_names": names} if version == "0.5" else {}
            zarr.create_array(place / dataset["path"], shape=shape, dtype="u1", zarr_format=3 if named else 2, **named)  # type: ignore[arg-type]
    place.mkdir(exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (place / ("zarr.json" if version == "0.5" else ".zattrs")).write_text(json.dumps(group if version == "0.5" else attributes))
    if version == "0.4":
        (place / ".zgroup").write_text('{"zarr_format": 2}')

"""OME-Zarr 0.4 and 0.5 of any origin: axes, units, transformations, layouts, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.errors import InputError
from volumetool.store.open import open_volume
from volumetool.store.validate import validate_volume
from volumetool.store.volume import Volume

Json = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """An OME-Zarr image as other software might write it: one array per shape, holding its own voxel numbers."""

    axes: str = "zyx"
    unit: str | None = "nanometer"
    version: str = "0.5"
    shapes: Sequence[tuple[int, ...]] = ((4, 6, 8), (2, 3, 4))
    scale: tuple[float, ...] = (30.0, 8.0, 4.0)
    extra: Json = field(default_factory=dict)
    dtype: str = "uint8"

    def multiscale(self) -> Json:
        datasets = []
        for level in range(len(self.shapes)):
            size = [s * 2**level if axis in "zyx" else 1.0 for axis, s in zip(self.axes, self.scale, strict=True)]
            shift = [(s - t) / 2 for s, t in zip(size, self.scale, strict=True)]
            steps = [{"type": "scale", "scale": size}, {"type": "translation", "translation": shift}]
            datasets.append({"path": str(level), "coordinateTransformations": steps})
        kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
        space = {"type": "space"} | ({"unit": self.unit} if self.unit else {})
        axes = [{"name": axis, **kinds.get(axis, space)} for axis in self.axes]
        version = {"version": "0.4"} if self.version == "0.4" else {}
        return {"axes": axes, "datasets": datasets, **version, **self.extra}

    def write(self, url: Path) -> np.ndarray[Any, Any]:
        for level, shape in enumerate(self.shapes):
            self._array(url / str(level), shape)
        self.describe(url, {"multiscales": [self.multiscale()]})
        first = self.shapes[0]
        return np.arange(np.prod(first)).reshape(first).astype(self.dtype)

    def describe(self, url: Path, ome: Json) -> None:
        url.mkdir(parents=True, exist_ok=True)
        if self.version == "0.4":
            (url / ".zgroup").write_text('{"zarr_format": 2}')
            (url / ".zattrs").write_text(json.dumps(ome))
        else:
            group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": self.version, **ome}}}
            (url / "zarr.json").write_text(json.dumps(group))

    def _array(self, url: Path, shape: tuple[int, ...]) -> None:
        driver = "zarr" if self.version == "0.4" else "zarr3"
        names = {} if driver == "zarr" else {"metadata": {"dimension_names": list(self.axes)}}
        kvstore = {"driver": "file", "path": str(url)}
        spec = {
            "driver": driver,
            "kvstore": kvstore,
            "dtype": self.dtype,
            "schema": {"domain": {"shape": shape}},
            **names,
        }
        array = ts.open(spec, create=True).result()
        array.write(np.arange(np.prod(shape)).reshape(shape).astype(self.dtype)).result()


def _read(volume: Volume, **which: int) -> np.ndarray[Any, Any]:
    voxels: np.ndarray[Any, Any] = volume.open(**which).read().result()
    return voxels


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_open_with_scale_and_translation(tmp_path: Path, version: str) -> None:
    voxels = Sample(version=version).write(tmp_path)
    volume = open_volume(tmp_path)
    assert volume.format == f"ome-zarr-{version}"
    assert [level.shape for level in volume.levels] == [(4, 6, 8), (2, 3, 4)]
    assert [level.voxel_size for level in volume.levels] == [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]
    assert [level.translation for level in volume.levels] == [(0.0, 0.0, 0.0), (15.0, 4.0, 2.0)]
    assert volume.attributes == {}
    np.testing.assert_array_equal(_read(volume), voxels)


@pytest.mark.parametrize(("axes", "order"), [("zyx", (0, 1, 2)), ("xyz", (2, 1, 0)), ("yxz", (2, 0, 1)), ("zxy", (0, 2, 1))])
def test_any_order_of_axes_is_read_as_z_y_x(tmp_path: Path, axes: str, order: tuple[int, int, int]) -> None:
    voxels = Sample(axes=axes).write(tmp_path)
    volume = open_volume(tmp_path)
    sizes = dict(zip(axes, (30.0, 8.0, 4.0), strict=True))
    assert volume.voxel_size == (sizes["z"], sizes["y"], sizes["x"])
    assert volume.shape == tuple(voxels.shape[axis] for axis in order)
    np.testing.assert_array_equal(_read(volume), voxels.transpose(order))


def test_channels_are_counted_and_a_single_time_point_is_dropped(tmp_path: Path) -> None:
    voxels = Sample(axes="tczyx", shapes=((1, 2, 4, 6, 8),), scale=(1, 1, 30, 8, 4)).write(tmp_path)
    volume = open_volume(tmp_path)
    assert (volume.channels, volume.shape) == (2, (4, 6, 8))
    np.testing.assert_array_equal(_read(volume, channel=1), voxels[0, 1])


def test_channels_and_levels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    Sample(axes="czyx", shapes=((2, 4, 6, 8),), scale=(1, 30, 8, 4)).write(tmp_path)
    volume = open_volume(tmp_path)
    for which, code in (({"channel": 2}, "input.channel"), ({"level": 1}, "input.level")):
        with pytest.raises(InputError) as caught:
            volume.open(**which)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1e3), ("angstrom", 0.1), ("millimeter", 1e6), ("nm", 1.0), ("um", 1e3), ("micrometre", 1e3)],
)
def test_units_become_nanometres(tmp_path: Path, unit: str, factor: float) -> None:
    Sample(unit=unit).write(tmp_path)
    levels = open_volume(tmp_path).levels
    assert levels[0].voxel_size == pytest.approx((30 * factor, 8 * factor, 4 * factor))
    assert levels[1].translation == pytest.approx((15 * factor, 4 * factor, 2 * factor))


def test_transformations_of_the_whole_image_are_applied_after_those_of_the_level(tmp_path: Path) -> None:
    whole = [{"type": "scale", "scale": [1.0, 2.0, 10.0]}, {"type": "translation", "translation": [5.0, 0.0, 0.0]}]
    Sample(extra={"coordinateTransformations": whole}).write(tmp_path)
    first, second = open_volume(tmp_path).levels
    assert (first.voxel_size, first.translation) == ((30.0, 16.0, 40.0), (5.0, 0.0, 0.0))
    assert (second.voxel_size, second.translation) == ((60.0, 32.0, 80.0), (20.0, 8.0, 20.0))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_alone_takes_its_scale_from_the_image(tmp_path: Path, version: str) -> None:
    Sample(version=version).write(tmp_path)
    volume = open_volume(tmp_path / "1")
    assert (volume.voxel_size, volume.translation) == ((60.0, 16.0, 8.0), (15.0, 4.0, 2.0))
    assert _read(volume).shape == (2, 3, 4)


def test_a_given_voxel_size_corrects_all_levels_and_translations(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    volume = open_volume(tmp_path, voxel_size=(15.0, 8.0, 8.0))
    assert [level.voxel_size for level in volume.levels] == [(15.0, 8.0, 8.0), (30.0, 16.0, 16.0)]
    assert volume.levels[1].translation == (7.5, 4.0, 4.0)


@pytest.mark.parametrize("unit", [None, "pixel"])
def test_without_a_unit_of_length_the_voxel_size_must_be_given(tmp_path: Path, unit: str | None) -> None:
    Sample(unit=unit).write(tmp_path)
    with pytest.raises(InputError, match="--voxel-size") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    assert "30.0" in caught.value.message
    assert open_volume(tmp_path, voxel_size=(3.0, 2.0, 1.0)).levels[1].voxel_size == (6.0, 4.0, 2.0)


def _old(tmp_path: Path, version: str, shapes: Sequence[tuple[int, ...]], **image: Any) -> np.ndarray[Any, Any]:
    """Write an image as versions before 0.4 do: without axes, scales and units."""
    voxels = Sample("tczyx"[-len(shapes[0]) :], version="0.4", shapes=shapes, scale=(1.0,) * len(shapes[0])).write(tmp_path)
    datasets = [{"path": str(level)} for level in range(len(shapes))]
    Sample(version="0.4").describe(tmp_path, {"multiscales": [{"version": version, "datasets": datasets, **image}]})
    return voxels


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_versions_without_axes_mean_t_c_z_y_x_and_their_levels_are_told_by_shape(tmp_path: Path, version: str) -> None:
    voxels = _old(tmp_path, version, ((1, 2, 5, 30, 41), (1, 2, 5, 15, 21), (1, 2, 5, 8, 10)))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    volume = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert (volume.axes, volume.channels, volume.shape) == (("t", "c", "z", "y", "x"), 2, (5, 30, 41))
    assert [level.voxel_size for level in volume.levels] == [(30.0, 9.0, 8.0), (30.0, 18.0, 16.0), (30.0, 36.0, 32.0)]
    assert volume.levels[2].translation == (0.0, 13.5, 12.0)
    for channel in range(2):
        np.testing.assert_array_equal(_read(volume, channel=channel), voxels[0, channel])
    assert open_volume(tmp_path / "1", voxel_size=(30.0, 18.0, 16.0)).axes == volume.axes


@pytest.mark.parametrize("axes", ["zyx", "cyx", "yx"])
def test_version_3_names_axes_and_nothing_else(tmp_path: Path, axes: str) -> None:
    shape = {"c": 2, "z": 5, "y": 30, "x": 41}
    voxels = _old(tmp_path, "0.3", (tuple(shape[axis] for axis in axes),), axes=list(axes))
    volume = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert (volume.axes, volume.voxel_size) == (tuple(axes), (30.0, 9.0, 8.0))
    np.testing.assert_array_equal(np.squeeze(_read(volume)), voxels[0] if "c" in axes else voxels)


def _placed_oddly(where: str) -> Callable[[Path], None]:
    """Put sound metadata of 0.4 or 0.5 where the other version has them."""
    image = Sample().multiscale()
    group = {"zarr_format": 3, "node_type": "group"}
    plain, nested = {"multiscales": [{"version": "0.4", **image}]}, {"ome": {"version": "0.4", "multiscales": [image]}}
    attributes = plain if where == "root of zarr.json" else nested

    def put(path: Path) -> None:
        Sample(version="0.4" if where == "ome in .zattrs" else "0.5").write(path)
        if where == "ome in .zattrs":
            (path / ".zattrs").write_text(json.dumps({"ome": {"version": "0.5", "multiscales": [image]}}))
        else:
            (path / "zarr.json").write_text(json.dumps({**group, "attributes": attributes}))

    return put


@pytest.mark.parametrize("where", ["root of zarr.json", "ome of 0.4 in zarr.json", "ome in .zattrs"])
def test_metadata_where_the_other_version_has_them_are_read(tmp_path: Path, where: str) -> None:
    _placed_oddly(where)(tmp_path)
    volume = open_volume(tmp_path)
    assert volume.format == "ome-zarr-0.4"  # nothing that volumetool would write levels into
    assert [level.voxel_size for level in volume.levels] == [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]
    np.testing.assert_array_equal(_read(volume), np.arange(192).reshape(4, 6, 8))
    assert open_volume(tmp_path / "1").voxel_size == (60.0, 16.0, 8.0)
    assert any(finding.code == "validate.ome-zarr" for finding in validate_volume(str(tmp_path)))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tcyx", "xy"])
def test_an_image_without_z_is_a_volume_of_one_section(tmp_path: Path, axes: str, version: str) -> None:
    lengths, scales = {"t": 1, "c": 2, "y": 30, "x": 41}, {"t": 1.0, "c": 1.0, "y": 9.0, "x": 8.0}
    shapes = tuple(tuple(-(-lengths[a] // f) if a in "yx" else lengths[a] for a in axes) for f in (1, 2))
    voxels = Sample(axes, version=version, shapes=shapes, scale=tuple(scales[a] for a in axes)).write(tmp_path)
    volume = open_volume(tmp_path)
    assert (volume.shape, volume.channels) == ((1, 30, 41), 2 if "c" in axes else None)
    assert [level.voxel_size for level in volume.levels] == [(9.0, 9.0, 8.0), (9.0, 18.0, 16.0)]  # as thick as high
    assert volume.levels[1].translation == (0.0, 4.5, 4.0)
    (section,) = _read(volume, channel=1 if "c" in axes else 0)
    kept = tuple({"t": 0, "c": 1}.get(axis, slice(None)) for axis in axes)
    np.testing.assert_array_equal(section, voxels[kept].T if axes == "xy" else voxels[kept])
    corrected = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert [level.voxel_size[0] for level in corrected.levels] == [30.0, 30.0]


def _units(*units: str | None, scale: tuple[float, ...] = (30.0, 8.0, 4.0)) -> Json:
    image = Sample(scale=scale).multiscale()
    named = zip("zyx", units, strict=True)
    return image | {"axes": [{"name": a, "type": "space"} | ({} if unit is None else {"unit": unit}) for a, unit in named]}


def test_an_axis_without_unit_has_that_of_the_others(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [_units(None, "micrometer", "micrometer")]})
    volume = open_volume(tmp_path)
    assert volume.voxel_size == (30e3, 8e3, 4e3)
    assert volume.levels[1].translation == (15e3, 4e3, 2e3)


@pytest.mark.parametrize(
    "image",
    [
        _units(None, "nanometer", "nanometer", scale=(1.0, 8.0, 4.0)),  # 1 stands where nothing is known
        _units(None, "nanometer", "micrometer"),
        _units("pixel", "nanometer", "nanometer"),
    ],
    ids=["size 1", "units differ", "unit unknown"],
)
def test_a_voxel_size_that_is_half_known_is_asked_for_with_the_known_half(tmp_path: Path, image: Json) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError, match=r"8 nm along y.* not along z") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    assert "--voxel-size z,8,4" in caught.value.hint
    assert open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0)).voxel_size == (30.0, 8.0, 4.0)


def test_units_without_any_scale_say_no_size(tmp_path: Path) -> None:
    image = Sample(shapes=((4, 6, 8),)).multiscale()
    del image["datasets"][0]["coordinateTransformations"]
    Sample(shapes=((4, 6, 8),)).write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"


def test_levels_of_which_some_have_a_scale_are_refused(tmp_path: Path) -> None:
    image = Sample().multiscale()
    del image["datasets"][1]["coordinateTransformations"]
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError, match="not 1") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


def test_identity_follows_voxels_and_sizes_but_not_place_or_notes(tmp_path: Path) -> None:
    Sample().write(tmp_path / "a")
    Sample(extra={"name": "another name"}).write(tmp_path / "b")
    Sample(shapes=((4, 6, 9), (2, 3, 5))).write(tmp_path / "c")
    Sample(dtype="int8").write(tmp_path / "d")
    first = open_volume(tmp_path / "a").identity
    assert len(first) == 64
    assert open_volume(tmp_path / "b").identity == first
    assert open_volume(tmp_path / "a", voxel_size=(30.0, 8.0, 5.0)).identity != first
    assert open_volume(tmp_path / "c").identity != first
    assert open_volume(tmp_path / "d").identity != first


def test_an_image_written_by_java_opens_and_has_its_known_sum(fixture: Callable[[str], Path]) -> None:
    path = fixture("mobie_mri_stack.ome.zarr") / "mri-stack.ome.zarr"
    volume = open_volume(path, voxel_size=(2.0, 1.0, 1.0))
    assert [int(_read(volume, level=n).sum(dtype=np.int64)) for n in (0, 1)] == [40784917, 4994371]
    assert volume.levels[1].translation == (1.0, 0.5, 0.5)


def _bioformats(tmp_path: Path, names: Sequence[str], *, series: bool) -> None:
    for name in names:
        Sample(version="0.4").write(tmp_path / name)
    Sample(version="0.4").describe(tmp_path, {"bioformats2raw.layout": 3})
    if series:
        Sample(version="0.4").describe(tmp_path / "OME", {"series": list(names)})


@pytest.mark.parametrize("series", [False, True])
def test_the_only_image_of_a_bioformats2raw_container_is_opened(tmp_path: Path, series: bool) -> None:  # noqa: FBT001
    _bioformats(tmp_path, ["0"], series=series)
    assert open_volume(tmp_path).url == str(tmp_path / "0")


@pytest.mark.parametrize("series", [False, True])
def test_several_images_of_a_bioformats2raw_container_are_named(tmp_path: Path, series: bool) -> None:  # noqa: FBT001
    _bioformats(tmp_path, ["0", "1"], series=series)
    with pytest.raises(InputError, match="0, 1") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.not-a-volume"


@pytest.mark.parametrize(
    ("ome", "code"),
    [
        ({"plate": {}}, "input.not-a-volume"),
        ({"well": {}}, "input.not-a-volume"),
        ({"labels": ["cells"]}, "input.not-a-volume"),
        ({"series": ["0", "1"]}, "input.not-a-volume"),
        ({"scene": {}}, "input.version"),
        ({"multiscales": [Sample().multiscale()], "image-label": {}}, "input.labels"),
        ({"multiscales": [Sample().multiscale()], "version": "0.6"}, "input.version"),
        ({"multiscales": []}, "input.broken-metadata"),
        ({"multiscales": [{"axes": []}]}, "input.axes"),
        ({"multiscales": [{"datasets": []}]}, "input.broken-metadata"),
        ({"multiscales": [Sample(axes="yx", scale=(1, 1)).multiscale()]}, "input.axes"),
        ({"multiscales": [Sample(axes="qzyx", scale=(1, 1, 1, 1)).multiscale()]}, "input.axes"),
        ({"multiscales": [Sample(scale=(0.0, 1.0, 1.0)).multiscale()]}, "input.broken-metadata"),
    ],
)
def test_what_is_not_one_volume_is_refused_by_its_cause(tmp_path: Path, ome: Json, code: str) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, ome)
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.where


def test_an_affine_transformation_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    Sample(extra={"coordinateTransformations": [{"type": "affine", "affine": [[1]]}]}).write(tmp_path)
    with pytest.raises(InputError, match="affine") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


def test_several_time_points_are_refused_with_their_number(tmp_path: Path) -> None:
    Sample(axes="tzyx", shapes=((3, 4, 6, 8),), scale=(1, 30, 8, 4)).write(tmp_path)
    with pytest.raises(InputError, match="3 time points") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.axes"


def test_a_level_that_is_listed_but_missing_is_named(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    (tmp_path / "1" / "zarr.json").unlink()
    with pytest.raises(InputError, match="'1'") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.level-missing"


def test_metadata_that_are_not_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"zarr\.json") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


@pytest.mark.parametrize("suite", ["image_suite", "strict_image_suite"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_valid_volume_of_the_official_suites_is_understood(tmp_path: Path, data: Path, version: str, suite: str) -> None:
    cases = json.loads((data / "ngff-spec-suites" / version / "tests" / f"{suite}.json").read_text())["tests"]
    valid = [case["data"] for case in cases if case["valid"]]
    assert valid
    for number, document in enumerate(valid):
        document = document.get("attributes", document)
        ome = {key: value for key, value in document.get("ome", document).items() if key != "version"}
        names = {axis["name"] for axis in ome["multiscales"][0]["axes"]}
        Sample(version=version).describe(tmp_path / str(number), ome)
        with pytest.raises(InputError) as caught:
            open_volume(tmp_path / str(number))
        # The documents come without arrays, which is found out after the metadata are understood.
        scales = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        code = "input.broken-metadata" if len(scales) != len(names) else "input.level-missing"
        assert caught.value.code == (code if names <= set("tczyx") else "input.axes")

"""N5 of BigDataViewer: factors on the setup, units and places from the XML beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_n5 import Json, write_attributes, write_pyramid

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

SIZES = [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]


def test_big_data_viewer_factors_stand_on_the_setup(tmp_path: Path) -> None:
    write_attributes(tmp_path, {"n5": "2.0.0"})
    write_attributes(tmp_path / "setup0", {"downsamplingFactors": [[1, 1, 1], [2, 2, 1]], "dataType": "uint16"})
    write_pyramid(tmp_path / "setup0" / "timepoint0", {})
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    volume = open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0))
    assert volume.url == str(tmp_path / "setup0" / "timepoint0")
    assert volume.levels[1].voxel_size == (30.0, 16.0, 8.0)


XML = """<?xml version="1.0"?><!-- by BigDataViewer --><SpimData version="0.2"><SequenceDescription>
<ImageLoader format="bdv.n5"><n5 type="relative">{container}</n5></ImageLoader>
<ViewSetups><ViewSetup><id>7</id><voxelSize><unit>mm</unit><size>1 1 1</size></voxelSize></ViewSetup>
<ViewSetup><id>0</id><voxelSize><unit>{unit}</unit><size>0.004 0.008 0.03</size></voxelSize></ViewSetup></ViewSetups>
</SequenceDescription></SpimData>"""


def _big_data_viewer(tmp_path: Path, setup: Json, xml: str | None) -> Path:
    """Write a container as BigDataViewer's export does: lengths in a unit that only its XML names."""
    container = tmp_path / "em.n5"
    write_attributes(container, {"n5": "2.0.0"})
    write_attributes(container / "setup0", {"downsamplingFactors": [[1, 1, 1], [2, 2, 1]], "dataType": "uint16", **setup})
    write_pyramid(container / "setup0" / "timepoint0", {"multiScale": True, "resolution": [0.004, 0.008, 0.03]})
    if xml is not None:
        (tmp_path / "em.xml").write_text(xml)
    return container


@pytest.mark.parametrize(
    ("setup", "xml"),
    [
        ({}, XML.format(container="em.n5", unit="µm")),
        ({"units": ["um", "um", "um"]}, None),
        ({"unit": "micrometer"}, None),
        ({"pixelResolution": {"unit": "um", "dimensions": [0.004, 0.008, 0.03]}}, None),
        ({"voxelSize": {"unit": "um", "size": [0.004, 0.008, 0.03]}}, None),
    ],
    ids=["xml", "units", "unit", "pixelResolution", "voxelSize"],
)
def test_big_data_viewers_unit_is_found_where_it_notes_it(tmp_path: Path, setup: Json, xml: str | None) -> None:
    container = _big_data_viewer(tmp_path, setup, xml)
    for path, size in (("", SIZES[0]), ("setup0", SIZES[0]), ("setup0/timepoint0/s1", (30.0, 16.0, 8.0))):
        assert open_volume(container / path).voxel_size == pytest.approx(size)


@pytest.mark.parametrize(
    "xml", [None, XML.format(container="other.n5", unit="µm"), XML.format(container="em.n5", unit="pixel")]
)
def test_big_data_viewers_numbers_without_a_unit_are_asked_for(tmp_path: Path, xml: str | None) -> None:
    container = _big_data_viewer(tmp_path, {}, xml)
    for path in ("", "setup0/timepoint0", "setup0/timepoint0/s0"):
        with pytest.raises(InputError, match=r"0\.03, 0\.008, 0\.004") as caught:
            open_volume(container / path)
        assert caught.value.code == "input.no-voxel-size"
    corrected = open_volume(container, voxel_size=(30.0, 8.0, 4.0))
    assert corrected.levels[1].voxel_size == pytest.approx((30.0, 16.0, 8.0))


def test_an_xml_with_entities_is_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>' + XML.format(container="em.n5", unit="&b;")
    with pytest.raises(InputError, match="entities") as caught:
        open_volume(_big_data_viewer(tmp_path, {}, bomb))
    assert caught.value.code == "input.broken-metadata"


def _registered(*affines: str) -> str:
    """Return an XML by which setup 0 is transformed; the last transform comes first."""
    views = "".join(f'<ViewTransform type="affine"><affine>{affine}</affine></ViewTransform>' for affine in affines)
    other = '<ViewRegistration timepoint="0" setup="7"><ViewTransform><affine>1 1 1 1 1 1 1 1 1 1 1 1</affine></ViewTransform>'
    both = f'{other}</ViewRegistration><ViewRegistration timepoint="0" setup="0">{views}</ViewRegistration>'
    return XML.format(container="em.n5", unit="µm").replace(
        "</SpimData>", f"<ViewRegistrations>{both}</ViewRegistrations></SpimData>"
    )


@pytest.mark.parametrize("place", ["em.n5", "em.n5/setup0/timepoint0/s0", "em.xml"])
def test_big_data_viewers_xml_places_the_setup_and_opens_it(tmp_path: Path, place: str) -> None:
    # Calibrated so that voxels are 1 wide, as BigStitcher does, then moved by 10 of their widths along each axis.
    calibration, moved = "1 0 0 0 0 2 0 0 0 0 7.5 0", "1 0 0 10 0 1 0 20 0 0 1 75"
    _big_data_viewer(tmp_path, {}, _registered(moved, calibration))
    volume = open_volume(tmp_path / place)
    assert volume.url.startswith(str(tmp_path / "em.n5" / "setup0" / "timepoint0"))
    assert volume.voxel_size == pytest.approx(SIZES[0])
    assert volume.translation == pytest.approx((300.0, 80.0, 40.0))


@pytest.mark.parametrize("affine", ["0 -1 0 0 1 0 0 0 0 0 1 0", "-1 0 0 0 0 1 0 0 0 0 1 0", "1 0.1 0 0 0 1 0 0 0 0 1 0"])
def test_a_setup_that_the_xml_turns_or_shears_is_refused(tmp_path: Path, affine: str) -> None:
    container = _big_data_viewer(tmp_path, {}, _registered(affine))
    with pytest.raises(InputError, match="setup 0") as caught:
        open_volume(container)
    assert (caught.value.code, "--voxel-size" in caught.value.hint) == ("input.axes", True)


@pytest.mark.parametrize(("name", "code"), [("../em.n5", "input.broken-metadata"), ("other.n5", "input.not-a-volume")])
def test_an_xml_opens_what_lies_beside_it_alone(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "inner").mkdir()
    _big_data_viewer(tmp_path, {}, None)
    (tmp_path / "inner" / "em.xml").write_text(XML.format(container=name, unit="µm"))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "inner" / "em.xml")
    assert caught.value.code == code


@pytest.mark.parametrize("unit", ["nm", "um"])
def test_an_xml_and_attributes_that_disagree_are_shown(tmp_path: Path, unit: str) -> None:
    beside = {"pixelResolution": {"unit": unit, "dimensions": [0.004, 0.008, 0.03]}}
    container = _big_data_viewer(tmp_path, beside, XML.format(container="em.n5", unit="µm"))
    if unit == "um":
        assert open_volume(container).voxel_size == pytest.approx(SIZES[0])
    else:
        with pytest.raises(InputError, match=r"0\.03 x 0\.008 x 0\.004 nm .* pixelResolution, 30 x 8 x 4 nm .* XML"):
            open_volume(container)


def test_a_big_data_viewer_container_of_java_opens_from_its_root(fixture: Callable[[str], Path], data: Path) -> None:
    container = fixture("mobie_bdv_n5_segmentation") / "segmentation.n5"
    with pytest.raises(InputError) as caught:
        open_volume(container)
    assert caught.value.code == "input.no-voxel-size"  # its numbers are in the unit that its XML names
    shutil.copy(data / "format-fixtures" / "mobie_bdv_n5_segmentation.xml", container.with_suffix(".xml"))
    volume = open_volume(container)
    assert volume.url.endswith("setup0/timepoint0")
    assert [level.shape for level in volume.levels] == [(256, 256, 256), (128, 128, 128)]
    assert [level.voxel_size for level in volume.levels] == [(5.0, 5.0, 5.0), (10.0, 10.0, 10.0)]
    fine, coarse = (volume.open(n)[:64, :64, :64].read().result() for n in (0, 1))
    assert fine.any()
    assert set(np.unique(coarse)) <= set(np.unique(volume.open().read().result()))

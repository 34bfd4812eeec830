"""`validate --viewer` says which viewers open a volume, what is lost there, and which copy helps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from volumetool.cli.main import main

from volumetool.errors import ConfigError
from volumetool.geometry import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume
from volumetool.storage.open import open_volume
from volumetool.storage.writing.names import WrittenName
from volumetool.viewer.support import VIEWERS, check_viewer

OPENED: dict[WrittenName, set[str]] = {
    "ome-zarr-0.5": {"neuroglancer", "napari", "webknossos"},
    "ome-zarr-0.5-unsharded": {"neuroglancer", "napari", "webknossos", "cloud-volume"},
    "ome-zarr-0.4": {"neuroglancer", "napari", "webknossos", "fiji", "mobie", "cloud-volume"},
    "n5": {"neuroglancer", "webknossos", "fiji", "mobie"},
    "precomputed": {"neuroglancer", "webknossos", "cloud-volume"},
}


def write(place: Path, form: WrittenName, start: float = 0.0) -> str:
    """Write a volume of 30 x 8 x 8 nm voxels, the first of them `start` nm from the origin along each axis."""
    levels = plan_levels((8, 40, 48), (30.0, 8.0, 8.0), (start, start, start))
    create_volume(str(place), VolumeLayout("uint8", levels, format=form), {})
    return str(place)


@pytest.mark.parametrize("form", OPENED)
def test_each_format_is_opened_by_its_viewers_alone_and_the_copy_that_is_named_helps(form: WrittenName, tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "volume", form))
    found = {name: check_viewer(volume, name) for name in VIEWERS}
    assert {name for name, findings in found.items() if not findings} == OPENED[form]
    for number, findings in enumerate(found.values()):
        for finding in findings:
            helps: WrittenName = next(name for name in OPENED if finding.message.endswith(f"--format {name}"))
            copy = open_volume(write(tmp_path / str(number), helps))
            assert not check_viewer(copy, list(VIEWERS)[number])


@pytest.mark.parametrize(("start", "lost"), [(0.0, set()), (240.0, {"napari"}), (11.0, {"napari", "cloud-volume"})])
def test_a_place_that_a_viewer_does_not_keep_is_told(start: float, lost: set[str], tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "volume", "ome-zarr-0.5-unsharded", start))
    codes = {name: [finding.code for finding in check_viewer(volume, name)] for name in VIEWERS}
    assert {name for name, found in codes.items() if found == ["viewer.place"]} == lost


def test_the_command_ends_with_4_and_names_the_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = write(tmp_path / "volume.zarr", "ome-zarr-0.5")
    with pytest.raises(SystemExit) as ended:
        main(["validate", place, "--viewer", "fiji", "--json"])
    told = capsys.readouterr()
    assert ended.value.code == 4
    assert [finding["code"] for finding in json.loads(told.out)["findings"]] == ["viewer.format"]
    assert f"volumetool convert {place} NEW --format ome-zarr-0.4" in told.err


def test_an_unknown_viewer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--viewer paint is none of neuroglancer") as caught:
        check_viewer(open_volume(write(tmp_path / "volume", "n5")), "paint")
    assert caught.value.code == "config.viewer"


def test_python_with_m_runs_the_same_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "volumetool", "validate", write(tmp_path / "volume.zarr", "ome-zarr-0.5")]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0

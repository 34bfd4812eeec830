"""Boxes are ranked by the error that is expected of them, and stand where the volume says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_jobs import noise, write_input
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.storage.create import write_attributes

VOXEL = (30.0, 8.0, 8.0)
CHANNELS = ("image:grey", "expected-error:difference")


def expected(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Expect a tenth of each grey value as its error."""
    return np.stack([block, block / 10])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an output of 3 x 40 x 50 voxels with expected errors: 2, but 8 in one square and 4 in a section."""
    folder = tmp_path_factory.mktemp("rescan")
    voxels = np.full((3, 40, 50), 20.0, np.float32)
    voxels[2] = 40
    voxels[1, 16:32, 32:48] = 80
    voxels[0, 0, 0] += 1  # a volume of one value in each section says nothing of contrast
    write_input(folder / "in.zarr", voxels, voxel_size=VOXEL)
    assert vt.apply(expected, folder / "in.zarr", folder / "out.zarr", channels=CHANNELS).complete
    return folder / "out.zarr"


def test_the_best_boxes_are_named_with_what_rescanning_them_removes(output: Path) -> None:
    found = vt.rescan(output, size=(30, 128, 128), fraction=0.12)
    assert (found.size, found.of) == ((1, 16, 16), 3 * 3 * 4)
    first = found.boxes[0]
    assert str(first.box) == "1:2,16:32,32:48"
    assert first.expected_error == pytest.approx(8)
    assert first.gain == pytest.approx(8 * 0.128**2)
    assert {box.box.start[0] for box in found.boxes[1:]} == {2}
    assert [box.gain for box in found.boxes] == sorted((box.gain for box in found.boxes), reverse=True)
    area = sum(box.box.voxels for box in found.boxes) / 6000
    assert 0.12 <= area < 0.12 + 256 / 6000
    total = 2 * (2 * 2000 - 256) + 8 * 256 + 4 * 2000
    step = next(each for each in found.steps if each.fraction == pytest.approx(area))
    assert found.mean_error == pytest.approx(total / 6000, rel=1e-3)
    assert step.removed == pytest.approx((8 * 256 + 4 * (area * 6000 - 256)) / total, rel=1e-3)
    assert step.mean_error == pytest.approx(found.mean_error * (1 - step.removed))
    whole = vt.rescan(output, fraction=1.0)
    assert sum(box.box.voxels for box in whole.boxes) == 6000
    assert whole.steps[-1].mean_error == pytest.approx(0, abs=1e-9)


def test_boxes_stand_in_nm_and_where_the_stage_finds_them(output: Path, tmp_path: Path) -> None:
    (tmp_path / "stage.yaml").write_text("unit: um\nmatrix: [[0.001, 0, 0, 5], [0, 0, 0.001, 0], [0, -0.001, 0, 100]]\n")
    found = vt.rescan(output, size="30,128,128", fraction=0.01, stage=tmp_path / "stage.yaml", report=tmp_path / "boxes.csv")
    (box,) = found.boxes
    (z, y, x) = vt.open_volume(output).translation
    assert box.nm[0] == pytest.approx((z + 15, y + 15.5 * 8, x + 31.5 * 8))
    assert box.nm[1] == pytest.approx((z + 45, y + 31.5 * 8, x + 47.5 * 8))
    rows = list(csv.DictReader((tmp_path / "boxes.csv").read_text().splitlines()))
    assert [rows[0][name] for name in ("rank", "z_start", "y_start", "x_start", "x_stop")] == ["1", "1", "16", "32", "48"]
    middle = [(a + b) / 2 for a, b in zip(*box.nm, strict=True)]
    assert float(rows[0]["stage_z_um"]) == pytest.approx(middle[0] / 1000 + 5)
    assert float(rows[0]["stage_y_um"]) == pytest.approx(middle[2] / 1000)
    assert float(rows[0]["stage_x_um"]) == pytest.approx(100 - middle[1] / 1000)
    said = json.loads((tmp_path / "boxes.json").read_text())
    (feature,) = said["features"]
    ring = feature["geometry"]["coordinates"][0]
    assert (said["type"], said["unit"], feature["properties"]["rank"]) == ("FeatureCollection", "um", 1)
    assert ring[0] == ring[-1]
    assert len(ring) == 5
    assert np.ptp(np.array(ring), axis=0) == pytest.approx([0.128, 0.128])


def test_an_output_leads_to_the_trust_volume_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    write_input(tmp_path / "in.zarr", noise((1, 32, 32)))
    voxels = np.full((2, 1, 32, 32), 3, np.float32)
    write_input(tmp_path / "trust.zarr", voxels)
    write_attributes(
        str(tmp_path / "trust.zarr"), {"spec": {"trust": "float32"}, "channels": ["expected-error", "consistency"]}
    )
    write_attributes(str(tmp_path / "in.zarr"), {"job": {"trust": "trust.zarr"}})
    found = vt.rescan(tmp_path / "in.zarr")
    assert (found.output, found.mean_error) == (str(tmp_path / "trust.zarr"), 3)
    assert found == vt.rescan(tmp_path / "trust.zarr")
    for elsewhere in ("../trust.zarr", "https://h.example/trust.zarr", 3):
        write_attributes(str(tmp_path / "in.zarr"), {"job": {"trust": elsewhere}})
        with pytest.raises(InputError, match="no channel expected-error"):
            vt.rescan(tmp_path / "in.zarr")


def test_boxes_are_as_large_in_a_trust_volume_of_larger_voxels(tmp_path: Path) -> None:
    write_input(tmp_path / "trust.zarr", np.full((1, 1, 64, 64), 3, np.float32), voxel_size=(30.0, 32.0, 32.0))
    told = {"spec": {"trust": "float32"}, "channels": ["expected-error"], "block": [1, 4, 4]}
    write_attributes(str(tmp_path / "trust.zarr"), told)
    found = vt.rescan(tmp_path / "trust.zarr")
    assert (found.size, found.of) == ((1, 16, 16), 16)
    (start, stop) = found.boxes[0].nm
    assert [b - a for a, b in zip(start, stop, strict=True)] == [30, 512, 512]
    write_attributes(str(tmp_path / "trust.zarr"), told | {"block": [1, 0, "4"]})
    assert vt.rescan(tmp_path / "trust.zarr").size == (1, 64, 64)


@pytest.mark.slow
def test_the_trust_volume_of_a_network_is_ranked(tmp_path: Path) -> None:
    write_input(tmp_path / "in.zarr", noise((2, 40, 40)))
    network = {"model": "em-x4", "patch": "1,48,48", "overlap": "0,24,24", "chunk": "2,64,64", "workers": 1, "device": "cpu"}
    job = {"input": str(tmp_path / "in.zarr"), "output": str(tmp_path / "out.zarr"), "trust": str(tmp_path / "trust.zarr")}
    assert vt.run(vt.Job(**job, **network)).complete
    found = vt.rescan(tmp_path / "out.zarr")
    assert found.output == str(tmp_path / "trust.zarr")
    assert found.mean_error == pytest.approx(float(np.mean(vt.open_volume(tmp_path / "trust.zarr")[0])))


def test_the_command_prints_what_the_function_returns(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rescan", str(output), "--size", "30,128,128", "--json", "--report", str(tmp_path / "boxes.csv")])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kind"] == "rescan"
    found = vt.rescan(output, size=(30, 128, 128))
    assert {name: printed[name] for name in found.as_dict()} == json.loads(json.dumps(found.as_dict()))
    assert (tmp_path / "boxes.csv").read_text() == found.to_csv()
    with pytest.raises(SystemExit):
        main(["rescan", str(output)])
    assert "what rescanning removes" in capsys.readouterr().out


def test_what_cannot_be_ranked_is_refused(output: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no channel expected-error") as caught:
        vt.rescan(output.parent / "in.zarr")
    assert caught.value.code == "input.no-expected-error"
    with pytest.raises(ConfigError, match="a voxel has 30 x 8 x 8") as refused:
        vt.rescan(output, size=(30, 2, 2))
    assert refused.value.code == "config.rescan"
    (tmp_path / "stage.yaml").write_text("unit: mm\nmatrix: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]\n")
    with pytest.raises(ConfigError, match="matrix"):
        vt.rescan(output, stage=tmp_path / "stage.yaml")
    with pytest.raises(ConfigError, match="fraction"):
        vt.rescan(output, fraction=0)
    (tmp_path / "taken.csv").mkdir()
    with pytest.raises(OutputError):
        vt.rescan(output, report=tmp_path / "taken.csv")

"""An attestation finds what was planted in an output, whatever else is right, and good outputs pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import SMALL, write_input
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ConfigError, InputError, OutputError
from volumetool.evaluation.attestation import page
from volumetool.evaluation.attestation.seams import Seams
from volumetool.geometry import Box
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.records.volumes import volumes_of
from volumetool.processing.sections.quality import SectionQuality
from volumetool.processing.statistics import Statistics, no_normalisation
from volumetool.sealed import decode, is_sound
from volumetool.storage.create import open_for_writing

Floats = NDArray[np.float32]
JOB = SMALL | {"chunk": "4,16,16"}
Plant = Callable[[Floats], None]

NAMES = ["ledger", "bytes", "finite", "blank", "saturation", "histogram", "seams", "sections"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a finished job on something like noisy tissue: regions of 8 x 64 x 128 voxels of an output."""
    folder, random = tmp_path_factory.mktemp("finished"), np.random.default_rng(0)
    tissue = 100 + 400 * ndimage.gaussian_filter(random.normal(size=(16, 48, 64)), (1, 3, 3))
    write_input(folder / "in.zarr", (tissue + random.normal(0, 4, tissue.shape)).astype(np.float32))
    assert vt.enhance(folder / "in.zarr", folder / "out.zarr", **JOB).complete
    return folder


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """Give a copy of the finished job to plant something in."""
    for suffix in ("", ".job"):
        shutil.copytree(f"{finished / 'out.zarr'}{suffix}", tmp_path / f"out.zarr{suffix}")
    return tmp_path / "out.zarr"


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave charts out of pages: they take longer than all else."""
    monkeypatch.setattr(page, "draw", lambda chart: chart.title)


def change(output: Path, plant: Plant) -> None:
    plan = stored_plan(str(output))
    store = open_for_writing(str(output), plan.spec.layout)
    voxels = np.array(store.read().result())
    plant(voxels)
    store.write(voxels).result()


def failed(found: Any) -> set[str]:
    return {check.name for check in found.checks if check.state == "failed"}


def blank_chunk(voxels: Floats) -> None:
    voxels[4:8, 16:32, 32:48] = 100


def nan_chunk(voxels: Floats) -> None:
    voxels[4:6, :8, :8] = np.nan


def shifted_region(voxels: Floats) -> None:
    voxels[:8, :64, 128:] += 10  # a twentieth of the data window


def brighter_section(voxels: Floats) -> None:
    voxels[5] += 8


def other_window(voxels: Floats) -> None:
    voxels *= 1.3


PLANTED: list[tuple[Plant, str, Callable[[str], bool]]] = [
    (blank_chunk, "blank", lambda place: place == "4:8,16:32,32:48"),
    (nan_chunk, "finite", lambda place: place.startswith("0:8,0:64,")),
    (shifted_region, "seams", lambda place: ",128:129" in place),
    (brighter_section, "sections", lambda place: place.startswith(("4:6,", "5:7,"))),
    (other_window, "histogram", lambda _: True),
]


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(("plant", "name", "where"), PLANTED, ids=[name for _, name, _ in PLANTED])
def test_what_was_planted_is_found_where_it_is(output: Path, plant: Plant, name: str, where: Callable[[str], bool]) -> None:
    change(output, plant)
    found = vt.attest(output)
    assert not found.ok
    assert failed(found) >= {"bytes", name}
    (check,) = (each for each in found.checks if each.name == name)
    assert any(where(str(place)) for place in check.places) or name == "histogram"
    assert "Failed: bytes, " in Path(found.page).read_text()


def test_a_good_output_passes_and_its_report_is_sealed_and_names_what_it_is_about(finished: Path, tmp_path: Path) -> None:
    found = vt.attest(finished / "out.zarr", depth="full", report=tmp_path / "seen.json")
    assert found.ok
    assert [check.name for check in found.checks] == NAMES
    assert {check.state for check in found.checks} == {"passed"}
    raw = (tmp_path / "seen.json").read_bytes()
    assert is_sound(json.loads(raw))
    assert decode(raw)["fingerprint"] == stored_plan(str(finished / "out.zarr")).fingerprint
    with pytest.raises(ValueError, match="checksum"):
        decode(raw.replace(b'"ok": true', b'"ok": false'))
    text = (tmp_path / "seen.html").read_text()
    assert "All checks passed" in text
    assert text.count("<img ") == 2
    assert text.count("<svg ") == 3
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert not (finished / "out.zarr.job/attestation.json").exists()
    assert vt.attest(finished / "out.zarr", report=tmp_path / "again.json").records == found.records


@pytest.mark.usefixtures("no_charts")
def test_damage_and_unfinished_outputs_fail_and_lost_metadata_are_told(output: Path) -> None:
    shard = next(file for file in sorted((output / "0" / "c").rglob("*")) if file.is_file())
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-9])
    assert "bytes" in failed(vt.attest(output))
    shard.write_bytes(sound)
    assert vt.attest(output).ok
    (output / "0" / "zarr.json").unlink()
    lost = vt.attest(output)
    assert failed(lost) == {"bytes"}
    assert {check.state for check in lost.checks[2:]} == {"not applicable"}
    (output.with_name("out.zarr.job") / "plan.json").write_text("{}")
    assert failed(vt.attest(output)) == {"ledger", "bytes"}


@pytest.mark.usefixtures("no_charts")
def test_an_unfinished_output_fails_and_a_part_can_be_read(finished: Path, tmp_path: Path) -> None:
    vt.enhance(finished / "in.zarr", tmp_path / "part.zarr", roi="8:16,:,:", **JOB)
    found = vt.attest(tmp_path / "part.zarr", sample="1/2")
    assert failed(found) == {"ledger"}
    assert found.sample == "1/2"
    assert "6 of 12 regions done" in found.checks[0].found


@pytest.mark.usefixtures("no_charts")
def test_a_trust_volume_is_verified_with_the_output_and_looked_at_for_nan(finished: Path, tmp_path: Path) -> None:
    trust = tmp_path / "trust.zarr"
    assert vt.enhance(finished / "in.zarr", tmp_path / "out.zarr", trust=trust, **JOB).complete
    assert vt.attest(tmp_path / "out.zarr").ok
    volume = volumes_of(stored_plan(str(tmp_path / "out.zarr")))[1]
    open_for_writing(str(trust), volume.layout)[4:6, :8, :8].write(np.float32("nan")).result()
    assert failed(vt.attest(tmp_path / "out.zarr")) == {"bytes", "finite"}


def test_short_borders_of_thin_regions_are_no_seams() -> None:
    """Their means vary more, and nothing inside says how much."""
    random, seams = np.random.default_rng(0), Seams((16, 64, 64))

    def noise(box: Box) -> NDArray[np.float64]:
        return random.normal(0, 0.1, box.shape)

    for number in range(20):
        seams.add(2, Box((0, 64 * number, 64), (64, 64 * number + 64, 128)), 1, noise, noise)
        seams.add(2, Box((0, 16 * number, 128), (3, 16 * number + 16, 131)), 1, noise, noise)
    assert (len(seams.shifts.borders), len(seams.shifts.inside)) == (40, 40)
    assert seams.found == []

    def brighter(box: Box) -> NDArray[np.float64]:
        return noise(box) + (np.arange(box.start[2], box.stop[2]) >= 64) / 20

    seams.add(2, Box((0, 0, 64), (64, 64, 128)), 1, brighter, noise)
    assert [str(place) for place in seams.found] == ["0:64,0:64,64:65"]


@pytest.mark.usefixtures("no_charts")
def test_a_bad_section_that_was_filled_is_no_seam_and_no_jump(finished: Path, tmp_path: Path) -> None:
    voxels = np.array(vt.open_volume(finished / "in.zarr")[:])
    voxels[8] = 0  # the first of its regions
    write_input(tmp_path / "in.zarr", voxels)
    none = no_normalisation(1, len(voxels))
    verdicts = tuple("blank" if z == 8 else "ok" for z in range(len(voxels)))
    table = Statistics(none.low, none.high, quality=SectionQuality.of((verdicts,), {}))
    (tmp_path / "sections.csv").write_text(table.to_csv())
    repaired = {"repair_sections": "fill", "statistics": tmp_path / "sections.csv"}
    assert vt.enhance(tmp_path / "in.zarr", tmp_path / "out.zarr", **JOB, **repaired).complete
    assert vt.open_volume(tmp_path / "out.zarr")[8].any()
    found = vt.attest(tmp_path / "out.zarr")
    assert found.ok, found.checks


@pytest.mark.usefixtures("no_charts")
def test_masks_are_not_compared_with_grey_values(finished: Path, tmp_path: Path) -> None:
    vt.apply("threshold:value=100", finished / "in.zarr", tmp_path / "mask.zarr")
    found = vt.attest(tmp_path / "mask.zarr")
    assert found.ok
    assert [check.state for check in found.checks] == ["passed"] * 3 + ["not applicable"] * 5


@pytest.mark.usefixtures("no_charts")
def test_an_input_that_is_another_volume_now_is_refused(finished: Path, output: Path, tmp_path: Path) -> None:
    moved = tmp_path / "in.zarr"
    write_input(moved, np.ones((4, 20, 20), np.float32))
    shutil.move(finished / "in.zarr", finished / "kept.zarr")
    try:
        with pytest.raises(InputError):
            vt.attest(output)
        shutil.copytree(moved, finished / "in.zarr")
        with pytest.raises(InputError) as caught:
            vt.attest(output)
        assert caught.value.code == "input.changed"
        shutil.rmtree(finished / "in.zarr")
    finally:
        shutil.move(finished / "kept.zarr", finished / "in.zarr")
    with pytest.raises(OutputError):
        vt.attest(finished / "in.zarr")
    with pytest.raises(ConfigError):
        vt.attest(output, sample="3/2")


@pytest.mark.usefixtures("no_charts")
def test_the_command_ends_with_4_where_a_check_fails(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["attest", str(output), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kind"] == "attestation"
    assert decode(output.with_name("out.zarr.job").joinpath("attestation.json").read_bytes()).items() <= printed.items()
    change(output, nan_chunk)
    with pytest.raises(SystemExit) as ended:
        main(["attest", str(output)])
    assert ended.value.code == 4
    told = capsys.readouterr()
    assert "finite" in told.out
    assert "failed: finite: " in told.err


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(
    ("file", "voxel_size", "options"),
    [
        ("fib25-fibsem/fib25_train1.tif", "8,8,8", {}),
        ("isbi2012-sstem/isbi2012_train.tif", "50,4,4", {}),
        ("fib25-fibsem/fib25_train1.tif", "8,8,8", {"roi": "3:16,5:120,9:110", "crop": True}),  # borders of 5 x 37 voxels
    ],
)
def test_good_outputs_of_real_data_pass(
    data: Path, tmp_path: Path, file: str, voxel_size: str, options: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "raw.tif", tifffile.imread(data / file)[:16, :128, :128], photometric="minisblack")
    vt.convert(tmp_path / "raw.tif", tmp_path / "raw.zarr", voxel_size=voxel_size)
    layout = {"chunk": "8,32,32", "shard": "8,64,64", "region": "1,1,1", "device": "cpu"}
    vt.apply("gaussian:sigma=0,1,1", tmp_path / "raw.zarr", tmp_path / "out.zarr", **layout, **options)
    found = vt.attest(tmp_path / "out.zarr")
    assert found.ok, found.checks
    assert {check.state for check in found.checks} == {"passed"}

"""A job is its fingerprint: every setting that changes a byte is refused by name, every other one may change."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import FingerprintError, LedgerError
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.planning.conflicts import differences, resume_command
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import write_plan
from volumetool.options import Kind, kinds
from volumetool.processing.spec import NUMERICS_VERSION
from volumetool.processing.statistics import no_normalisation
from volumetool.storage.create import write_attributes

# Of every semantic field: another value, and a term that the refusal must name. A path stands for a file made by `world`.
OTHER: dict[str, tuple[Any, str]] = {
    "input": ("other.zarr", "input"),
    "model": ("fake:box?patch=1,16,16&overlap=0,4,4&trim=0,1,1", "model"),
    "level": (1, "level"),
    "voxel_size": ("8,30,30", "levels.0.voxel_size"),
    "patch": ("1,12,12", "lattice.y.stride"),
    "overlap": ("0,6,6", "lattice.x.overlap"),
    "exact": (True, "lattice.y.overlap"),
    "precision": ("bfloat16", "precision"),
    "statistics": ("sections.csv", "statistics"),
    "seed": (1, "seed"),
    "repair_sections": ("leave", "repair"),
    "equalise_sections": (True, "equalise_sections"),
    "invert": (True, "invert"),
    "nodata": (0, "nodata"),
    "fill": (7, "fill"),
    "mask": ("mask.zarr", "mask"),
    "missing": ("skip", "missing"),
    "dtype": ("uint16", "dtype"),
    "chunk": ("4,16,16", "levels.0.chunk"),
    "shard": ("8,16,32", "levels.0.shard"),
    "crop": (True, "box.stop"),
    "trust": ("trust.zarr", "trust"),
}

# Of every runtime field: another value.
FREE: dict[str, Any] = {
    "output": "moved.zarr",
    "roi": "0:2,:,:",
    "workers": 2,
    "cluster": "tcp://127.0.0.1:1",
    "dashboard": True,
    "device": "auto",
    "memory": "3GiB",
    "region": "1,2,2",
    "patch_cache": "always",
    "hang_timeout": 5.0,
    "retry_quarantined": True,
    "batch": 3,
    "input_check": "strict",
    "recompute_changed": True,
    "force_voxel_size": True,
    "allow_mixed_numerics": True,
    "accept_failed": True,
    "gate": "strict",
    "part": "1/2",
    "io_limit": "500MB/s",
    "open_files": 40,
    "notify": "mailto:me@example.org",
    "overwrite": True,
}

PATHS = ("input", "statistics", "mask", "output", "trust")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a job that was begun, and files beside it that another one could name."""
    folder = tmp_path_factory.mktemp("begun")
    voxels = noise((10, 37, 45))
    write_input(folder / "in.zarr", voxels, levels=2, chunk=(4, 32, 32))
    write_input(folder / "other.zarr", voxels, levels=2, chunk=(4, 32, 64))
    write_input(folder / "mask.zarr", voxels, chunk=(4, 32, 64))
    statistics = no_normalisation(1, 10)
    statistics.high[:] = 2.0
    (folder / "sections.csv").write_text(statistics.to_csv())
    run(**job_options(folder))
    return folder


@pytest.fixture
def world(begun: Path, tmp_path: Path) -> dict[str, Any]:
    """Give the options of the begun job, in a folder of its own."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return job_options(tmp_path)


def job_options(folder: Path) -> dict[str, Any]:
    paths = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr")}
    return paths | SMALL | {"roi": "0:4,0:20,0:20"}


def changed(world: dict[str, Any], tmp_path: Path, name: str, value: Any) -> dict[str, Any]:
    return world | {name: str(tmp_path / value) if name in PATHS else value}


def test_a_field_that_is_no_option_is_noticed() -> None:
    class Longer(Job):
        mood: str = "good"

    with pytest.raises(TypeError, match=r"Longer\.mood is declared neither"):
        kinds(Longer)


def test_every_option_is_either_semantic_or_runtime_and_has_another_value_here() -> None:
    """But for the format: others have no shards, which the job here asks for; see `test_output_formats`.

    And but for a second volume, which the model here does not take, see `test_second_volume`; and for what it knows nothing
    of, see `test_store_error` and `test_spread`.
    """
    declared = kinds(Job)
    assert {name for name, kind in declared.items() if kind is Kind.SEMANTIC} == {
        *OTHER,
        "format",
        "with_",
        "store_error",
        "tta",
    }
    assert {name for name, kind in declared.items() if kind is Kind.RUNTIME} == set(FREE)


@pytest.mark.parametrize("name", OTHER)
def test_a_job_with_another_semantic_field_is_refused_and_the_field_named(
    world: dict[str, Any], begun: Path, tmp_path: Path, name: str
) -> None:
    """As it is typed, with both values; the terms are for programs; the command that is told goes on."""
    value, term = OTHER[name]
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**changed(world, tmp_path, name, value)))
    assert caught.value.code == "job.fingerprint"
    lines = [line.strip() for line in caught.value.message.splitlines()[1:]]
    assert [line.partition(":")[0] for line in lines] == ["INPUT" if name == "input" else f"--{name.replace('_', '-')}"]
    assert all(" then, " in line and line.endswith(" now") for line in lines)
    assert term in {line.partition(":")[0] for line in caught.value.as_dict()["detail"].splitlines()}
    assert f"\n  {term}: " not in str(caught.value)
    first = world | ({"input": str(begun / "in.zarr")} if name in ("input", "level", "voxel_size") else {})
    assert f"to go on with it: {resume_command(make_job(**first))}\n" in caught.value.hint


@pytest.mark.parametrize(
    ("harm", "word"), [("input", "the input"), ("statistics", "the table of section statistics"), ("mask", "--mask")]
)
def test_what_was_changed_behind_an_option_that_is_the_same_is_named(
    world: dict[str, Any], tmp_path: Path, harm: str, word: str
) -> None:
    world |= {harm: str(tmp_path / OTHER[harm][0]), "output": str(tmp_path / "new.zarr")}
    assert run(**world).done
    if harm == "statistics":
        table = Path(world["statistics"])
        table.write_text(table.read_text().replace("2.0", "3.0"))
    else:
        shutil.rmtree(world[harm])
        write_input(Path(world[harm]), noise((10, 37, 45)), levels=2, chunk=(2, 32, 32))
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**world))
    (line,) = caught.value.message.splitlines()[1:]
    assert line.strip().startswith(word)


@pytest.mark.parametrize("name", FREE)
def test_a_job_with_another_runtime_field_goes_on(world: dict[str, Any], tmp_path: Path, name: str) -> None:
    before = plan(make_job(**world))
    if name == "output":
        for suffix in ("", ".job"):
            shutil.copytree(f"{world['output']}{suffix}", tmp_path / f"moved.zarr{suffix}")
    now = plan(make_job(**changed(world, tmp_path, name, FREE[name])))
    assert now.fingerprint == before.fingerprint
    assert getattr(now.job, name) != getattr(before.job, name)
    if name != "overwrite":
        assert (now.grid, now.numerics, now.probe) == (before.grid, before.numerics, before.probe)


def test_a_job_of_another_version_is_refused_with_that_reason(world: dict[str, Any]) -> None:
    """Its bytes would be others; a list of settings that the user never chose would not help."""
    begun = plan(make_job(**world))
    spec = begun.spec.model_copy(update={"numerics_version": NUMERICS_VERSION - 1})
    old = begun.model_copy(update={"spec": spec, "fingerprint": spec.fingerprint})
    write_plan(old)
    write_attributes(old.output, old.provenance("unfinished"))
    with pytest.raises(FingerprintError, match="begun by another version"):
        Worker(old)  # verify --recompute would take it for damaged
    with pytest.raises(FingerprintError, match="begun by another version") as caught:
        plan(make_job(**world))
    assert caught.value.code == "job.fingerprint"
    assert f"{NUMERICS_VERSION - 1} then, {NUMERICS_VERSION} now" in caught.value.message


def test_a_copied_input_is_the_same_input(world: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(world["input"], tmp_path / "copy.zarr")
    assert plan(make_job(**world | {"input": str(tmp_path / "copy.zarr")})).fingerprint == plan(make_job(**world)).fingerprint


@pytest.mark.parametrize(
    "edit",
    [
        lambda array: array["shape"].__setitem__(0, 9),
        lambda array: array.update(data_type="int8"),
        lambda array: array.update(fill_value=3),
    ],
    ids=["shape", "dtype", "fill"],
)
def test_an_input_with_other_metadata_is_refused(world: dict[str, Any], edit: Callable[[Any], None]) -> None:
    file = Path(world["input"]) / "0" / "zarr.json"
    array = json.loads(file.read_text())
    edit(array)
    file.write_text(json.dumps(array))
    if array["data_type"] != "uint8":  # all levels alike, or the input is refused for that
        second = Path(world["input"]) / "1" / "zarr.json"
        second.write_text(second.read_text().replace('"uint8"', '"int8"'))
    with pytest.raises(FingerprintError) as caught:
        plan(make_job(**world))
    assert "\n  INPUT: " in caught.value.message


def test_a_note_in_the_inputs_attributes_changes_nothing(world: dict[str, Any]) -> None:
    before = plan(make_job(**world)).fingerprint
    file = Path(world["input"]) / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["note"] = "seen by somebody"
    file.write_text(json.dumps(group))
    assert plan(make_job(**world)).fingerprint == before


def test_a_table_of_statistics_that_was_edited_is_refused_and_a_deleted_one_is_written_again(
    world: dict[str, Any],
) -> None:
    table = Path(f"{world['output']}.job") / "sections.csv"
    before = table.read_text()
    rows = list(csv.DictReader(before.splitlines()))
    rows[3]["high"] = "9.0"
    lines = [",".join(row.values()) for row in rows]
    table.write_text("\n".join(["channel,z,low,high", *lines]) + "\n")
    with pytest.raises(LedgerError) as caught:
        run(**world)
    assert caught.value.code == "ledger.sections"
    table.unlink()
    run(**world)
    assert table.read_text() == before


def test_a_plan_of_another_version_is_refused_and_can_be_overwritten(world: dict[str, Any]) -> None:
    file = Path(f"{world['output']}.job") / "plan.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"mood": "good"}))
    with pytest.raises(LedgerError) as caught:
        plan(make_job(**world))
    assert caught.value.code == "ledger.plan"
    assert run(**world | {"overwrite": True, "roi": ":,:,:"}).complete


def test_differences_are_named_down_to_the_value() -> None:
    old = {"a": 1, "levels": [{"chunk": [1, 2], "shard": 3}, {"chunk": [1, 2], "shard": 3}], "b": {"c": {"d": 1}}}
    new = {"a": 1, "levels": [{"chunk": [1, 2], "shard": 3}, {"chunk": [1, 9], "shard": 3}], "b": {"c": {"d": 2}}, "e": None}
    assert differences(old, new) == [("b.c.d", 1, 2), ("levels.1.chunk", [1, 2], [1, 9])]
    shorter = {**old, "levels": old["levels"][:1]}  # type: ignore[index]
    assert [name for name, _, _ in differences(old, shorter)] == ["levels"]
    assert differences(old, old) == []

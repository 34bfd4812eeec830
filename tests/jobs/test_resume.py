"""A job goes on where it stopped, however it was stopped, and ends with the same bytes."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_jobs import (
    SMALL,
    Interrupting,
    Recording,
    assert_means,
    attributes,
    digest,
    noise,
    read_levels,
    run,
    shard_files,
    states,
    tree,
    write_input,
)

from volumetool.errors import DataError
from volumetool.jobs import preparation
from volumetool.jobs import run as module
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.jobs.records.ledger import DONE, FAILED, Ledger
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.status import job_status

Options = dict[str, Any]
Flip = Callable[[Path, int], None]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the digest of the job done in one go."""
    folder = tmp_path_factory.mktemp("straight")
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    assert run(input=str(folder / "in.zarr"), output=str(folder / "out.zarr"), **SMALL).complete
    return digest(folder / "out.zarr")


def test_a_part_first_and_then_the_whole(options: Options, straight: str) -> None:
    first, second = Recording(), Recording()
    part = run(first, **options | {"roi": "0:3,0:9,0:9"})
    assert (part.complete, part.exit_code) == (False, 0)
    assert 0 < len(first.ended) < part.regions
    assert attributes(options["output"])["status"] == "unfinished"
    whole = run(second, **options)
    assert (whole.complete, whole.exit_code) == (True, 0)
    assert {ended.region for ended in first.ended} | {ended.region for ended in second.ended} == set(range(whole.regions))
    assert not {ended.region for ended in first.ended} & {ended.region for ended in second.ended}
    assert attributes(options["output"])["status"] == "complete"
    assert digest(options["output"]) == straight


def test_the_levels_over_a_part_are_there_before_the_whole_is(options: Options) -> None:
    """Coarse levels hold the shadows of every region that was computed, also beyond the box that was asked for."""
    run(**options | {"roi": "4:5,20:21,22:23"})
    assert (read_levels(options["output"])[-1] != 0).any()
    assert_means(options["output"])


def test_running_twice_finds_nothing_to_do(options: Options) -> None:
    run(**options)
    before = tree(Path(options["output"]))
    again = Recording()
    outcome = run(again, **options)
    assert (outcome.complete, outcome.ran, again.ended) == (True, 0, [])
    assert tree(Path(options["output"])) == before


@pytest.mark.parametrize("chunk", ["0/0/0", "1/1/1"], ids=["corner", "the middle, which the plan samples"])
def test_a_damaged_input_chunk_costs_its_regions_alone(options: Options, change: Flip, straight: str, chunk: str) -> None:
    file = Path(options["input"]) / "0" / "c" / chunk
    sound = file.read_bytes()
    change(file, len(sound) // 2)
    outcome = run(**options)
    assert (outcome.complete, outcome.exit_code) == (False, 3)
    assert 0 < outcome.failed < outcome.regions
    assert outcome.done == outcome.regions - outcome.failed
    for record in outcome.failures:
        assert record.error["code"] == "data.unreadable"
        assert "input voxels " in record.error["message"]
        assert record.error["hint"]
    assert [index for index, state in enumerate(states(outcome)) if state == FAILED] == [r.region for r in outcome.failures]
    assert attributes(options["output"])["status"] == "unfinished"

    file.write_bytes(sound)
    again = Recording()
    outcome = run(again, **options)
    assert (outcome.complete, outcome.exit_code, outcome.failed) == (True, 0, 0)
    assert len(again.ended) == outcome.ran < outcome.regions
    assert digest(options["output"]) == straight


def test_a_job_in_which_nothing_works_stops_soon_and_says_why(tmp_path: Path, change: Flip) -> None:
    """Sixteen regions in a row are no bad luck; accepted failures go to the end."""
    source = write_input(tmp_path / "in.zarr", noise((8, 80, 80)), chunk=(8, 40, 40))
    for file in (source / "0" / "c").rglob("*"):
        if file.is_file():
            change(file, file.stat().st_size // 2)
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "region": "1,1,1"}
    with pytest.raises(DataError, match="16 regions in a row failed") as caught:
        run(**options)
    assert caught.value.code == "data.failing"
    ledger = open_ledger(stored_plan(options["output"]))
    assert (len(ledger.failures), ledger.done) == (16, 0)
    outcome = run(**options | {"accept_failed": True})
    assert outcome.failed == outcome.regions > 16


def test_accepted_failures_are_listed_as_holes_and_can_still_be_filled(options: Options, change: Flip, straight: str) -> None:
    file = Path(options["input"]) / "0" / "c" / "0" / "0" / "0"
    sound = file.read_bytes()
    change(file, 40)
    outcome = run(**options | {"accept_failed": True})
    assert (outcome.complete, outcome.exit_code) == (True, 0)
    own = attributes(options["output"])
    assert own["status"] == "complete"
    assert own["holes"] == [{"region": r.region, "box": str(outcome.plan.grid.region(r.region).box)} for r in outcome.failures]
    assert own["holes"]

    file.write_bytes(sound)
    assert run(**options).complete
    assert attributes(options["output"])["holes"] == []
    assert digest(options["output"]) == straight


def test_a_hole_filled_by_a_run_that_dies_early_still_reaches_the_coarse_levels(
    options: Options, change: Flip, straight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(options["input"]) / "0" / "c" / "0" / "0" / "0"
    sound = file.read_bytes()
    change(file, 40)
    run(**options | {"accept_failed": True})
    file.write_bytes(sound)
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_coarse_levels", _die)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
    assert run(**options).complete
    assert attributes(options["output"])["holes"] == []
    assert digest(options["output"]) == straight


def _die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_coarse_levels_of_parts_that_killed_runs_left_are_built_by_the_same_command_or_another(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = {"roi": ":,0:8,:"}, {"roi": ":,34:36,:"}
    whole = options | {"output": str(tmp_path / "whole.zarr")}
    run(**whole | first)
    expected = digest(whole["output"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_coarse_levels", _die)
        with pytest.raises(KeyboardInterrupt):
            run(**options | first)
    assert digest(options["output"]) != expected
    assert run(**options | first).exit_code == 0
    assert digest(options["output"]) == expected
    with monkeypatch.context() as patch:
        patch.setattr(module, "build_coarse_levels", _die)
        run(**options | first)  # they are there
        with pytest.raises(KeyboardInterrupt):
            run(**options | {"roi": ":,17:20,:"})
    for part in ({"roi": ":,17:20,:"}, second):
        run(**whole | part)
    run(**options | second)
    assert digest(options["output"]) == digest(whole["output"])


def test_what_is_to_be_computed_again_takes_complete_back_first(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    run(**options)
    file = Path(options["input"]) / "0" / "c" / "0" / "0" / "0"
    shutil.copy(file.with_name("1"), file)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", _die)
        with pytest.raises(KeyboardInterrupt):
            run(**options | {"recompute_changed": True})
    assert attributes(options["output"])["status"] == "unfinished"


@pytest.mark.thin(3)
@pytest.mark.parametrize("step", ["write_plan", "create_volume", "open_cluster", "build_coarse_levels", "finish", "write_maps"])
def test_a_run_that_dies_at_any_step_can_be_taken_up(
    options: Options, straight: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module if hasattr(module, step) else preparation, step, _die)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
    assert run(**options).complete
    assert digest(options["output"]) == straight


@pytest.mark.parametrize("after", [1, 7])
def test_ctrl_c_keeps_what_was_finished(options: Options, straight: str, after: int) -> None:
    stopped = Interrupting(after)
    with pytest.raises(KeyboardInterrupt):
        run(stopped, **options)
    again = Recording()
    outcome = run(again, **options)
    assert outcome.complete
    assert len(again.ended) == outcome.regions - after
    assert not {ended.region for ended in again.ended} & {ended.region for ended in stopped.ended}
    assert digest(options["output"]) == straight


def test_overwriting_starts_anew(options: Options, straight: str) -> None:
    other = "fake:constant?value=3&patch=1,16,16&overlap=0,4,4&trim=0,1,1"
    run(**options | {"model": other, "shard": "4,64,64", "chunk": "4,16,16"})
    again = Recording()
    outcome = run(again, **options | {"overwrite": True})
    assert (outcome.complete, len(again.ended)) == (True, outcome.regions)
    assert digest(options["output"]) == straight
    assert {file.parts[0] for file in _below(options["output"])} == {
        "zarr.json",
        *map(str, range(len(outcome.plan.spec.levels))),
    }


def _below(folder: str) -> list[Path]:
    return [file.relative_to(folder) for file in Path(folder).rglob("*") if file.is_file()]


def test_overwriting_that_dies_half_way_never_leaves_records_without_voxels(
    options: Options, straight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(**options)
    for dying in range(3):
        done: list[str] = []

        def delete_some(url: str, _last: str = "", dying: int = dying, done: list[str] = done) -> None:
            if len(done) == dying:  # within this deletion: the metadata are still there
                for file in Path(url).rglob("*"):
                    if file.is_file() and file.name != "zarr.json":
                        file.unlink()
                raise KeyboardInterrupt
            done.append(url)
            shutil.rmtree(url, ignore_errors=True)

        with monkeypatch.context() as patch:
            patch.setattr(preparation, "delete_segments", lambda folder, _: delete_some(f"{folder}/ledger"))
            patch.setattr(preparation, "delete_prefix", delete_some)
            with pytest.raises(KeyboardInterrupt):
                run(**options | {"overwrite": True})
        group = Path(options["output"]) / "zarr.json"
        assert dying == 0 or not group.exists() or attributes(options["output"])["status"] == "unfinished"
        assert run(**options).complete
        assert digest(options["output"]) == straight


def test_records_without_their_volume_count_for_nothing(options: Options, straight: str) -> None:
    run(**options)
    shutil.rmtree(options["output"])
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, outcome.regions)
    assert digest(options["output"]) == straight


@pytest.mark.parametrize("which", ["zarr.json", "0/zarr.json"])
def test_a_volume_without_records_is_created_again_over_what_is_left(options: Options, straight: str, which: str) -> None:
    """What is left is half-created or half-deleted: it holds nothing that is known to be right."""
    run(**options)
    shutil.rmtree(Path(f"{options['output']}.job") / "ledger")
    (Path(options["output"]) / which).unlink()
    outcome = run(**options)
    assert (outcome.complete, outcome.ran) == (True, outcome.regions)
    assert digest(options["output"]) == straight


def test_a_damaged_ledger_line_costs_its_region_alone(options: Options, change: Flip, straight: str) -> None:
    run(**options)
    fence, *segments = sorted((Path(f"{options['output']}.job") / "ledger").glob("*.jsonl"))  # a slow run has several
    assert fence.stat().st_size == 0
    change(segments[0], 3)
    again = Recording()
    assert run(again, **options).complete
    assert len(again.ended) == 1
    assert digest(options["output"]) == straight


def test_a_torn_shard_is_written_anew(options: Options, straight: str) -> None:
    """What a power cut leaves, a shard that is short and a region without a record, does not trouble the next run."""
    run(**options)
    torn = [file for file in shard_files(Path(options["output"]) / "0") if file.name == "0"]
    for file in torn:
        file.write_bytes(file.read_bytes()[:-30])
    shutil.rmtree(Path(f"{options['output']}.job") / "ledger")
    outcome = run(**options)
    assert outcome.complete, outcome.failures
    assert digest(options["output"]) == straight


def test_status_tells_what_is_and_what_to_do(options: Options, change: Flip) -> None:
    change(Path(options["input"]) / "0" / "c" / "0" / "0" / "0", 40)
    outcome = run(**options)
    status = job_status(outcome.plan)
    assert (status.state, status.done, status.failed) == ("idle", outcome.done, outcome.failed)
    assert status.regions == outcome.regions
    assert {failure["code"] for failure in status.failures} == {"data.unreadable"}
    assert status.patches == open_ledger(outcome.plan).totals().patches
    assert status.next_command.startswith("volumetool enhance ")


@pytest.mark.parametrize("more", [{}, {"nodata": 0, "fill": 7, "equalise_sections": True, "roi": "1:9,2:30,:", "crop": True}])
def test_the_command_that_status_names_goes_on_with_the_job(options: Options, more: Options) -> None:
    first = run(**options | {"roi": "0:4,:,:"} | more).plan
    program, command, source, output, *words = shlex.split(resume_command(stored_plan(options["output"]).job))
    assert (program, command) == ("volumetool", "enhance")
    given = (word.removeprefix("--").partition("=") for word in words)
    again = {name.replace("-", "_"): value if equals else True for name, equals, value in given}
    outcome = run(**again, input=source, output=output)
    assert (outcome.complete, outcome.plan.fingerprint) == (True, first.fingerprint)


def test_the_map_of_states_is_the_ledgers(options: Options, change: Flip) -> None:
    import tensorstore as ts

    change(Path(options["input"]) / "0" / "c" / "0" / "0" / "0", 40)
    outcome = run(**options)
    stored = ts.open({"driver": "zarr3", "kvstore": f"file://{options['output']}.job/maps/state/"}).result().read().result()
    assert stored.shape == (1, *outcome.plan.grid.grid)
    assert stored.ravel().tolist() == states(outcome)
    assert DONE in stored
    assert FAILED in stored

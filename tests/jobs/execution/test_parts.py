"""A job in parts: drivers that know nothing of each other make one output, whatever happens to them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from small_jobs import SMALL_3D, Interrupting, attributes, digest, noise, run, write_input

from volumetool.errors import ConfigError, FingerprintError, LedgerError
from volumetool.events import Event, Progressed
from volumetool.jobs import run as running
from volumetool.jobs.execution.clean import clean_output
from volumetool.jobs.job import make_job
from volumetool.jobs.part import end_parts
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.lease import own
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.parts import own_job, part_states
from volumetool.jobs.records.plan_file import open_ledger, read_plan, stored_plan
from volumetool.jobs.verification.verify import verify
from volumetool.storage.io.kvstore import delete_key

SLOW: dict[str, Any] = SMALL_3D | {"model": SMALL_3D["model"] + "&seconds=0.02"}
SHAPE = (16, 40, 40)
KILLS = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_input(tmp_path_factory.mktemp("in") / "in.zarr", noise(SHAPE), chunk=(8, 16, 16)))


@pytest.fixture(scope="module")
def straight(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("straight") / "out.zarr")
    assert run(input=source, output=output, **SMALL_3D).complete
    return digest(output)


def start(source: str, output: Path, part: str, log: Path, job: dict[str, Any] = SLOW) -> subprocess.Popen[bytes]:
    """Start the driver of a part as a program."""
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", source, str(output), f"--part={part}"]
    options = [f"--{name}={value}" for name, value in job.items()]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*command, *options, "--workers=1", "--log-format=json"],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def recorded(output: Path) -> int:
    """Return how many lines all ledgers have, without the product's help."""
    segments = Path(f"{output}.job").rglob("ledger/*.jsonl")
    return sum(len(segment.read_bytes().splitlines()) for segment in segments)


def kill_after_a_record(process: subprocess.Popen[bytes], output: Path) -> None:
    before = recorded(output)
    while recorded(output) == before and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_region_that_keeps_failing_is_tried_once_by_who_takes_any_part_and_holds_up_no_other(
    source: str, tmp_path: Path
) -> None:
    shutil.copytree(source, tmp_path / "in.zarr")
    (tmp_path / "in.zarr/0/c/0/0/0").write_bytes(b"no chunk")
    job = {**SMALL_3D, "input": str(tmp_path / "in.zarr"), "output": str(tmp_path / "out.zarr")}
    assert run(**job, part="0/2").exit_code == 3
    outcome = run(**job, part="any")
    assert (outcome.exit_code, outcome.complete, outcome.done) == (3, False, outcome.regions - outcome.failed)
    assert run(**job, part="any").exit_code == 3  # nobody says what is left is a mistake of the user


def test_a_driver_that_leaves_the_end_to_one_that_leaves_it_to_this_one_looks_again(
    source: str, straight: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    @contextmanager
    def first_another_is_there(*given: Any) -> Iterator[bool]:
        looks.append(1)
        if len(looks) == 1:
            yield False
        else:
            with end_parts(*given) as alone:
                yield alone

    monkeypatch.setattr(running, "end_parts", first_another_is_there)
    assert run(input=source, output=str(tmp_path / "out.zarr"), **SMALL_3D, part="0/1").complete
    assert digest(str(tmp_path / "out.zarr")) == straight


def test_parts_one_after_the_other_make_the_bytes_of_the_whole_and_the_last_one_ends_the_job(
    source: str, straight: str, tmp_path: Path
) -> None:
    built = []

    def note(event: Event) -> None:
        if isinstance(event, Progressed) and event.what == "coarse levels":
            built.append(part)

    for part in ("2/3", "0/3", "1/3"):
        outcome = run(note, input=source, output=str(tmp_path / "out.zarr"), part=part, **SMALL_3D)
        assert outcome.exit_code == 0
    assert outcome.complete
    assert set(built) == {"1/3"}
    assert digest(tmp_path / "out.zarr") == straight
    assert verify(outcome.plan.whole).ok


def test_parts_hold_every_region_once_and_follow_one_another(source: str, tmp_path: Path) -> None:
    decided = plan(make_job(input=source, output=str(tmp_path / "out.zarr"), part="0/5", **SMALL_3D))
    parts = [decided.model_copy(update={"job": decided.job.model_copy(update={"part": f"{n}/5"})}) for n in range(5)]
    assert [region for part in parts for region in part.asked] == list(range(decided.grid.count))
    sizes = [len(part.asked) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_two_drivers_at_once_one_of_which_is_killed_and_taken_over_make_the_same_bytes(
    source: str, straight: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    drivers = [start(source, output, f"{number}/2", tmp_path / f"log{number}") for number in range(2)]
    kill_after_a_record(drivers[0], output)
    assert drivers[1].wait(timeout=240) in (0, -signal.SIGKILL)
    outcome = run(input=source, output=str(output), part="any", **SLOW)
    assert outcome.complete
    assert digest(output) == straight
    assert verify(stored_plan(str(output))).ok


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_parts_each_killed_ten_times_and_one_taken_over_make_the_same_bytes(tmp_path: Path) -> None:
    """Part 3 is killed at last and never started again by its number; the coarse levels are built once."""
    source = str(write_input(tmp_path / "in.zarr", noise((24, 40, 130))))
    assert run(input=source, output=str(tmp_path / "straight.zarr"), **SMALL_3D).complete
    output, chance = tmp_path / "out.zarr", np.random.default_rng(5)
    slower = SMALL_3D | {"model": SMALL_3D["model"] + "&seconds=0.08"}

    def drive(number: int) -> int:
        """Start a part and kill it after some records, again and again; return how it ends when it is left alone."""
        ledger = Path(f"{output}.job/parts/{number}/ledger")
        for kill in range(KILLS):
            before = len(list(ledger.glob("*.jsonl")))
            process = start(source, output, f"{number}/4", tmp_path / f"log{number}-{kill}", slower)
            while len(list(ledger.glob("*.jsonl"))) < before + 2:  # an empty segment, and one with a record
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.01)
            time.sleep(float(chance.uniform(0, 0.5)))
            process.send_signal(signal.SIGKILL)
            process.wait()
        return 0 if number == 3 else start(source, output, f"{number}/4", tmp_path / f"log{number}", slower).wait(timeout=600)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(drive, range(4))) == [0] * 4
    assert attributes(output)["status"] == "unfinished"
    last = tmp_path / "log-any"
    assert start(source, output, "any", last, slower).wait(timeout=600) == 0
    assert digest(output) == digest(tmp_path / "straight.zarr")
    assert verify(stored_plan(str(output))).ok
    builders = [path for path in tmp_path.glob("log*") if '"what": "coarse levels"' in path.read_text()]
    assert builders == [last]


def test_what_a_part_that_was_stopped_has_done_is_kept_and_the_whole_job_goes_on_with_it(
    source: str, straight: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "out.zarr")
    for part in ("0/2", "1/2"):
        with pytest.raises(KeyboardInterrupt):
            run(Interrupting(after=3), input=source, output=output, part=part, **SMALL_3D)
    outcome = run(input=source, output=output, **SMALL_3D)
    assert outcome.complete
    assert outcome.ran == outcome.regions - 6
    assert digest(output) == straight


def test_a_job_that_nobody_runs_can_be_cut_otherwise(source: str, straight: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    run(input=source, output=output, part="0/3", **SMALL_3D)
    before = open_ledger(stored_plan(output)).done
    run(input=source, output=output, part="1/2", **SMALL_3D)
    assert open_ledger(stored_plan(output)).done > before
    assert run(input=source, output=output, part="0/2", **SMALL_3D).complete
    assert digest(output) == straight


def test_what_is_being_run_in_parts_is_refused_otherwise_with_both_values(source: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    run(input=source, output=output, part="0/3", **SMALL_3D)
    folder = f"{output}.job"
    with own(f"{folder}/parts/1", doing="part 1/3"):
        with pytest.raises(LedgerError, match=r"part 1/3") as caught:
            run(input=source, output=output, part="1/3", **SMALL_3D)
        assert caught.value.code == "ledger.owned"
        with pytest.raises(LedgerError, match=r"3 parts.*part 0/2 of 2 parts") as caught:
            run(input=source, output=output, part="0/2", **SMALL_3D)
        assert caught.value.code == "ledger.parts"
        with pytest.raises(LedgerError, match=r"part 1/3"):
            run(input=source, output=output, **SMALL_3D)
        with pytest.raises(LedgerError, match=r"part 1/3"):
            clean_output(stored_plan(output))
        assert run(input=source, output=output, part="2/3", **SMALL_3D).exit_code == 0
        states = part_states(stored_plan(output), open_ledger(stored_plan(output)))
        assert [state.owner is not None for state in states] == [False, True, False]


def test_a_part_of_a_job_with_other_settings_is_refused_with_both_values_while_another_part_runs(
    source: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "out.zarr")
    with pytest.raises(KeyboardInterrupt), mock.patch.object(running, "_go_on", side_effect=KeyboardInterrupt):
        run(input=source, output=output, part="0/2", **SMALL_3D)
    with own(f"{output}.job/parts/0", doing="part 0/2"), pytest.raises(FingerprintError, match="--fill: not given then, 7"):
        run(input=source, output=output, part="1/2", **SMALL_3D | {"nodata": 7, "fill": 7})


def test_a_driver_that_planned_other_regions_takes_up_the_plan_of_the_first(source: str, straight: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    late = plan(make_job(input=source, output=output, part="1/2", **SMALL_3D | {"region": "1,2,2"}))
    run(input=source, output=output, part="0/2", **SMALL_3D)
    outcome = running.run(late)
    assert outcome.complete
    assert outcome.plan.grid == read_plan(f"{output}.job").grid != late.grid  # type: ignore[union-attr]
    assert digest(output) == straight


def test_parts_share_out_the_box_that_is_asked_for(source: str, tmp_path: Path) -> None:
    job = {"input": source, "output": str(tmp_path / "out.zarr"), **SMALL_3D, "roi": "0:8,0:20,:"}
    first, second = (run(part=part, **job) for part in ("0/2", "1/2"))
    assert first.exit_code == second.exit_code == 0
    assert first.ran > 0 < second.ran
    assert first.ran + second.ran == len(list(first.plan.grid.touching(first.plan.roi)))
    assert not second.complete


def test_any_needs_a_part_to_have_been_begun_and_finds_nothing_in_a_finished_job(source: str, tmp_path: Path) -> None:
    job = {"input": source, "output": str(tmp_path / "out.zarr"), **SMALL_3D}
    with pytest.raises(ConfigError, match="--part any"):
        run(part="any", **job)
    run(part="0/1", **job)
    outcome = run(part="any", **job)
    assert outcome.complete
    assert outcome.ran == 0


def test_overwriting_by_a_part_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--part 0/2"):
        run(input=source, output=str(tmp_path / "out.zarr"), part="0/2", overwrite=True, **SMALL_3D)


@pytest.mark.parametrize("part", ["4/4", "-1/4", "1", "0/0", "all", "1/999999"])
def test_what_is_no_part_is_refused(part: str) -> None:
    with pytest.raises(ConfigError, match="is no part"):
        make_job(input="in.zarr", output="out.zarr", part=part)


@pytest.mark.usefixtures("no_time")
def test_a_driver_of_a_part_that_was_taken_for_dead_cannot_commit(source: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    run(input=source, output=output, part="0/2", **SMALL_3D)
    job = plan(make_job(input=source, output=output, part="0/2", **SMALL_3D))
    stale = open_ledger(job)
    stale.append(Record(region=0, state="failed"))
    with own_job(f"{output}.job"):
        with pytest.raises(LedgerError) as caught:
            stale.flush()
        assert caught.value.code == "ledger.overtaken"
    assert not open_ledger(job.whole).failures


def test_a_merge_of_ledgers_that_dies_half_way_loses_nothing(source: str, straight: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out.zarr")
    run(input=source, output=output, part="0/2", **SMALL_3D)
    done = open_ledger(stored_plan(output)).done
    for step in range(2):
        deletions = itertools.count()

        def delete(url: str, key: str, step: int = step, deletions: Iterator[int] = deletions) -> None:
            if next(deletions) == step:
                raise OSError("it dies")
            delete_key(url, key)

        with (
            pytest.raises(OSError, match="dies"),
            mock.patch("volumetool.jobs.records.segments.delete_key", delete),
            own_job(f"{output}.job"),
        ):
            pass
        assert open_ledger(stored_plan(output)).done == done
    assert run(input=source, output=output, **SMALL_3D).complete
    assert digest(output) == straight


def test_a_stored_plan_is_one_of_the_whole_job(source: str, tmp_path: Path) -> None:
    run(input=source, output=str(tmp_path / "out.zarr"), part="0/2", **SMALL_3D)
    assert stored_plan(str(tmp_path / "out.zarr")).job.part is None
    assert attributes(tmp_path / "out.zarr")["status"] == "unfinished"
    assert np.asarray(stored_plan(str(tmp_path / "out.zarr")).asked).size > 0

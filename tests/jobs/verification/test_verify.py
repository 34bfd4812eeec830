"""Verification finds every damage, and what it condemns is mended by the next run."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, attributes, digest, noise, run, shard_files, tree, write_input

from volumetool.errors import ConfigError, InputError
from volumetool.events import Event, Progressed
from volumetool.jobs.execution.clean import Cleaned, clean_output
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.plan_file import stored_plan, write_plan
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import Extent, verify, verify_output

Flip = Callable[[Path, int], None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Give the options of a job that is done: whoever changes its output puts it right again."""
    folder = tmp_path_factory.mktemp("finished")
    write_input(folder / "in.zarr", noise((10, 37, 45)))
    options = {"input": str(folder / "in.zarr"), "output": str(folder / "out.zarr"), **SMALL}
    assert run(**options).complete
    return options


@pytest.fixture
def plan(finished: dict[str, Any]) -> Plan:
    """Give the stored plan of the finished job."""
    return stored_plan(finished["output"])


@pytest.fixture
def copy(finished: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Give a copy of the finished job to break."""
    for suffix in ("", ".job"):
        shutil.copytree(f"{finished['output']}{suffix}", tmp_path / f"out.zarr{suffix}")
    return finished | {"output": str(tmp_path / "out.zarr")}


def test_a_sound_output_has_no_finding_and_is_left_as_it_is(plan: Plan) -> None:
    before = tree(Path(plan.output).parent)
    told: list[Event] = []
    report = verify(plan, observer=told.append)
    assert (report.ok, report.damaged, report.regions) == (True, [], plan.grid.count)
    shown = report.regions + report.shards
    assert told == [Progressed("verifying", done, shown) for done in range(shown + 1)]
    assert report.shards > 0
    assert tree(Path(plan.output).parent) == before


def find_flips(plan: Plan, flip: Flip, number: int) -> None:
    random = np.random.default_rng(number)
    files = shard_files(plan.output)
    for _ in range(number):
        file = files[random.integers(len(files))]
        position = int(random.integers(file.stat().st_size))
        flip(file, position)
        assert not verify(plan).ok, (file, position)
        flip(file, position)
    assert verify(plan).ok


def test_flipped_bits_in_20_shards_are_found(plan: Plan, change: Flip) -> None:
    find_flips(plan, change, 20)


@pytest.mark.slow
def test_flipped_bits_in_200_shards_are_found(plan: Plan, change: Flip) -> None:
    find_flips(plan, change, 200)


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("how", ["deleted", "emptied", "cut", "swapped"])
def test_on_every_level_lost_torn_and_swapped_shards_are_found(plan: Plan, level: int, how: str) -> None:
    files = shard_files(Path(plan.output) / str(level))
    file, other = files[0], shard_files(Path(plan.output) / "0")[-1]
    sound = file.read_bytes()
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes({"emptied": b"", "cut": sound[: len(sound) // 2], "swapped": other.read_bytes()}[how])
    try:
        report = verify(plan)
    finally:
        file.write_bytes(sound)
    assert not report.ok
    assert all(damage.detail and damage.box for damage in report.damaged)
    assert level in {damage.level for damage in report.damaged}


@pytest.mark.thin(8)
@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("how", ["cut", "deleted", "flipped"])
def test_what_is_condemned_is_mended_by_the_next_run(copy: dict[str, Any], change: Flip, level: int, how: str) -> None:
    """On fused levels the damaged region runs again and no other; coarse levels are made again from the finer ones."""
    before = digest(copy["output"])
    plan = stored_plan(copy["output"])
    file = shard_files(Path(copy["output"]) / str(level))[-1]  # cut by the volume's face
    if how == "flipped":
        change(file, file.stat().st_size // 2)
    elif how == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-10])
    condemned = mark_for_recompute(plan, verify(plan))
    assert condemned == (1 if plan.spec.levels[level].fused else 0)
    assert attributes(copy["output"])["status"] == "unfinished"
    outcome = run(**copy)
    assert (outcome.complete, outcome.ran) == (True, condemned)
    assert digest(copy["output"]) == before
    assert verify(stored_plan(copy["output"])).ok
    assert attributes(copy["output"])["status"] == "complete"


def test_the_part_of_an_unfinished_job_that_is_done_is_verified(finished: dict[str, Any], tmp_path: Path, change: Flip) -> None:
    options = finished | {"output": str(tmp_path / "part.zarr"), "roi": "0:3,0:9,0:9"}
    outcome = run(**options)
    report = verify(outcome.plan)
    assert (report.ok, report.regions, report.shards) == (True, outcome.done, 0)
    change(shard_files(tmp_path / "part.zarr" / "0")[0], 40)
    assert not verify(outcome.plan).ok


def test_cleaning_takes_old_lock_files_of_ones_own_and_nothing_else(
    copy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(Path(copy["output"]).parent)
    leftovers = [
        Path(copy["output"]) / "0" / "c" / "0" / "0" / "0.__lock",
        Path(f"{copy['output']}.job") / "ledger" / "00000009.jsonl.__lock",
    ]
    for file in leftovers:
        file.write_bytes(b"half a shard")
    plan = stored_plan(copy["output"])
    assert clean_output(plan) == Cleaned((), tuple(map(str, leftovers)))  # a writer may be at them
    for file in leftovers:
        os.utime(file, (time.time() - 61,) * 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        assert clean_output(plan).removed == ()

    def refused(_: Path, **_options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        assert set(map(str, leftovers)) <= set(clean_output(plan).left)
    assert clean_output(plan) == Cleaned(tuple(map(str, leftovers)), ())
    after = tree(Path(copy["output"]).parent)
    assert {name: size for name, (size, _) in after.items()} == {name: size for name, (size, _) in before.items()}


def test_paths_of_a_plan_mean_what_they_meant_where_it_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another volume, like the input but for its voxels, has the same relative path."""
    for number, name in enumerate(("here", "elsewhere")):
        write_input(tmp_path / name / "in.zarr", noise((10, 37, 45), seed=number))
    monkeypatch.chdir(tmp_path / "here")
    assert run(input="in.zarr", output="out.zarr", **SMALL).complete
    monkeypatch.chdir(tmp_path / "elsewhere")
    plan, report = verify_output(str(tmp_path / "here" / "out.zarr"), extent=Extent(recompute=2))
    assert (report.ok, len(report.recomputed)) == (True, 2)
    assert plan is not None
    assert plan.job.input == str(tmp_path / "here" / "in.zarr")


@pytest.mark.parametrize("name", ["input", "mask"])
def test_a_plan_by_others_leads_into_no_private_network(copy: dict[str, Any], name: str) -> None:
    plan, private = stored_plan(copy["output"]), "http://127.0.0.1:9/in.zarr"
    write_plan(plan.model_copy(update={"job": plan.job.model_copy(update={name: private})}))
    once = Extent(recompute=1)
    with pytest.raises(ConfigError, match="--allow-host") as caught:
        verify_output(copy["output"], extent=once)
    assert caught.value.code == "config.private-host"
    with pytest.raises(InputError) as allowed:  # nothing is served there
        verify_output(copy["output"], extent=once, allow_hosts=["127.0.0.1"])
    assert allowed.value.code != "config.private-host"
    assert verify_output(copy["output"])[1].ok  # which opens no input

"""A watch that ended, in order or not, goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from arriving import (
    COUNT,
    QUICK,
    Told,
    assert_batch,
    drop,
    finish,
    job_of,
    refusal,
    sections,
    ticking,
)
from small_jobs import write_input

from volumetool.acquisition import finalize
from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.image_source import Section, TiffFolder
from volumetool.acquisition.watch import watch
from volumetool.events import SectionRefused, WatchStarted
from volumetool.jobs.planning.choice import rank_models
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.verification.verify import verify


class Killed(BaseException):
    """Stands for a process that is gone between two steps."""


@pytest.mark.thin(3)
@pytest.mark.parametrize("target", ["landed", "enhanced", "switch", "clear", "coarse", "region"])
def test_a_watch_that_ends_anywhere_goes_on(folder: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after each record of both ledgers, and at every stage of the end."""
    from volumetool.acquisition import state

    job, times = job_of(folder), 0
    places: dict[str, tuple[Any, str]] = {
        "landed": (state.SectionLedger, "note"),
        "enhanced": (state.SectionLedger, "write"),
        "switch": (finalize, "_switch"),
        "clear": (finalize, "clear"),
        "coarse": (finalize, "build_coarse_levels"),
        "region": (finalize, "_write_region"),
    }
    owner, name = places[target]
    original = getattr(owner, name)

    def deadly(when: int, *, before: bool) -> Callable[..., Any]:
        left = when

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0 and before:
                raise Killed
            made = original(*args, **kwargs)
            if left == 0:
                raise Killed
            return made

        return call

    drop(folder, *range(1, COUNT + 1))
    for when, before in [(1, True), (1, False), (2, True), (2, False), (3, False)]:
        monkeypatch.setattr(owner, name, deadly(when, before=before))
        try:
            finish(job, None, WatchConfig(count=COUNT, settle=0.0))
        except Killed:
            times += 1
    monkeypatch.undo()
    assert times >= 1
    assert finish(job, None, WatchConfig(count=COUNT, settle=0.0)).complete
    assert_batch(job)
    assert verify(stored_plan(job.output)).ok


def test_shards_that_are_deleted_while_the_watch_ends_are_missed_and_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, original = job_of(folder), finalize.build_coarse_levels
    drop(folder, *range(1, COUNT + 1))

    def harmful(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        next(file for file in (Path(job.output) / "0" / "c").rglob("*") if file.is_file()).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(finalize, "build_coarse_levels", harmful)
        assert refusal(lambda: finish(job, None, WatchConfig(count=COUNT, settle=0.0))) == "output.damaged"
    assert finish(job, None, WatchConfig(count=COUNT, settle=0.0)).complete
    assert_batch(job)
    assert verify(stored_plan(job.output)).ok


def test_what_was_enhanced_is_not_enhanced_again_though_its_file_is_gone(folder: Path) -> None:
    job, told = job_of(folder), Told()
    drop(folder, 1, 2, 3, 4)
    assert refusal_of_interrupt(lambda: watch(job, QUICK, told, ticking(*[lambda: None] * 3, interrupt)))
    assert told.numbers("enhanced") == [1, 2, 3, 4]
    for file in folder.iterdir():
        file.unlink()
    drop(folder, 5, 6, 7)
    told = Told()
    assert finish(job, told, WatchConfig(count=COUNT, settle=0.0)).complete
    assert told.numbers("enhanced") == [5, 6, 7]
    assert_batch(job)


def test_a_watch_that_goes_on_says_how_far_it_is_and_reads_no_file_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, told, asked = job_of(folder), Told(), WatchConfig(count=COUNT, settle=0.0)
    drop(folder, 1, 2, 3, 5)
    assert refusal_of_interrupt(lambda: watch(job, asked, Told(), ticking(*[lambda: None] * 3, interrupt)))
    read, names = TiffFolder._read, list[str]()

    def noted(self: TiffFolder, name: str) -> Section:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(TiffFolder, "_read", noted)
    drop(folder, 4, 6, 7)
    assert finish(job, told, asked).complete
    assert told.events[0] == WatchStarted(1, (1, 2, 3), None, landed=4, enhanced=4, z=4)
    assert told.texts(SectionRefused) == []
    assert sorted(names) == ["scan_4.tif", "scan_6.tif", "scan_7.tif"]
    assert_batch(job)


def test_a_volume_that_grows_is_gone_on_with(tmp_path: Path) -> None:
    source = tmp_path / "scope.zarr"
    write_input(source, np.zeros((COUNT, 37, 45), np.uint8), chunk=(1, 64, 64))
    array = zarr.open_array(str(source / "0"), mode="r+", config={"write_empty_chunks": True})
    array[:4] = sections(COUNT)[:4]
    job, told, asked = job_of(source), Told(), WatchConfig(count=COUNT, settle=0.0)
    assert refusal_of_interrupt(lambda: watch(job, asked, Told(), ticking(*[lambda: None] * 3, interrupt)))
    array[4:] = sections(COUNT)[4:]
    assert finish(job, told, asked).complete
    assert told.texts(SectionRefused) == []
    assert told.numbers("enhanced") == [4, 5, 6]


def interrupt() -> None:
    raise KeyboardInterrupt


def refusal_of_interrupt(call: Callable[[], object]) -> bool:
    with pytest.raises(KeyboardInterrupt):
        call()
    return True


def test_a_watch_that_goes_on_has_the_settings_that_it_began_with(folder: Path) -> None:
    job = job_of(folder)
    drop(folder, 1, 2, 3, 4)
    assert refusal_of_interrupt(
        lambda: watch(job, WatchConfig(settle=0.0), Told(), ticking(lambda: None, lambda: None, interrupt))
    )
    assert refusal(lambda: finish(job.model_copy(update={"invert": True}))) == "job.fingerprint"
    assert refusal(lambda: finish(job, None, WatchConfig(count=3, settle=0.0))) == "config.option"
    drop(folder, 5, 6, 7)
    assert finish(job, None, WatchConfig(count=COUNT, settle=0.0)).complete
    assert finish(job, None, WatchConfig(count=COUNT, settle=0.0)).complete  # and once more: nothing is left to do


def test_a_watch_goes_on_with_the_model_that_was_chosen_when_it_began(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(folder, model="auto", chunk=None, shard=None)
    drop(folder, 1, 2, 3, 4)
    assert refusal_of_interrupt(
        lambda: watch(job, WatchConfig(settle=0.0), Told(), ticking(lambda: None, lambda: None, interrupt))
    )
    began = rank_models((8.0, 32.0, 32.0), None)[0].name

    def another(*_: object) -> object:
        raise AssertionError("more sections might show something else")

    monkeypatch.setattr("volumetool.jobs.planning.inputs.rank_models", another)
    drop(folder, 5, 6, 7)
    done = finish(job, None, WatchConfig(count=COUNT, settle=0.0))
    assert done.complete
    assert stored_plan(job.output).model == began

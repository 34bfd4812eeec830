"""What is told while something works: which events, in which order, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_jobs import SMALL, noise, write_input

import volumetool as vt
from volumetool.events import Event, Progressed, RegionEnded, RunStarted, bars, counting, ignore


def test_a_run_tells_its_start_each_region_and_each_coarse_shard(tmp_path: Path) -> None:
    told: list[Event] = []
    source = write_input(tmp_path / "in.zarr", noise((8, 24, 40)))
    outcome = vt.enhance(source, tmp_path / "out.zarr", observer=told.append, **SMALL)
    started, *rest = told
    assert started == RunStarted(outcome.regions, outcome.regions)
    ended = [event for event in rest if isinstance(event, RegionEnded)]
    assert [event.done for event in ended] == list(range(1, outcome.regions + 1))
    assert {event.region for event in ended} == set(range(outcome.regions))
    z, y, x = outcome.plan.spec.box.shape
    assert ended[-1].voxels == z * y * x
    coarse = rest[len(ended) :]
    assert coarse == [Progressed("coarse levels", done, len(coarse) - 1) for done in range(len(coarse))]
    told.clear()
    vt.run(outcome.plan, told.append)
    assert told == []  # nothing is left to do


def test_events_are_sentences_that_print_can_observe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = dict(SMALL)
    vt.apply(
        options.pop("model"),
        write_input(tmp_path / "in.zarr", noise((8, 24, 40))),
        tmp_path / "out.zarr",
        observer=print,
        **options,
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 of 4 regions to run"
    assert lines[1].startswith("1 of 4 regions, ")
    assert lines[-1] == "coarse levels: 100.0%"


def test_progress_is_a_line_a_part_where_no_bars_can_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_input(tmp_path / "in.zarr", noise((8, 24, 40)))
    with vt.progress() as observer:
        vt.convert(source, tmp_path / "out.zarr", observer=observer)
        observer(RunStarted(3, 4))
    lines = [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["converting: 0.0%", "3 of 4 regions to run"]


def test_a_notebook_shows_progress_unless_it_gives_an_observer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_input(tmp_path / "in.zarr", noise((8, 24, 40)))
    vt.convert(source, tmp_path / "0.zarr")
    monkeypatch.setattr(bars, "in_notebook", lambda: True)
    monkeypatch.setattr(bars, "can_draw", lambda: False)
    vt.convert(source, tmp_path / "1.zarr", observer=ignore)
    vt.plan(vt.Job(input=source, output=tmp_path / "2.zarr", **SMALL), ignore)
    assert capsys.readouterr().err == ""
    vt.convert(source, tmp_path / "3.zarr")
    assert "converting: 0.0%" in capsys.readouterr().err


def test_counting_tells_where_it_begins_and_each_step() -> None:
    told: list[Event] = []
    count = counting(told.append, "shards", 7, done=2)
    count(1)
    count(4)
    assert [str(event) for event in told] == ["shards: 28.6%", "shards: 42.9%", "shards: 100.0%"]

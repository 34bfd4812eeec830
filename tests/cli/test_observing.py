"""What a user sees of the events: lines, lines of JSON, and bars on a terminal."""

from __future__ import annotations

import io
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from volumetool.cli._progress import observing

from volumetool.events import CurvePoint, Event, Noted, Progressed, RegionEnded, RunStarted, StepTrained, Waiting, bars
from volumetool.events.bars import Bars

ERROR = {"code": "data.unreadable", "message": "a chunk is torn"}
RUN: tuple[Event, ...] = (
    Waiting("another run was writing this job"),
    RunStarted(2, 3, "http://127.0.0.1:8787"),
    RegionEnded(7, {}, "here:1", 2.0, done=1, total=2, voxels=50_000_000, elapsed=10.0),
    RegionEnded(8, ERROR, "here:1", 2.0, done=2, total=2, voxels=50_000_000, elapsed=20.0),
    Progressed("coarse levels", 0, 2),
    Progressed("coarse levels", 1, 2),
)
TRAINING = (StepTrained(1, 8, 0.5), CurvePoint(1, 0.5, 30.125, 29.5, 1.0), StepTrained(2, 8, 0.25))


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


def test_lines_tell_what_is_rare_at_once_and_what_only_counts_once_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rare = ["another run was writing this job", "2 of 3 regions to run; dashboard: http://127.0.0.1:8787"]
    later = ["region 8 failed: a chunk is torn", "coarse levels: 0.0%"]
    counts = "1 of 2 regions, 5.00 Mvox/s, 10 s left", "coarse levels: 50.0%"
    for seconds, expected in ((60.0, [*rare, *later]), (0.0, [*rare, counts[0], *later, counts[1]])):
        monkeypatch.setattr(bars, "LINE_SECONDS", seconds)
        with observing() as observer:
            for event in RUN:
                observer(event)
        assert [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()] == expected


def test_json_has_each_region_and_each_point_of_a_training_but_not_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    with observing("json") as lines:
        for event in (*RUN, *TRAINING):
            lines(event)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    names = [each["event"] for each in told]
    assert names == ["Waiting", "RunStarted", "RegionEnded", "RegionEnded", "Progressed", "CurvePoint"]
    assert {name: told[2][name] for name in ("region", "done", "total", "voxels", "elapsed")} == {
        "region": 7,
        "done": 1,
        "total": 2,
        "voxels": 50_000_000,
        "elapsed": 10.0,
    }
    assert told[3]["error"] == ERROR


def test_a_terminal_shows_a_bar_for_each_part_and_messages_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with observing() as observer:
        for event in RUN:
            observer(event)
    shown = terminal.getvalue()
    for text in ("another run was writing this job\n", "dashboard: http", "region 8 failed: a chunk is torn\n"):
        assert text in shown
    *_, regions, coarse = (line for line in shown.splitlines() if "regions" in line or "coarse levels" in line)
    assert "2/2 2.50 Mvox/s" in regions
    assert "1/2" in coarse


def test_bars_work_in_the_process_that_trains(capfd: pytest.CaptureFixture[str]) -> None:
    """Training sends its observer to a process that is started, as it does for the first of several devices."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as elsewhere:
        elsewhere.submit(Bars(), Noted("the learning rate fell")).result()
    assert "the learning rate fell" in capfd.readouterr().err


def test_the_bar_of_a_training_shows_loss_and_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "120")
    drawn = Bars()
    for event in TRAINING:
        drawn(event)
    drawn.close()
    assert "2/8 loss 0.250 30.12 dB, enlarged 29.50" in terminal.getvalue()

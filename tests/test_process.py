"""A process is told from all others, whatever happens to the clock."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from volumetool import process as module
from volumetool.process import Process, this_process

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ticks are told on Linux alone")


def shift_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + seconds)


def test_this_process_lives_and_one_that_ended_does_not() -> None:
    assert this_process().lives() is True
    command = "from volumetool.process import this_process as t; p = t(); print(p.place, p.pid, p.born)"
    said = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True).stdout
    place, pid, born = said.rsplit(maxsplit=2)
    assert Process(place, int(pid), float(born)).lives() is False
    assert replace(this_process(), place="another machine").lives() is None


@linux
@pytest.mark.parametrize("seconds", [-86400.0, 2.0, 1e9])
def test_a_step_of_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    before = this_process()
    shift_clock(monkeypatch, seconds)
    assert this_process() == before
    assert before.lives() is True


@linux
def test_another_process_with_the_same_number_is_another() -> None:
    for ticks in (-1, 1, 100):
        assert replace(this_process(), born=this_process().born + ticks).lives() is False


def test_where_birth_is_a_time_of_day_a_step_leaves_it_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "PROC", tmp_path)
    before = this_process()
    assert before.lives() is True
    shift_clock(monkeypatch, 5)
    assert before.lives() is None
    assert replace(before, pid=2**22 + 1).lives() is False


@linux
def test_a_process_that_ended_but_was_not_waited_for_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        born = module._born(child.pid)
        assert born is not None
        found = replace(this_process(), pid=child.pid, born=born)
        assert found.lives() is True
        child.kill()
        while found.lives():
            time.sleep(0.01)
        assert (Path("/proc") / str(child.pid)).exists()

"""A spare process runs one command, with the same words said and the same end; without one, commands run all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from volumetool.portal import spare
from volumetool.portal.spare import AWAITED, SpareProcess
from volumetool.process import give_way

LISTED = [sys.executable, "-m", "volumetool", "model", "list", "--json"]


def test_a_process_gives_way_with_what_it_begins() -> None:
    words = "import os, sys; sys.stdin.read(); os.fork(); os.write(1, b'%d ' % os.getpriority(os.PRIO_PROCESS, 0))"
    with subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        give_way(child.pid, 7)
        said, _ = child.communicate()
    assert set(said.split()) == {"7"}
    give_way(child.pid, 7)  # it has ended: nothing happens


@pytest.mark.slow
def test_a_spare_process_runs_one_command_and_says_what_the_command_says() -> None:
    waiting = SpareProcess()
    waiting.get_ready()
    assert waiting._waiting is not None
    number = waiting._waiting.pid
    waiting.get_ready()
    assert waiting._waiting.pid == number  # one is enough
    assert os.getpriority(os.PRIO_PROCESS, number) == AWAITED
    first = waiting.run(LISTED, 120)
    assert waiting._waiting is not None
    assert waiting._waiting.pid != number  # each runs one command
    waiting.end()
    second = waiting.run(LISTED, 120)
    assert first.args[2] == "volumetool.cli._spare"
    assert second.args == LISTED
    assert (first.returncode, first.stdout) == (second.returncode, second.stdout) == (0, first.stdout)
    assert json.loads(first.stdout)["kind"] == "models"
    waiting.get_ready()
    failed = waiting.run([*LISTED[:3], "info", "no-such-volume.zarr", "--json"], 120)
    assert failed.args[2] == "volumetool.cli._spare"
    assert (failed.returncode, json.loads(failed.stdout)["kind"]) == (2, "error")
    waiting.end()


@pytest.mark.slow
def test_a_spare_process_that_ended_or_was_killed_fails_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = SpareProcess()
    with monkeypatch.context() as patched:
        patched.setattr(spare, "IDLE_SECONDS", 0)
        waiting.get_ready()
    monkeypatch.setattr(waiting, "_until", float("inf"))
    assert waiting.run(LISTED, 120).returncode == 0
    assert waiting._waiting is not None
    gone = waiting._waiting
    waiting.end()
    assert gone.poll() is not None
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.2)

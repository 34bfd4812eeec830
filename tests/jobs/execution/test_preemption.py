"""Told to stop: a job ends soon, cleanly, with exit code 75, and goes on where it was."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from small_jobs import SMALL, digest, noise, run, write_input
from volumetool.cli._preemption import Stopped

from volumetool.jobs.execution.worker import Worker, told_to_stop
from volumetool.jobs.records.holder import current_holder
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.machine import usable_cores

SLOW: dict[str, Any] = SMALL | {"model": SMALL["model"] + "&seconds=0.02", "region": "1,1,1"}

POLITE = "--io-limit=30kB/s"
"""About a second for each region: the job outlasts whoever looks for its first record. Without it, it goes on at full speed."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_input(tmp_path_factory.mktemp("in") / "in.zarr", noise((16, 24, 24)), chunk=(8, 16, 16)))


@pytest.fixture(scope="module")
def straight(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("straight") / "out.zarr")
    assert run(input=source, output=output, **SLOW).complete
    return digest(output)


@pytest.fixture(autouse=True)
def _hangups_are_heard() -> Iterator[None]:
    """Let processes that are started here hear SIGHUP, though nohup may have told the tests not to."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def soon() -> float:
    """Return the seconds that a cluster gives before it kills: ten, of a core that nobody else wants at the same time."""
    return 10 * max(1.0, os.getloadavg()[0] / usable_cores())


def start(source: str, output: Path, workers: int, *options: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", source, str(output), f"--workers={workers}", *options]
    command += [f"--{name}={value}" for name, value in SLOW.items()]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )


def wait_for(output: Path, regions: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many regions are on record."""
    while process.poll() is None:
        if (output.with_name(output.name + ".job") / "plan.json").exists() and open_ledger(
            stored_plan(str(output))
        ).done >= regions:
            return
        time.sleep(0.02)


STOPPING = [(signal.SIGHUP, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, 2), (signal.SIGUSR2, 1), (signal.SIGTERM, 1)]


@pytest.mark.thin(9)
@pytest.mark.parametrize(("number", "workers"), STOPPING)
def test_a_signal_to_stop_ends_a_job_that_then_goes_on(
    source: str, straight: str, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    output = tmp_path / "out.zarr"
    process = start(source, output, workers, POLITE)
    wait_for(output, 1, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=soon())
    assert process.returncode == 75, said
    assert number.name in said
    assert "Run the same command" in said
    assert "Traceback" not in said
    assert current_holder(str(output) + ".job") is None
    before = open_ledger(stored_plan(str(output))).done
    outcome = run(input=source, output=str(output), **SLOW)
    assert outcome.complete
    assert outcome.ran == outcome.regions - before
    assert digest(output) == straight


@pytest.mark.thin(4)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_signal_while_libraries_load_ends_it_cleanly(
    source: str, tmp_path: Path, number: signal.Signals, library: str
) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "volumetool.cli.main", "enhance", source, str(tmp_path / "out.zarr")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = [next(line for line in process.stderr if f" {library}." in line)]  # the first of its modules is there
        process.send_signal(number)
        said += [line for line in process.stderr if not line.startswith("import time:")]
    assert (process.returncode, number.name in "".join(said)) == (75, True), said
    assert "Traceback" not in "".join(said)
    assert not list(tmp_path.iterdir())


def test_a_signal_inside_a_callback_of_the_interpreter_is_not_lost() -> None:
    """Python prints what such a callback raises, and goes on as if nothing had been."""
    code = (
        "import os, signal, time, weakref\nfrom volumetool.cli._preemption import Stopped, stoppable\n"
        "class Thing: pass\nthing = Thing()\n"
        "def told(_): os.kill(os.getpid(), signal.SIGTERM); time.sleep(0)\n"
        "seen = weakref.ref(thing, told)\n"
        "try:\n with stoppable():\n  del thing\n  time.sleep(20)\n"
        "except Stopped as stopped:\n print(stopped)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("SIGTERM\n", "")


def test_a_signal_of_which_code_makes_another_error_stays_a_signal() -> None:
    """As modules of C++ do while they are loaded: all that they tell is "initialization failed"."""
    code = (
        "import os, signal, time\nfrom volumetool.cli._preemption import Stopped, stoppable\n"
        "def load():\n try:\n  os.kill(os.getpid(), signal.SIGHUP); time.sleep(20)\n"
        " except BaseException:\n  raise ImportError('initialization failed') from None\n"
        "try:\n with stoppable():\n  load()\n"
        "except Stopped as stopped:\n print(stopped)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("SIGHUP\n", "")


def test_a_signal_inside_code_of_cpp_that_no_exception_passes_ends_the_process_with_the_right_code() -> None:
    """As in a destructor: C++ would abort the process."""
    code = (
        "import ctypes, os, signal\nfrom volumetool.cli._preemption import Stopped, stoppable\n"
        "try:\n with stoppable():\n  os.kill(os.getpid(), signal.SIGTERM)\n"
        "except Stopped:\n ctypes.CDLL('libstdc++.so.6')._ZSt9terminatev()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode == 75


def test_a_terminal_that_closes_does_not_end_what_was_told_to_ignore_it() -> None:
    """As by nohup."""
    code = "import signal, os; from volumetool.cli._preemption import stoppable\n"
    code += "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nwith stoppable(): os.kill(os.getpid(), signal.SIGHUP)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("children", [True, False])
def test_a_killed_driver_leaves_no_temporary_folder(source: str, tmp_path: Path, children: bool) -> None:  # noqa: FBT001
    """Its workers delete theirs; where they were killed, too, the next run does."""
    place = tmp_path / "temporary"
    place.mkdir()
    output = tmp_path / "out.zarr"
    process = start(source, output, 2, TMPDIR=str(place))
    wait_for(output, 1, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert list(place.iterdir())
    process.kill()
    process.communicate()
    if not children:
        for worker in workers:
            worker.kill()
    _, alive = psutil.wait_procs(workers, timeout=soon())
    assert not alive
    if not children:
        process = start(source, output, 2, TMPDIR=str(place))
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert not list(place.iterdir())


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(source: str, straight: str, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    process = start(source, output, 1)
    wait_for(output, 1, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=soon())
    assert process.returncode == 75
    assert run(input=source, output=str(output), **SLOW).complete
    assert digest(output) == straight


def hears(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Return whether a process does something of its own at a signal; before that it just ends, as any program."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_at_each_of_twenty_random_moments_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Each ends within ten seconds with exit code 75, leaves no process, and what is on record is never done again."""
    chance = np.random.default_rng(number)
    source = str(write_input(tmp_path / "in.zarr", noise((128, 48, 48)), chunk=(8, 16, 16)))
    output, done = tmp_path / "out.zarr", 0
    for attempt in range(20):
        process = start(source, output, 1 + attempt % 2)
        while not hears(process, number):
            time.sleep(0.01)
        if attempt % 4 > 1:  # while regions are computed, however long the start takes
            wait_for(output, done + 1, process)
        time.sleep(chance.uniform(0, 6))
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, said = process.communicate(timeout=soon())
        assert process.returncode == 75, (attempt, said)
        _, alive = psutil.wait_procs(workers, timeout=soon())
        assert not alive
        if (tmp_path / "out.zarr.job" / "plan.json").exists():
            now = open_ledger(stored_plan(str(output))).done
            assert now >= done
            done = now
    assert done > 0
    outcome = run(input=source, output=str(output), **SLOW)
    assert outcome.complete
    assert outcome.ran == outcome.regions - done
    straight = str(tmp_path / "straight.zarr")
    run(input=source, output=straight, **SMALL)
    assert digest(output) == digest(straight)


@pytest.mark.parametrize("request_to_stop", [KeyboardInterrupt, Stopped])
def test_a_request_to_stop_is_not_hidden_by_a_stage_that_then_cannot_be_closed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_to_stop: type[BaseException]
) -> None:
    """It came between two stages: the one before was never closed, and closing the next one fails."""

    def interrupted(_worker: Worker, *_: object) -> None:
        try:
            raise request_to_stop
        finally:
            raise ValueError("generator already executing")

    output = tmp_path / "out.zarr"
    monkeypatch.setattr(Worker, "_enhance", interrupted)
    with pytest.raises(request_to_stop):
        run(input=source, output=str(output), **SMALL)
    monkeypatch.undo()
    outcome = run(input=source, output=str(output), **SMALL)
    assert (outcome.complete, outcome.failed) == (True, 0)


def test_an_error_of_its_own_is_no_request_to_stop() -> None:
    error = ValueError("a bad region")
    error.__context__ = GeneratorExit()
    assert told_to_stop(error) is None

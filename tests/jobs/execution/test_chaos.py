"""Real workers, really killed: the verdict is the digest of the output, and how often work was begun anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from bad_regions import REGION, assert_others_are_right, bad_job, bad_volume
from small_jobs import Recording, digest, noise, run, write_input
from watchfiles import Change, watch

from volumetool.events import RegionEnded
from volumetool.jobs.clusters.worker_processes import PROGRAM
from volumetool.jobs.job_dir import ATTEMPTS
from volumetool.jobs.records.ledger import QUARANTINED

KILLS = 30
SPACING = 1.5
"""Seconds between two kills, at the least."""


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes below a driver."""
    found = []
    for child in process.children(recursive=True):
        try:
            if PROGRAM in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


@contextmanager
def begun(output: Path) -> Iterator[Counter[int]]:
    """Count how often each region is begun, from outside: by the notes that appear in the job's folder."""
    counted: Counter[int] = Counter()
    over = threading.Event()
    folder = output.with_name(output.name + ".job")
    folder.mkdir(exist_ok=True)

    def look() -> None:
        for changes in watch(folder, stop_event=over, debounce=40, step=10, rust_timeout=200, recursive=True):
            for change, name in changes:
                path = Path(name)
                if path.parent.name == ATTEMPTS and path.suffix == ".json" and change is not Change.deleted and path.exists():
                    counted[int(path.stem)] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield counted
    finally:
        over.set()
        thread.join()


class Killing(Recording):
    """Kills a worker at random every now and then, after a region ended since the last time."""

    def __init__(self, kills: int, seed: int) -> None:
        super().__init__()
        self.left, self.killed = kills, 0
        self._random = np.random.default_rng(seed)
        self._last = time.monotonic()

    def after_region(self, _: RegionEnded) -> None:
        """Kill a worker, if it is time."""
        workers = workers_of(psutil.Process())
        if self.left and workers and time.monotonic() - self._last >= SPACING:
            workers[self._random.integers(len(workers))].kill()
            self._last = time.monotonic()
            self.left -= 1
            self.killed += 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_killed_workers_change_no_byte_and_cost_a_region_each(tmp_path: Path) -> None:
    shape = (8 * 24, 48, 64)
    source = str(write_input(tmp_path / "in.zarr", np.minimum(noise(shape), 250), chunk=REGION))
    options = bad_job(source, tmp_path / "out.zarr", "none", seconds=0.03)
    quick = options["model"].replace("0.03", "0.0")
    assert run(**options | {"output": str(tmp_path / "straight.zarr"), "model": quick}).complete
    observer = Killing(KILLS, seed=1)
    with begun(tmp_path / "out.zarr") as counted:
        outcome = run(observer, **options, workers=2)
    assert outcome.complete
    assert observer.killed == KILLS, f"{observer.killed} kills: the job is too short for more"
    assert digest(tmp_path / "out.zarr") == digest(tmp_path / "straight.zarr")
    assert len(observer.ended) == outcome.regions  # none is recorded twice, and none failed
    assert sum(counted.values()) - outcome.regions <= 2 * KILLS  # the one that ran, and the one that waited behind it


class KillingAll(Recording):
    """Kills every worker after the first region, and for a while all that come in their place."""

    killed = 0

    def after_region(self, _: RegionEnded) -> None:
        """Begin to kill."""
        if len(self.ended) == 1:
            threading.Thread(target=self._kill).start()

    def _kill(self) -> None:
        until = time.monotonic() + SPACING
        while time.monotonic() < until:
            for process in workers_of(psutil.Process()):
                process.kill()
                self.killed += 1
            time.sleep(0.01)


@pytest.mark.slow
def test_workers_that_die_as_they_begin_are_replaced(tmp_path: Path) -> None:
    """Dask gives such a worker up for good; without another one in its place the job would wait for ever."""
    source = str(write_input(tmp_path / "in.zarr", np.minimum(noise((48, 48, 64)), 250), chunk=REGION))
    observer = KillingAll()
    outcome = run(observer, **bad_job(source, tmp_path / "out.zarr", "none", seconds=0.05), workers=2)
    assert outcome.complete
    assert observer.killed > 2
    assert len(observer.ended) == outcome.regions


BAD = ((0,), (11,), (3, 20), (23,))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ["segfault", "hang", "kill"])
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_regions_that_end_or_hang_their_workers_are_set_aside(tmp_path: Path, fault: str, bad: tuple[int, ...]) -> None:
    """With two workers: every other region completes in the same run, and at most two workers are lost for each bad one."""
    # Long enough for a task of its own each: shorter ones that shared the bad one's are begun again with it.
    options = bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", fault, seconds=0.02)
    with begun(tmp_path / "out.zarr") as counted:
        outcome = run(**options, workers=2, hang_timeout=3)
    assert_others_are_right(outcome, bad)
    assert {record.error["code"] for record in outcome.failures} == {QUARANTINED}
    said = {"segfault": "SIGSEGV", "hang": "no sign of life", "kill": "SIGKILL"}[fault]
    assert all(said in record.error["message"] for record in outcome.failures)
    # A worker's death takes along the records that nobody has fetched: those of the region before it.
    assert sum(counted[region] - 1 for region in set(counted) - set(bad)) <= 2 * len(bad)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ["error", "nan"])
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_regions_that_fail_in_workers_are_named(tmp_path: Path, fault: str, bad: tuple[int, ...]) -> None:
    options = bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", fault)
    assert_others_are_right(run(**options, workers=2), bad)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_process_that_lost_its_device_is_replaced(tmp_path: Path) -> None:
    """20 trials on two workers: the process that met the error does nothing more, the region is done by another one."""
    source = bad_volume(tmp_path / "in.zarr", (10,))
    for trial in range(20):
        tally = tmp_path / f"tally{trial}"
        tally.mkdir()
        seen = Recording()
        options = bad_job(source, tmp_path / f"out{trial}.zarr", "sticky", times=1, tally=tally)
        outcome = run(seen, **options, workers=2)
        assert outcome.complete, outcome.failures
        poisoned = int((tally / "0").read_text())
        assert not psutil.pid_exists(poisoned)
        (record,) = (record for record in seen.ended if record.region == 10)
        assert not record.worker.endswith(f":{poisoned}")


def command(options: dict[str, Any], *more: str) -> subprocess.Popen[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name not in ("input", "output")]
    program = [sys.executable, "-m", "volumetool.cli.main", "enhance", options["input"], options["output"], *words, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_process_that_is_its_own_worker_ends_and_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    """A region that crashes ends it twice; the third run tries it apart, sets it aside, and completes the rest."""
    bad = (6,)
    options = bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", "segfault")
    for _ in range(2):
        process = command(options)
        process.communicate(timeout=500)
        assert process.returncode == -signal.SIGSEGV
    process = command(options, "--json")
    out, said = process.communicate(timeout=500)
    assert process.returncode == 3, said
    assert "region 6" in said
    assert "--retry-quarantined" in said
    assert json.loads(out)["failed"] == 1
    assert_others_are_right(run(**options), bad)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_process_that_hangs_ends_itself_and_says_start_me_again(tmp_path: Path) -> None:
    bad = (6,)
    options = bad_job(bad_volume(tmp_path / "in.zarr", bad), tmp_path / "out.zarr", "hang") | {"hang_timeout": 2.0}
    for _ in range(2):
        process = command(options)
        _, said = process.communicate(timeout=500)
        assert process.returncode == 75, said
        assert "region 6: no sign of life for 2 s" in said
    process = command(options)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 3, said
    assert_others_are_right(run(**options), bad)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_signal_ends_a_process_whose_network_hangs(tmp_path: Path) -> None:
    """Nothing can end the call; the process ends all the same, within the ten seconds that a scheduler gives."""
    options = bad_job(bad_volume(tmp_path / "in.zarr", (0,)), tmp_path / "out.zarr", "hang")
    process = command(options)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out.zarr.job/attempts/0.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 75, said

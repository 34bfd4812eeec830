"""Told to stop: a job ends soon, cleanly, with exit code 75, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.jobs.api import stored_plan
from volumetool.jobs.folder import open_ledger
from volumetool.jobs.job import make_job
from volumetool.jobs.ownership import current_owner

SLOW: dict[str, Any] = SMALL | {"model": SMALL["model"] + "&seconds=0.02", "region": "1,1,1"}
SECONDS = 10
"""A cluster gives little time before it kills."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_input(tmp_path_factory.mktemp("in") / "in.zarr", noise((16, 24, 24)), chunk=(8, 16, 16)))


@pytest.fixture(scope="module")
def straight(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("straight") / "out.zarr")
    assert run(input=source, output=output, **SLOW).complete
    return digest(output)


def start(source: str, output: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", source, str(output), f"--workers={workers}"]
    command += [f"--{name}={value}" for name, value in SLOW.items()]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(output: Path, regions: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many regions are on record."""
    while process.poll() is None:
        if (output.with_name(output.name + ".job") / "plan.json").exists() and open_ledger(
            stored_plan(str(output))
        ).done >= regions:
            return
        time.sleep(0.02)


@pytest.mark.thin(3)
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, 2)])
def test_a_signal_to_stop_ends_a_job_that_then_goes_on(
    source: str, straight: str, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    output = tmp_path / "out.zarr"
    process = start(source, output, workers)
    wait_for(output, 1, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, said
    assert number.name in said
    assert "Run the same command" in said
    assert "Traceback" not in said
    assert current_owner(str(output) + ".job") is None
    before = open_ledger(stored_plan(str(output))).done
    outcome = run(input=source, output=str(output), **SLOW)
    assert outcome.complete
    assert outcome.ran == outcome.regions - before
    assert digest(output) == straight


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(source: str, straight: str, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    process = start(source, output, 1)
    wait_for(output, 1, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    assert run(input=source, output=str(output), **SLOW).complete
    assert digest(output) == straight


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_signals_at_random_moments_lose_nothing(source: str, straight: str, tmp_path: Path) -> None:
    """Each ends within ten seconds; what is on record is never done again."""
    chance = np.random.default_rng(0)
    output, done = tmp_path / "out.zarr", 0
    job = make_job(input=source, output=str(output), **SLOW)
    for number in range(50):
        process = start(source, output, 1)
        time.sleep(chance.uniform(1, 4))
        process.send_signal((signal.SIGTERM, signal.SIGUSR1)[chance.integers(2)])
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, 75, -signal.SIGTERM, -signal.SIGUSR1), (
            number,
            said,
        )  # before and after its work, it just ends
        if (tmp_path / "out.zarr.job" / "plan.json").exists():
            now = open_ledger(stored_plan(job.output)).done
            assert now >= done
            done = now
    assert run(input=source, output=str(output), **SLOW).complete
    assert digest(output) == straight

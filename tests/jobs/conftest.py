"""What the tests of jobs share: real data where they are at hand, and the helper file of this folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small_jobs import SMALL, NeverTimer, noise, write_input

from volumetool.jobs.records import ledger

if TYPE_CHECKING:
    from crash_jobs import Job

    from volumetool.testing import CrashRunner


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a small noise volume on disk."""
    return write_input(tmp_path / "in.zarr", noise((10, 37, 45)))


@pytest.fixture
def options(volume: Path, tmp_path: Path) -> dict[str, Any]:
    """Give the options of a small job: 12 regions of 1 or 2 shards, ragged edges, three fused levels and two coarse ones."""
    return {"input": str(volume), "output": str(tmp_path / "out.zarr"), **SMALL}


@pytest.fixture
def change() -> Callable[[Path, int], None]:
    """Give a function that flips one bit of a file."""

    def flip(file: Path, position: int) -> None:
        damaged = bytearray(file.read_bytes())
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)

    return flip


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass for ledgers: records wait until they are flushed, however slow the machine is."""
    monkeypatch.setattr(ledger, "FLUSH_SECONDS", 1e9)
    monkeypatch.setattr(threading, "Timer", NeverTimer)


@pytest.fixture(scope="session")
def runner() -> Iterator[CrashRunner]:
    """Give what runs functions in processes that may die, on a disk that fails as told."""
    from volumetool.testing import CrashRunner, can_fail

    if not can_fail():
        pytest.skip("a failing disk needs Linux and a C compiler")
    with CrashRunner(["crash_jobs"]) as made:
        yield made


@pytest.fixture
def job(runner: CrashRunner, tmp_path: Path, request: pytest.FixtureRequest) -> Job:
    """Give a planned job of the size that the test's parameter names."""
    from crash_jobs import Job

    size, options = request.param if isinstance(request.param, tuple) else (request.param, {})
    made = runner.run("crash_jobs:make", str(tmp_path), size, options)
    assert made.error is None, made.text
    return Job.read(made.value)

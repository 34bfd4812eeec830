"""A full disk is survived: a clear error, no torn file, and the job goes on where there is room."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from crash_jobs import Job, begin_anew
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.errors import StorageFullError
from volumetool.testing import CrashRunner, DiskFault
from volumetool.testing.disk import FULL


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("job", "positions"),
    [("tiny", 4), pytest.param("small", 20, marks=pytest.mark.slow), pytest.param("tiny", 1000, marks=pytest.mark.slow)],
    indirect=["job"],
    ids=["4", "20", "every"],
)
def test_a_disk_that_is_full_from_any_position_on(runner: CrashRunner, job: Job, positions: int) -> None:
    whole = runner.run("crash_jobs:go", job.told, root=begin_anew(job), fault=DiskFault(kinds=FULL))
    total = len(whole.events)
    last = 0
    for number in range(min(positions, total)):
        work = begin_anew(job)
        first = 1 + number * total // min(positions, total)
        full = runner.run("crash_jobs:go", job.told, root=work, fault=DiskFault.full(first))
        # The owner's goodbye is the last that is written, and nobody's loss.
        if full.error is not None:
            last = first
            assert isinstance(full.error, StorageFullError), f"position {first}: {full.text}"
            assert (full.error.code, full.error.exit_code) == ("output.full", 5)
            assert "run the same command again" in str(full.error)
        assert "Exception in thread" not in full.text
        again = runner.run("crash_jobs:inspect_and_resume", job.told)
        assert again.error is None, f"position {first} of {total}: {again.text}"
    assert last > total // 2


@pytest.mark.parametrize("job", ["small"], indirect=True)
def test_a_file_that_the_system_refuses_to_grow(runner: CrashRunner, job: Job) -> None:
    """The real thing, by the kernel: a limit of the size of files, half of the largest shard."""
    work = begin_anew(job)
    assert runner.run("crash_jobs:go", job.told).error is None
    largest = max(file.stat().st_size for file in Path(job.plan.output).rglob("c/*/*/*") if file.is_file())
    work = begin_anew(job)
    full = runner.run("crash_jobs:go_with_small_files", job.told, largest // 2, root=work)
    assert isinstance(full.error, StorageFullError), full.text
    again = runner.run("crash_jobs:inspect_and_resume", job.told)
    assert again.error is None, again.text


@pytest.mark.slow
def test_the_command_says_what_to_do_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    options = {"input": str(write_input(tmp_path / "in.zarr", noise((10, 37, 45)))), **SMALL}
    assert run(output=str(tmp_path / "straight.zarr"), **options).complete
    words = [f"--{name}={value}" for name, value in SMALL.items()]
    output = str(tmp_path / "out.zarr")
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", options["input"], output, *words]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16384, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with subprocess.Popen(command, preexec_fn=limited, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as full:  # noqa: PLW1509
        _, text = full.communicate()
    assert full.returncode == 5, text
    assert "there is no room to write" in text
    assert "Traceback" not in text
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert digest(output) == digest(tmp_path / "straight.zarr")

"""A second operation, a Gaussian filter, by the ordinary job: the heart knows no network, and keeps every law for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from small_jobs import digest, noise, read_levels, run, write_input

from volumetool.errors import ConfigError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.verification.verify import verify
from volumetool.processing.operation import open_operation
from volumetool.processing.operations.gaussian import GaussianFilter

SIGMA = (0.5, 1.0, 1.5)
SHAPE = (10, 50, 70)
OPTIONS: dict[str, Any] = {
    "model": "gaussian:sigma=0.5,1.0,1.5",
    "patch": "8,16,24",
    "chunk": "2,8,8",
    "shard": "8,16,16",
    "region": "1,1,2",
    "memory": "4GiB",
    "device": "cpu",
}

KILLED = """
import os, signal, sys
from small_jobs import run
from volumetool.events import RegionEnded
from volumetool.jobs.records import ledger

ledger.FLUSH_SECONDS = 0.0

def kill(event):
    if isinstance(event, RegionEnded) and event.done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

run(kill, **dict(argument.split("=", 1) for argument in sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("in") / "in.zarr", noise(SHAPE, "float32"))


@pytest.fixture(scope="module")
def done(volume: Path) -> Path:
    """Give the output of a job that nothing disturbed."""
    output = volume.parent / "out.zarr"
    assert run(input=str(volume), output=str(output), **OPTIONS).complete
    return output


def test_a_volume_is_filtered_as_by_scipy(done: Path) -> None:
    """At faces and corners too, where scipy's mode ``mirror`` does what a lattice does."""
    expected = ndimage.gaussian_filter(noise(SHAPE, "float32").astype(np.float64), SIGMA, mode="mirror", truncate=4.0)
    voxels = read_levels(done)[0]
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, expected, rtol=1e-6)


def test_regions_patches_and_calls_change_no_byte(volume: Path, done: Path, tmp_path: Path) -> None:
    """Each voxel is made of its own neighbourhood alone, so even the patch is free."""
    others: tuple[dict[str, Any], ...] = (
        {"region": "2,2,1", "patch_cache": "always"},
        {"region": "1,4,5", "patch": None, "batch": 3},
    )
    for number, other in enumerate(others):
        output = tmp_path / f"{number}.zarr"
        assert run(input=str(volume), output=str(output), **OPTIONS | other).complete
        assert digest(output) == digest(done)


def test_a_killed_job_goes_on_to_the_same_bytes(volume: Path, done: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"input": str(volume), "output": str(tmp_path / "out.zarr")}
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", KILLED, *(f"{name}={value}" for name, value in options.items())]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = open_ledger(plan(make_job(**options))).done
    outcome = run(**options)
    assert outcome.complete
    assert 0 < outcome.ran == outcome.regions - before < outcome.regions
    assert digest(tmp_path / "out.zarr") == digest(done)


@pytest.mark.slow
def test_two_workers_make_the_bytes_of_one(volume: Path, done: Path, tmp_path: Path) -> None:
    assert run(input=str(volume), output=str(tmp_path / "out.zarr"), workers=2, **OPTIONS).complete
    assert digest(tmp_path / "out.zarr") == digest(done)


def test_verify_finds_a_flipped_bit_and_nothing_before(volume: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"input": str(volume), "output": str(tmp_path / "out.zarr")}
    decided = run(**options).plan
    assert verify(decided).ok
    shard = max((path for path in (tmp_path / "out.zarr" / "0" / "c").rglob("*") if path.is_file()), key=str)
    stored = bytearray(shard.read_bytes())
    stored[len(stored) // 3] ^= 1
    shard.write_bytes(stored)
    assert not verify(decided).ok


@pytest.mark.parametrize("sigma", ["", "wide", "-1", "nan", "1,2", "99", "1;2"])
def test_a_filter_that_cannot_be_is_refused_with_an_example(sigma: str) -> None:
    with pytest.raises(ConfigError, match="does not describe a Gaussian filter") as caught:
        open_operation(f"gaussian:sigma={sigma}")
    assert "gaussian:sigma=0,1.5,1.5" in caught.value.hint


def test_a_filter_is_known_by_its_name_and_two_widths_are_two_operations() -> None:
    made = open_operation("gaussian:sigma=1.5")
    again = open_operation(made.spec)
    assert (again.card, again.identity) == (made.card, made.identity) == (made.card, GaussianFilter((1.5, 1.5, 1.5)).identity)
    assert open_operation("gaussian:sigma=0,1.5,1.5").identity != made.identity
    assert open_operation("gaussian:sigma=0,1.5,1.5").card.dims == 2

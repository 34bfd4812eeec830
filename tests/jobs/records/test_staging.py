"""Chunks that are wider than a strip are read once for a region, with the same voxels, and leave nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.geometry import Box
from volumetool.jobs.inspection import status
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.records import staging
from volumetool.jobs.records.staging import SharedChunks, rereads, staged
from volumetool.storage.voxels import Source

SHAPE = (5, 30, 90)
CHUNK = (2, 16, 32)
WINDOWS = [Box((1, 3, x), (5, 28, min(x + 14, 90))) for x in range(0, 88, 10)]


class Counted:
    """A stored volume that counts how often each voxel is read."""

    def __init__(self) -> None:
        self.voxels = np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)
        self.times = np.zeros(SHAPE, int)
        self.sizes: list[int] = []

    def source(self) -> Source:
        def read(box: Box) -> Any:
            self.times[box.slices] += 1
            self.sizes.append(box.voxels)
            return self.voxels[box.slices]

        return Source(ts.array(self.voxels), computed=read)


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files count as lying on a disk, whatever this machine has them on."""
    monkeypatch.setattr(staging, "mount_of", lambda _folder: ("/", "ext4"))


def read_all(counted: Counted, folder: Path) -> None:
    shared = SharedChunks(counted.source(), WINDOWS, CHUNK, folder)
    for window in WINDOWS:
        np.testing.assert_array_equal(shared(window), counted.voxels[window.slices])


def test_each_voxel_of_a_region_is_read_once_and_nothing_is_left(tmp_path: Path) -> None:
    counted = Counted()
    read_all(counted, tmp_path)
    assert rereads(WINDOWS, CHUNK) > 3
    assert counted.times.max() == 1
    assert list(tmp_path.iterdir()) == []


def test_at_no_time_is_more_kept_than_two_columns_of_chunks(tmp_path: Path) -> None:
    counted, most = Counted(), 0
    shared = SharedChunks(counted.source(), WINDOWS, CHUNK, tmp_path)
    for window in WINDOWS:
        shared(window)
        most = max(most, sum(file.stat().st_size for file in tmp_path.iterdir()))
    depth, rows, _ = WINDOWS[0].shape
    assert 0 < most <= 2 * depth * rows * CHUNK[2] * counted.voxels.itemsize


def test_what_is_on_its_way_to_the_disk_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    monkeypatch.setattr(staging, "LAYER", 2 * np.prod(CHUNK))
    read_all(counted, tmp_path)
    assert counted.times.max() == 1
    assert max(counted.sizes) <= np.prod(CHUNK)


@pytest.mark.parametrize("when", [0, 3])
def test_where_nothing_can_be_kept_each_strip_reads_for_itself(tmp_path: Path, when: int) -> None:
    counted = Counted()
    shared = SharedChunks(counted.source(), WINDOWS, CHUNK, tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    for number, window in enumerate(WINDOWS):
        if number == when:
            shutil.rmtree(tmp_path / "kept")
        np.testing.assert_array_equal(shared(window), counted.voxels[window.slices])
    assert counted.times.max() > 1


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:-1] + bytes([raw[-1] ^ 4])])
def test_what_the_disk_gives_back_otherwise_is_read_from_the_input_again(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    counted = Counted()
    shared = SharedChunks(counted.source(), WINDOWS, CHUNK, tmp_path)
    for number, window in enumerate(WINDOWS):
        np.testing.assert_array_equal(shared(window), counted.voxels[window.slices])
        for file in tmp_path.iterdir() if number == 0 else ():
            file.write_bytes(damage(file.read_bytes()))
    assert counted.times.max() > 1


@pytest.mark.usefixtures("on_disk")
def test_where_no_folder_can_be_made_each_strip_reads_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()
    (tmp_path / "a file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a file"))
    with staged(counted.source(), WINDOWS, CHUNK) as source:
        for window in WINDOWS:
            np.testing.assert_array_equal(source.read(window), counted.voxels[window.slices])
    assert counted.times.max() > 1


@pytest.mark.usefixtures("on_disk")
def test_a_job_over_wide_chunks_moves_fewer_bytes_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_input(tmp_path / "in.zarr", noise((4, 32, 128)), chunk=(1, 32, 128))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # jobs of other tests beside this one use the machine's
    moved = []
    for name, least in (("apart", 1e9), ("shared", staging.FROM)):
        monkeypatch.setattr(staging, "FROM", least)
        outcome = run(**SMALL | {"input": str(source), "output": str(tmp_path / f"{name}.zarr"), "region": "1,1,8"})
        moved.append(status(outcome.output).moved)
    assert moved[1] < moved[0]
    assert digest(tmp_path / "apart.zarr") == digest(tmp_path / "shared.zarr")
    assert "strips share its chunks by" in dict(describe_plan(outcome.plan))["read"]
    assert not list(tmp_path.glob("volumetool-input-*"))

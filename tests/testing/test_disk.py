"""The harness itself: faults come where they were asked for, and a loss of power takes what was not synced."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from volumetool.testing import CrashRunner, DiskFault, can_fail, lose_power
from volumetool.testing.disk import Action


@pytest.fixture(scope="module")
def runner() -> Iterator[CrashRunner]:
    if not can_fail():
        pytest.skip("a failing disk needs Linux and a C compiler")
    with CrashRunner(["disk_tasks"]) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "watched"
    place.mkdir()
    (place / "file").write_text("old")
    return place


def test_operations_are_seen_in_order(runner: CrashRunner, folder: Path) -> None:
    ended = runner.run("disk_tasks:save", str(folder), "fresh", root=folder)
    assert [(event.kind, event.path, event.other) for event in ended.events] == [
        ("create", "/new", ""),
        ("write", "/new", ""),
        ("sync", "/new", ""),
        ("rename", "/new", "/file"),
        ("sync", "", ""),
    ]
    assert [event.number for event in ended.events] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("action", "number", "left", "fresh"),
    [
        ("kill-before", 2, "old", ""),
        ("kill-within", 2, "old", "fre"),
        ("kill-after", 2, "old", "fresh"),
        ("kill-before", 4, "old", "fresh"),
        ("kill-after", 4, "fresh", None),
    ],
)
def test_a_process_dies_where_it_was_asked_to(
    runner: CrashRunner, folder: Path, action: Action, number: int, left: str, fresh: str | None
) -> None:
    died = runner.run("disk_tasks:save", str(folder), "fresh", root=folder, fault=DiskFault(action, number))
    assert (died.killed, died.code) == (True, -signal.SIGKILL)
    assert (folder / "file").read_text() == left
    assert ((folder / "new").read_text() if (folder / "new").exists() else None) == fresh


@pytest.mark.parametrize(("action", "left"), [("fail-before", "old"), ("fail-after", "fresh")])
def test_an_operation_fails_with_or_without_effect(runner: CrashRunner, folder: Path, action: Action, left: str) -> None:
    failed = runner.run("disk_tasks:save", str(folder), "fresh", root=folder, fault=DiskFault(action, 4, error=errno.ESTALE))
    assert isinstance(failed.error, OSError)
    assert (failed.error.errno, failed.hits) == (errno.ESTALE, 1)
    assert (folder / "file").read_text() == left


def test_a_full_disk_stays_full_and_still_deletes_and_renames(runner: CrashRunner, folder: Path) -> None:
    for _ in range(2):
        full = runner.run("disk_tasks:save", str(folder), "fresh", root=folder, fault=DiskFault.full(2))
        assert isinstance(full.error, OSError)
        assert full.error.errno == errno.ENOSPC


@pytest.mark.parametrize(("action", "first"), [("lie", b"kld"), ("fall-short", b"old")])
def test_a_read_lies_until_the_file_is_opened_again(runner: CrashRunner, folder: Path, action: Action, first: bytes) -> None:
    fault = DiskFault(action, 1, kinds=("read",))
    ended = runner.run("disk_tasks:read", str(folder), root=folder, fault=fault)
    wrong = bytes([b"old"[0], b"old"[1] ^ 4, b"old"[2]])
    assert ended.value == [(wrong if action == "lie" else first).decode(), "old"]


def test_chances_come_again_with_their_seed(runner: CrashRunner, folder: Path) -> None:
    def hits(seed: int) -> int:
        fault = DiskFault("wait", share=0.5, seed=seed)
        return runner.run("disk_tasks:save", str(folder), "fresh", root=folder, fault=fault).hits

    counts = [hits(seed) for seed in range(8)]
    assert counts == [hits(seed) for seed in range(8)]
    assert len(set(counts)) > 1


def test_a_process_that_hangs_is_killed_by_the_clock(runner: CrashRunner) -> None:
    assert runner.run("time:sleep", 60, kill_after=0.1).killed


def test_what_was_synced_survives_a_loss_of_power_and_the_rest_may_not(runner: CrashRunner, folder: Path) -> None:
    for task, may_be in (("save", {"fresh"}), ("save_unsynced", {"", "fr", "fres", "fresh"})):
        seen = set()
        for seed in range(12):
            (folder / "file").write_text("old")
            ended = runner.run(f"disk_tasks:{task}", str(folder), "fresh", root=folder, keep=True)
            lose_power(folder, ended, Random(seed), share=0.7)  # noqa: S311
            seen.add((folder / "file").read_text())
        assert seen <= may_be
        assert len(seen) == 1 or len(may_be) > 1
    assert len(seen) > 1


def test_a_rename_whose_folder_was_not_synced_may_be_undone(runner: CrashRunner, folder: Path) -> None:
    seen = set()
    for seed in range(12):
        (folder / "file").write_text("old")
        (folder / "new").unlink(missing_ok=True)
        fault = DiskFault("kill-before", 5)
        died = runner.run("disk_tasks:save", str(folder), "fresh", root=folder, fault=fault, keep=True)
        loss = lose_power(folder, died, Random(seed))  # noqa: S311
        seen.add((folder / "file").read_text())
        assert ("/file" in loss.names) == ((folder / "file").read_text() == "old")
    assert seen == {"old", "fresh"}

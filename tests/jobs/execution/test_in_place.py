"""What changes a volume in place is killed: the volume misses nothing, and calls itself complete only when it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from in_place import COMMANDS, shards, status

from volumetool.testing import CrashRunner, can_fail

KEEPS_ALL = {"pyramid", "pyramid of one level", "enhance --recompute-changed", "clean"}
"""Commands that replace the voxels of a sound volume that stays the same one."""


@pytest.fixture(scope="module")
def runner() -> Iterator[CrashRunner]:
    if not can_fail():
        pytest.skip("processes that die on request need Linux and a C compiler")
    with CrashRunner(["in_place"]) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("command", COMMANDS)
def test_fifty_kills_leave_nothing_that_calls_itself_complete_and_is_not(
    runner: CrashRunner, command: str, tmp_path: Path
) -> None:
    kill_again_and_again(runner, command, tmp_path, 50)


@pytest.mark.parametrize("command", ["pyramid", "enhance --roi", "crappify"])
def test_a_kill_leaves_nothing_that_calls_itself_complete_and_is_not(runner: CrashRunner, command: str, tmp_path: Path) -> None:
    kill_again_and_again(runner, command, tmp_path, 1)


def kill_again_and_again(runner: CrashRunner, command: str, folder: Path, kills: int) -> None:
    """Kill a command at random moments, look at what it left, and let it run to its end."""
    made = runner.run("in_place:prepare", command, str(folder))
    assert made.error is None, made.text
    work, before = folder / "work", shards(folder / "before")
    begun = time.monotonic()
    assert runner.run("in_place:go", command, str(folder)).error is None
    duration, after = time.monotonic() - begun, shards(work)
    assert after
    random, killed = Random(command), 0  # noqa: S311
    while killed < kills:
        shutil.rmtree(work)
        shutil.copytree(folder / "before", work)
        for _ in range(random.choice((1, 1, 3))):
            killed += runner.run("in_place:go", command, str(folder), kill_after=random.random() * duration).killed
            left = shards(work)
            assert status(work) != "complete" or left in (before, after)
            if command in KEEPS_ALL:
                assert not before.keys() - left.keys(), "a level that is named has a hole"
                assert all(left[name] in (before[name], after[name]) for name in before)
        again = runner.run("in_place:go", command, str(folder))
        assert again.error is None, again.text
        assert shards(work) == after

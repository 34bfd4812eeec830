"""Temporary folders go with their process, and those of killed ones with the next that asks for one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from volumetool.scratch import scratch_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from volumetool.scratch import scratch_folder
with scratch_folder("test", Path(sys.argv[1])) as folder:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("left")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_in(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_folder_goes_with_its_context(tmp_path: Path) -> None:
    with scratch_folder("test", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
        assert folder.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(tmp_path: Path) -> None:
    kill_in(tmp_path)
    (left,) = tmp_path.iterdir()
    with scratch_folder("other", tmp_path) as folder:
        assert not left.exists()
        with scratch_folder("test", tmp_path):
            assert folder.exists()  # its process lives


def test_nothing_else_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what another machine or namespace may be using, not what a link leads to, nothing with another name."""
    kill_in(tmp_path)
    (left,) = tmp_path.iterdir()
    precious = tmp_path / "precious"
    left.rename(precious)
    (tmp_path / left.name).symlink_to(precious)
    word, purpose, mark, rest = left.name.split("-", 3)
    other = f"{int(mark, 16) ^ 1:08x}"
    (tmp_path / f"{word}-{purpose}-{other}-{rest}").mkdir()
    (tmp_path / "volumetool-notes").mkdir()
    before = sorted(tmp_path.iterdir())
    with scratch_folder("test", tmp_path):
        pass
    assert sorted(tmp_path.iterdir()) == before
    assert (precious / "below" / "file").read_text() == "left"
    (tmp_path / left.name).unlink()
    precious.rename(left)
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # another user's
    with scratch_folder("test", tmp_path):
        assert left.exists()

"""S11: a job's folder is the user's own; what is there before it is not trusted."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from small_jobs import SMALL, noise, run, write_input

from volumetool.errors import OutputError
from volumetool.jobs import job_dir
from volumetool.jobs.job_dir import claim_folder


def test_a_job_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        outcome = run(
            input=str(write_input(tmp_path / "in.zarr", noise((4, 16, 16)))), output=str(tmp_path / "out.zarr"), **SMALL
        )
    finally:
        os.umask(old)
    assert outcome.complete
    assert stat.S_IMODE((tmp_path / "out.zarr.job").stat().st_mode) == 0o700


def test_what_a_user_grants_to_others_stays(tmp_path: Path) -> None:
    folder = tmp_path / "out.job"
    claim_folder(str(folder))
    folder.chmod(0o750)
    claim_folder(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


OTHER = 54321


@pytest.mark.parametrize("trap", ["folder", "link", "dangling link", "file"])
def test_a_folder_of_another_user_is_refused(trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "out.job", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if trap == "folder":
        folder.mkdir()
    elif trap == "file":
        folder.touch()
    else:
        folder.symlink_to(elsewhere if trap == "link" else tmp_path / "nothing")
    if os.geteuid() == 0:
        os.lchown(folder, OTHER, OTHER)
    else:  # nobody but root can give a file away: be somebody else instead
        monkeypatch.setattr(job_dir.os, "geteuid", lambda: OTHER)
        monkeypatch.setattr(job_dir, "_owner_of_new", lambda _: OTHER)
    with pytest.raises(OutputError) as caught:
        claim_folder(str(folder))
    assert caught.value.code == "output.not-yours"
    assert list(elsewhere.iterdir()) == []


def test_a_file_system_that_shows_all_files_as_anothers_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out.job"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, OTHER, OTHER)
        monkeypatch.setattr(job_dir, "_owner_of_new", lambda _: OTHER)
    else:
        monkeypatch.setattr(job_dir.os, "geteuid", lambda: OTHER)
    claim_folder(str(folder))


def test_folders_in_the_shared_temporary_folder_are_private() -> None:
    with tempfile.TemporaryDirectory(prefix="volumetool-") as folder:
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700

"""Files of this machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from volumetool.errors import OutputError
from volumetool.paths import make_folder, replace_file


@pytest.mark.parametrize("before", [b"old", None])
def test_a_file_is_whole_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None) -> None:
    place = tmp_path / "recipe.yaml"
    if before is not None:
        place.write_bytes(before)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            replace_file(place, b"new")
    assert (place.read_bytes() if place.exists() else None) == before
    replace_file(place, b"new")
    assert place.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [place]


def test_a_link_stays_one_and_a_pipe_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    replace_file("/dev/null", b"gone")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize(
    ("number", "code", "exit_code"), [(errno.ENOSPC, "output.full", 5), (errno.EROFS, "output.unwritable", 2)]
)
def test_a_file_that_cannot_be_written_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, exit_code: int
) -> None:
    place = tmp_path / "history.json"
    place.write_bytes(b"old")

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=f"{place}.*{os.strerror(number)}") as caught:
        replace_file(place, b"new")
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]  # no half file keeps the room


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"{tmp_path / 'file' / 'run'} cannot be written"):
        make_folder(tmp_path / "file" / "run")

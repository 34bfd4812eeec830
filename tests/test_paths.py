"""Files of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from volumetool.paths import replace_file


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

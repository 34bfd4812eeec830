"""Commands work with whatever streams they are given: closed ones, and consoles that know few characters."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import main

from volumetool.store.open import open_volume

PROGRAM = Path(sys.executable).with_name("volumetool")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_works_with_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 255, (3, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", voxels, photometric="minisblack")
    command = f'"{PROGRAM}" convert stack.tif new.zarr --voxel-size 30,8,8 {closed}'
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0  # noqa: S602
    assert np.array_equal(open_volume(tmp_path / "new.zarr").open().read().result(), voxels)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_consoles_that_are_not_utf_8_get_what_they_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
    for name, stream in shown.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding))
    with pytest.raises(SystemExit) as ended:
        main(["info", "λ.zarr"])
    assert ended.value.code == 2
    assert "?.zarr" in shown["stderr"].getvalue().decode(encoding)

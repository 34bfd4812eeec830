"""``volumetool convert`` as its users meet it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import main

from volumetool.events import bars
from volumetool.storage.open import open_volume

VOXELS = np.random.default_rng(0).integers(1, 255, (8, 40, 60), dtype=np.uint8)


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it printed on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of sections of which number 3 is missing."""
    (tmp_path / "in").mkdir()
    for n in (0, 1, 2, 4, 5, 6, 7):
        tifffile.imwrite(tmp_path / "in" / f"sec_{n:04d}.tif", VOXELS[n])
    return tmp_path / "in"


def test_gaps_are_refused_or_become_blank_sections_that_info_names(folder: Path) -> None:
    output = folder.parent / "v.zarr"
    code, _, err = run("convert", folder, output, "--voxel-size", "30,8,8")
    assert (code, "input.missing-sections" in err, "--gaps keep" in err) == (2, True, True)
    code, _, err = run("convert", folder, output, "--voxel-size", "30,8,8", "--gaps", "keep")
    assert (code, "blank, as their numbers are missing: 3" in err) == (0, True)
    voxels = open_volume(output).open().read().result()
    np.testing.assert_array_equal(voxels, np.where(np.arange(8)[:, None, None] == 3, 0, VOXELS))
    assert json.loads(run("info", output, "--json")[1])["blank_sections"] == [3]
    code, _, err = run("convert", folder, output, "--voxel-size", "30,8,8", "--gaps", "close")
    assert (code, "output.exists" in err) == (2, True)
    code, _, err = run("convert", folder, output, "--voxel-size", "30,8,8", "--gaps", "close", "--overwrite")
    assert (code, open_volume(output).shape[0]) == (0, 7)


def test_a_dry_run_says_what_it_takes_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.parent.rglob("*"))
    options = ("--voxel-size", "30,8,8", "--gaps", "keep", "--memory", "1kB", "--dry-run", "--json")
    code, out, err = run("convert", folder, folder.parent / "v.zarr", *options)
    assert code == 0
    assert {"input", "files", "output", "memory", "disk", "note"} <= {line.split(" ")[0] for line in err.splitlines()}
    assert json.loads(out)["staging"] == VOXELS.size
    assert sorted(folder.parent.rglob("*")) == before


def test_what_is_converted_already_is_not_done_again(folder: Path) -> None:
    arguments = ("convert", folder, folder.parent / "v.zarr", "--voxel-size", "30,8,8", "--gaps", "keep")
    assert run(*arguments)[0] == 0
    shard = next((folder.parent / "v.zarr" / "0" / "c").rglob("0/0"))
    before = shard.stat().st_mtime_ns
    assert run(*arguments)[0] == 0
    assert shard.stat().st_mtime_ns == before


@pytest.mark.parametrize("memory", ["", "none", "-1GiB", "0"])
def test_what_is_no_memory_is_told(folder: Path, memory: str) -> None:
    code, _, err = run(
        "convert", folder, folder.parent / "v.zarr", f"--memory={memory}", "--voxel-size", "30,8,8", "--gaps=keep"
    )
    assert (code, "config.option" in err) == (2, True)


def test_progress_is_told_in_lines_where_there_is_no_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "LINE_SECONDS", 0.0)
    _, _, err = run("convert", folder, folder.parent / "v.zarr", "--voxel-size", "30,8,8", "--gaps", "keep")
    shares = [float(line.split()[-1].rstrip("%")) for line in err.splitlines() if "converting:" in line]
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_no_command_writes_a_volume_that_is_named_as_another_format(folder: Path) -> None:
    volume, output = folder.parent / "v.zarr", folder.parent / "out.tif"
    assert run("convert", folder, volume, "--voxel-size", "30,32,32", "--gaps", "keep")[0] == 0
    for command in (("convert",), ("enhance", "--model", "em-x4"), ("crappify",)):
        code, _, err = run(command[0], volume, output, *command[1:])
        assert (code, "output.format" in err, output.exists()) == (2, True, False)


@pytest.mark.slow
def test_a_command_that_was_killed_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    """By SIGKILL, at any moment of reading, writing and building the levels; nothing is left beside the volume."""
    voxels = np.random.default_rng(1).integers(0, 255, (96, 700, 900), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", voxels, photometric="minisblack", compression="zlib", rowsperstrip=100)
    program = Path(sys.executable).with_name("volumetool")

    def command(output: str) -> list[Any]:
        return [program, "convert", tmp_path / "s.tif", tmp_path / output, "--voxel-size", "8,8,8", "--memory", "8MiB"]

    began = time.monotonic()
    subprocess.run(command("whole.zarr"), check=True, capture_output=True)
    whole = time.monotonic() - began
    for kill in range(1, 11):
        with subprocess.Popen(command("v.zarr"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            time.sleep(whole * kill / 11)
            running.send_signal(signal.SIGKILL)
    subprocess.run(command("v.zarr"), check=True, capture_output=True)
    assert _files(tmp_path / "v.zarr") == _files(tmp_path / "whole.zarr")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.tif", "v.zarr", "whole.zarr"]


def _files(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}

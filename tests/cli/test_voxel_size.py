"""A voxel size in another unit or order is asked about, with the one that is likely meant and how to confirm what was typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import main

import volumetool as vt
from volumetool.units import likely_meant

FAKE = "fake:identity?scale=1,2,2"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ((0.05, 0.004, 0.004), (50.0, 4.0, 4.0)),
        ((0.4, 0.032, 0.032), (400.0, 32.0, 32.0)),
        ((5e-5, 4e-6, 4e-6), (50.0, 4.0, 4.0)),
        ((5e-8, 4e-9, 4e-9), (50.0, 4.0, 4.0)),
        ((4.0, 4.0, 50.0), (50.0, 4.0, 4.0)),
        ((4.0, 4.2, 30.0), (30.0, 4.2, 4.0)),
        ((4.0, 50.0, 4.0), (50.0, 4.0, 4.0)),
        ((50.0, 4.0, 4.0), None),
        ((8.0, 8.0, 8.0), None),
        ((4.0, 8.0, 8.0), None),
        ((30.0, 4.0, 8.0), None),
        ((0.6, 0.2, 0.2), None),
        ((1000.0, 500.0, 500.0), None),
    ],
)
def test_what_is_likely_meant(typed: tuple[float, float, float], meant: tuple[float, float, float] | None) -> None:
    likely = likely_meant(typed)
    assert (None if likely is None else likely[0]) == meant


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Make a small stack that knows no voxel size."""
    voxels = np.random.default_rng(1).integers(1, 255, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", voxels, photometric="minisblack", metadata=None)
    return tmp_path / "s.tif"


def call(*words: object) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("typed", ["0.05,0.004,0.004", "4,4,50"])
def test_commands_that_write_refuse_it_until_it_is_confirmed(
    stack: Path, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = stack.parent / "out.zarr"
    assert call("convert", stack, out, "--voxel-size", typed) == 2
    said = capsys.readouterr().err
    assert "[config.voxel-size]" in said
    assert "--voxel-size 50,4,4" in said
    assert "--force-voxel-size" in said
    assert not out.exists()
    assert call("convert", stack, out, "--voxel-size", typed, "--force-voxel-size") == 0
    assert vt.open_volume(out).voxel_size == tuple(map(float, typed.split(",")))
    job = ("enhance", out, stack.parent / "e.zarr", "--model", FAKE, "--voxel-size", typed, "-n")
    assert call(*job) == 2
    assert "--voxel-size 50,4,4" in capsys.readouterr().err
    assert call(*job, "--force-voxel-size") == 0


def test_commands_that_look_warn_of_it(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = stack.parent / "out.zarr"
    vt.convert(stack, out, voxel_size=(50.0, 4.0, 4.0))
    capsys.readouterr()
    assert call("info", out, "--voxel-size", "4,4,50") == 0
    assert "--voxel-size 50,4,4" in capsys.readouterr().err
    assert call("info", out, "--voxel-size", "30,8,8") == 0
    assert "warning" not in capsys.readouterr().err


def test_a_pyramid_is_told_the_voxel_size_that_a_volume_lacks(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    out = stack.parent / "out.zarr"
    vt.convert(stack, out, voxel_size=(50.0, 4.0, 4.0))
    group = json.loads((out / "zarr.json").read_text())
    for axis in group["attributes"]["ome"]["multiscales"][0]["axes"]:
        del axis["unit"]
    (out / "zarr.json").write_text(json.dumps(group))
    assert call("pyramid", out) == 2
    assert "--voxel-size" in capsys.readouterr().err
    assert call("pyramid", out, "--voxel-size", "50,4,4") == 0

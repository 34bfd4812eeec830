"""Pyramids: `volumetool convert` and `volumetool pyramid` beside the tools that users would pick instead, in turns.

Each peer lives in an environment of its own, given as a Python interpreter. pytest does not collect this file. To run it::

    python -m venv NGFF && NGFF/bin/pip install ngff-zarr
    python -m venv OME && OME/bin/pip install ome-zarr
    python -m venv TINY && TINY/bin/pip install tinybrain tensorstore
    python tests/benchmarks/compare_pyramids.py DATA --peer ngff-zarr=NGFF/bin/python --peer ome-zarr-py=OME/bin/python \
        --peer tinybrain=TINY/bin/python

All make means of 2 x 2 x 2 voxels of one FIB-SEM volume, mirrored to 256 x 1024 x 1024 voxels of 8 bit, in chunks of 64 x 64 x
64. ngff-zarr and ome-zarr-py write level 0, too, and are compared with `convert`; tinybrain makes means in memory that
tensorstore reads and writes, and is compared with `pyramid`. In the peers' favour: ngff-zarr and ome-zarr-py read plain voxels
from the page cache, ours are decompressed; none of them reads back what it wrote, or waits for the disk. Whether the means are
right is said beside the times: the share of voxels of level 1 that are the exact mean, rounded half to even, and the largest
difference.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from volumetool.geometry import plan_levels
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert import write_finest

SHAPE = (256, 1024, 1024)
SIZE = (8.0, 8.0, 8.0)
LEVELS = len(plan_levels(SHAPE, SIZE, (0.0, 0.0, 0.0)))
LEVEL_1 = {"ngff-zarr": "scale1/image", "ome-zarr-py": "s1", "tinybrain": "1", "convert": "1", "pyramid": "1"}
OURS = ("convert", "pyramid")


def main() -> None:
    """Run all in turns, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pythons = dict(pair.split("=", 1) for pair in options.peer) | dict.fromkeys(OURS, sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        truth = write_source(options.data, place)
        seconds: dict[str, list[float]] = {}
        right: dict[str, str] = {}
        for _ in range(options.rounds):
            for name, python in pythons.items():
                output = place / "output"
                seconds.setdefault(name, []).append(run(name, python, place, output))
                written = place / "finest.zarr" if name == "pyramid" else output
                right[name] = compare(written / LEVEL_1[name], truth)
                shutil.rmtree(output, ignore_errors=True)
    show(seconds, right)


def write_source(data: Path, place: Path) -> NDArray[np.float64]:
    """Write the volume as plain voxels and as OME-Zarr of one level; return the exact means of level 1."""
    cube = tifffile.imread(data / "fib25-fibsem/fib25_val_z0-199_y0-339.tif")
    voxels = np.pad(cube, [(0, n - m) for n, m in zip(SHAPE, cube.shape, strict=True)], mode="symmetric")
    np.save(place / "source.npy", voxels)
    tifffile.imwrite(place / "source.tif", voxels)
    levels = plan_levels(SHAPE, SIZE, (0.0, 0.0, 0.0))
    write_finest(plan_conversion(place / "source.tif", place / "finest.zarr", voxel_size=SIZE, levels=levels[:1]))
    z, y, x = (n // 2 for n in SHAPE)
    means: NDArray[np.float64] = voxels.reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))
    return np.rint(means)


def run(name: str, python: str, place: Path, output: Path) -> float:
    """Run one program once; return its seconds."""
    source = place / ("finest.zarr" if name in (*OURS, "tinybrain") else "source.npy")
    side = Path(__file__).with_name("pyramid_process.py")
    command = [python, str(side), name, str(source), str(output), str(LEVELS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return float(answer["seconds"])


def compare(array: Path, truth: NDArray[np.float64]) -> str:
    """Say how near a stored level 1 is to the exact means."""
    stored = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}).result().read().result()
    away = np.abs(stored.astype(np.float64) - truth)
    return f"{100 * np.mean(away == 0):.1f} %, off by {away.max():.0f} at most"


def show(seconds: dict[str, list[float]], right: dict[str, str]) -> None:
    """Print a table."""
    table = Table(title=f"{open_size()} of 8 bit, {LEVELS} levels; medians (range)", title_justify="left")
    for column in ("", "seconds", "Mvox/s of level 0", "its time in times of ours", "exact means on level 1"):
        table.add_column(column)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    for name, each in seconds.items():
        against = "pyramid" if name in ("tinybrain", "pyramid") else "convert"
        ratios = [a / b for a, b in zip(each, seconds[against], strict=True)]
        ratio = "" if name in OURS else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of {against}"
        rate = np.prod(SHAPE) / middle[name] / 1e6
        table.add_row(name, f"{middle[name]:.1f} ({min(each):.1f} to {max(each):.1f})", f"{rate:.0f}", ratio, right[name])
    Console(width=160).print(table)


def open_size() -> str:
    """Return the volume's size as text."""
    return " x ".join(map(str, SHAPE)) + " voxels"


if __name__ == "__main__":
    main()

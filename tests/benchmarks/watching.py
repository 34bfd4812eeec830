"""How soon a section that lands can be read enhanced: ``python tests/benchmarks/watching.py STACK.tif [--count 30]``.

`volumetool live FOLDER --watch` runs in a process of its own. The sections of a real stack, cut to 512 x 512, are moved into
the folder one by one, each once the one before can be read. Told are the seconds from the move until zarr-python reads the
section's voxels from the growing output, median and most; the first, which waits for the model, apart. In the middle the watch
is killed and started again; the section that lands then is told apart, too. At the end the volume is compared, file by file,
with that of the batch job with the same statistics. Figure: 2 s (median).
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
import zarr
from rich.console import Console

from volumetool.jobs.api import enhance

SIDE = 512
FIT_ON = 3


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack", type=Path)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--model", default="em-x4")
    parser.add_argument("--voxel-size", default="50,32,32")
    asked = parser.parse_args()
    voxels = tifffile.imread(asked.stack, key=range(asked.count))[:, :SIDE, :SIDE]
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), voxels, asked)
    Console(soft_wrap=True).print_json(data=facts, indent=None)


def measure(place: Path, voxels: np.ndarray, asked: argparse.Namespace) -> dict[str, object]:
    """Return the figures."""
    incoming = place / "incoming"
    incoming.mkdir()
    process = start(incoming, asked)
    time.sleep(10)  # imports
    seconds = []
    for number, section in enumerate(voxels):
        if number == asked.count // 2:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process = start(incoming, asked)
        tifffile.imwrite(place / "next.tif", section)
        (place / "next.tif").rename(incoming / f"s_{number:04}.tif")
        moved = time.perf_counter()
        if number >= FIT_ON - 1:
            wait_for(place / "incoming-enhanced.zarr", number, last=number == asked.count - 1)
            seconds.append(time.perf_counter() - moved)
        else:
            time.sleep(1)
    if process.wait():
        raise RuntimeError("the watch failed")
    first, middle = seconds[0], seconds[asked.count // 2 - FIT_ON + 1]
    steady = seconds[1 : asked.count // 2 - FIT_ON + 1] + seconds[asked.count // 2 - FIT_ON + 2 : -1]
    output = place / "incoming-enhanced.zarr"
    table = f"{output}.job/sections.csv"
    enhance(f"{place}/incoming-raw.zarr", f"{place}/batch.zarr", model=asked.model, statistics=table)
    return {
        "model": asked.model,
        "sections": len(voxels),
        "seconds_median": round(statistics.median(steady), 2),
        "seconds_most": round(max(steady), 2),
        "seconds_first": round(first, 2),
        "seconds_after_kill": round(middle, 2),
        "same_as_batch": same(output, place / "batch.zarr"),
    }


def start(incoming: Path, asked: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start the watch."""
    command = [sys.executable, "-m", "volumetool.cli.main", "live", str(incoming), "--watch", "--model", asked.model]
    command += ["--voxel-size", asked.voxel_size, "--count", str(asked.count), "--fit-on", str(FIT_ON)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def wait_for(output: Path, z: int, *, last: bool) -> None:
    """Wait until a section can be read; the last one may be read from the finished volume already."""
    while True:
        for name in ("growing/0", "0") if last else ("growing/0",):
            try:
                section = zarr.open_array(str(output / name), mode="r")[z]
            except (OSError, KeyError, IndexError, ValueError):
                continue
            # A step is stored shard by shard: it is there once its record is.
            steps = zarr.open_group(str(output), mode="r").attrs["volumetool"].get("steps")
            if np.any(section) and (steps is None or (z < steps["done"] + len(steps["missing"]) and z not in steps["missing"])):
                return
        time.sleep(0.01)


def same(one: Path, other: Path) -> bool:
    """Say whether two volumes have the same files with the same bytes."""
    names = [{file.relative_to(root) for file in root.rglob("*") if file.is_file()} for root in (one, other)]
    return names[0] == names[1] and all((one / name).read_bytes() == (other / name).read_bytes() for name in names[0])


if __name__ == "__main__":
    main()

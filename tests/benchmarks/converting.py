"""What a conversion of a large stack costs beside its parts: decoding the sections alone, and writing the volume alone.

Sections of real EM, 8192 x 8192 of 8 bit in deflate TIFF, are decoded and thrown away; a slab of them is written from memory as
a volume of that size with all its levels; then the stack is converted, in a GiB of memory, and it is counted how often each
section is decoded. At last the command converts it again, is killed ten times, and the bytes of both volumes are compared.
pytest does not collect this file. It needs some 50 GB of disk for 200 sections. To run it::

    python tests/benchmarks/converting.py DATA/fib25-fibsem/fib25_train1.tif --sections 200 --folder /scratch
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console

from volumetool.jobs.convert import convert_volume
from volumetool.jobs.pyramid import build_pyramid
from volumetool.store.arrays import write_part
from volumetool.store.conversion import ConversionPlan, cut, plan_conversion
from volumetool.store.convert import DONE_KEY, FINEST_ALONE
from volumetool.store.create import OWN_KEY, create_volume, open_for_writing
from volumetool.store.found import read_json
from volumetool.store.images import ImageStack

VOXEL_SIZE = (50.0, 8.0, 8.0)
KILLS = 10
CONSOLE = Console(width=200)


def main() -> None:
    """Make the stack, time the parts and the whole, kill the command, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, help="TIFF stack of 8 bit to make the sections of")
    parser.add_argument("--sections", type=int, default=200)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for some 50 GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        make_sections(folder / "in", options.stack, options.sections, options.side)
        plan = plan_conversion(folder / "in", folder / "whole.zarr", voxel_size=VOXEL_SIZE)
        shown = (
            f"{len(plan.slabs)} slabs of up to {plan.slabs[0].shape[0]} sections, {'on disk' if plan.staged else 'in memory'}"
        )
        CONSOLE.print(f"{options.sections} sections of {options.side} x {options.side}: {shown}")
        decoding, slab = decode(plan)
        writing = write(plan, slab, folder / "written.zarr")
        del slab
        count, whole = convert(plan)
        CONSOLE.print(f"decoding alone {decoding:.0f} s, writing alone {writing:.0f} s, converting {whole:.0f} s")
        CONSOLE.print(f"ratio {whole / (decoding + writing):.2f}; decoded: {dict(Counter(count.values()))} times: sections")
        killed(folder, whole)
        same = digests(folder / "whole.zarr") == digests(folder / "killed.zarr")
        CONSOLE.print(f"killed {KILLS} times and resumed: {'the same bytes' if same else 'OTHER BYTES'}")


def make_sections(folder: Path, stack: Path, sections: int, side: int) -> None:
    """Write sections, each a mosaic of sections of the stack that are chosen and mirrored by chance."""
    folder.mkdir()
    tiles = tifffile.imread(stack)

    height, width = tiles.shape[1:]

    def make(z: int) -> None:
        chance = np.random.default_rng(z)
        section = np.empty((side, side), np.uint8)
        for y in range(0, side, height):
            for x in range(0, side, width):
                place = section[y : y + height, x : x + width]
                tile = tiles[chance.integers(len(tiles))][:: chance.choice((1, -1)), :: chance.choice((1, -1))]
                place[...] = tile[: place.shape[0], : place.shape[1]]
        tifffile.imwrite(folder / f"s_{z:04d}.tif", section, compression="zlib", compressionargs={"level": 1}, rowsperstrip=256)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(make, range(sections)))


def decode(plan: ConversionPlan) -> tuple[float, NDArray[np.uint8]]:
    """Decode every section in as many threads as a conversion; return the seconds, and the first slab."""
    stack = plan.source
    assert isinstance(stack, ImageStack)
    began = time.perf_counter()
    with ThreadPoolExecutor(plan.threads) as threads:
        list(threads.map(lambda z: [band.shape for _, band in stack.bands(z)], range(stack.shape[0])))
    return time.perf_counter() - began, stack.read(0, plan.slabs[0].stop[0])


def write(plan: ConversionPlan, slab: NDArray[np.uint8], place: Path) -> float:
    """Write a volume of the same shape out of memory, with all its levels, and delete it; return the seconds."""
    began = time.perf_counter()
    create_volume(str(place), plan.layout, {"status": FINEST_ALONE})
    target, grid = open_for_writing(str(place), plan.layout), plan.layout.levels[0]
    for box in plan.slabs:
        for part in cut(box, grid.shard, plan.part_voxels):
            write_part(target, part.slices, slab[part.shifted((-box.start[0], 0, 0)).slices])
    build_pyramid(str(place))
    seconds = time.perf_counter() - began
    shutil.rmtree(place)
    return seconds


def convert(plan: ConversionPlan) -> tuple[Counter[int], float]:
    """Convert; return how often each section was decoded, and the seconds."""
    count: Counter[int] = Counter()
    bands = ImageStack.bands

    def counted(self: ImageStack, z: int) -> Iterator[tuple[int, NDArray[Any]]]:
        count[z] += 1
        return bands(self, z)

    ImageStack.bands = counted  # type: ignore[method-assign]
    began = time.perf_counter()
    convert_volume(plan)
    seconds = time.perf_counter() - began
    ImageStack.bands = bands  # type: ignore[method-assign]
    return count, seconds


def killed(folder: Path, whole: float) -> None:
    """Run the command, kill it ten times, each after at most a third of the seconds that the whole takes; then let it end."""
    size = ",".join(map(str, VOXEL_SIZE))
    command = [
        Path(sys.executable).with_name("volumetool"),
        "convert",
        folder / "in",
        folder / "killed.zarr",
        "--voxel-size",
        size,
    ]
    done = []
    for share in np.random.default_rng(0).uniform(0.05, 0.3, KILLS):
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
            try:
                running.wait(2 + share * whole)
            except subprocess.TimeoutExpired:
                running.kill()
        own = (read_json(str(folder / "killed.zarr"), "zarr.json") or {}).get("attributes", {}).get(OWN_KEY, {})
        done.append(own.get(DONE_KEY, own.get("status")))
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    CONSOLE.print(f"sections done after each kill: {done}")


def digests(place: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a volume."""
    files = sorted(file for file in place.rglob("*") if file.is_file())
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    main()

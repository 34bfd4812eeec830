"""What a conversion of a large stack costs beside its parts: decoding the sections alone, and writing the volume alone.

The sections are real EM, 8192 x 8192 of 8 bit in deflate TIFF. In rounds, so that other work on the machine meets all three
alike, a slab of them is decoded and thrown away, written from memory as a volume with all its levels, and converted in a GiB of
memory; the system holds nothing of the files when they are read. Then the whole stack is converted, and it is counted how often
each section is decoded; and the command converts it again, is killed some times, and the bytes of both volumes are compared.
pytest does not collect this file. It needs some 50 GB of disk for 200 sections. To run it::

    python tests/benchmarks/converting.py DATA/fib25-fibsem/fib25_train1.tif --sections 200 --folder /scratch
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console

from volumetool.geometry.box import Box, cut
from volumetool.machine import usable_cores
from volumetool.storage.conversion import MEMORY_BYTES, ConversionPlan, plan_conversion
from volumetool.storage.convert import DONE_KEY, FINEST_ALONE
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.create import OWN_KEY, create_volume, open_for_writing
from volumetool.storage.formats.base import read_json
from volumetool.storage.images import ImageStack
from volumetool.storage.io.arrays import write_part
from volumetool.storage.pyramid import build_pyramid

VOXEL_SIZE = (50.0, 8.0, 8.0)
CONSOLE = Console(width=200)


def main() -> None:
    """Make the stack, time the parts and the whole, kill the command, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, help="TIFF stack of 8 bit to make the sections of")
    parser.add_argument("--sections", type=int, default=200)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for some 50 GB")
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        make_sections(folder / "in", options.stack, options.sections, options.side)
        plan = plan_conversion(folder / "in", folder / "whole.zarr", voxel_size=VOXEL_SIZE, memory=MEMORY_BYTES)
        shown = (
            f"{len(plan.slabs)} slabs of up to {plan.slabs[0].shape[0]} sections, {'on disk' if plan.staged else 'in memory'}"
        )
        CONSOLE.print(f"{options.sections} sections of {options.side} x {options.side}: {shown}")
        rounds = np.array([time_slab(plan, slab, folder) for slab in plan.slabs])  # (slabs, 3)
        decoding, writing, converting = rounds.sum(axis=0)
        CONSOLE.print(f"decoding alone {decoding:.0f} s, writing alone {writing:.0f} s, converting {converting:.0f} s")
        CONSOLE.print(f"ratio {converting / (decoding + writing):.2f}; in rounds: {rounds.round(1).tolist()}")
        began = time.perf_counter()
        count = convert(plan)
        CONSOLE.print(f"decoded: {dict(Counter(count.values()))} times: sections")
        killed(folder, time.perf_counter() - began, options.kills)
        same = digests(folder / "whole.zarr") == digests(folder / "killed.zarr")
        CONSOLE.print(f"killed {options.kills} times and resumed: {'the same bytes' if same else 'OTHER BYTES'}")


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


def time_slab(plan: ConversionPlan, slab: Box, folder: Path) -> tuple[float, float, float]:
    """Return the seconds of decoding some sections, of writing them, and of converting them."""
    whole, level = plan.source.reader, replace(plan.source.levels[0], shape=slab.shape)
    assert isinstance(whole, ImageStack)
    stack = replace(whole, planes=whole.planes[slab.start[0] : slab.stop[0]], shape=slab.shape)
    part = plan_conversion(replace(plan.source, reader=stack, levels=(level,)), folder / "part.zarr", memory=plan.memory)
    seconds = []
    for work in (decode, write, convert):
        voxels = stack.read(0, stack.shape[0]) if work is write else None
        forget(stack)
        began = time.perf_counter()
        work(part) if voxels is None else write(part, voxels)
        seconds.append(time.perf_counter() - began)
        shutil.rmtree(folder / "part.zarr", ignore_errors=True)
    return seconds[0], seconds[1], seconds[2]


def forget(stack: ImageStack) -> None:
    """Let the system drop what it holds of the files, once everything is on disk."""
    os.sync()
    for name in set(stack.files):
        with Path(name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def decode(plan: ConversionPlan) -> None:
    """Decode every section in as many threads as there are cores."""
    stack = plan.source.reader
    assert stack is not None
    with ThreadPoolExecutor(usable_cores()) as threads:
        list(threads.map(lambda z: stack.read(z, z + 1).shape, range(stack.shape[0])))


def write(plan: ConversionPlan, voxels: NDArray[np.uint8]) -> None:
    """Write a volume out of memory, with all its levels."""
    create_volume(plan.url, plan.layout, {"status": FINEST_ALONE})
    target = open_for_writing(plan.url, plan.layout)
    for part in cut(Box.whole(voxels.shape), plan.layout.levels[0].shard, plan.part_voxels):
        write_part(target, part.slices, voxels[part.slices])
    build_pyramid(plan.url)


def convert(plan: ConversionPlan) -> Counter[int]:
    """Convert; return how often each section was decoded."""
    count: Counter[int] = Counter()
    read = ImageStack.read

    def counted(self: ImageStack, start: int, stop: int, rows: slice = slice(None)) -> NDArray[Any]:
        if not rows.start:
            count.update(range(start, stop))
        return read(self, start, stop, rows)

    with mock.patch.object(ImageStack, "read", counted):
        convert_volume(plan)
    return count


def killed(folder: Path, whole: float, kills: int) -> None:
    """Run the command, kill it so many times, after at most a third of the seconds of the whole; then let it end."""
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
    for share in np.random.default_rng(0).uniform(0.05, 0.3, kills):
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

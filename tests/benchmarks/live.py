"""How soon an enhanced picture is there: ``python tests/benchmarks/live.py [--model em-x4 ...]``.

A volume of 64 x 1024 x 1024 voxels (z, y, x) is opened live. A client in a process of its own asks over HTTP for every chunk
of the finest level that a view of 512 x 512 input voxels shows: one section, then section after section, where `live` opens a
volume, or with --middle in its very middle, which needs 9 patches a section instead of 4. Told are the seconds until the link
is there, until the first picture, the median of those after it, and the share of that time in which the network stood still.
Figures: 3 s, 1.5 s, 20 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tensorstore as ts
from rich.console import Console

from volumetool.geometry import plan_levels
from volumetool.jobs.job import make_job
from volumetool.live_view.show import first_look, live
from volumetool.live_view.source import LiveSource
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.training.data.phantom import phantom

SHAPE = (64, 1024, 1024)
VIEW = 512
VOXEL_SIZES = {"em-x4": (30.0, 32.0, 32.0), "em-denoise": (30.0, 8.0, 8.0)}


def main() -> None:
    """Measure and print one line of JSON per model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", choices=list(VOXEL_SIZES))
    parser.add_argument("--sections", type=int, default=20)
    parser.add_argument("--ahead", type=int, default=4)
    parser.add_argument("--middle", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that somebody looks at each section")
    asked = parser.parse_args()
    noisy = np.random.default_rng(0).normal(0, 8, SHAPE) + np.pad(
        phantom((SHAPE[0], 256, 256), 3), [(0, 0), (0, 768), (0, 768)], mode="symmetric"
    )
    voxels = np.clip(noisy, 0, 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.model or list(VOXEL_SIZES):
            Console(soft_wrap=True).print_json(data=measure(Path(folder) / model, model, voxels, asked), indent=None)


def measure(path: Path, model: str, voxels: np.ndarray, asked: argparse.Namespace) -> dict[str, object]:
    """Return the figures of one model."""
    layout = VolumeLayout("uint8", plan_levels(SHAPE, VOXEL_SIZES[model], (0.0, 0.0, 0.0))[:1])
    create_volume(str(path), layout, {})
    open_for_writing(str(path), layout).write(voxels).result()
    here, there = multiprocessing.get_context("spawn").Pipe()
    client = multiprocessing.get_context("spawn").Process(target=look, args=(there, asked.sections, asked.pause), daemon=True)
    client.start()
    here.recv()  # the client has imported what it needs
    started = time.perf_counter()
    with live(make_job(input=str(path), model=model), ahead=asked.ahead) as shown:
        opened = time.perf_counter() - started
        engine, desk = shown.opened.basis.engine, shown.opened.desk
        here.send((shown.url, view_of(shown.opened.basis, middle=asked.middle)))
        before = engine.seconds
        seconds = [here.recv()]
        first_network = engine.seconds - before
        before, began = engine.seconds, time.perf_counter()
        seconds += [here.recv() for _ in range(asked.sections)]
        wall, network = time.perf_counter() - began, engine.seconds - before
        return {
            "model": model,
            "seconds_to_link": round(opened, 2),
            "seconds_to_first_picture": round(seconds[0], 2),
            "of_that_network": round(first_network, 2),
            "seconds_per_section_median": round(statistics.median(seconds[1:]), 2),
            "seconds_per_section_most": round(max(seconds[1:]), 2),
            "share_outside_network": None if asked.pause else round(1 - network / wall, 3),
            "patches": desk.made,
        }


def view_of(basis: LiveSource, *, middle: bool) -> list[slice]:
    """Return the voxels of the output's level 0 that a view shows along y and x."""
    level, lattice = basis.volume.levels[0], basis.spec.lattice
    position = first_look(level, lattice).position
    assert position is not None
    slices = []
    for axis in (1, 2):
        centre = level.shape[axis] / 2 if middle else position[axis] / level.voxel_size[axis] + 0.5
        start = round((centre - VIEW / 2) * lattice.scale[axis])
        slices.append(slice(start, start + VIEW * lattice.scale[axis]))
    return slices


def look(pipe: Connection, sections: int, pause: float) -> None:
    """Ask for one section of a view, then for those after it."""
    pipe.send("ready")
    url, (y, x) = pipe.recv()
    started = time.perf_counter()
    array = ts.open({"driver": "zarr3", "kvstore": f"{url}/0/"}).result()
    for z in range(20, 21 + sections):
        array[z, y, x].read().result()
        pipe.send(time.perf_counter() - started)
        time.sleep(pause)
        started = time.perf_counter()


if __name__ == "__main__":
    main()

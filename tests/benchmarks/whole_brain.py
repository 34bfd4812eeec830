"""What a whole mouse brain costs: bytes, hours, bandwidth, objects, money. Writes the tables of `examples/whole_brain.md`.

Levels, chunks and shards come from the code that plans a job; measured and assumed figures stand in `FIGURES`, and in the page.
pytest does not collect this file; `test_whole_brain.py` holds the page to it. To run it::

    python tests/benchmarks/whole_brain.py > tables.md
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from volumetool.geometry import Size, Triple, default_chunk, plan_levels
from volumetool.jobs.planning.layout import upright_shard

EXTENT = (13.2e6, 8.0e6, 11.4e6)
"""The box around a mouse brain along z, y, x, in nm."""

STRIDE, PATCH, SCALE = 384, 432, 4
"""Of `em-x4`: input voxels along y and x from patch to patch, those of a patch, and the enlargement."""

DAYS = 30
"""In which the job is to end."""

TERA, PETA, HOUR = 1e12, 1e15, 3600.0


@dataclass(frozen=True)
class Figure:
    """A figure that the arithmetic takes as given.

    Attributes
    ----------
    value : float
        The figure.
    unit, what : str
        Its unit, and what it is.
    source : str
        What it was measured on and with which command, or ``assumed`` and why.
    """

    value: float
    unit: str
    what: str
    source: str


FIGURES = {
    "tissue": Figure(0.4, "", "share of the box that is tissue", "assumed: 0.5 cm3 of 1.2"),
    "flop": Figure(17029, "FLOP", "`em-x4`, for a voxel of output", "counted: `volumetool bench`, patch 432 x 432"),
    "stored": Figure(0.59, "", "stored bytes per byte of voxels", "measured: plan of the FIB-25 cube, one sample"),
    "cpu": Figure(8.5e6, "voxel/s", "a CPU core", "measured: 17 Mvoxel/s on 2 cores of an AMD EPYC, `volumetool bench`"),
    "codec": Figure(
        37e6, "byte/s", "voxels that a core compresses and writes", "measured: the same plan, 2 cores, busy machine"
    ),
    "driver": Figure(0.006, "s", "driver and scheduler, for a region", "measured: `tests/benchmarks/million.py`, 2 workers"),
    "gpu": Figure(100 * TERA, "FLOP/s", "what a GPU sustains in bfloat16", "assumed: no GPU has been timed"),
    "cores": Figure(16, "", "CPU cores beside each GPU", "assumed"),
    "shards": Figure(64, "", "shards of a region", "assumed: the planner asks for 60 s of work, as memory allows"),
    "storage": Figure(100e9, "byte/s", "what a parallel file system takes and gives", "assumed"),
    "hour": Figure(2.0, "$", "a GPU hour, its cores included", "assumed"),
    "month": Figure(20.0, "$", "a TB of object storage for a month", "assumed"),
    "put": Figure(5e-6, "$", "writing an object", "assumed"),
}

CASES: dict[str, Size] = {
    "40 x 16 x 16 nm": (40.0, 16.0, 16.0),
    "30 x 8 x 8 nm": (30.0, 8.0, 8.0),
    "30 x 4 x 4 nm": (30.0, 4.0, 4.0),
}
"""Voxel sizes of the output along z, y, x; the input's are four times as large along y and x."""


def costs(voxel_size: Size) -> dict[str, float]:
    """Return what a brain of a voxel size costs, each value by its name, in bytes, seconds, dollars and counts.

    Parameters
    ----------
    voxel_size : tuple of float
        Of the output, in nm.
    """
    given = {name: figure.value for name, figure in FIGURES.items()}
    z, y, x = (math.ceil(length / size) for length, size in zip(EXTENT, voxel_size, strict=True))
    shape: Triple = (z, y, x)
    levels = plan_levels(shape, voxel_size, (0.0, 0.0, 0.0), None, upright_shard(default_chunk(voxel_size), shape))
    grids = [[math.ceil(n / s) for n, s in zip(level.shape, level.shard, strict=True)] for level in levels]
    voxels = math.prod(shape) * given["tissue"]
    pyramid = sum(math.prod(level.shape) for level in levels) * given["tissue"]
    objects = sum(math.prod(grid) for grid in grids) * given["tissue"]
    read = voxels / SCALE**2 * (PATCH / STRIDE) ** 2
    regions = math.prod(grids[0]) * given["tissue"] / given["shards"]
    gpu_seconds, core_seconds = voxels * given["flop"] / given["gpu"], pyramid / given["codec"]
    written = pyramid * given["stored"]
    # A GPU waits for its cores where these compress for longer than it computes.
    device_seconds = max(gpu_seconds, core_seconds / given["cores"])
    return {
        "voxels": voxels,
        "read": read,
        "written": written,
        "objects": objects,
        "inodes": objects + sum((grid[0] + grid[0] * grid[1]) * given["tissue"] for grid in grids),
        "regions": regions,
        "gpu": gpu_seconds,
        "cpu": voxels / given["cpu"],
        "cores": core_seconds,
        "devices": device_seconds / (DAYS * 24 * HOUR),
        "bandwidth": (read + written) / (DAYS * 24 * HOUR),
        "drivers": math.ceil(regions * given["driver"] / (DAYS * 24 * HOUR)),
        "dollars": device_seconds / HOUR * given["hour"] + written / TERA * given["month"] + objects * given["put"],
    }


def saturation(cost: dict[str, float]) -> list[tuple[str, float]]:
    """Return what the job needs of each part in times of what there is beside the GPUs that its network needs; most first."""
    given = {name: figure.value for name, figure in FIGURES.items()}
    need = {
        "CPU cores beside the GPUs": cost["cores"] / cost["gpu"] / given["cores"],
        "storage bandwidth": cost["bandwidth"] / given["storage"],
        "one driver": cost["regions"] * given["driver"] / (DAYS * 24 * HOUR),
    }
    return sorted(need.items(), key=lambda each: -each[1])


def tables() -> str:
    """Return the tables of the page."""
    lines = ["| figure | value | where from |", "|---|---|---|"]
    lines += [f"| {each.what} | {each.value:,g} {each.unit} | {each.source} |".replace("  ", " ") for each in FIGURES.values()]
    found = {name: costs(size) for name, size in CASES.items()}
    rows = {
        "tissue, 10^12 voxels": lambda cost: f"{cost['voxels'] / TERA:,.0f}",
        "read, TB, halo included": lambda cost: f"{cost['read'] / TERA:,.0f}",
        "written, TB, all levels": lambda cost: f"{cost['written'] / TERA:,.0f}",
        "objects, millions": lambda cost: f"{cost['objects'] / 1e6:,.1f}",
        "inodes on a file system, millions": lambda cost: f"{cost['inodes'] / 1e6:,.1f}",
        "regions, millions": lambda cost: f"{cost['regions'] / 1e6:,.2f}",
        "GPU hours of the network": lambda cost: f"{cost['gpu'] / HOUR:,.0f}",
        "core hours of the network without a GPU": lambda cost: f"{cost['cpu'] / HOUR:,.0f}",
        "core hours to compress and write": lambda cost: f"{cost['cores'] / HOUR:,.0f}",
        f"GPUs with their cores, to end in {DAYS} days": lambda cost: f"{math.ceil(cost['devices']):,}",
        f"storage, GB/s, for {DAYS} days": lambda cost: f"{cost['bandwidth'] / 1e9:,.1f}",
        "drivers (`--part`)": lambda cost: f"{cost['drivers']:,.0f}",
        "dollars, a month of storage included": lambda cost: f"{cost['dollars']:,.0f}",
        "saturates first": lambda cost: "{}, {:.1f} times".format(*saturation(cost)[0]),
        "then": lambda cost: "{}, {:.2f} times".format(*saturation(cost)[1]),
    }
    lines += ["", "| output | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    lines += [f"| {what} | " + " | ".join(show(cost) for cost in found.values()) + " |" for what, show in rows.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(tables())

"""How much larger the error is at a volume's faces than inside, and why.

    python tests/benchmarks/faces.py DATA

16 sections of the FIB-25 validation cube are degraded and enhanced with em-x4. Mean absolute error in grey levels, averaged
over the four faces in plane, for the outermost fine voxels one by one. Three causes are told apart:

- `neighbours known`: the same places, in a volume that goes on beyond them;
- `linear`: the coarse volume enlarged linearly, its outermost voxel going on over the face, or mirrored as the engine does;
- `mirror repeats`: em-x4 where the mirror at the face repeats the outermost voxel. It is no option: other bytes at faces are
  another numerics version.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from rich.console import Console

from volumetool.benchmark.demo import write_volume
from volumetool.degradation import load_recipe
from volumetool.evaluation.scores.resample import enlarge
from volumetool.geometry import mirror_index
from volumetool.jobs.api import enhance
from volumetool.processing import columns

SCALE, CUT = 4, 12
"""Fine voxels per coarse one; coarse voxels that are cut off at each face where neighbours are known."""

SHOWN, INSIDE = 8, 40
"""Fine voxels from a face that are shown, and from which on it is inside."""

Grey = NDArray[Any]


def main(data: Path) -> None:
    """Print a row per way and recipe."""
    console = Console(width=120, highlight=False)
    fine = tifffile.imread(data / "fib25-fibsem/fib25_val_z0-199_y0-339.tif", key=range(20, 36))
    inner = slice(CUT * SCALE, -CUT * SCALE)
    for name in ("pssr-em", "pssr2-poisson", "sem-fast"):
        made = load_recipe(name).apply(fine.astype(np.float32) / 255, scale=(1, SCALE, SCALE), seed=1)
        low = np.rint(np.asarray(made) * 255).clip(0, 255).astype(np.uint8)
        part, truth = low[:, CUT:-CUT, CUT:-CUT], fine[:, inner, inner]
        rows = {
            "em-x4": enhanced(part),
            "em-x4, mirror repeats": enhanced(part, repeating),
            "em-x4, neighbours known": enhanced(low)[:, inner, inner],
            "linear": enlarge(part, (1, SCALE, SCALE), "linear"),
            "linear, mirrored": mirrored_linear(part),
        }
        console.print(f"{name:<26}inside   from the face inwards")
        for way, restored in rows.items():
            error = np.abs(restored.astype(np.float64) - truth)
            lines = [error.mean(axis=(0, 1)), error.mean(axis=(0, 2))]
            near = np.mean([side[:SHOWN] for line in lines for side in (line, line[::-1])], axis=0)
            inside = error[:, INSIDE:-INSIDE, INSIDE:-INSIDE].mean()
            console.print(f"  {way:<24}{inside:6.2f}  " + "".join(f"{value:6.2f}" for value in near))


def enhanced(low: Grey, mirror: Callable[[int, int, int], NDArray[np.intp]] = mirror_index) -> Grey:
    """Return what a job makes of sections."""
    columns.mirror_index = mirror
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, output = Path(folder) / "low.zarr", Path(folder) / "enhanced.zarr"
            write_volume(source, low, (8.0, 32.0, 32.0))
            enhance(source, output, model="em-x4")
            return np.asarray(zarr.open_group(str(output), mode="r")["0"])
    finally:
        columns.mirror_index = mirror_index


def repeating(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return the voxels at positions, mirrored at the faces so that the outermost one is repeated."""
    phase = np.arange(start, stop, dtype=np.intp) % (2 * size)
    return np.minimum(phase, 2 * size - 1 - phase)


def mirrored_linear(low: Grey) -> Grey:
    """Enlarge linearly where the input is mirrored about its outermost voxel."""
    padded = np.pad(low, ((0, 0), (2, 2), (2, 2)), mode="reflect")
    inner = slice(2 * SCALE, -2 * SCALE)
    return enlarge(padded, (1, SCALE, SCALE), "linear")[:, inner, inner]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

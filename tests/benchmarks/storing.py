"""What `--store-error` saves, and what it costs: bytes, resolution by FRC, and cells that a watershed cuts out.

pytest does not collect this file. To run it::

    python tests/benchmarks/storing.py DATA

Three volumes, FIB-SEM, ATUM-SEM and ssTEM, are degraded twice by `sem-fast`, with noise of their own, and enhanced by em-x4.
Bytes are those of all shards of all levels. FRC compares outputs of the two, and says at which resolution they agree by 1/7.
Cells are compared with those that the same watershed finds in the fine sections; PSNR is against these, too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tasks import compare_partitions, segment_cells
from unseen import SCALE, degrade

import volumetool as vt
from volumetool.degradation import RECIPES
from volumetool.evaluation.scores.frc import FourierCorrelation, Shells, squares
from volumetool.storage.open import open_volume

VOLUMES = {
    "FIB-25": ("fib25-fibsem/fib25_val_z0-199_y0-339.tif", (8.0, 8.0, 8.0)),
    "Kasthuri": ("kasthuri15-atum-sem/kasthuri15_s0001-0060.tif", (30.0, 6.0, 6.0)),
    "ISBI 2012": ("isbi2012-sstem/isbi2012_train.tif", (50.0, 4.0, 4.0)),
}
"""Files below the data folder, and voxel sizes in nm."""

SHAPE = (16, 320, 512)
"""Voxels that are taken of each, from its first corner."""

STEPS = (None, 0.5, 1.0, 2.0, 4.0)
SIDE = 256

Bytes = NDArray[np.uint8]


def enhanced(folder: Path, raw: Path, voxel_size: tuple[float, float, float], steps: float | None) -> tuple[Bytes, int]:
    """Return the output of a job, (z, y, x), and the bytes that it stored."""
    z, y, x = voxel_size
    given: dict[str, Any] = {"model": "em-x4", "voxel_size": (z, SCALE * y, SCALE * x), "store_error": steps}
    output = folder / f"{raw.stem}-{steps}.zarr"
    assert vt.enhance(raw, output, **given).complete
    stored = sum(file.stat().st_size for file in output.glob("*/c/**/*") if file.is_file())
    return np.asarray(open_volume(str(output))[...]), stored


def resolution(first: Bytes, second: Bytes, nm: float) -> str:
    """Return where two volumes cease to agree, section by section."""
    correlation = FourierCorrelation(Shells((SIDE, SIDE), (nm, nm)))
    for one, other in zip(first, second, strict=True):
        for square in squares(one.shape, SIDE):
            correlation.add(one[square].astype(np.float64), other[square].astype(np.float64))
    return correlation.result().crossings[0].words


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    data = parser.parse_args().data
    table = Table("volume", "F", "bytes", "saved", "PSNR", "FRC 1/7", "Rand error", "variation, bits")
    for name, (file, voxel_size) in VOLUMES.items():
        z, y, x = SHAPE
        fine = tifffile.imread(data / file, key=range(z))[:, :y, :x]
        cells = {section: segment_cells(fine[section], voxel_size[2]) for section in range(0, z, 4)}
        with tempfile.TemporaryDirectory() as place:
            folder, whole = Path(place), 0
            for seed in (0, 1):
                np.save(folder / f"{seed}.npy", degrade(fine, RECIPES["sem-fast"], seed))
            for steps in STEPS:
                (first, stored), (second, _) = (enhanced(folder, folder / f"{seed}.npy", voxel_size, steps) for seed in (0, 1))
                whole = whole or stored
                psnr = 10 * np.log10(255**2 / np.mean((first.astype(np.float64) - fine) ** 2))
                found = [compare_partitions(segment_cells(first[z], voxel_size[2]), cut) for z, cut in cells.items()]
                rand, variation = (np.mean([getattr(each, score) for each in found]) for score in ("rand_error", "variation"))
                table.add_row(
                    name,
                    "none" if steps is None else f"{steps:g}",
                    str(stored),
                    f"{1 - stored / whole:.0%}",
                    f"{psnr:.2f} dB",
                    resolution(first, second, voxel_size[2]),
                    f"{rand:.3f}",
                    f"{variation:.3f}",
                )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

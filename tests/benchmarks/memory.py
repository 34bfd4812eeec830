"""Peak memory of a job over the size of its output: 1, 4, 16 and 64 GiB from a network that does nothing.

The volume grows along the sweep, at the same cross-section, so that every size has the same region in memory. Input is repeated
noise; each job runs in a process of its own, whose peak resident size is taken. 64 GiB of output take some 10 GiB of disk.
pytest does not collect this file. To run it::

    PYTHONPATH=tests/jobs python tests/benchmarks/memory.py --gib 1 --gib 4 --gib 16 --gib 64
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from test_memory import measure

WIDTH_OF_A_GIB = 1024
"""Input voxels along the sweep for 1 GiB of output."""


def main() -> None:
    """Measure each size and print it in times of the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=int, action="append", help="output in GiB; may be given several times")
    parser.add_argument("--scratch", default=None, help="folder on the disk to write to; emptied again")
    options = parser.parse_args()
    table = Table(title="peak memory over the size of the output", title_justify="left")
    for column in ("output, GiB", "regions", "peak, MiB", "in times of the first", "planned, MiB"):
        table.add_column(column)
    first = 0
    for gib in options.gib or (1, 4, 16, 64):
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            found = measure(Path(folder), WIDTH_OF_A_GIB * gib)
        first = first or found["peak"]
        peak, planned = (f"{found[name] / 2**20:.0f}" for name in ("peak", "planned"))
        table.add_row(f"{gib}", f"{found['regions']}", peak, f"{found['peak'] / first:.3f}", planned)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

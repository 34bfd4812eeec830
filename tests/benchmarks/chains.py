"""Chains beside their operations as jobs one after the other, and a job that changes nothing beside a copy by TensorStore.

A volume of real EM, uint8, is stored as OME-Zarr. In rounds, so that other work on the machine meets all alike,

- each chain runs as one job, and its operations as jobs one after the other; both must give the same bytes,
- `rescale` of a window that changes no voxel, and a function that returns its block, run as jobs, and TensorStore alone copies
  the finest level, slab by slab, into an array of the same metadata. A job writes coarser levels, too, and reads back what it
  wrote; "the same work" is a copy that does so as well, by TensorStore alone. What a job of one shard of the same volume takes,
  planning and the rest that does not grow with the volume, is printed beside them.

Ratios are of elapsed and of busy seconds; those of busy seconds hold on a machine that does other work, too. All is in one
process, which is warm: jobs that are commands of their own start Python three times, a chain once. pytest does not collect this
file. To run it::

    python tests/benchmarks/chains.py DATA/fib25-fibsem/fib25_train1.tif --sections 64 --side 2048 --folder /scratch
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import copying
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

import volumetool as vt

CHAINS = {
    "three filters": ("median:radius=0,1,1", "gaussian:sigma=0,1,1", "unsharp"),
    "three filters of large kernels": ("destripe", "gaussian:sigma=1,2,2", "clahe"),
    "filter, network, filter": ("median:radius=0,1,1", "em-denoise", "unsharp"),
}
SAME = {"rescale": "rescale:window=0,255;to=0,255", "a function": lambda block: block}
ONE = "0:64,0:256,0:256"
OPTIONS: dict[str, Any] = {"workers": 1, "device": "cpu"}


def main() -> None:
    """Make the volume, time rounds, print a line for each chain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, help="TIFF stack of 8 bit to make the volume of")
    parser.add_argument("--sections", type=int, default=64)
    parser.add_argument("--side", type=int, default=copying.SIDE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for six times the volume")
    parser.add_argument("--only", nargs="+", choices=[*CHAINS, *SAME], default=[*CHAINS, *SAME])
    options = parser.parse_args()
    voxels = copying.mosaic(options.stack, (options.sections, copying.SIDE, copying.SIDE))[:, : options.side, : options.side]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        copying.SOURCES["ome-zarr-0.5"][0](np.ascontiguousarray(voxels), folder / "in.zarr")
        for what in options.only:
            if what in CHAINS:
                compare(
                    what,
                    lambda f=folder, c=CHAINS[what]: chained(f, c),
                    lambda f=folder, c=CHAINS[what]: one_by_one(f, c),
                    options.rounds,
                )
                np.testing.assert_array_equal(read(folder / "chain.zarr"), read(folder / "job-2.zarr"))
            else:
                for name, other in (("a copy", copied), ("the same work", worked)):
                    compare(
                        f"{what} beside {name}",
                        lambda f=folder, o=SAME[what]: run(o, f / "in.zarr", f / "same.zarr"),
                        lambda f=folder, o=other: o(f),
                        options.rounds,
                    )
                seconds = min(
                    tuple(
                        copying.timing(lambda f=folder, o=SAME[what]: run(o, f / "in.zarr", f / "one.zarr", roi=ONE, crop=True))
                    )
                    for _ in range(2)
                )
                copying.CONSOLE.print(f"{what}, one shard alone: seconds elapsed and busy {np.round(seconds, 2).tolist()}")
                np.testing.assert_array_equal(read(folder / "same.zarr"), voxels)


def compare(what: str, ours: Callable[[], object], other: Callable[[], object], rounds: int) -> None:
    """Print by what share of the time of another work ours takes."""
    works, seconds = (ours, other), np.empty((rounds + 1, 2, 2))  # (round, work, elapsed and busy)
    for number in range(rounds + 1):  # the first one warms up
        for at in np.roll((0, 1), number):
            seconds[number, at] = copying.timing(works[at])
    for name, pair in zip(("elapsed", "busy"), np.moveaxis(seconds[1:], 2, 0), strict=True):
        ratios = pair[:, 0] / pair[:, 1]
        told = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        copying.CONSOLE.print(f"{what}, {name}: {told}; seconds {np.round(pair, 1).tolist()}")


def chained(folder: Path, operations: tuple[str, ...]) -> None:
    """Run a chain as one job."""
    run(operations, folder / "in.zarr", folder / "chain.zarr")


def one_by_one(folder: Path, operations: tuple[str, ...]) -> None:
    """Run the operations as jobs one after the other."""
    place = folder / "in.zarr"
    for number, operation in enumerate(operations):
        run(operation, place, folder / f"job-{number}.zarr")
        place = folder / f"job-{number}.zarr"


def run(operation: Any, place: Path, output: Path, **more: Any) -> None:
    """Run a job from its beginning."""
    shutil.rmtree(output, ignore_errors=True)
    assert vt.apply(operation, place, output, overwrite=True, **OPTIONS, **more).complete


def copied(folder: Path) -> None:
    """Copy the finest level by TensorStore alone."""
    shutil.rmtree(folder / "copy.zarr", ignore_errors=True)
    copying.copy(folder / "in.zarr", folder / "copy.zarr")


def worked(folder: Path) -> None:
    """Copy all levels that a job makes by TensorStore alone, and read them back."""
    copied(folder)
    finer = ts.open({"driver": "zarr3", "kvstore": f"file://{folder}/copy.zarr/"}).result()
    compare_stored(finer)
    for file in sorted((folder / "same.zarr").glob("[1-9]/zarr.json")):
        metadata = json.loads(file.read_text())
        factors = [-(-a // b) for a, b in zip(finer.shape, metadata["shape"], strict=True)]
        spec = {"driver": "zarr3", "kvstore": f"file://{folder}/copy.zarr/levels/{file.parent.name}/", "metadata": metadata}
        target = ts.open(spec, create=True).result()
        means = ts.downsample(finer, factors, "mean")
        step = target.chunk_layout.write_chunk.shape[0]
        for z in range(0, target.shape[0], step):
            part = means[z : min(z + step, target.shape[0])].read().result()
            target[z : min(z + step, target.shape[0])].write(part).result()
            np.testing.assert_array_equal(target[z : min(z + step, target.shape[0])].read().result(), part)
        finer = target


def compare_stored(made: ts.TensorStore) -> None:
    """Read what was written, slab by slab. What it was made of is not read again: it was in memory."""
    for slab in copying.slabs(made.shape):
        voxels = made[slab].read().result()
        np.array_equal(voxels, voxels)


def read(place: Path) -> NDArray[Any]:
    """Return the finest level of a volume."""
    return np.asarray(ts.open({"driver": "zarr3", "kvstore": f"file://{place}/0/"}).result().read().result())


if __name__ == "__main__":
    main()

"""The finest level of `convert` beside the least that a copy takes: reading all voxels once, and writing them once.

A volume of real EM, uint8, is stored in each format. In rounds, so that other work on the machine meets all alike, it is copied

- from OME-Zarr 0.5 by TensorStore alone, shard by shard, into an array of the same metadata,
- from every other format by its usual library, which decodes it slab by slab and throws it away (TensorStore for Zarr and N5,
  h5py, mrcfile, tifffile in all threads), and by TensorStore, which writes the same slabs out of memory,

and converted. Coarser levels are left out of both; with ``--levels`` their time is printed beside it. Ratios above 1 mean that
`convert` is faster; those of busy seconds hold on a machine that does other work, too. pytest does not collect this file. To
run it::

    python tests/benchmarks/copying.py DATA/fib25-fibsem/fib25_train1.tif --gib 2 --folder /scratch
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import tensorstore as ts
import tifffile
from numpy.typing import NDArray
from rich.console import Console

from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert import write_finest
from volumetool.storage.create import VolumeLayout, array_metadata, create_volume, open_for_writing
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.pyramid import build_pyramid

SIZE = (8.0, 8.0, 8.0)
SIDE = 2048
USUAL, SMALL = (64, 64, 64), (16, 32, 32)
CONSOLE = Console(width=200)
Voxels = NDArray[np.uint8]
Seconds = NDArray[np.float64]


def main() -> None:
    """Make the volumes, time rounds, print a line for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path, help="TIFF stack of 8 bit to make the volume of")
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for three times the volume")
    parser.add_argument("--only", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    parser.add_argument("--levels", action="store_true", help="time the coarser levels, too")
    options = parser.parse_args()
    shape = (int(options.gib * 2**30) // SIDE**2, SIDE, SIDE)
    voxels = mosaic(options.stack, shape)
    for name in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(name, voxels, Path(folder), options)
    CONSOLE.print(f"peak memory of all this: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


def mosaic(stack: Path, shape: tuple[int, int, int]) -> Voxels:
    """Return a volume of a stack's sections, chosen and mirrored by chance."""
    tiles, voxels = tifffile.imread(stack), np.empty(shape, np.uint8)
    height, width = tiles.shape[1:]
    for z in range(shape[0]):
        chance = np.random.default_rng(z)
        for y in range(0, SIDE, height):
            for x in range(0, SIDE, width):
                place = voxels[z, y : y + height, x : x + width]
                tile = tiles[chance.integers(len(tiles))][:: chance.choice((1, -1)), :: chance.choice((1, -1))]
                place[...] = tile[: place.shape[0], : place.shape[1]]
    return voxels


def measure(name: str, voxels: Voxels, folder: Path, options: argparse.Namespace) -> None:
    """Store the volume in a format; copy and convert it in rounds."""
    store, decode = SOURCES[name]
    place = folder / NAMES[name]
    store(voxels, place)
    seconds = []
    for number in range(options.rounds):
        plan = plan_conversion(place, folder / "out.zarr", voxel_size=SIZE, levels=layout_of(voxels.shape).levels)
        works: list[Callable[[], object]] = [
            lambda plan=plan: write_finest(plan),  # type: ignore[misc]
            *([lambda: copy(place, folder / "out.zarr")] if name == "ome-zarr-0.5" else parts(decode, place, voxels, folder)),
        ]
        timed = {}
        for at in np.roll(range(len(works)), number):
            timed[int(at)] = timing(works[at])
            shutil.rmtree(folder / "out.zarr", ignore_errors=True)
        seconds.append([timed[0], *(timed[at] for at in sorted(timed) if at)])
    ours, *others = np.moveaxis(np.array(seconds), 0, 2)  # each (elapsed and busy, rounds)
    for what, ratios in zip(("elapsed", "busy"), sum(others) / ours, strict=True):
        CONSOLE.print(f"{name}, {what}: {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})")
    CONSOLE.print(f"  seconds of convert, and of the parts of a copy: {np.round(seconds, 1)[..., 0].tolist()}")
    if options.levels:
        volume = write_finest(plan_conversion(place, folder / "out.zarr", voxel_size=SIZE))
        CONSOLE.print(f"  coarser levels {timing(lambda: build_pyramid(volume.url))[0]:.1f} s")
        shutil.rmtree(folder / "out.zarr")


def timing(work: Callable[[], object]) -> Seconds:
    """Return the seconds of some work, and those of all cores that this process was busy."""
    began = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - began


def parts(decode: Callable[[Path], Iterator[object]], place: Path, voxels: Voxels, folder: Path) -> list[Callable[[], object]]:
    """Return what a copy does in two works: decoding, and writing."""
    return [lambda: [None for _ in decode(place)], lambda: write(voxels, folder / "out.zarr")]


def layout_of(shape: tuple[int, int, int], name: Any = "ome-zarr-0.5") -> VolumeLayout:
    """Return the layout that `convert` gives such a volume, its finest level alone."""
    written = WRITTEN[name]
    return VolumeLayout("uint8", written.plan_levels(shape, SIZE, (0.0, 0.0, 0.0), None, None)[:1], format=name)


def slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield slabs of whole sections and whole shards."""
    depth = layout_of((shape[0], shape[1], shape[2])).levels[0].shard[0]
    for z in range(0, shape[0], depth):
        yield (slice(z, min(z + depth, shape[0])), slice(None), slice(None))


def created(shape: tuple[int, int, int], place: Path) -> ts.TensorStore:
    """Create an array as `convert` does."""
    spec = {"driver": "zarr3", "kvstore": f"file://{place}/", "metadata": array_metadata(layout_of(shape), 0)}
    return ts.open(spec, create=True).result()


def write(voxels: Voxels, place: Path) -> None:
    """Write voxels out of memory by TensorStore alone."""
    array = created(voxels.shape, place)
    for slab in slabs(voxels.shape):
        array[slab].write(voxels[slab]).result()


def copy(place: Path, other: Path) -> None:
    """Copy the finest level of an OME-Zarr by TensorStore alone, slab by slab."""
    array = ts.open({"driver": "zarr3", "kvstore": f"file://{place}/0/"}).result()
    target = created(array.shape, other)
    for slab in slabs(array.shape):
        target[slab].write(array[slab]).result()


def store_as(name: str) -> Callable[[Voxels, Path], None]:
    """Return what stores voxels in a format that volumetool writes."""

    def store(voxels: Voxels, place: Path) -> None:
        layout = layout_of(voxels.shape, name)
        create_volume(str(place), layout, {})
        target = open_for_writing(str(place), layout)
        for slab in slabs(voxels.shape):
            target[slab].write(voxels[slab]).result()

    return store


def decode_by(driver: str, path: str) -> Callable[[Path], Iterator[object]]:
    """Return what decodes an array by TensorStore."""

    def decode(place: Path) -> Iterator[object]:
        array = ts.open({"driver": driver, "kvstore": f"file://{place}/{path}/"}).result()
        array = array.transpose() if driver == "n5" else array  # (x, y, z) -> (z, y, x)
        for slab in slabs(array.shape):
            yield array[slab].read().result()

    return decode


def store_hdf5(chunk: tuple[int, int, int]) -> Callable[[Voxels, Path], None]:
    """Return what stores voxels in HDF5."""

    def store(voxels: Voxels, place: Path) -> None:
        with h5py.File(place, "w") as file:
            data = file.create_dataset("raw", voxels.shape, np.uint8, chunks=chunk, compression="gzip", compression_opts=1)
            for slab in slabs(voxels.shape):
                data[slab] = voxels[slab]

    return store


def decode_hdf5(place: Path) -> Iterator[object]:
    """Decode an HDF5 dataset by h5py."""
    with h5py.File(place) as file:
        for slab in slabs(file["raw"].shape):
            yield file["raw"][slab]


def store_mrc(voxels: Voxels, place: Path) -> None:
    """Store voxels as MRC, mode 0, which is int8: only their time matters."""
    with mrcfile.new(place) as file:
        file.set_data(voxels.view(np.int8))


def decode_mrc(place: Path) -> Iterator[object]:
    """Read an MRC file by mrcfile."""
    with mrcfile.mmap(place) as file:
        for slab in slabs(file.data.shape):
            yield np.array(file.data[slab])


def store_tiff(voxels: Voxels, place: Path) -> None:
    """Store voxels as a deflate TIFF of strips."""
    options: Any = {"compression": "zlib", "compressionargs": {"level": 1}, "rowsperstrip": 64}
    tifffile.imwrite(place, voxels, photometric="minisblack", maxworkers=2, **options)


def decode_tiff(place: Path) -> Iterator[object]:
    """Decode a TIFF by tifffile, in as many threads as it takes."""
    with tifffile.TiffFile(place) as tiff:
        for slab in slabs((len(tiff.pages), SIDE, SIDE)):
            yield tiff.asarray(key=slab[0])


SOURCES: dict[str, tuple[Callable[[Voxels, Path], None], Callable[[Path], Iterator[object]]]] = {
    "ome-zarr-0.5": (store_as("ome-zarr-0.5"), decode_by("zarr3", "0")),
    "ome-zarr-0.4": (store_as("ome-zarr-0.4"), decode_by("zarr", "0")),
    "n5": (store_as("n5"), decode_by("n5", "s0")),
    "hdf5": (store_hdf5(USUAL), decode_hdf5),
    "hdf5-16KiB": (store_hdf5(SMALL), decode_hdf5),
    "mrc": (store_mrc, decode_mrc),
    "tiff": (store_tiff, decode_tiff),
}
ENDINGS = {"hdf5": ".h5", "hdf5-16KiB": ".h5", "mrc": ".mrc", "tiff": ".tif", "n5": ".n5"}
NAMES = {name: f"in{ENDINGS.get(name, '.zarr')}" for name in SOURCES}

if __name__ == "__main__":
    main()

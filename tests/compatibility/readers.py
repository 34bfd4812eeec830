"""Whether other software reads what volumetool writes: voxels, voxel size and position of every format, by every reader.

Each reader has a Python environment of its own, made once in the cache folder; a table is printed. pytest does not collect this
file. It needs the network the first time, a Python of at least 3.12, and 4 GB of disk. To run it::

    python tests/compatibility/readers.py --python python3.12
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from volumetool.configuration import cache_folder
from volumetool.geometry.levels import plan_levels
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.writing.names import WrittenName

SHAPE, SIZE = (13, 22, 37), (30.0, 8.0, 4.0)
PLACE = (45.0, -20.0, 10.0)
"""Centre of the first voxel: its corner lies at whole voxels, as precomputed needs it."""

ZARR = ("ome-zarr-0.5", "ome-zarr-0.5-unsharded", "ome-zarr-0.4")
# Each reader, what is installed for it, and what it says that it reads.
READERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "zarr-python": (("zarr==3.4.2",), ZARR),
    "ome-zarr-py": (("ome-zarr==0.21.0",), ZARR),
    "ngff-zarr": (("ngff-zarr==0.50.0",), ZARR),
    "tensorstore": (("tensorstore==0.1.86",), get_args(WrittenName)),
    "z5py": (("z5py==3.0.2",), ("n5",)),
    "cloud-volume": (("cloud-volume==12.15.2",), get_args(WrittenName)),
    "napari-ome-zarr": (("napari==0.9.2", "napari-ome-zarr==0.11.0"), ZARR),
    "bioio": (("bioio==3.6.0", "bioio-ome-zarr==3.8.1"), ZARR),
}


def main() -> None:
    """Make environments and volumes, let every reader read, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="of which the environments are made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        voxels = np.random.default_rng(1).integers(1, 2**16, SHAPE, np.uint16)
        places = {name: write(folder / name, voxels, name) for name in get_args(WrittenName)}
        lines = [f"| reader | {' | '.join(places)} |", "|---" * (len(places) + 1) + "|"]
        for reader, (packages, formats) in READERS.items():
            program = environment(reader, packages, options.python)
            cells = [found(program, reader, name, places[name], voxels) if name in formats else "-" for name in places]
            lines.append(f"| {', '.join(packages).replace('==', ' ')} | {' | '.join(cells)} |")
        sys.stdout.write("\n".join([*lines, ""]))


def write(place: Path, voxels: NDArray[np.uint16], name: WrittenName) -> Path:
    """Write a volume of some levels in a format."""
    layout = VolumeLayout("uint16", plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8))[:1], name="image")
    source = create_volume(f"{place}.in", layout, {})
    open_for_writing(source.url, layout, 0).write(voxels).result()
    levels = plan_levels(SHAPE, SIZE, PLACE, (4, 8, 8), (8, 16, 16))
    convert_volume(plan_conversion(source, place, levels=levels, format=name))
    return place


def environment(reader: str, packages: tuple[str, ...], python: str) -> Path:
    """Return the interpreter of a reader's environment, which is made if it is not there."""
    folder = cache_folder() / "readers" / reader
    program, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", *packages], check=True)
        ready.touch()
    return program


def found(program: Path, reader: str, form: str, place: Path, voxels: NDArray[np.uint16]) -> str:
    """Return in words what a reader made of a volume."""
    with tempfile.TemporaryDirectory() as temporary:
        script = Path(__file__).with_name("read_in.py")
        ran = subprocess.run(
            [program, script, reader, form, place, temporary], capture_output=True, text=True, check=False, timeout=600
        )
        if ran.returncode:
            return f"error: {ran.stderr.strip().splitlines()[-1][:100]}"
        read = np.load(Path(temporary, "voxels.npy"))
        size, position = json.loads(Path(temporary, "said.json").read_text())
    if np.array_equal(read.byteswap(), voxels):
        return "voxels of the other byte order"
    if not np.array_equal(read, voxels):
        return f"other voxels, {read.shape}"
    places = [("size", size, SIZE), ("position", position, PLACE)]
    said = [
        name if np.allclose(value, wanted) else f"{name} {tuple(round(n, 3) for n in value)}"
        for name, value, wanted in places
        if value is not None
    ]
    return ", ".join(["voxels", *said])


if __name__ == "__main__":
    main()

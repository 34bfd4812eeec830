"""Looks at a file that was uploaded, in a process of its own whose memory and time are bounded.

    python -m volumetool.portal.transfer.inspection FILE

prints what the file is, or why it is refused, as JSON. Nothing else of the portal opens a file before this has.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

from volumetool.errors import InputError, VolumetoolError
from volumetool.units import show_bytes

KINDS = {"tif": "TIFF", "png": "PNG", "mrc": "MRC"}
"""What is taken, by the ending that its file gets: whatever somebody called it, the name on the disk is the portal's."""

MEMORY, SECONDS = 4 * 2**30, 60
"""Bytes of addresses and seconds of a core that a look may take."""

LEAST_FLOOD, FLOOD = 2**30, 200
"""A file may unpack to so many bytes, or to so many times its own: sections of microscopes pack twofold, blank ones more."""

_BEGINS = ((b"II*\0", "tif"), (b"MM\0*", "tif"), (b"II+\0", "tif"), (b"MM\0+", "tif"), (b"\x89PNG\r\n\x1a\n", "png"))
_MRC = (208, (b"MAP ", b"MAP\0"))


def kind_of(file: Path) -> str | None:
    """Return the ending in `KINDS` that the first bytes of a file call for; None for anything else."""
    with file.open("rb") as opened:
        head = opened.read(256)
    if head[_MRC[0] : _MRC[0] + 4] in _MRC[1]:
        return "mrc"
    return next((ending for begin, ending in _BEGINS if head.startswith(begin)), None)


def inspect(file: Path) -> dict[str, Any]:
    """Return what a file is, as `look_at` finds it in a process of its own.

    Raises
    ------
    VolumetoolError
        What is wrong with it; ``input.slow`` or ``input.unreadable`` where looking at it took too much time or memory.
    """
    command = [sys.executable, "-m", "volumetool.portal.transfer.inspection", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10 * SECONDS, check=False)  # noqa: S603
        told: dict[str, Any] = json.loads(done.stdout or "{}")
    except (subprocess.TimeoutExpired, ValueError):
        told = {}
    if not told:
        bounds = f"{show_bytes(MEMORY)} of memory and {SECONDS} s"
        raise InputError(
            "input.unreadable",
            f"{file} could not be looked at within {bounds}",
            hint="The file may be damaged or hostile. Ask the operator to put one that is sound into a folder of volumes.",
        )
    if error := told.get("error"):
        raise VolumetoolError(error["code"], error["message"], hint=error.get("hint", ""))
    return told


def look_at(file: Path) -> dict[str, Any]:
    """Return shape, data type, voxel size (None where the file does not say it), format and notes of a file.

    Its metadata are read as `open_volume` reads them; then some rows of the first, middle and last section, so that a file that
    was cut off is found now.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.open_volume`; ``input.too-large``: it unpacks to far more than it has; ``data.unreadable``.
    """
    from volumetool.storage.info import describe_volume
    from volumetool.storage.open import open_volume

    known = True
    try:
        volume = open_volume(str(file))
    except InputError as error:
        if error.code != "input.no-voxel-size":
            raise
        known, volume = False, open_volume(str(file), voxel_size=(1.0, 1.0, 1.0))
    stored = file.stat().st_size
    unpacked = prod(volume.shape) * (volume.channels or 1) * volume.dtype.itemsize
    if unpacked > max(LEAST_FLOOD, FLOOD * stored):
        raise InputError(
            "input.too-large",
            f"{file} has {stored} bytes and declares {unpacked} bytes of voxels, {volume.shape} (z, y, x)",
            hint="The file may be damaged or hostile. Ask the operator to put one that is sound into a folder of volumes.",
        )
    depth, rows, _ = volume.shape
    channels = (0,) * (volume.channels is not None)
    for z in sorted({0, depth // 2, depth - 1}):
        last = max(0, rows - volume.levels[0].chunk[1])
        volume[(*channels, z, slice(last, rows), slice(None))]
    facts = describe_volume(volume)
    return {
        "format": facts["format"],
        "dtype": facts["dtype"],
        "shape": list(volume.shape),
        "channels": volume.channels,
        "voxel_size": list(volume.voxel_size) if known else None,
        "note": facts["note"],
    }


def main() -> None:
    """Look at the file that the command line names, within bounds."""
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    try:
        told = look_at(Path(sys.argv[1]))
    except VolumetoolError as error:
        told = {"error": error.as_dict()}
    except (MemoryError, OSError, ValueError) as error:
        why = str(error) or "no memory is left"
        told = {"error": {"code": "input.unreadable", "message": f"{sys.argv[1]} cannot be read: {why}"}}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()

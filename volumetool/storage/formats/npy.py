"""NumPy's own files (.npy): an array without compression, in C or Fortran order, of which nothing else is known."""

from __future__ import annotations

import numpy as np

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.formats.base import Format, FoundLevel, ParsedMetadata, wrong_axes
from volumetool.storage.formats.reader import RawReader, check_length, open_reader
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.io.limits import check_array

_NUMBERS = "buifc"
"""NumPy's kinds of types that are numbers."""


def find_npy(url: str) -> ParsedMetadata | None:
    """Describe the array in a NumPy file; None if there is none.

    Raises
    ------
    InputError
        ``input.dtype``: Python objects, or records. ``input.axes``: neither two or three axes, nor four with channels.
        ``input.unreadable``: the file is shorter than its header says. ``input.broken-metadata``, ``input.too-large``,
        ``input.empty``.
    """
    if not is_local(url) or not (path := local_path(url)).is_file():
        return None
    with open_file(path) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return None
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, stored = read_header(file)
        offset = file.tell()
    if stored.kind not in _NUMBERS:
        raise InputError(
            "input.dtype",
            f"{url} holds {'Python objects, which are never unpacked' if stored.hasobject else stored}; wanted are numbers",
            hint='Save numbers: `numpy.save("FILE.npy", array.astype("uint16"))`.',
            where=url,
        )
    if len(shape) not in (2, 3, 4):
        raise wrong_axes(url, f"of an array of {len(shape)} dimensions")
    axes = ("c", *SPACE)[-len(shape) :]
    if fortran:  # the first axis is the fastest: C order of the axes turned round
        shape, axes = shape[::-1], axes[::-1]
    check_length(path, shape, stored, offset)
    reader = RawReader(str(path), shape, stored.str, offset, stored.newbyteorder("="))
    check_array(url, open_reader(reader))
    return ParsedMetadata(url, "npy", "virtual_chunked", axes, (FoundLevel("", (1.0, 1.0, 1.0)),), None, reader=reader)


NPY = Format("NumPy", find_npy, (".npy",))

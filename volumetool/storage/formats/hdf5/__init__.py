"""HDF5 files. h5py is imported for them alone: it takes as long as everything else that opening a volume needs."""

from __future__ import annotations

from pathlib import Path

from volumetool.paths import file_on, open_file
from volumetool.storage.formats.base import Format, ParsedMetadata
from volumetool.storage.io.kvstore import is_local, local_path

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_BLOCK = 512
"""Bytes: what is not HDF5 may lie before it, as in MATLAB's files, and has this length times a power of two."""


def find_hdf5(url: str) -> ParsedMetadata | None:
    """Describe the dataset of an HDF5 file at a place, or the only volume in it; None if there is no such file.

    Raises
    ------
    InputError
        As `describe`.
    """
    if not is_local(url) or (file := file_on(place := local_path(url))) is None or not _is_hdf5(file):
        return None
    from volumetool.storage.formats.hdf5.dataset import describe

    return describe(file, "" if place == file else str(place.relative_to(file)))


def _is_hdf5(path: Path) -> bool:
    with open_file(path) as file:
        offset, size = 0, path.stat().st_size
        while offset < size:
            file.seek(offset)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            offset = max(_FIRST_BLOCK, 2 * offset)
    return False


HDF5 = Format("HDF5", find_hdf5, (".h5", ".hdf5", ".hdf", ".ims"))

"""Facts on a volume, for people and machines."""

from __future__ import annotations

from typing import Any

from volumetool.paths import file_on
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.volume import Volume


def describe_volume(volume: Volume) -> dict[str, Any]:
    """Return format, dtype, levels (voxel sizes and translations in nm), size on disk and provenance as JSON values.

    Parameters
    ----------
    volume : Volume
        From `open_volume`.
    """
    levels = [
        {
            "path": level.path,
            "shape": list(level.shape),
            "voxel_size": list(level.voxel_size),
            "translation": list(level.translation),
            "chunk": list(level.chunk),
            "shard": None if level.shard is None else list(level.shard),
        }
        for level in volume.levels
    ]
    own = volume.attributes
    conversion = own.get("conversion")
    return {
        "url": volume.url,
        "format": volume.format,
        "axes": list(volume.axes),
        "dtype": volume.dtype.name,
        "channels": volume.channels,
        "bytes_on_disk": _stored_bytes(volume.url),
        "status": own.get("status"),
        "blank_sections": conversion.get("blank_sections") if isinstance(conversion, dict) else None,
        "note": "; ".join(own.get("notes", ())) or None,
        "model": own.get("model"),
        "extrapolated": own.get("extrapolated") or None,
        "levels": levels,
    }


def _stored_bytes(url: str) -> int | None:
    """Return the size of a local volume; listing an object store could take hours."""
    if not is_local(url):
        return None
    place = file_on(local_path(url)) or local_path(url)
    return sum(file.stat().st_size for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file())

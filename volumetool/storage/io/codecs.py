"""Codecs as the metadata of Zarr and N5 name them, and what of that tensorstore needs to decode.

Writers note how they compressed: levels, threads, whether frames carry a checksum. None of that changes what is decoded, but
tensorstore takes no member that it does not know, so that those are passed over. A codec or a member that is not in the tables
below may change voxels, and is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from volumetool.errors import InputError

Json = dict[str, Any]
_NINE, _ZSTD, _SIZE = range(10), range(23), range(2**31)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


@dataclass(frozen=True)
class _Codec:
    """The members of a codec.

    Attributes
    ----------
    decisive : set of str
        Decide what is decoded: kept.
    tuned : mapping of str to range
        Settings of the encoder alone; tensorstore wants them in this range.
    idle : set of str
        Settings of the encoder alone that tensorstore does not know: passed over.
    """

    decisive: frozenset[str] = frozenset()
    tuned: Mapping[str, range] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()


def _codec(*decisive: str, idle: str = "", **tuned: range) -> _Codec:
    return _Codec(frozenset(decisive), tuned, frozenset(idle.split()))


_ZARR2 = {
    "blosc": _codec("cname", "shuffle", clevel=_NINE, blocksize=_SIZE, idle="typesize nthreads"),
    "bz2": _codec(level=range(1, 10)),
    "gzip": _codec(level=_NINE, idle="mtime"),
    "zlib": _codec(level=_NINE),
    "zstd": _codec(level=_ZSTD, idle="checksum nthreads"),
}
_ZARR3 = {
    "blosc": _codec("cname", "shuffle", "typesize", clevel=_NINE, blocksize=_SIZE, idle="nthreads"),
    "bytes": _codec("endian"),
    "crc32c": _codec(),
    "gzip": _codec(level=_NINE, idle="mtime"),
    "sharding_indexed": _codec("chunk_shape", "codecs", "index_codecs", "index_location"),
    "transpose": _codec("order"),
    "zstd": _codec("checksum", level=_ZSTD, idle="nthreads"),
}
_N5 = {
    "blosc": _codec("cname", "shuffle", clevel=_NINE, blocksize=_SIZE, idle="nthreads typesize"),
    "bzip2": _codec(blockSize=range(1, 10)),
    "gzip": _codec("useZlib", level=_NINE),
    "raw": _codec(),
    "xz": _codec(preset=_NINE, idle="check"),
    "zstd": _codec(level=_ZSTD, idle="checksum nbWorkers"),
}
_LENGTHS = ("axes", "units", "resolution")
"""Attributes of N5 that say where voxels lie: tensorstore wants them in a form that not every writer keeps."""

_ARRAY3 = frozenset(
    {"zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"}
    | {"attributes", "dimension_names", "storage_transformers"}
)


def readable_metadata(url: str, driver: str, stored: Json) -> Json:
    """Return the metadata of an array without what cannot change voxels and tensorstore would refuse.

    Parameters
    ----------
    url : str
        The array, for errors.
    driver : {"zarr", "zarr3", "n5"}
        How it is stored.
    stored : dict
        Its metadata; what is no codec is not looked at.

    Raises
    ------
    InputError
        ``input.unsupported``: a codec, filter or member that is not known.
    """
    if driver == "zarr":
        if filters := stored.get("filters"):
            raise _unsupported(url, f"is stored through the filters {filters}; volumetool reads none")
        return _with({"filters": None, **stored, **_fill(stored.get("fill_value"))}, "compressor", url, _ZARR2, "id")
    if driver == "n5":
        kept = {name: value for name, value in stored.items() if name not in _LENGTHS}
        old = {"compression": {"type": stored["compressionType"]}} if "compressionType" in stored else {}  # N5 before 2.0
        return _with(old | kept, "compression", url, _N5, "type")
    codecs = stored.get("codecs")
    if not isinstance(codecs, list):
        return stored
    kept = {name: value for name, value in stored.items() if not _may_be_ignored(name, value)}
    if strange := sorted(kept.keys() - _ARRAY3):
        raise _unsupported(url, f"has the members {', '.join(strange)} in its zarr.json, which may change voxels")
    if transformers := stored.get("storage_transformers"):
        raise _unsupported(url, f"is stored through the storage transformers {transformers}; volumetool reads none")
    return kept | {"codecs": [_zarr3(url, codec) for codec in codecs]}


def _fill(stored: object) -> Json:
    """Return the fill value of Zarr 2 as tensorstore takes it, where some writers spell it otherwise."""
    if isinstance(stored, float) and isnan(stored):
        return {"fill_value": "NaN"}  # the bare word is no JSON
    if isinstance(stored, str) and _NUMBER.fullmatch(stored):
        return {"fill_value": json.loads(stored)}  # Java's n5-zarr quotes numbers
    return {}


def _may_be_ignored(name: str, value: object) -> bool:
    """Return whether a member of Zarr 3 metadata says of itself, or by the specification, that readers need not know it."""
    return name == "consolidated_metadata" or (isinstance(value, dict) and value.get("must_understand") is False)


def _with(stored: Json, member: str, url: str, known: Mapping[str, _Codec], naming: str) -> Json:
    codec = stored.get(member)
    if not isinstance(codec, dict):
        return stored
    name = codec.get(naming)
    members = {key: value for key, value in codec.items() if key != naming}
    return stored | {member: {naming: name, **_readable(url, name, members, known)}}


def _zarr3(url: str, codec: Any) -> Any:
    if not isinstance(codec, dict):
        return codec
    name, members = codec.get("name"), codec.get("configuration") or {}
    if not isinstance(members, dict) or codec.keys() - {"name", "configuration", "must_understand"}:
        raise _unsupported(url, f"has the codec {codec}, whose form is not known")
    members = _readable(url, name, members, _ZARR3)
    for inner in {"codecs", "index_codecs"} & members.keys():
        if isinstance(members[inner], list):
            members[inner] = [_zarr3(url, each) for each in members[inner]]
    return {"name": name, "configuration": members} if members else {"name": name}


def _readable(url: str, name: object, members: Json, known: Mapping[str, _Codec]) -> Json:
    codec = known.get(name) if isinstance(name, str) else None
    if codec is None:
        raise _unsupported(url, f"is compressed with {name!r}; read are {', '.join(known)}")
    if strange := sorted(members.keys() - codec.decisive - codec.tuned.keys() - codec.idle):
        raise _unsupported(url, f"has the members {', '.join(strange)} of its codec {name}, which may change voxels")
    decisive = {key: value for key, value in members.items() if key in codec.decisive}
    return decisive | {key: _tuned(members.get(key), valid) for key, valid in codec.tuned.items()}


def _tuned(value: object, valid: range) -> int:
    return value if isinstance(value, int) and value in valid else valid.start


def _unsupported(url: str, what: str) -> InputError:
    return InputError(
        "input.unsupported",
        f"{url} {what}",
        hint="Copy it without, with the software that wrote it, or with a newer volumetool that knows it.",
        where=url,
    )

"""Transforms that N5 attributes give a dataset: COSEM's ``transform``, and the ``spatialTransform`` of n5-universe."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.storage.formats.base import FoundLevel, Json, scale_zyx
from volumetool.storage.formats.voxel_sizes import of_space, read_offset, read_unit


def read_transform(url: str, path: str, own: Json, axes: Sequence[str]) -> tuple[FoundLevel, Size | None] | None:
    """Return where a transform among the attributes places a level, and its unit.

    Parameters
    ----------
    url : str
        The volume, for errors.
    path : str
        The level, below the volume.
    own : dict
        Attributes.
    axes : sequence of str
        Axes of the dataset, fastest first.

    Returns
    -------
    tuple or None
        None where the attributes hold no transform.

    Raises
    ------
    InputError
        ``input.axes``: it rotates or shears.
    """
    if "transform" in own:
        return _cosem(path, own["transform"])
    if "spatialTransform" not in own:
        return None
    spatial = own["spatialTransform"]
    scale, shift = _diagonal(url, spatial["transform"], len(axes))
    units = [each.get("unit") for each in spatial.get("axes") or ()] or [spatial.get("unit")] * len(axes)
    named = of_space(axes, scale)
    return FoundLevel(path, scale_zyx(named, scale), read_offset(axes, shift)), read_unit(of_space(axes, units), units)


def _cosem(path: str, transform: Json) -> tuple[FoundLevel, Size | None]:
    axes = tuple(str(axis).lower() for axis in transform["axes"])
    translation = read_offset(axes, transform.get("translate") or [0.0] * len(axes))
    unit = read_unit(axes, transform.get("units") or [None] * len(axes))
    return FoundLevel(path, scale_zyx(axes, transform["scale"]), translation), unit


def _diagonal(url: str, transform: Json, rank: int) -> tuple[list[float], list[float]]:
    """Return scale and shift of each axis, in the order of the dataset's axes."""
    kind: Any = transform["type"]
    if kind == "scale":
        return list(transform["scale"]), [0.0] * len(transform["scale"])
    if kind == "translation":
        return [1.0] * len(transform["translation"]), list(transform["translation"])
    if kind == "affine":
        return _of_matrix(url, transform["affine"])
    if kind == "sequence":
        steps = [_diagonal(url, each, rank) for each in transform["transformations"]]
        scale, shift = [1.0] * rank, [0.0] * rank
        for factors, moves in steps:
            scale = [a * f for a, f in zip(scale, factors, strict=True)]
            shift = [a * f + move for a, f, move in zip(shift, factors, moves, strict=True)]
        return scale, shift
    if kind == "identity":
        return [1.0] * rank, [0.0] * rank
    raise _refused(url, f"of the type {kind!r}")


def _of_matrix(url: str, flat: Sequence[float]) -> tuple[list[float], list[float]]:
    """Read a matrix of n rows and n + 1 columns, row by row."""
    rank = isqrt(len(flat))  # n (n + 1) lies between n² and (n + 1)²
    rows = [list(flat[at : at + rank + 1]) for at in range(0, len(flat), rank + 1)]
    if any(value for i, row in enumerate(rows) for j, value in enumerate(row[:rank]) if i != j):
        raise _refused(url, "that rotates or shears")
    return [row[i] for i, row in enumerate(rows)], [row[rank] for row in rows]


def _refused(url: str, what: str) -> InputError:
    return InputError(
        "input.axes",
        f"{url} has a spatialTransform {what}; only scale and translation along the axes are read",
        hint="Resample it along its axes first, such as with BigWarp or BigStitcher.",
        where=url,
    )

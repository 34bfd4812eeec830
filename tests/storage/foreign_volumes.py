"""Small volumes that other software writes: each is drawn by a number, and says what of it a reader must find.

Every axis has another length and another voxel size, so that no two can be confused. Voxels, data type, byte order, compression
and the dialect of the metadata are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Size

Voxels = NDArray[Any]
Json = dict[str, Any]

SHAPE = (5, 7, 9)
SIZE = (30.0, 8.0, 4.0)
AT = (300.0, 80.0, 40.0)
CHUNK = (2, 4, 5)

READ = ("uint8", "int8", "uint16", "int16", "float32")
CAST = ("bool", "uint32", "int32", "uint64", "int64", "float16", "float64")
"""Data types that are read where a cast is asked for."""

UNITS: dict[str, float] = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "micrometer": 1e3, "angstrom": 0.1, "mm": 1e6}
"""Nanometres per unit."""


@dataclass(frozen=True)
class Foreign:
    """A volume as other software wrote it.

    Attributes
    ----------
    label : str
        What was drawn.
    place : Path
        Where it is.
    voxels : numpy.ndarray, shape (z, y, x)
        What its writer put in.
    size : tuple of float or None
        Its voxel size in nanometres, z, y, x; None where its metadata do not say all of it.
    position : tuple of float
        Where the centre of its first voxel is.
    expected : str
        ``"exact"``, or the code of the error by which it must be refused.
    told : str
        Where the size is not known along every axis: what the error must say of it.
    castable : bool
        Whether it can be opened where a cast is asked for, if its data type alone keeps it from being read.
    """

    label: str
    place: Path
    voxels: Voxels
    size: Size | None = SIZE
    position: Size = (0.0, 0.0, 0.0)
    expected: str = "exact"
    told: str = ""
    castable: bool = True

    def but(self, **changed: Any) -> Foreign:
        """Return the same with some attributes changed."""
        return replace(self, **changed)


class Draw:
    """A sequence of choices; what was chosen makes up the label."""

    def __init__(self, number: int, writer: str) -> None:
        self._random = Random(number)  # noqa: S311  (no secret)
        self._chosen = [writer]

    @property
    def label(self) -> str:
        """All that was chosen."""
        return " ".join(self._chosen)

    def one(self, name: str, *choices: Any) -> Any:
        """Choose, and note the choice."""
        chosen = self._random.choice(choices)
        self._chosen.append(f"{name}={chosen}")
        return chosen

    def voxels(self, dtypes: tuple[str, ...] = (*READ, *READ, *CAST), shape: tuple[int, ...] = SHAPE) -> Voxels:
        """Return voxels of a type that is chosen: everything that it can hold, in no order."""
        dtype = np.dtype(self.one("dtype", *dtypes))
        noise = np.random.default_rng(len(self._chosen) + self._random.randrange(2**31))
        count = int(np.prod(shape))
        if dtype.kind == "f":
            values = noise.normal(0, 100, count)
            values[:4] = np.nan, np.inf, -np.inf, -0.0
            return values.astype(dtype).reshape(shape)
        info = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        values = noise.integers(*info, count, endpoint=True, dtype=np.int8 if dtype.kind == "b" else dtype)
        return values.astype(dtype).reshape(shape)


Writer = Callable[[Draw, Path], Foreign]


def readable(voxels: Voxels) -> str:
    """Return what is expected of voxels whose metadata are plain."""
    return "exact" if voxels.dtype.name in READ else "input.dtype"

"""Voxels of one data type as another: what a conversion makes of types that volumetool does not work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CASTABLE = (
    "uint8", "int8", "uint16", "int16", "float32", "bool", "uint32", "int32", "uint64", "int64", "float16", "float64",
)  # fmt: skip
"""Data types that are read where a cast is asked for."""

_TABLE_BYTES = 2
"""Integers of at most so many bytes are looked up in a table, not computed one by one."""

_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True)
class Cast:
    """What becomes of voxels.

    Attributes
    ----------
    dtype : str
        One of the data types of a volume.
    window : tuple of float, optional
        The values that become the least and the greatest: of an integer type the ends of its range, of float32 0 and 1. What
        lies between them is placed linearly, and rounded to the nearest integer, of two the even one; what lies outside becomes
        the nearer end, and what is no number the least. Without a window each integer stays what it is, or is an error; floats
        are rounded to float32.
    """

    dtype: str
    window: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.window is None:
            return self.dtype
        low, high = self._range
        return f"{self.dtype}, {self.window[0]:g} to {self.window[1]:g} as {low:g} to {high:g}; what lies outside is clipped"

    @property
    def _range(self) -> tuple[float, float]:
        if self.dtype == "float32":
            return 0.0, 1.0
        limits = np.iinfo(self.dtype)
        return float(limits.min), float(limits.max)

    def needs_window(self, stored: np.dtype[Any]) -> bool:
        """Return whether voxels of a data type have fractions that would be lost."""
        return self.window is None and stored.kind == "f" and self.dtype != "float32"

    def apply(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Return what becomes of voxels.

        Parameters
        ----------
        voxels : numpy.ndarray
            Of one of the `CASTABLE` types, in any shape, in native byte order.

        Returns
        -------
        numpy.ndarray
            The same shape, in `dtype`.

        Raises
        ------
        ValueError
            Without a window: a value does not fit.
        """
        if voxels.dtype.kind == "b":
            voxels = voxels.view(np.uint8)
        if self.window is None:
            return self._kept(voxels)
        if voxels.dtype.kind == "f" or voxels.dtype.itemsize > _TABLE_BYTES:
            return self._scaled(voxels, self.window)
        unsigned = np.dtype(f"u{voxels.dtype.itemsize}")
        every = np.arange(np.iinfo(unsigned).max + 1).astype(unsigned)
        table = self._scaled(every.view(voxels.dtype), self.window)
        found: NDArray[Any] = table[voxels.view(unsigned)]
        return found

    def display(self, omero: dict[str, Any]) -> dict[str, Any]:
        """Return OME-Zarr's display settings (``omero``) with their windows in the values that voxels have after the cast."""
        if self.window is None:
            return omero
        low, high = self._range
        channels = []
        for channel in omero["channels"]:
            start, end = self._scaled(np.array([channel["window"][name] for name in ("start", "end")]), self.window).tolist()
            channels.append({**channel, "window": {"min": low, "max": high, "start": start, "end": end}})
        return {**omero, "channels": channels}

    def _kept(self, voxels: NDArray[Any]) -> NDArray[Any]:
        finite = voxels[np.isfinite(voxels)] if voxels.dtype.kind == "f" else voxels
        least, greatest = (finite.min(), finite.max()) if finite.size else (0, 0)
        if voxels.dtype.kind == "f":
            most = float(np.finfo(np.float32).max)
        else:
            least, greatest, most = int(least), int(greatest), _EXACT_IN_FLOAT32
        low, high = (-most, most) if self.dtype == "float32" else self._range
        if least < low or greatest > high:
            raise ValueError(f"values from {least:g} to {greatest:g} do not all fit into {self.dtype}")
        kept: NDArray[Any] = voxels.astype(self.dtype)
        return kept

    def _scaled(self, voxels: NDArray[Any], window: tuple[float, float]) -> NDArray[Any]:
        (low, high), (least, greatest) = window, self._range
        part = np.clip((voxels.astype(np.float64) - low) / (high - low), 0.0, 1.0)
        values = np.nan_to_num(part, copy=False, nan=0.0) * (greatest - least) + least
        return (values if self.dtype == "float32" else np.rint(values)).astype(self.dtype)

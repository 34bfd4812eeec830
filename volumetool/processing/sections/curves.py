"""Grey values of sections: what each of them becomes."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, PlainSerializer, PlainValidator

from volumetool.processing.device.arrays import Array


def _packed(table: NDArray[np.float32]) -> str:
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def _unpacked(table: Any) -> NDArray[np.float32]:
    if isinstance(table, str):
        table = np.load(io.BytesIO(base64.b64decode(table)), allow_pickle=False)
    return np.asarray(table, np.float32)


class GreyCurves(BaseModel):
    """What each grey value of each section becomes.

    Parameters
    ----------
    first : int
        Grey value of the table's first column; the next ones follow.
    table : numpy.ndarray of float32, shape (channels, sections, values)
        Grey values; what lies beyond the ends becomes what the ends become.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    first: int
    table: Annotated[
        NDArray[np.float32],
        PlainValidator(_unpacked, json_schema_input_type=str),
        PlainSerializer(_packed, return_type=str, when_used="json"),
    ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GreyCurves) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table."""
        return hashlib.sha256(f"{self.first} {self.table.shape} ".encode() + self.table.tobytes()).hexdigest()

    def apply(self, channel: int, sections: list[int], values: Array, xp: ModuleType) -> Array:
        """Return what grey values become.

        Parameters
        ----------
        channel : int
            Channel of the input.
        sections : list of int
            Section of each of the first axis.
        values : array of float32, shape (z, y, x)
            Whole numbers.
        xp : module
            ``numpy`` or ``cupy``, whose the array is.
        """
        curves = xp.asarray(self.table[channel, sections])  # (z, values)
        places = xp.clip(xp.rint(values) - self.first, 0, curves.shape[1] - 1).astype(np.intp)  # (z, y, x)
        return curves[xp.arange(len(sections))[:, None, None], places]

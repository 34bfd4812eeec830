"""Lossy compression: JPEG's blocks."""

# ruff: noqa: ARG002  (every step is handed what any step may need)

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from volumetool.degradation.arrays import Array, BlockPosition, module_of
from volumetool.degradation.step import Step

BLOCK = 8
"""Voxels of a JPEG block along y and x."""

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_COSINES = np.array(
    [
        [math.sqrt((1 if u == 0 else 2) / BLOCK) * math.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)) for x in range(BLOCK)]
        for u in range(BLOCK)
    ],
    dtype=np.float32,
)


class Jpeg(Step):
    """JPEG compression of every section, as many archives were stored: quantised cosines of blocks of 8 x 8.

    Blocks begin at the volume's voxel 0. The table is the luminance example of ITU-T T.81 (Annex K, table K.1), scaled by
    quality as the Independent JPEG Group's library does.

    Parameters
    ----------
    kind : {"jpeg"}
        Names the step; it stands after the reduction.
    quality : int
        Quality from 1 (worst) to 100.
    """

    kind: Literal["jpeg"] = "jpeg"
    quality: int = Field(75, ge=1, le=100)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Compress and decompress; the block must begin on a multiple of 8 along y and x."""
        xp = module_of(image)
        depth, height, width = image.shape
        # A block at the face repeats its own last voxel, as encoders do: mirrored it would depend on the block before.
        padded = xp.pad(image, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
        grey = xp.rint(padded.clip(0, 1) * xp.float32(255)) - xp.float32(128)
        blocks = grey.reshape(depth, padded.shape[1] // BLOCK, BLOCK, padded.shape[2] // BLOCK, BLOCK)  # (z, by, 8, bx, 8)
        table = xp.asarray(self.table()).reshape(BLOCK, 1, BLOCK)
        waves = _turned(_turned(blocks, 2, _COSINES), 4, _COSINES)
        stored = xp.rint(waves / table) * table
        grey = _turned(_turned(stored, 4, _COSINES.T), 2, _COSINES.T).reshape(padded.shape)
        pixels = xp.rint(grey[:, :height, :width] + xp.float32(128)).clip(0, 255)
        return pixels / xp.float32(255)

    def table(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return the 8 x 8 divisors at this quality."""
        percent = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        divisors: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.clip(
            (np.array(_LUMINANCE) * percent + 50) // 100, 1, 255
        ).astype(np.float32)
        return divisors


def _turned(blocks: Array, axis: int, matrix: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> Array:
    """Multiply the 8 voxels of an axis by a matrix, one column after the other."""
    xp = module_of(blocks)
    shape = [BLOCK if a == axis else 1 for a in range(5)]
    total = xp.zeros_like(blocks)
    for column in range(BLOCK):
        total += blocks.take([column], axis=axis) * xp.asarray(matrix[:, column]).reshape(shape)
    return total

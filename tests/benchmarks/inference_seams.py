"""The seam error of `compare_inference.py`: each result beside the network on the whole section, or volume, at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.geometry import mirror_index
from volumetool.models import Model

PERCENTILE = 99.99

Floats = NDArray[np.float32]


def whole(model: Model, voxels: NDArray[np.uint8], low: float, high: float) -> Floats:
    """Return what the network makes of voxels (z, y, x) without patches, in grey levels, mirrored by its receptive field.

    A 2D network takes section by section.
    """
    card = model.card
    network = model.network()
    span = np.float32(high - low)
    x = (voxels.astype(np.float32) - np.float32(low)) / span
    margins = [-(-reach // grain) * grain for reach, grain in zip(card.receptive_field, card.granularity, strict=True)]
    for axis, (margin, grain, size) in enumerate(zip(margins, card.granularity, voxels.shape, strict=True)):
        x = x.take(mirror_index(-margin, -(-size // grain) * grain + margin, size), axis=axis)
    with torch.inference_mode():
        if card.dims == 2:
            y = np.concatenate([network(torch.from_numpy(section)[None, None])[0].numpy() for section in x])
        else:
            y = network(torch.from_numpy(x)[None, None])[0, 0].numpy()
    inner = tuple(slice(m * f, (m + n) * f) for m, n, f in zip(margins, voxels.shape, card.scale, strict=True))
    grey: Floats = y[inner] * span + np.float32(low)
    return grey


def seam_error(model: Model, found: Floats, truth: Floats) -> dict[str, float]:
    """Return the largest difference, and a percentile of it, over the voxels that no face of the volume can reach.

    Both are cut to 0..255, as all will be in 8 bit. In float32 a result can differ there at the borders of patches alone.
    """
    reach = tuple(r * f for r, f in zip(model.card.receptive_field, model.card.scale, strict=True))
    inner = tuple(slice(r, n - r) for r, n in zip(reach, truth.shape, strict=True))
    if min(n - 2 * r for n, r in zip(truth.shape, reach, strict=True)) <= 0:
        raise SystemExit(f"faces reach all of {truth.shape} output voxels, {reach} from each: take more sections")
    away = np.abs(found[inner].clip(0, 255) - truth[inner].clip(0, 255))
    return {"largest": float(away.max()), "percentile": float(np.percentile(away, PERCENTILE)), "voxels": int(away.size)}

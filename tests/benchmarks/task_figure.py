"""Figure 5 of `method.py`: the task scores of truth, bilinear enlargement and nets, and the share of the loss that is left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tasks import (
    Labels,
    Vesicles,
    compare_partitions,
    components,
    neighbour_correlation,
    place_vesicles,
    segment_cells,
    share_of_loss,
    vesicle_recall,
)
from unseen import PHANTOM_SEEDS, PHANTOM_VOXEL_SIZE, SCALE, SOURCES, Net, centred, degrade, load_run, restore_all, task_phantom

from volumetool.degradation import RECIPES
from volumetool.evaluation.baselines import restore, tune

RUN = 8
"""Consecutive sections of the real sets."""

CLASSICAL = "z-gauss+bicubic"
"""The classical method that the nets are compared with: the best one with neighbours, by PSNR."""

EVERY = 4
"""Sections between two that are searched for vesicles, and twice that between two that are segmented, in a phantom."""

Bytes = NDArray[np.uint8]


def tasks(data: Path, nets: Sequence[Net], name: str, recipe: str, *, quick: bool) -> dict[str, Any]:
    """Return by task the score of each image, and the share of bilinear enlargement's loss that is left.

    Parameters
    ----------
    data : Path
        Folder with the real data.
    nets : sequence of Net
        Scale 1 x 4 x 4.
    name : str
        A set whose voxel size is known, or ``"phantom"``.
    recipe : str
        How it is degraded.
    quick : bool
        A small field, one phantom.
    """
    scenes = []
    if name == "phantom":
        for seed in PHANTOM_SEEDS[: 1 if quick else None]:
            drawn = task_phantom(seed)
            depths = range(2, len(drawn.grey), EVERY)
            cells = {z: components(drawn.labels[z]) for z in depths[::2]}
            vesicles = place_vesicles(drawn.vesicles, drawn.labels, depths, PHANTOM_VOXEL_SIZE)
            scenes.append(_score_images(drawn.grey, nets, recipe, (PHANTOM_VOXEL_SIZE, cells, vesicles)))
    else:
        fine, voxel_size = load_run(data, name, RUN), SOURCES[name].voxel_size
        assert voxel_size is not None
        fine = fine[:, :256, :256] if quick else fine
        cells = {z: segment_cells(fine[z], voxel_size) for z in range(0, RUN, 2)}
        scenes.append(_score_images(fine, nets, recipe, (voxel_size, cells, None)))
    return {
        task: _with_shares({image: float(np.mean([scene[task][image] for scene in scenes])) for image in scenes[0][task]})
        for task in scenes[0]
    }


def _score_images(
    fine: Bytes, nets: Sequence[Net], recipe: str, asked: tuple[float, dict[int, Labels], Vesicles | None]
) -> dict[str, dict[str, float]]:
    """Return by task, by image the score of one scene."""
    voxel_size, cells, vesicles = asked
    coarse = degrade(fine, RECIPES[recipe], seed=0)
    images = {"truth": fine, "bilinear": np.stack([restore("bilinear", section, SCALE) for section in coarse])}
    images[CLASSICAL] = _restore_tuned(coarse, fine)
    images |= {net.name: restore_all(net, coarse) for net in nets}
    scores: dict[str, dict[str, float]] = {}
    for image, volume in images.items():
        parts = [compare_partitions(segment_cells(volume[z], voxel_size), truth) for z, truth in cells.items()]
        found = {
            "Rand error": float(np.mean([part.rand_error for part in parts])),
            "variation of information": float(np.mean([part.variation for part in parts])),
            "neighbour correlation": neighbour_correlation(volume),
        }
        if vesicles is not None:
            found["vesicle recall"] = vesicle_recall(volume[list(vesicles.depths)], vesicles, voxel_size)
        for task, value in found.items():
            scores.setdefault(task, {})[image] = value
    return scores


def _restore_tuned(coarse: Bytes, fine: Bytes) -> Bytes:
    """Return `CLASSICAL` of the strength with the best PSNR on these very sections."""
    stacks = [centred(coarse, z) for z in range(len(coarse))]
    strength = tune(CLASSICAL, list(zip(stacks, fine, strict=True)))
    return np.stack([np.rint(np.clip(restore(CLASSICAL, stack, SCALE, strength), 0, 255)).astype(np.uint8) for stack in stacks])


def _with_shares(scores: dict[str, float]) -> dict[str, Any]:
    known = ("truth", "bilinear")
    shares = {
        name: share_of_loss(value, scores["bilinear"], scores["truth"]) for name, value in scores.items() if name not in known
    }
    return {"scores": scores, "shares": shares}

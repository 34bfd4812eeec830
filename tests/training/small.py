"""A training that is over in a moment."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volumetool.events import Event, StepTrained
from volumetool.training.config import TrainConfig, make_config
from volumetool.training.data.phantom import phantom

ARCHITECTURE: dict[str, Any] = {"width": 4, "pools": [[1, 2, 2]]}


@cache
def tissue(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    """Return made-up tissue; it takes longer to make than most tests run."""
    made = phantom(shape, seed=seed)
    made.flags.writeable = False
    return made


def write_source(folder: Path, shape: tuple[int, int, int] = (64, 64, 64), seed: int = 1) -> str:
    path = folder / f"source{seed}.tif"
    if not path.exists():
        tifffile.imwrite(path, tissue(shape, seed))
    return str(path)


def small_options(folder: Path, **changes: Any) -> dict[str, Any]:
    source = {"path": write_source(folder), "voxel_size": [8, 8, 8], "planes": "all"}
    return {
        "name": "small",
        "architecture": ARCHITECTURE,
        "sources": [source],
        "sampling": {"crop": [1, 16, 16], "acquisitions": 2, "crops": 2},
        "validation": {"share": 0.25, "gap": 4, "batches": 1},
        "optimiser": {"ema": 0.9},
        "steps": 4,
        "threads": 1,
        "precision": "float32",
        "card": {"stride": [1, 32, 32]},
    } | changes


def small_training(folder: Path, **changes: Any) -> TrainConfig:
    return make_config(small_options(folder, **changes))


class Told:
    """Keeps what a training says."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.points: list[Any] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepTrained):
            assert event.loss == event.loss
            assert event.step <= event.steps
            self.steps.append(event.step)
        else:
            self.points.append(event)

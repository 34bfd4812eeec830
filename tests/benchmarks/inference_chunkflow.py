"""The model file that chunkflow loads for `compare_inference.py`, as its framework "universal" wants one.

chunkflow's patches have one shape before and after the network. So it is given the volume enlarged by repetition, as its users
would have to, and the network takes every n-th voxel of that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from inference_task import Task
from numpy.typing import NDArray

DAMPED = 0.25
"""chunkflow refuses results above 1; a normalised result may lie somewhat above. A power of two costs no digit."""


class PatchInferencer:
    """What chunkflow makes of the model file, and calls with every patch.

    Parameters
    ----------
    weights : str
        The task's file: it names the model.
    mask : numpy.ndarray, shape (z, y, x)
        chunkflow's weights for blending.
    """

    def __init__(self, weights: str, mask: NDArray[Any]) -> None:
        task = Task.load(Path(weights))
        self.scale, self.mask, self.network = task.scale, np.asarray(mask), task.network()

    def __call__(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the blended part (1, 1, z, y, x) of one patch of that shape."""
        z, y, x = self.scale
        found: NDArray[np.float32] = self.network.enhance(patch[0, 0, ::z, ::y, ::x]) * DAMPED
        found *= self.mask
        return found[None, None]

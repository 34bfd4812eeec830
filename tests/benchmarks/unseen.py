"""What the benchmarks of the method share: sections that no network was trained on, their degradation and restoration.

Each sample is a section with its neighbours, as far as the data have them, so that networks that look at several sections find
them; they are degraded together, and the section in the middle is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volumetool.degradation import Crappifier
from volumetool.evaluation.baselines import Z_REACH
from volumetool.geometry import mirror_index
from volumetool.models import ModelCard, load_model
from volumetool.training.data.phantom import Phantom, draw_phantom
from volumetool.training.restore import restore_volume

SCALE = 4
REACH = Z_REACH
"""Neighbours of a section on each side: what classical methods look at."""

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """Fine data that serve as truth: files below the data folder, pages to take, pixels at the border to leave out."""

    files: tuple[str, ...]
    step: int
    border: int = 0
    neighbours: bool = True
    voxel_size: float | None = None  # nm in plane, where it is known


SOURCES = {
    "fib25-val": Source(("fib25-fibsem/fib25_val_z0-199_y0-339.tif",), 50, voxel_size=8.0),
    "isbi2012": Source(("isbi2012-sstem/isbi2012_train.tif",), 8, voxel_size=4.0),
    "cdeep3m-sbem": Source(("cdeep3m-sbem/cdeep3m_sbem_z020-037.tif",), 9),
    "temca": Source(("temca-fly-tiles/tiles_col0060-0061_row0140-0141_level1.tif",), 2, border=60, neighbours=False),
    "kriss": Source(("kriss-sem-pairs/line_clean.tif", "kriss-sem-pairs/time_clean.tif"), 32, neighbours=False),
}

PHANTOM_SEEDS = (1000, 1001, 1002)
"""Drawn for these benchmarks alone."""

PHANTOM_SHAPE = (40, 320, 320)
PHANTOM_VOXEL_SIZE = 8.0


@dataclass(frozen=True)
class Sample:
    """A section to score.

    Attributes
    ----------
    fine : ndarray
        uint8 (z, y, x): the section and its neighbours.
    centre : int
        Which of them is scored.
    seed : int
        Names the noise.
    """

    fine: Bytes
    centre: int
    seed: int

    @property
    def truth(self) -> Bytes:
        """The section, uint8 (y, x)."""
        return self.fine[self.centre]


@dataclass(frozen=True)
class Net:
    """A network ready to run, with its card and the hash of its weights."""

    name: str
    network: Any
    card: ModelCard
    sha256: str


def load_net(spec: str, name: str = "") -> Net:
    """Load a model by its built-in name or from a file."""
    model = load_model(spec)
    return Net(name or model.card.name, model.network(), model.card, model.weights_sha256)


def load_samples(data: Path, name: str, *, quick: bool = False) -> list[Sample]:
    """Load the samples of a set; with `quick` no more than two, of 256 x 256 pixels at most."""
    source = SOURCES[name]
    samples: list[Sample] = []
    for file in source.files:
        volume = _inside(tifffile.imread(data / file), source.border)
        for z in range(0, len(volume), source.step):
            reach = REACH if source.neighbours else 0
            low, high = max(0, z - reach), min(len(volume), z + reach + 1)
            samples.append(Sample(volume[low:high], z - low, len(samples)))
    return [Sample(each.fine[:, :256, :256], each.centre, each.seed) for each in samples[:2]] if quick else samples


def load_run(data: Path, name: str, sections: int) -> Bytes:
    """Load so many consecutive sections: uint8 (z, y, x)."""
    return _inside(tifffile.imread(data / SOURCES[name].files[0], key=range(sections)), SOURCES[name].border)


def phantom_samples(*, quick: bool = False) -> list[Sample]:
    """Draw the phantoms' samples, free of noise: sections with all their neighbours."""
    samples: list[Sample] = []
    for seed in PHANTOM_SEEDS[: 1 if quick else None]:
        grey = draw_phantom(PHANTOM_SHAPE, seed).grey
        for z in range(REACH, PHANTOM_SHAPE[0] - REACH, 16 if quick else 8):
            samples.append(Sample(grey[z - REACH : z + REACH + 1], REACH, len(samples)))
    return samples


def task_phantom(seed: int) -> Phantom:
    """Draw a phantom whose vesicles can be told apart."""
    return draw_phantom(PHANTOM_SHAPE, seed, room=10.0)


def degrade(fine: Bytes, recipe: Crappifier, seed: int, scale: int = SCALE) -> Bytes:
    """Crappify sections: uint8 (z, y, x) to uint8 (z, y // scale, x // scale)."""
    grey = recipe.apply(fine.astype(np.float32) / np.float32(255), scale=(1, scale, scale), seed=seed)
    coarse: Bytes = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return coarse


def centred(slab: Bytes, centre: int) -> Bytes:
    """Return a section with as many neighbours on both sides, mirrored where there are none; alone (y, x) as it is."""
    if len(slab) == 1:
        return slab[0]
    return slab[mirror_index(centre - REACH, centre + REACH + 1, len(slab))]


def restore_all(net: Net, coarse: Bytes) -> Bytes:
    """Restore consecutive sections at once: uint8 (z, y, x) to uint8 (z, y * scale, x * scale)."""
    grey = restore_volume(net.network, coarse, net.card.normalisation)
    restored: Bytes = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
    return restored


def restore_centre(net: Net, coarse: Bytes, centre: int) -> Bytes:
    """Restore one section, with as many of its neighbours as the network looks at: uint8 (y * scale, x * scale)."""
    reach = net.card.z_context if net.card.dims == 2 else net.card.receptive_field[0]
    low = max(0, centre - reach)
    return restore_all(net, coarse[low : centre + reach + 1])[centre - low]


def _inside(volume: Bytes, border: int) -> Bytes:
    y, x = (border + (size - 2 * border) // SCALE * SCALE for size in volume.shape[1:])
    return volume[:, border:y, border:x]


def names(sets: Sequence[str]) -> list[str]:
    """Return the sets in the order of tables; all where none is named."""
    return [name for name in SOURCES if not sets or name in sets]

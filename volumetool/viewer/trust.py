"""A trust volume as colours over the output that it speaks of: where errors are expected, and where the input disagrees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from volumetool.errors import ConfigError
from volumetool.storage.provenance import block_of, trust_channels
from volumetool.storage.volume import Volume
from volumetool.units import show_size
from volumetool.viewer.layers import Layer, make_layers

CLEAR, FULL = 2.0, 6.0
"""Standard deviations of the input's noise up to which a departure is not coloured, and from which it is fully."""

NEAR = 1e-3
"""Part of a voxel of the output by which places in metadata may differ that mean the same."""

_ERROR = """#uicontrol invlerp normalized
void main() { float error = normalized(); emitRGBA(vec4(1.0, 0.6, 0.0, 0.7 * error)); }
"""

_AWAY = f"""#uicontrol invlerp normalized
void main() {{
  float away = 2.0 * normalized() - 1.0;
  float strength = clamp((abs(away) - {CLEAR / FULL:.4f}) / {1 - CLEAR / FULL:.4f}, 0.0, 1.0);
  emitRGBA(vec4(away > 0.0 ? 1.0 : 0.0, 0.0, away > 0.0 ? 0.0 : 1.0, strength));
}}
"""


def trust_layers(place: str | os.PathLike[str], shown: Sequence[Layer]) -> tuple[str, list[Layer]]:
    """Describe the channels of a trust volume as layers over a volume that is shown.

    Orange says where large errors are expected. Red is where the output is brighter than the input allows, blue where it is
    darker, from `CLEAR` to `FULL` standard deviations of the input's noise; where that is not known, of the channel's own
    spread.

    Parameters
    ----------
    place : str or path
        Path or URL of the trust volume.
    shown : sequence of Layer
        The volumes that are shown.

    Returns
    -------
    str
        Name of the layer that they lie over: that of the output in the same place.
    list of Layer
        One for each channel.

    Raises
    ------
    ConfigError
        ``config.option``: it is no trust volume, or its output is not shown.
    InputError
        As :func:`volumetool.open_volume`.
    """
    layers = [layer for layer in make_layers([place]) if isinstance(layer.volume, Volume) and trust_channels(layer.volume)]
    if not layers:
        raise ConfigError(
            "config.option", f"--trust {place} is no trust volume", hint="give what `volumetool enhance --trust` wrote"
        )
    made = layers[0].volume
    over = [layer for layer in shown if _speaks_of(layers[0], layer)]
    if not over:
        low, high = (show_size(corner) for corner in layers[0].corners)
        raise ConfigError(
            "config.option",
            f"--trust {place} speaks of an output from {low} to {high} (z, y, x), and none that is shown lies there",
            hint="show the OUTPUT of the same job",
        )
    noise = made.attributes.get("noise") if isinstance(made, Volume) else None
    return over[-1].name, [_coloured(layer, noise) for layer in layers]


def _speaks_of(trust: Layer, layer: Layer) -> bool:
    """Return whether a trust volume lies where a volume does, whose voxels it joins to larger ones, the last ones cut short."""
    (low, high), (begin, end), size = trust.corners, layer.corners, trust.voxel_size
    own = np.divide(size, block_of(trust.volume) if isinstance(trust.volume, Volume) else 1)
    near = np.multiply(own, NEAR)
    same = np.allclose(own, layer.voxel_size, rtol=NEAR) and (abs(np.subtract(low, begin)) <= near).all()
    over = np.subtract(high, end)  # by which the last voxels reach beyond the volume
    return bool(same and (over >= -near).all() and (over < np.subtract(size, own) + near).all())


def _coloured(layer: Layer, noise: object) -> Layer:
    low, high = layer.window or (0.0, 1.0)
    if "consistency" not in layer.name.rpartition(": ")[2]:
        return replace(layer, window=(max(0.0, low), high), shader=_ERROR)
    # Sampled windows are percentiles 1 and 99: of noise, 2.3 standard deviations on either side.
    spread = float(noise) if isinstance(noise, int | float) and noise > 0 else (high - low) / 4.65
    return replace(layer, window=(-FULL * spread, FULL * spread), shader=_AWAY)

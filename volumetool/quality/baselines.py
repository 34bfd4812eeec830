"""Classical methods that a network has to beat, each with one strength.

All take grey values of any scale. Where a filter needs to know the noise, it is measured in the section itself, so that a
strength means the same for any camera.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volumetool.errors import ConfigError
from volumetool.quality.resample import Floats, Kind, enlarge

Filter = Callable[[Floats, float], Floats]

BLUR_SIGMA = 0.6
"""Coarse voxels: the blur that the unsharp mask subtracts."""


@dataclass(frozen=True)
class Method:
    """A classical method: an optional filter on the coarse section, then enlargement.

    Attributes
    ----------
    name : str
        As in tables.
    kind : str
        How it enlarges: ``"nearest"``, ``"linear"`` or ``"cubic"``.
    filter : callable or None
        From a float32 (y, x) coarse section and the strength to the filtered section.
    meaning : str
        What the strength is, with its unit; empty if there is none.
    strength : float or None
        Without tuning.
    grid : tuple of float
        Strengths that `tune` tries.
    needs : tuple of str
        Modules of packages that are not among volumetool's dependencies.
    """

    name: str
    kind: Kind
    filter: Filter | None = None
    meaning: str = ""
    strength: float | None = None
    grid: tuple[float, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether everything it needs can be imported."""
        return all(find_spec(name) is not None for name in self.needs)


def restore(method_name: str, section: NDArray[Any], scale: int | tuple[int, int], strength: float | None = None) -> Floats:
    """Restore one coarse section by a classical method.

    Parameters
    ----------
    method_name : str
        One of `METHODS`.
    section : numpy.ndarray, shape (y, x)
        Grey values.
    scale : int or tuple of int
        Fine voxels per coarse voxel, along y and x.
    strength : float, optional
        The method's one parameter; by default its own.

    Returns
    -------
    numpy.ndarray of float32, shape (y * fy, x * fx)
        Grey values, neither clipped nor rounded.

    Raises
    ------
    ConfigError
        ``config.method``: no such method, or its package is not installed.
    """
    method = METHODS.get(method_name)
    if method is None:
        raise ConfigError("config.method", f"there is no method {method_name!r}", hint=f"take one of: {', '.join(METHODS)}")
    factors = (scale, scale) if isinstance(scale, int) else scale
    return enlarge(filtered(method, section, strength), factors, method.kind)


def filtered(method: Method, section: NDArray[Any], strength: float | None = None) -> Floats:
    """Return the coarse section, float32 (y, x), as the method's filter leaves it."""
    if not method.installed:
        raise ConfigError(
            "config.method",
            f"{method.name} needs the modules {' and '.join(method.needs)}",
            hint=f"pip install 'volumetool[{method.name}]'",
        )
    grey = section.astype(np.float32)
    if method.filter is None:
        return grey
    chosen = method.strength if strength is None else strength
    assert chosen is not None  # noqa: S101  (every filter has a strength)
    return method.filter(grey, chosen).astype(np.float32, copy=False)


def tune(method_name: str, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float | None:
    """Return the strength with the best raw PSNR, pooled over the pairs; None for a method without one.

    Parameters
    ----------
    method_name : str
        One of `METHODS`.
    pairs : sequence of tuple
        Coarse section (y, x) and its truth (y * fy, x * fx). Tuned on the data that are then scored, the method looks better
        than it is on others.
    """
    method = METHODS[method_name]
    if not method.grid:
        return None

    def error(strength: float) -> float:
        total = 0.0
        for section, truth in pairs:
            scale = (truth.shape[0] // section.shape[0], truth.shape[1] // section.shape[1])
            total += float(np.sum((restore(method_name, section, scale, strength) - truth.astype(np.float32)) ** 2.0))
        return total

    return min(method.grid, key=error)


def noise_sd(section: NDArray[Any]) -> float:
    """Return the standard deviation of the noise in a section, in grey levels.

    Second differences along both axes remove smooth structure (Immerkaer 1996, Comput. Vis. Image Underst. 64); the median of
    their size, unlike the mean, ignores edges.
    """
    rows = ndimage.correlate1d(section.astype(np.float32), (1.0, -2.0, 1.0), 0)
    differences = ndimage.correlate1d(rows, (1.0, -2.0, 1.0), 1)
    return float(np.median(np.abs(differences))) / (6 * 0.6745)


def _gauss(section: Floats, sigma: float) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(section, sigma)
    return blurred


def _unsharp(section: Floats, gain: float) -> Floats:
    sharp: Floats = section + np.float32(gain) * (section - ndimage.gaussian_filter(section, BLUR_SIGMA))
    return sharp


def _non_local_means(section: Floats, strength: float) -> Floats:
    from skimage.restoration import denoise_nl_means

    sd = noise_sd(section)
    if sd == 0:
        return section
    denoised: Floats = denoise_nl_means(section, patch_size=5, patch_distance=6, h=strength * sd, sigma=sd, fast_mode=True)
    return denoised


def _total_variation(section: Floats, strength: float) -> Floats:
    from skimage.restoration import denoise_tv_chambolle

    denoised: Floats = denoise_tv_chambolle(section, weight=strength * noise_sd(section)) if noise_sd(section) else section
    return denoised


def _bm3d(section: Floats, strength: float) -> Floats:
    from bm3d import bm3d

    sd = noise_sd(section)
    denoised: Floats = bm3d(section, strength * sd) if sd else section
    return denoised


_IN_NOISE = "in standard deviations of the section's noise"
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("nearest", "nearest"),
            Method("bilinear", "linear"),
            Method("bicubic", "cubic"),
            Method(
                "gauss+bicubic", "cubic", _gauss, "sigma in coarse voxels", 0.6, (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0, 2.8)
            ),
            Method("unsharp+bicubic", "cubic", _unsharp, "gain, blur 0.6 coarse voxels", 0.5, (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)),
            Method("nlm", "cubic", _non_local_means, f"h {_IN_NOISE}", 0.6, (0.2, 0.4, 0.6, 0.8, 1.0, 1.5)),
            Method("tv", "cubic", _total_variation, f"weight {_IN_NOISE}", 0.5, (0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0, 6.0)),
            Method(
                "bm3d",
                "cubic",
                _bm3d,
                f"sigma {_IN_NOISE}",
                1.0,
                (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
                needs=("bm3d", "bm4d"),
            ),
        )
    }
)
"""All classical methods by name, in the order of tables."""

"""Classical methods that a network has to beat, each with a strength of one or two numbers.

All take grey values of any scale. Where a filter needs to know the noise, it is measured in the section itself, so that a
strength means the same for any camera.

Some see one section alone, the others its neighbours too. BM4D is not among them: its licence, like BM3D's, allows
non-commercial use alone, and one such package is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volumetool.errors import ConfigError
from volumetool.evaluation.scores.resample import Floats, Kind, enlarge
from volumetool.processing.survey import noise_sd

Filter = Callable[..., Floats]
Strength = tuple[float, ...]

BLUR_SIGMA = 0.6
"""Coarse voxels: the blur that the unsharp mask subtracts."""

REACH = 2
"""Sections on each side that 3D filters see; non-local means look as far in plane."""

Z_REACH = 5
"""Sections on each side that the Gaussian along z sees; it is quick."""

Z_SIGMA = "sigma in sections"
Z_GRID = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0)
"""Meaning of the strength of the Gaussian along z, and the strengths that are tried."""


@dataclass(frozen=True)
class Method:
    """A classical method: an optional filter on the coarse section, then enlargement.

    Attributes
    ----------
    name : str
        Name in tables.
    kind : str
        Kind of the enlargement: ``"nearest"``, ``"linear"`` or ``"cubic"``.
    filter : callable or None
        Takes a float32 coarse section (y, x), or (z, y, x) if it has a `reach`, and the numbers of the strength; returns the
        filtered middle section (y, x).
    meaning : str
        Meaning of the strength, with its units; empty if there is none.
    strength : tuple of float
        Strength that is used without tuning.
    grid : tuple of tuple of float
        Strengths that `tune` tries.
    reach : int
        Sections that the filter sees on each side.
    needs : tuple of str
        Modules of packages that are not among volumetool's dependencies.
    """

    name: str
    kind: Kind
    filter: Filter | None = None
    meaning: str = ""
    strength: Strength = ()
    grid: tuple[Strength, ...] = ()
    reach: int = 0
    needs: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether everything it needs can be imported."""
        return all(find_spec(name) is not None for name in self.needs)


def restore(method_name: str, sections: NDArray[Any], scale: int | tuple[int, int], strength: Strength = ()) -> Floats:
    """Restore one coarse section by a classical method.

    Parameters
    ----------
    method_name : str
        Name of one of `METHODS`.
    sections : numpy.ndarray, shape (y, x) or (z, y, x)
        Grey values. Of an odd number of sections the middle one is restored; a method sees as many of its neighbours as there
        are, up to its reach.
    scale : int or tuple of int
        Fine voxels per coarse voxel, along y and x.
    strength : tuple of float, optional
        Strength of the filter; by default that of the method.

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
    return enlarge(filtered(method, sections, strength), factors, method.kind)


def filtered(method: Method, sections: NDArray[Any], strength: Strength = ()) -> Floats:
    """Return a coarse section as the filter of a method leaves it.

    Parameters
    ----------
    method : Method
        The method; one without a filter leaves the section as it is.
    sections : numpy.ndarray, shape (y, x) or (z, y, x)
        Coarse grey values. Of several sections the middle one is filtered, with as many neighbours as the method sees.
    strength : tuple of float
        Parameters of the filter; empty for those of the method.

    Returns
    -------
    numpy.ndarray of float32, shape (y, x)
        Grey values, neither clipped nor rounded.

    Raises
    ------
    ConfigError
        ``config.method``: a package that the method needs is not installed.
    """
    if not method.installed:
        raise ConfigError(
            "config.method",
            f"{method.name} needs the modules {' and '.join(method.needs)}",
            hint=f"pip install 'volumetool[{method.name}]'",
        )
    grey = np.atleast_3d(sections.T).T.astype(np.float32)  # (z, y, x)
    middle = len(grey) // 2
    reach = min(method.reach, middle)
    seen = grey[middle - reach : middle + reach + 1] if method.reach else grey[middle]
    if method.filter is None:
        return seen
    return method.filter(seen, *(strength or method.strength)).astype(np.float32, copy=False)


def tune(method_name: str, pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Strength:
    """Return the strength with the best raw PSNR, pooled over the pairs; none, (), for a method without one.

    Parameters
    ----------
    method_name : str
        Name of one of `METHODS`.
    pairs : sequence of tuple
        Coarse sections, as `restore` takes them, and the truth (y * fy, x * fx) of the middle one. Tuned on the data that are
        then scored, the method looks better than it is on others.
    """

    def error(strength: Strength) -> float:
        total = 0.0
        for sections, truth in pairs:
            scale = (truth.shape[0] // sections.shape[-2], truth.shape[1] // sections.shape[-1])
            total += float(np.sum((restore(method_name, sections, scale, strength) - truth.astype(np.float32)) ** 2.0))
        return total

    return min(METHODS[method_name].grid, key=error, default=())


def z_gauss(sections: Floats, sigma: float) -> Floats:
    """Return the middle section, float32 (y, x), averaged with its neighbours.

    Parameters
    ----------
    sections : numpy.ndarray of float32, shape (z, y, x)
        Coarse grey values of an odd number of sections.
    sigma : float
        Standard deviation of the Gaussian that weighs them, in sections; at 0 the neighbours do not count.
    """
    away = np.arange(len(sections)) - len(sections) // 2
    weights = np.exp(-0.5 * (away / max(sigma, 1e-3)) ** 2).astype(np.float32)
    averaged: Floats = np.tensordot(weights / weights.sum(), sections, 1)
    return averaged


def _after_z_gauss(in_plane: Filter) -> Filter:
    return lambda sections, sigma, *strength: in_plane(z_gauss(sections, sigma), *strength)


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


def _non_local_means_3d(sections: Floats, strength: float) -> Floats:
    from skimage.restoration import denoise_nl_means

    section: Floats = sections[len(sections) // 2]
    sd = noise_sd(section)
    if sd == 0:
        return section
    block = denoise_nl_means(sections, patch_size=3, patch_distance=REACH, h=strength * sd, sigma=sd, fast_mode=True)
    denoised: Floats = block.reshape(sections.shape)[len(sections) // 2]  # of one section it makes (y, x)
    return denoised


def _total_variation(section: Floats, strength: float) -> Floats:
    from skimage.restoration import denoise_tv_chambolle

    denoised: Floats = denoise_tv_chambolle(section, weight=strength * noise_sd(section)) if noise_sd(section) else section
    return denoised


def _total_variation_3d(sections: Floats, strength: float) -> Floats:
    from skimage.restoration import denoise_tv_chambolle

    section: Floats = sections[len(sections) // 2]
    sd = noise_sd(section)
    return denoise_tv_chambolle(sections, weight=strength * sd)[len(sections) // 2] if sd else section


def _bm3d(section: Floats, strength: float) -> Floats:
    from bm3d import bm3d

    sd = noise_sd(section)
    denoised: Floats = bm3d(section, strength * sd) if sd else section
    return denoised


def _each(*strengths: float) -> tuple[Strength, ...]:
    return tuple((strength,) for strength in strengths)


_IN_NOISE = "in standard deviations of the section's noise"
_NLM_GRID = _each(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)
_TV_GRID = _each(0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0, 6.0)
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("nearest", "nearest"),
            Method("bilinear", "linear"),
            Method("bicubic", "cubic"),
            Method(
                "gauss+bicubic",
                "cubic",
                _gauss,
                "sigma in coarse voxels",
                (0.6,),
                _each(0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4, 2.0, 2.8),
            ),
            Method(
                "unsharp+bicubic",
                "cubic",
                _unsharp,
                "gain, blur 0.6 coarse voxels",
                (0.5,),
                _each(0.1, 0.25, 0.5, 1.0, 1.5, 2.0),
            ),
            Method("nlm", "cubic", _non_local_means, f"h {_IN_NOISE}", (0.6,), _NLM_GRID),
            Method("tv", "cubic", _total_variation, f"weight {_IN_NOISE}", (0.5,), _TV_GRID),
            Method(
                "bm3d",
                "cubic",
                _bm3d,
                f"sigma {_IN_NOISE}",
                (1.0,),
                _each(0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
                needs=("bm3d", "bm4d"),
            ),
            Method(
                "z-gauss+bicubic",
                "cubic",
                _after_z_gauss(_gauss),
                f"{Z_SIGMA}, sigma in coarse voxels",
                (0.6, 0.4),
                tuple(product(Z_GRID, (0.0, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.4))),
                Z_REACH,
            ),
            Method("nlm-3d", "cubic", _non_local_means_3d, f"h {_IN_NOISE}", (0.6,), _NLM_GRID, REACH),
            Method("tv-3d", "cubic", _total_variation_3d, f"weight {_IN_NOISE}", (0.5,), _TV_GRID, REACH),
        )
    }
)
"""All classical methods by name, in the order of tables."""

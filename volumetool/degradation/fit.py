"""Fit a crappifier to a microscope: from its coarse images and, unpaired, a clean fine volume of such tissue.

The method of simulated moments (McFadden, Econometrica 57, 1989): the fine volume is crappified with guessed parameters, the
same figures are taken of the outcome and of the microscope's images, and least squares move the parameters until the figures
agree. What the structure adds to spectrum and grain is so subtracted by itself, and clipping and rounding are accounted for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from volumetool.degradation.crappifier import AnyStep, Crappifier
from volumetool.degradation.features import figures, grain_against_brightness, moments
from volumetool.degradation.noise import Clip, Gaussian, Shot
from volumetool.degradation.optics import Blur, Reduce
from volumetool.degradation.scan import Lag
from volumetool.degradation.tone import Tone
from volumetool.geometry import Triple

Floats = NDArray[np.float32]
Point = NDArray[np.float64]

_SEED: Final = 0
_LEAST_ERROR: Final = 0.005
"""Least error of any figure: two volumes of one tissue are not more alike."""

_LOWER: Final = (0.0, -2.0, -0.8, 0.0, 0.0, 0.0)
_UPPER: Final = (8.0, 2.0, 0.8, 0.9, 0.9, 0.9)
_STEPS: Final = (0.1, 0.03, 0.01, 0.005, 0.005, 0.04)
"""Steps of the differences that stand for derivatives: large against the chance of single electrons."""

_SIGMAS: Final = 0.25
"""Fine voxels between the blurs that are computed; others are mixed from the two next to them."""


_SHRUNK: Final = 0.5

_POOR: Final = 1.5
"""Misfit from which another start is tried."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of a fit.

    Parameters
    ----------
    blur : float
        Sigma of the probe in fine voxels, beside the reduction at the block's centre.
    contrast : float
        Logarithm of the coarse image's contrast over that of the fine one.
    brightness : float
        Offset that is added, on 0..1.
    black, white : float
        Standard deviation of the noise at black and at white, on 0..1. Its variance is linear between them: the smaller one
        is the detector's, the rest is shot noise, of an image shown inverted where black is the noisier end.
    kept : float
        Share that a pixel keeps of the one before it: exp(-1 / lag).
    """

    blur: float
    contrast: float
    brightness: float
    black: float
    white: float
    kept: float

    @property
    def dose(self) -> float:
        """Electrons between black and white."""
        rise = abs(self.white**2 - self.black**2)
        return 1 / rise if rise > 1e-7 else math.inf

    @property
    def read(self) -> float:
        """Standard deviation of the detector's noise in grey levels of 255."""
        return 255 * min(self.black, self.white)

    @property
    def lag(self) -> float:
        """Time constant in coarse voxels."""
        return -1 / math.log(self.kept) if self.kept > 1e-6 else 0.0

    def steps(self) -> tuple[AnyStep, ...]:
        """Return the steps after the reduction."""
        return (
            Tone(contrast=math.exp(self.contrast), brightness=255 * self.brightness),
            Shot(dose=self.dose, inverted=self.black > self.white),
            Lag(time=self.lag),
            Gaussian(sd=self.read),
            Clip(),
        )


@dataclass(frozen=True)
class Fit:
    """A fitted crappifier.

    Parameters
    ----------
    crappifier : Crappifier
        The recipe.
    table : tuple of (name, value, error, unit)
        Every parameter with its standard error.
    misfit : float
        Root mean square of the figures' differences in units of their errors; about 1 where the model is right.
    """

    crappifier: Crappifier
    table: tuple[tuple[str, float, float, str], ...]
    misfit: float


class _Simulation:
    """Figures of the crappified fine volume against those of the microscope's."""

    def __init__(self, low: Floats, truth: Floats, scale: Triple, step: float) -> None:
        self.target = moments(low)
        self._truth, self._scale, self._step = truth, scale, step
        self._blurred: dict[int, Floats] = {}

    def reduced(self, blur: float) -> Floats:
        """Return the fine volume, blurred and reduced."""
        below = int(blur / _SIGMAS)
        first, second = self._at(below), self._at(below + 1)
        # Small blurs add by their squares.
        share = ((blur / _SIGMAS) ** 2 - below**2) / (2 * below + 1)
        mixed: Floats = first + np.float32(share) * (second - first)
        return mixed

    def _at(self, number: int) -> Floats:
        if number not in self._blurred:
            optics = Crappifier(name="optics", steps=(Blur(sigma=number * _SIGMAS), Reduce(mode="centre")))
            self._blurred[number] = optics.apply(self._truth, scale=self._scale, seed=_SEED)
        return self._blurred[number]

    def image(self, parameters: Parameters) -> Floats:
        """Return the fine volume crappified."""
        after = Crappifier(name="after", steps=(Reduce(), *parameters.steps()))
        image: Floats = after.apply(self.reduced(parameters.blur), scale=(1, 1, 1), seed=_SEED)
        if self._step:
            image = np.rint(image / np.float32(self._step)) * np.float32(self._step)
        return image


def fit_crappifier(low: Floats, truth: Floats, scale: Triple, *, step: float = 0.0, name: str = "fitted") -> Fit:
    """Fit blur, contrast, brightness, shot noise, detector noise and lag.

    Parameters
    ----------
    low : numpy.ndarray of float32, shape (z, y, x)
        The microscope's coarse sections, black at 0 and white at 1.
    truth : numpy.ndarray of float32, shape (z, y, x)
        Fine sections of such tissue with little noise, black at 0 and white at 1; of another place, or the same.
    scale : tuple of int
        Fine voxels per coarse one along z, y, x.
    step : float
        Step of the grey values that `low` is rounded to, on 0..1; 1 / 255 for a whole range of uint8, 0 for floats.
    name : str
        Name of the recipe.

    Returns
    -------
    Fit
        Recipe, table of parameters, misfit.

    Raises
    ------
    ConfigError
        ``config.too-small``: sections smaller than a window.
    """
    simulation = _Simulation(low, truth, scale, step)
    start = _start(low, simulation)
    found = _search(simulation, start)
    if _misfit(found) > _POOR:
        mirrored = [*start[:3], start[4], start[3], start[5]]  # noise that rises where it was taken to fall
        found = min(found, _search(simulation, mirrored), key=_misfit)
    return _described(found, name)


def _search(simulation: _Simulation, start: list[float]) -> optimize.OptimizeResult:
    target = simulation.target
    covariance = target.covariance + moments(simulation.image(Parameters(*start))).covariance
    # Few parts tell the errors' correlations badly: they are taken for half of what they seem.
    spread = _SHRUNK * covariance + np.diag((1 - _SHRUNK) * np.diag(covariance) + _LEAST_ERROR**2)
    root = np.linalg.cholesky(spread)

    def differences(point: Point) -> Point:
        made = figures(simulation.image(Parameters(*(float(value) for value in point))))
        weighted: Point = linalg.solve_triangular(root, made - target.values, lower=True)
        return weighted

    def slopes(point: Point) -> Point:
        here, columns = differences(point), []
        for number, size in enumerate(_STEPS):
            there = point.copy()
            there[number] += size if point[number] + size < _UPPER[number] else -size
            columns.append((differences(there) - here) / (there[number] - point[number]))
        return np.stack(columns, axis=1)  # (figures, parameters)

    return optimize.least_squares(
        differences,
        start,
        jac=slopes,
        bounds=(_LOWER, _UPPER),
        x_scale=_STEPS,
        loss="soft_l1",
        xtol=3e-3,
        ftol=3e-3,
        max_nfev=20,
    )


def _misfit(found: optimize.OptimizeResult) -> float:
    return float(np.sqrt(np.mean(np.square(found.fun))))


def _start(low: Floats, simulation: _Simulation) -> list[float]:
    clean = simulation.reduced(1.0)
    variance, brightness = grain_against_brightness(simulation.target.values)
    slope, level = np.polyfit(brightness, variance, 1)
    black, white = (math.sqrt(max(1e-5, value)) for value in (level, level + slope))
    contrast = math.sqrt(max(1e-4, float(low.var()) - float(variance.mean())) / max(1e-6, float(clean.var())))
    guess = (1.0, math.log(contrast), float(low.mean() - contrast * clean.mean()), black, white, 0.2)
    return [min(max(value, a + 0.01), b - 0.01) for value, a, b in zip(guess, _LOWER, _UPPER, strict=True)]


def _described(found: optimize.OptimizeResult, name: str) -> Fit:
    best = Parameters(*(float(value) for value in found.x))
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    blur, contrast, brightness, black, white, kept = (float(value) for value in np.sqrt(np.diag(covariance)))
    rise = 2 * math.hypot(best.black * black, best.white * white)
    table = (
        ("blur sigma", best.blur, blur, "fine voxels"),
        ("contrast", math.exp(best.contrast), contrast * math.exp(best.contrast), ""),
        ("brightness", 255 * best.brightness, 255 * brightness, "grey levels of 255"),
        ("shot dose", best.dose, rise * best.dose**2, "electrons, black to white"),
        ("read noise", best.read, 255 * (black if best.black < best.white else white), "grey levels of 255"),
        ("lag", best.lag, kept * best.lag**2 / max(best.kept, 1e-6), "coarse voxels"),
    )
    steps = (Blur(sigma=best.blur), Reduce(mode="centre"), *best.steps())
    misfit = _misfit(found)
    described = f"Fitted to a microscope's images; misfit {misfit:.2f} standard errors."
    return Fit(Crappifier(name=name, description=described, steps=tuple(map(_rounded, steps))), table, misfit)


def _rounded(step: AnyStep) -> AnyStep:
    return step.model_copy(update={name: float(f"{value:.4g}") for name, value in step if isinstance(value, float)})

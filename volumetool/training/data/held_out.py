"""What a trained network reaches on the parts of its sources that were kept apart, and how much overlap it needs there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from volumetool.evaluation.scores.expected_error import covering_factor
from volumetool.evaluation.scores.metrics import score
from volumetool.evaluation.scores.resample import enlarge
from volumetool.geometry import Box, Triple
from volumetool.models import VALIDATION, Metric, UNet, load_model
from volumetool.processing.survey import FIGURES, PAIR_SIDE, describe_piece
from volumetool.training.config import TrainConfig
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import Part
from volumetool.training.overlap import Cut, least_cut, measure_cuts
from volumetool.training.restore import expect_errors, restore_volume, safe_margin

Floats = NDArray[np.float32]

_SIDE = 96  # coarse voxels in plane; along z as many as make a like volume for 3D models
_DEPTH = {2: 3, 3: 32}
# For the overlap: coarse voxels across the axis that is cut, and how many volumes; blocks are costly, and hold more seam.
_WIDTH, _VOLUMES = {2: 40, 3: 8}, {2: 3, 3: 1}
_ACQUISITIONS, _PIECES = 256, 4  # simulated to measure what a network has seen, and pieces of each
_CUT_LIMIT = 0.05  # grey levels of 255; leaves room below a tenth where two axes are cut


@dataclass(frozen=True)
class HeldOut:
    """One coarse volume and its truth, both in grey levels of 255.

    Attributes
    ----------
    protocol : str
        Origin of the coarse volume, and whether a part of it is mirrored.
    coarse, fine : ndarray
        The two volumes, uint8 (z, y, x) and (z*fz, y*fy, x*fx).
    """

    protocol: str
    coarse: NDArray[np.uint8]
    fine: NDArray[np.uint8]


def held_out(sampler: Sampler, part: Part = "validation", size: Triple | None = None) -> Iterator[HeldOut]:
    """Yield a volume for every source and recipe, at the recipe's own noise; real pairs as they are.

    Parameters
    ----------
    sampler : Sampler
        Sampler of a training.
    part : {"training", "validation"}
        Part of every source.
    size : tuple of int, optional
        Coarse voxels, mirrored where the source has less. By default what it has, up to `_SIDE` in plane.
    """
    config, scale = sampler.config, sampler.config.architecture.scale
    for number, source in enumerate(sampler.sources):
        for box in source.parts[part][:1]:
            z, y, x = (n * f for n, f in zip(size or _size(config, box.shape), scale, strict=True))
            fine = source.read(box, (0, 0, 0), (z, y, x))
            mirrored = "" if Box.whole(box.shape).contains(Box.whole((z, y, x))) else ", partly mirrored"
            if config.blind_spot is not None:
                yield HeldOut(f"no truth{mirrored}", _grey(fine), _grey(fine))
            elif source.noisy is not None:
                yield HeldOut("real pair", _grey(source.read_noisy(box, (0, 0, 0), (z, y, x), scale)), _grey(fine))
            else:
                for recipe in sampler.crappifiers:
                    coarse = recipe.apply(fine, scale=scale, seed=config.seed + number)
                    yield HeldOut(f"{recipe.name} at {_times(scale)}{mirrored}", _grey(coarse), _grey(fine))


def measure(network: UNet, sampler: Sampler) -> tuple[Metric, ...]:
    """Score a network beside linear enlargement on what was held out.

    Parameters
    ----------
    network : UNet
        Trained, in eval mode.
    sampler : Sampler
        Sampler of its training.

    Returns
    -------
    tuple of Metric
        Means over sections of PSNR and SSIM; none for a training without a validation part or without clean images.
    """
    if sampler.config.blind_spot is not None:
        return ()
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for volume in held_out(sampler):
        ours = restore_volume(network, volume.coarse, sampler.config.normalisation)
        plain = enlarge(volume.coarse, sampler.config.architecture.scale, "linear")
        for method, restored in (("linear", plain), ("net", ours)):
            each = [score(r, t, data_range=255) for r, t in zip(restored, volume.fine, strict=True)]
            rows = found.setdefault(volume.protocol, {}).setdefault(method, [])
            rows += [(s.psnr, s.ssim) for s in each]
    return tuple(
        Metric(
            dataset=VALIDATION,
            protocol=f"{protocol}, {len(rows)} sections, 8 bit, data range 255",
            method=method,
            psnr=round(float(np.mean([psnr for psnr, _ in rows])), 3),
            ssim=round(float(np.mean([ssim for _, ssim in rows])), 4),
        )
        for protocol, methods in found.items()
        for method, rows in methods.items()
    )


def calibrate(network: UNet, sampler: Sampler) -> float | None:
    """Return the factor with which the intervals that a network expects hold on what was held out, None if there is none.

    All sources and recipes count alike. See `volumetool.evaluation.scores.expected_error`.
    """
    if not sampler.config.architecture.expected_error:
        return None
    factors = []
    for volume in held_out(sampler):
        restored = restore_volume(network, volume.coarse, sampler.config.normalisation)
        expected = expect_errors(network, volume.coarse, sampler.config.normalisation)
        factors.append(covering_factor(expected, restored - volume.fine))
    return float(np.mean(factors)) if factors else None


def measure_seen(sampler: Sampler) -> dict[str, tuple[float, float, float, float]]:
    """Measure what the coarse images of a training are like: the field `seen` of a model's card.

    Parameters
    ----------
    sampler : Sampler
        Sampler of a training. Acquisitions of it are drawn in single sections, larger than its crops where these are small.
    """
    config = sampler.config
    depth = 1 if config.architecture.dims == 2 else config.sampling.crop[0]
    crop = (depth, *(max(side, PAIR_SIDE) for side in config.sampling.crop[1:]))
    alone = config.architecture.model_copy(update={"z_context": 0})
    sampling = config.sampling.model_copy(update={"crop": crop, "acquisitions": 1, "crops": _PIECES})
    single = Sampler(sampler.sources, config.model_copy(update={"architecture": alone, "sampling": sampling}))
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for number in range(min(_ACQUISITIONS, config.steps)):
        coarse = single.draw("training", number)[0]  # (crops, 1, [z,] y, x)
        sections = coarse.reshape(_PIECES, -1, *coarse.shape[-2:])[:, 0].astype(np.float64)  # (crops, y, x)
        pieces = [figures for section in sections if (figures := describe_piece(section)) is not None]
        for name, values in found.items():
            values += [float(np.median([piece[name] for piece in pieces]))] if pieces else []
    ranges = {name: np.percentile(values, (0, 1, 99, 100)).round(3) for name, values in found.items() if values}
    return {name: (float(a), float(b), float(c), float(d)) for name, (a, b, c, d) in ranges.items()}


def measure_overlap(network: UNet, sampler: Sampler) -> tuple[Triple, Triple]:
    """Measure the overlap and trim of patches that leave no visible seam; y and x get the larger of both.

    Where nothing was held out, the training part is taken: a seam does not depend on what was learnt by heart. Where not even
    the whole reach leaves less than a twentieth of a grey level (kernels for other sizes round differently), half of one is
    allowed.

    Returns
    -------
    overlap, trim : tuple of int
        Input voxels along z, y, x: those that neighbouring patches share, and those cut off each face of a patch.
    """
    config = sampler.config.architecture
    uncut = Cut(0, 0, 0.0, 0.0)
    cuts = [uncut if axis == 0 and config.dims == 2 else _least(network, sampler, axis) for axis in range(3)]
    plane = max(cuts[1:], key=lambda cut: cut.overlap)
    return (cuts[0].overlap, plane.overlap, plane.overlap), (cuts[0].trim, plane.trim, plane.trim)


def _least(network: UNet, sampler: Sampler, axis: int) -> Cut:
    config = sampler.config.architecture
    grain, reach = config.granularity[axis], safe_margin(config)[axis]
    stride = -(-2 * reach // grain) * grain
    width = _WIDTH[config.dims]
    size = [width if config.dims == 3 else 1, width, width]
    size[axis] = 2 * stride + grain  # two seams at least
    part: Part = "validation" if any(source.parts["validation"] for source in sampler.sources) else "training"
    volumes = [volume.coarse for volume in held_out(sampler, part, (size[0], size[1], size[2]))][: _VOLUMES[config.dims]]
    step = 2 * grain if config.dims == 3 else max(grain, 2)
    cuts: list[Cut] = []
    overlaps = range(min(_first_overlap(sampler, axis), stride), stride + 1, step)
    measured = measure_cuts(network, sampler.config.normalisation, volumes, overlaps, axis=axis, stride=stride)
    for _, group in groupby(measured, lambda cut: cut.overlap):  # the error falls as the overlap grows: the first that will do
        cuts += group
        with suppress(ValueError):  # too large a difference, or without a ramp
            return least_cut(cuts, limit=_CUT_LIMIT)
    return least_cut(cuts, limit=10 * _CUT_LIMIT)


def _first_overlap(sampler: Sampler, axis: int) -> int:
    """Return the overlap to begin with, input voxels: what a network of the same layers, where training started, needed."""
    config = sampler.config
    if config.start is not None:
        card = load_model(config.start).card
        if card.architecture == config.architecture:
            return card.overlap[axis]
    return 2 * config.architecture.granularity[axis]


def _size(config: TrainConfig, box: Triple) -> Triple:
    """Coarse voxels to look at: what the box holds, at least a crop, at most what is quick."""
    scale, crop = config.architecture.scale, config.sampling.crop
    most = (_DEPTH[config.architecture.dims], _SIDE, _SIDE)
    z, y, x = (max(c, min(n // f, m)) for c, n, f, m in zip(crop, box, scale, most, strict=True))
    return z, y, x


def _grey(unit: Floats) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return grey


def _times(scale: Triple) -> str:
    return " x ".join(map(str, scale))

"""Findings: everything that an evaluation says, as plain values, as JSON and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from volumetool.evaluation.scores.expected_error import ExpectedError
from volumetool.evaluation.scores.frc import Correlation
from volumetool.evaluation.scores.metrics import Scores
from volumetool.geometry import Box, Size, Triple

Interval = tuple[float, float]

FEW_BLOCKS = 20
"""Below so many blocks an interval of the bootstrap is rough."""


@dataclass(frozen=True)
class NotAvailable:
    """A result that there is not.

    Attributes
    ----------
    reason : str
        Why there is no result.
    """

    reason: str


@dataclass(frozen=True)
class Row:
    """One method of the table.

    Attributes
    ----------
    name : str
        ``"restored"``, a classical method, or a network after a filter.
    strength : tuple of float
        The numbers of a classical method's strength; none, (), where there is no such thing.
    meaning : str
        Meaning of these numbers, with their units.
    tuned : bool
        Whether the strength was picked on the data scored here.
    scores : Scores
        Scores over all sections together.
    intervals : mapping
        95 % interval per metric.
    affine : tuple of float
        Gain and offset behind the affine scores, fitted to all sections together.
    sections : tuple of Scores
        Scores of each section.
    """

    name: str
    strength: tuple[float, ...]
    meaning: str
    tuned: bool
    scores: Scores
    intervals: Mapping[str, Interval]
    affine: tuple[float, float]
    sections: tuple[Scores, ...]

    @property
    def shown_strength(self) -> str:
        """The strength as tables show it; empty if there is none."""
        return ", ".join(f"{number:g}" for number in self.strength)


@dataclass(frozen=True)
class Gain:
    """The restored volume against the best classical method of one metric.

    Attributes
    ----------
    metric : str
        Name of the metric.
    rival : str
        Name of the best classical method.
    value : float
        Difference: dB for PSNR; above 0 where the restored volume is better.
    interval : tuple of float
        95 %; both rows on the same draws of blocks.
    """

    metric: str
    rival: str
    value: float
    interval: Interval


@dataclass(frozen=True)
class Spectrum:
    """Radial power spectra.

    Attributes
    ----------
    per_nm, per_voxel : tuple of float
        Frequency of each ring.
    power : mapping
        Mean power per row, in squared grey levels; of white noise it is the variance.
    patches : int
        Squares that were averaged.
    """

    per_nm: tuple[float, ...]
    per_voxel: tuple[float, ...]
    power: Mapping[str, tuple[float, ...]]
    patches: int


@dataclass(frozen=True)
class Pick:
    """A block to look at.

    Attributes
    ----------
    label : str
        ``"worst"``, ``"median"`` or ``"best"``.
    percentile : int
        Percentile of the restored row's raw error over all whole blocks.
    box : Box
        Voxels of the truth.
    psnr : float
        PSNR of this block, raw.
    """

    label: str
    percentile: int
    box: Box
    psnr: float


@dataclass(frozen=True)
class Protocol:
    """The protocol of a comparison, without which its numbers mean nothing."""

    restored: str
    truth: str
    low: str | None
    second: str | None
    box: Box
    scale: Triple | None
    voxel_size: Size
    dtype: str
    data_range: float
    sections: tuple[int, ...]
    blocks: int
    block_edge: int
    ms_ssim_scales: int
    tuned: bool
    seed: int
    same_corner: bool
    not_installed: tuple[str, ...]

    def input_limit(self, axes: tuple[int, ...]) -> float | None:
        """Return the Nyquist frequency of the low-resolution volume along the coarsest of these axes, in 1/nm."""
        return None if self.scale is None else 1 / (2 * max(self.voxel_size[axis] * self.scale[axis] for axis in axes))


@dataclass(frozen=True)
class Evaluation:
    """The result of `volumetool.evaluation.evaluate.evaluate`."""

    protocol: Protocol
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    frc: Correlation | NotAvailable
    fsc: Correlation | NotAvailable
    spectrum: Spectrum
    picks: tuple[Pick, ...]
    expected_error: ExpectedError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; an infinite PSNR, which JSON has no number for, is None."""
        facts: dict[str, Any] = _plain({"verdict": " ".join(verdict(self)), **asdict(self)})
        facts["protocol"]["words"] = protocol_words(self)
        return facts


def verdict(evaluation: Evaluation) -> list[str]:
    """Return the outcome in one sentence, and what has to be said beside it."""
    ours = evaluation.rows[0].scores
    gains = {gain.metric: gain for gain in evaluation.gains}
    if "psnr" not in gains:
        said = [
            f"The restored volume reaches {dB(ours.psnr)} raw and {dB(ours.psnr_affine)} after an affine fit.",
            "Without --low no classical method stands beside it, so these numbers do not say whether restoring helped.",
        ]
    else:
        raw, fitted, structure = gains["psnr"], gains["psnr_affine"], gains["ssim_affine"]
        rival = next(row for row in evaluation.rows if row.name == raw.rival)
        best = f"the best classical method, {rival.name}{f' at {rival.shown_strength}' if rival.strength else ''}"
        said = [
            f"By raw PSNR the restored volume is {_compare(raw, best, 'dB', 2)}.",
            f"After an affine fit it is by PSNR {_compare(fitted, fitted.rival, 'dB', 2)}, "
            f"and by SSIM {_compare(structure, structure.rival, '', 4)}.",
        ]
    if evaluation.protocol.blocks < FEW_BLOCKS:
        said.append(f"There are only {evaluation.protocol.blocks} blocks, so the intervals are rough.")
    return said


def protocol_words(evaluation: Evaluation) -> list[str]:
    """Return the protocol as sentences."""
    p = evaluation.protocol
    depth = p.box.shape[0]
    which = f"all {depth}" if len(p.sections) == depth else f"{len(p.sections)} of {depth}, evenly spread,"
    words = [
        f"Compared: sections of {p.box.shape[1]} x {p.box.shape[2]} voxels, {which} in the box {p.box} (z,y,x); voxels of "
        f"{' x '.join(f'{size:.6g}' for size in p.voxel_size)} nm, {p.dtype}.",
        f"Data range of PSNR and SSIM: {p.data_range:.6g} grey levels. Every method's output is rounded and clipped to "
        f"{p.dtype} before scoring."
        if p.dtype != "float32"
        else f"Data range of PSNR and SSIM: {p.data_range:.6g}.",
        "Raw means that nothing is fitted. Affine means that the restored grey values are first mapped by the one gain and "
        "offset that bring all sections together nearest to the truth, by least squares, per method. The choice moves numbers "
        "by several dB, so compare only within one column.",
        "Scores are taken over all voxels of all sections together: PSNR from the pooled mean square error, SSIM (uniform "
        f"7 x 7 window) from all windows that lie inside, MS-SSIM (Wang 2003) with {p.ms_ssim_scales} of its 5 scales"
        f"{'' if p.ms_ssim_scales == 5 else ', as the sections have no room for more, and the weights scaled to them'}.",
        f"Intervals: 95 %, percentile bootstrap over {p.blocks} blocks of {p.block_edge} x {p.block_edge} voxels, seed "
        f"{p.seed}; the affine maps are held fixed. They speak of this volume, not of other tissue.",
    ]
    if p.low:
        words.append(_strength_words(p))
        words.append(
            "Against a noisy truth, SSIM rewards any fine texture, and an unsharp mask adds texture and nothing else: a gain "
            "in SSIM that the unsharp row has too is none."
        )
    if p.same_corner:
        words.append("The volumes were taken to begin at the same corner of the sample, whatever their translations say.")
    return words


def _strength_words(p: Protocol) -> str:
    assert p.scale is not None  # noqa: S101  (a low-resolution volume has a scale)
    along_z = " Along z the classical methods interpolate filtered sections." if p.scale[0] > 1 else ""
    how = (
        "Their strengths were tuned for raw PSNR on the very data shown, which favours the classical rows."
        if p.tuned
        else "Their strengths are volumetool's defaults; --tune picks the best for these data."
    )
    missing = f" Not installed: {', '.join(p.not_installed)}." if p.not_installed else ""
    coarser = " x ".join(map(str, p.scale))
    return f"Classical methods start from the low-resolution volume, {coarser} (z,y,x) times coarser.{along_z} {how}{missing}"


def dB(value: float) -> str:  # noqa: N802  (the unit is written so)
    """Write a PSNR."""
    return "infinitely many dB (equal)" if math.isinf(value) else f"{value:.2f} dB"


def _compare(gain: Gain, rival: str, unit: str, digits: int) -> str:
    low, high = gain.interval
    size = f"{abs(gain.value):.{digits}f} {unit}".strip()
    tail = f"{rival} (95 % interval {low:+.{digits}f} to {high:+.{digits}f})"
    if low > 0:
        return f"{size} better than {tail}"
    if high < 0:
        return f"{size} worse than {tail}"
    return f"not distinguishable from {tail}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""Evaluation: scores of sections and volumes against their truth, with intervals.

The functions for arrays are gathered here too: `score` for one section, `bootstrap` for intervals.

Volumes pass through memory tile by tile, twice: first the sums that fit the affine maps, then everything else. Beside the
libraries at most about 1 GiB is held, however large the volumes are: a tile of at most 1216 x 1216 voxels with its maps,
256 MiB of filtered coarse tiles, and sums over at most 16,384 blocks per method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from volumetool.errors import ConfigError
from volumetool.evaluation.baselines import METHODS, Strength, tune
from volumetool.evaluation.network import Network
from volumetool.evaluation.results import Evaluation, Gain, NotAvailable, Pick, Protocol, Row, Spectrum
from volumetool.evaluation.scores.align import Matched, Volumes
from volumetool.evaluation.scores.block_sums import METRICS, Sums
from volumetool.evaluation.scores.bootstrap import Doubles, bootstrap, draw_sums, interval
from volumetool.evaluation.scores.expected_error import MOST_BLOCKS, ErrorTally
from volumetool.evaluation.scores.frc import (
    FEWEST,
    PATCH,
    Correlation,
    FourierCorrelation,
    Shells,
    spread_boxes,
    squares,
)
from volumetool.evaluation.scores.metrics import Scores, score
from volumetool.evaluation.scores.resample import Floats
from volumetool.evaluation.scores.tiling import Restorer, Tile, cut_tiles, spread_sections
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box
from volumetool.models import Model

__all__ = ["EvaluationRequest", "Scores", "bootstrap", "evaluate", "score"]

RESTORED = "restored"
TRUTH = "truth"
DATA_RANGES: Mapping[str, float] = {"uint8": 255.0, "int8": 255.0}
"""Data range by dtype, where the dtype says it. 16-bit and float data rarely fill theirs, and PSNR would flatter them."""

_TUNING_TILES = 6
_TUNING_SIDE = 512
_ALONE = "FRC needs two independent acquisitions of one field, both restored separately; give the other one with --second"


@dataclass(frozen=True)
class EvaluationRequest:
    """A request: what to evaluate, and how.

    Attributes
    ----------
    volumes : Volumes
        The restored volume, the truth, and what else is compared.
    roi : Box, optional
        The part to evaluate, in voxels of the truth; by default all of it.
    data_range : float, optional
        Difference between the largest and the smallest possible value; 255 for 8-bit data.
    sections : int
        Most sections to evaluate; they are evenly spread along z.
    tune : bool
        Pick each classical method's strength on the very data that are scored.
    seed : int
        Seed of the bootstrap.
    same_corner : bool
        Whether all volumes begin at the same corner, whatever their translations say; see `Matched`.
    model : Model, optional
        The model that restored the volume. One more row scores it on sections that were filtered along z first. If it
        expects errors, they are compared with those that it makes.
    """

    volumes: Volumes
    roi: Box | None = None
    data_range: float | None = None
    sections: int = 32
    tune: bool = False
    seed: int = 0
    same_corner: bool = False
    model: Model | None = None


def evaluate(request: EvaluationRequest, observer: Observer = ignore) -> Evaluation:
    """Score a restored volume, and the classical methods beside it, against its truth.

    Parameters
    ----------
    request : EvaluationRequest
        What to evaluate, and how.
    observer : Observer, optional
        Is told by `Progressed` how many tiles are done; every tile counts twice.

    Returns
    -------
    Evaluation
        All numbers, and where to look.

    Raises
    ------
    InputError, ConfigError
        As `Matched` and `Network`; ``config.data-range``: not known from the dtype.
    DataError
        ``data.unreadable``.
    """
    return _Run(request, observer).result()


@dataclass
class _Run:
    request: EvaluationRequest
    observer: Observer
    matched: Matched = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        self.data_range = _data_range(request)
        self.matched = Matched(request.volumes, roi=request.roi, same_corner=request.same_corner)
        self.sections = spread_sections(self.matched.box, max(1, request.sections))
        self.tiles = list(cut_tiles(self.matched.box, self.sections))
        classical = self._classical()
        self.network = None if request.model is None else Network(request.model, self.matched)
        self.strengths = self._tuned(classical) if request.tune else {}
        self.restorer = Restorer(self.matched, self.strengths, self.network)
        rows = [RESTORED, *classical, *([self.network.name] if self._stacked and self.network else [])]
        self.sums = {name: Sums(self.matched.box, len(self.sections), self.data_range) for name in rows}
        self.tally = self._error_tally()
        side = min(PATCH, *self.matched.box.shape[1:])
        self.rings = Shells((side, side), self.matched.volumes.truth.voxel_size[1:])
        self.power = {name: np.zeros(len(self.rings.counts)) for name in [TRUTH, *self.sums]}
        self.patches = 0
        self.ring_correlation = FourierCorrelation(self.rings)

    def result(self) -> Evaluation:
        count = counting(self.observer, "scoring", 2 * len(self.tiles))
        for tile in self.tiles:
            truth = self.restorer.section(TRUTH, tile.seen)
            for name, sums in self.sums.items():
                sums.add_moments(tile, self.restorer.section(name, tile.seen), truth)
            if self.tally is not None and self.network is not None:
                made = np.abs(self.network.restore(tile.owned)[0] - self.matched.read(TRUTH, tile.owned)[0])
                self.tally.add(self.network.expect_error(tile.owned)[0], made)
            count(1)
        for tile in self.tiles:
            self._second_pass(tile)
            count(1)
        draws = self._draws()
        rows = tuple(self._row(name, drawn) for name, drawn in draws.items())
        protocol = self._protocol()
        return Evaluation(
            protocol=protocol,
            rows=rows,
            gains=tuple(self._gain(metric, rows, draws) for metric in METRICS if len(rows) > 1),
            frc=self._frc(protocol),
            fsc=self._fsc(protocol),
            spectrum=self._spectrum(),
            picks=self._picks(),
            expected_error=None if self.tally is None else self.tally.result(),
        )

    def _second_pass(self, tile: Tile) -> None:
        truth = self.restorer.section(TRUTH, tile.seen)
        own = tile.owned.shifted((-tile.seen.start[0], -tile.seen.start[1], -tile.seen.start[2])).slices[1:]
        cuts = list(squares(tile.owned.shape[1:], self.rings.shape[0]))
        self.patches += len(cuts)
        for cut in cuts:
            self.power[TRUTH] += self.rings.power(truth[own][cut])
        for name, sums in self.sums.items():
            section = self.restorer.section(name, tile.seen)
            sums.add_structure(tile, section, truth)
            for cut in cuts:
                self.power[name] += self.rings.power(section[own][cut])
            if name == RESTORED and self.request.volumes.second is not None:
                second = self.restorer.section("second", tile.seen)
                for cut in cuts:
                    self.ring_correlation.add(section[own][cut], second[own][cut])

    def _classical(self) -> list[str]:
        """Name the methods to run: those that are installed, and that see neighbours only where there are any."""
        if self.request.volumes.low is None:
            return []
        return [name for name, method in METHODS.items() if method.installed and (self._stacked or not method.reach)]

    @property
    def _stacked(self) -> bool:
        """Whether sections of the low-resolution volume have neighbours."""
        low = self.request.volumes.low
        return low is not None and low.shape[0] > 1

    def _error_tally(self) -> ErrorTally | None:
        card = None if self.network is None else self.network.card
        if card is None or not card.architecture.expected_error:
            return None
        return ErrorTally(card.error_factor, MOST_BLOCKS // len(self.tiles))

    def _tuned(self, classical: list[str]) -> dict[str, Strength]:
        """Tune on squares in the middle of evenly spread tiles; along z the truth is averaged to the coarse sections."""
        scale = self.matched.scale
        assert scale is not None  # noqa: S101  (checked with the request)
        places: list[tuple[Box, Floats]] = []
        for tile in self.tiles[:: max(1, len(self.tiles) // _TUNING_TILES)][:_TUNING_TILES]:
            coarse = _middle(tile.owned, scale)
            fine = coarse.enlarged(scale)
            if self.matched.box.contains(fine) and coarse.voxels:
                truth = self.matched.read(TRUTH, fine).mean(axis=0, dtype=np.float32)
                places.append((coarse, truth))
        reach = max(METHODS[name].reach for name in classical)
        pairs = [(self.matched.read_low(coarse, reach), truth) for coarse, truth in places]
        found = {name: tune(name, pairs) for name in classical if pairs}
        if self.network is not None and self._stacked and places:
            found[self.network.name] = self.network.tune([(coarse.enlarged(scale), truth) for coarse, truth in places])
        return {name: strength for name, strength in found.items() if strength}

    def _draws(self) -> dict[str, Doubles]:
        """Return sums over drawn blocks, (resamples, columns) per row; all rows on the same draws."""
        drawn = draw_sums(np.concatenate([sums.blocks for sums in self.sums.values()], axis=1), self.request.seed)
        return dict(zip(self.sums, np.split(drawn, len(self.sums), axis=1), strict=True))

    def _row(self, name: str, drawn: Doubles) -> Row:
        sums = self.sums[name]
        method = self.network if self.network is not None and name == self.network.name else METHODS.get(name)
        per_section = sums.table.sum(axis=(1, 2))  # (sections, columns)
        return Row(
            name=name,
            strength=self.strengths.get(name, method.strength) if method else (),
            meaning=method.meaning if method else "",
            tuned=name in self.strengths,
            scores=sums.scores(per_section.sum(axis=0)),
            intervals={metric: interval(sums.score(drawn, metric)) for metric in METRICS},
            affine=sums.affine,
            sections=tuple(sums.scores(section) for section in per_section),
        )

    def _gain(self, metric: str, rows: Sequence[Row], draws: Mapping[str, Doubles]) -> Gain:
        """Compare the restored row with the best classical row, on the same draws of blocks."""
        ours, *others = rows
        best = max((row for row in others if row.name in METHODS), key=lambda row: getattr(row.scores, metric))
        mine, its = (self.sums[row.name].score(draws[row.name], metric) for row in (ours, best))
        with np.errstate(invalid="ignore"):  # both equal to the truth
            value = float(np.subtract(getattr(ours.scores, metric), getattr(best.scores, metric)))
            return Gain(metric, best.name, value, interval(mine - its))

    def _frc(self, protocol: Protocol) -> Correlation | NotAvailable:
        if self.request.volumes.second is None:
            return NotAvailable(_ALONE)
        found = self.ring_correlation.result(protocol.input_limit((1, 2)))
        if found.patches == 0:
            return NotAvailable("no square patch fits the sections")
        if min(found.correlation[1:]) > 1 - 1e-9:
            return NotAvailable("both restored volumes hold the same voxels, so they are no independent acquisitions")
        return found

    def _fsc(self, protocol: Protocol) -> Correlation | NotAvailable:
        if self.request.volumes.second is None:
            return NotAvailable(_ALONE.replace("FRC", "FSC"))
        sizes = self.matched.volumes.truth.voxel_size
        boxes = spread_boxes(self.matched.box, sizes)
        if not boxes:
            return NotAvailable(f"FSC needs {FEWEST} voxels along each axis; {self.matched.box.shape[0]} sections are compared")
        total = FourierCorrelation(Shells(boxes[0].shape, sizes))
        for box in boxes:
            total.add(self.matched.read(RESTORED, box), self.matched.read("second", box))
        found = total.result(protocol.input_limit((0, 1, 2)))
        same = min(found.correlation[1:]) > 1 - 1e-9
        return NotAvailable("both restored volumes hold the same voxels") if same else found

    def _spectrum(self) -> Spectrum:
        power = {name: tuple((total / max(self.patches, 1)).tolist()) for name, total in self.power.items()}
        return Spectrum(tuple(self.rings.per_nm.tolist()), tuple(self.rings.per_voxel.tolist()), power, self.patches)

    def _picks(self) -> tuple[Pick, ...]:
        """Choose the blocks at the best, middle and worst percentile of the restored row's raw error."""
        sums = self.sums[RESTORED]
        counts = sums.table[..., 0]
        whole = np.flatnonzero(counts.ravel() >= counts.max() / 2)  # slivers at the far faces are no fair picture
        errors = (sums.squared_error(sums.table) / np.maximum(counts, 1)).ravel()[whole]
        order = whole[np.argsort(errors, kind="stable")]
        picks = []
        for label, percentile in (("worst", 99), ("median", 50), ("best", 1)):
            index = int(order[round((len(order) - 1) * percentile / 100)])
            number, y, x = (int(i) for i in np.unravel_index(index, counts.shape))
            box = self._block(number, y, x)
            shown = sums.scores(sums.table[number, y, x])
            picks.append(Pick(label, percentile, box, shown.psnr))
        return tuple(picks)

    def _block(self, number: int, y: int, x: int) -> Box:
        edge = self.sums[RESTORED].edge
        start = (self.sections[number], self.matched.box.start[1] + y * edge, self.matched.box.start[2] + x * edge)
        return Box(start, (start[0] + 1, start[1] + edge, start[2] + edge)).intersection(self.matched.box)

    def _protocol(self) -> Protocol:
        volumes, sums = self.request.volumes, self.sums[RESTORED]
        return Protocol(
            restored=volumes.restored.url,
            truth=volumes.truth.url,
            low=volumes.low.url if volumes.low else None,
            second=volumes.second.url if volumes.second else None,
            box=self.matched.box,
            scale=self.matched.scale,
            voxel_size=volumes.truth.voxel_size,
            dtype=volumes.truth.dtype.name,
            data_range=self.data_range,
            sections=tuple(self.sections),
            blocks=int(np.count_nonzero(sums.table[..., 0])),
            block_edge=sums.edge,
            ms_ssim_scales=sums.scales,
            tuned=self.request.tune,
            seed=self.request.seed,
            same_corner=self.request.same_corner,
            not_installed=tuple(name for name, method in METHODS.items() if volumes.low and not method.installed),
        )


def _data_range(request: EvaluationRequest) -> float:
    dtype = request.volumes.truth.dtype.name
    chosen = request.data_range if request.data_range is not None else DATA_RANGES.get(dtype)
    if chosen is None or not 0 < chosen < float("inf"):
        raise ConfigError(
            "config.data-range",
            f"the data range {request.data_range} is not a number above 0"
            if chosen is not None
            else f"{dtype} voxels do not say which data range PSNR and SSIM refer to",
            hint="give the difference between the largest and the smallest possible grey value, such as --data-range 4095",
        )
    if request.tune and request.volumes.low is None:
        raise ConfigError("config.tune", "--tune without --low: there is nothing to tune", hint="add --low LOW.zarr")
    return chosen


def _middle(owned: Box, scale: tuple[int, int, int]) -> Box:
    """Return whole coarse voxels in the middle of a tile, one coarse section deep; in voxels of the low volume."""
    z = owned.start[0] // scale[0]
    start, stop = [z], [z + 1]
    for axis in (1, 2):
        first, last = -(-owned.start[axis] // scale[axis]), owned.stop[axis] // scale[axis]
        side = min(last - first, _TUNING_SIDE // scale[axis])
        begin = first + (last - first - side) // 2
        start.append(begin)
        stop.append(begin + max(side, 0))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

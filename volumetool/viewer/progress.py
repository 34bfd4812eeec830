"""How far a job is, as layers over its output: the states of its regions, and two heat maps of them.

Everything comes from the ledger, whose segments never change: a refresh reads the new ones alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

import neuroglancer
import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Triple
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.in_flight import read_in_flight
from volumetool.jobs.records.ledger import read_segment
from volumetool.jobs.records.segments import segment_keys
from volumetool.viewer.layers import Layer

SKIPPED, DONE, TODO, RUNNING, FAILED = 1, 2, 3, 4, 5
"""States in the overlay. Where channels differ the largest is shown: what needs an eye hides what does not."""

LEGEND = {
    SKIPPED: ("skipped", "#56b4e9"),
    DONE: ("done", "#009e73"),
    TODO: ("to do", "#999999"),
    RUNNING: ("running", "#f0e442"),
    FAILED: ("failed", "#d55e00"),
}
"""Names and colours that also the colour-blind tell apart."""

POLL_SECONDS = 2.0
FRESH_SECONDS = 10.0
"""New voxels are shown at most so often: the page reads all that is in sight again."""

REGIONS, SECONDS, CONSISTENCY = "regions", "seconds per region", "consistency"
"""Names of the layers."""

Heat = Literal["seconds", "consistency"]
HEAT: dict[Heat, str] = {"seconds": SECONDS, "consistency": CONSISTENCY}
"""Heat maps, and the layers that show them."""

Ranges = dict[str, tuple[float, float]]
"""Values at both ends of the colours, by name of a layer."""

_ALPHA = 0.2
_FINE = 256
"""Voxels of the overlay per axis where regions can be divided so finely: what of it stands over the volume's end is thin."""

_PER_METRE = 1e9
"""Nanometres: dividing by it keeps round numbers round."""
_HEAT = """#uicontrol invlerp normalized
#uicontrol float opacity slider(min=0, max=1, default=0.5)
void main() {
  float heat = normalized();
  vec3 colour = heat < 0.5 ? mix(vec3(0.1, 0.1, 0.5), vec3(0.8, 0.2, 0.5), 2.0 * heat)
                           : mix(vec3(0.8, 0.2, 0.5), vec3(1.0, 0.95, 0.2), 2.0 * heat - 1.0);
  if (toRaw(getDataValue()) < 0.0) { emitTransparent(); } else { emitRGBA(vec4(colour, opacity)); }
}
"""
"""Colours from dark blue over red to yellow, ever brighter, so that the colour-blind see which is more."""


class RegionMap:
    """The states, times and consistencies of a job's regions.

    Parameters
    ----------
    plan : Plan
        The job's plan.

    Attributes
    ----------
    states : numpy.ndarray of uint8, shape (z, y, x) of the region grid
        The largest of all channels; see `LEGEND`.
    seconds : numpy.ndarray of float32, same shape
        Time of the slowest channel in seconds; -1 where there is no record.
    consistency : numpy.ndarray of float32, same shape
        Consistency of the channel that departs most from its input, in data windows; -1 where no record has it.
    """

    def __init__(self, plan: Plan) -> None:
        self._url = plan.job_dir.url
        self._shape = (plan.grid.channels, *plan.grid.grid)
        self._read: set[str] = set()
        self._recorded: NDArray[np.uint8] = np.full(plan.grid.count, TODO, np.uint8)
        self._seconds: NDArray[np.float32] = np.full(plan.grid.count, -1, np.float32)
        self._consistency: NDArray[np.float32] = np.full(plan.grid.count, -1, np.float32)
        self.states, self.seconds, self.consistency = self._on_grid(self._recorded)

    @property
    def finished(self) -> int:
        """Regions of all channels that are done or skipped."""
        return int(np.count_nonzero(self._recorded <= DONE))

    def refresh(self) -> bool:
        """Read what is new; say whether anything changed."""
        keys = segment_keys(self._url)
        if self._read - set(keys):  # segments were merged, or the job began again
            self._read.clear()
            self._recorded[:], self._seconds[:], self._consistency[:] = TODO, -1, -1
        for key in keys:
            if key not in self._read:
                self._take_in(key)
        now = self._recorded.copy()
        # The note is up to a second older than the ledger.
        running = [index for index in read_in_flight(self._url) if index < len(now) and now[index] > DONE]
        now[running] = RUNNING
        before: list[NDArray[Any]] = [self.states, self.seconds, self.consistency]
        self.states, self.seconds, self.consistency = self._on_grid(now)
        after: list[NDArray[Any]] = [self.states, self.seconds, self.consistency]
        return not all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))

    def _on_grid(self, states: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """Return the largest of all channels."""
        seconds, consistency = (values.reshape(self._shape).max(axis=0) for values in (self._seconds, self._consistency))
        return states.reshape(self._shape).max(axis=0), seconds, consistency

    def _take_in(self, key: str) -> None:
        self._read.add(key)
        for record in read_segment(self._url, key):
            if 0 <= record.region < len(self._recorded):
                done = SKIPPED if record.patches and record.skipped == record.patches else DONE
                self._recorded[record.region] = done if record.state == "done" else FAILED
                self._seconds[record.region] = record.seconds
                self._consistency[record.region] = -1 if record.consistency is None else record.consistency


class PerRegion:
    """An array that repeats a value per region over the voxels of an output, made when it is asked for.

    Parameters
    ----------
    values : callable
        Returns the values on the region grid, as they are now.
    shape : tuple of int
        Voxels of this array.
    region : tuple of int
        Voxels of this level per region, along z, y, x.
    """

    def __init__(self, values: Callable[[], NDArray[Any]], shape: Triple, region: Triple) -> None:
        self._values, self._region = values, region
        self.shape, self.dtype = shape, values().dtype

    def __getitem__(self, box: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return the values in a box of voxels."""
        at = (np.arange(part.start, part.stop) // size for part, size in zip(box, self._region, strict=True))
        part: NDArray[Any] = self._values()[np.ix_(*at)]
        return part


class Overlay:
    """The layers of a job's progress, which follow the job while the block runs.

    Parameters
    ----------
    layer : Layer
        Layer of the job's output.
    plan : Plan
        The job's plan.
    on_finished : callable
        Called when more regions are finished than before: their voxels can be seen now. At most every 10 s. It is told the
        ranges of the heat maps as they are now.
    heat : {"seconds", "consistency"}, optional
        The heat map that is shown; both are there, and can be switched on in the page.

    Attributes
    ----------
    shown : str, optional
        Name of the heat map's layer that is shown.
    """

    def __init__(self, layer: Layer, plan: Plan, on_finished: Callable[[Ranges], None], heat: Heat | None = None) -> None:
        self._map, self._layer, self._on_finished = RegionMap(plan), layer, on_finished
        self.shown = None if heat is None else HEAT[heat]
        self._map.refresh()
        size, shape = plan.grid.size, plan.grid.shape
        self._step = _triple(_step(region, n) for region, n in zip(size, shape, strict=True))
        self._shape = _triple(-(-n // step) for n, step in zip(shape, self._step, strict=True))
        self._region = _triple(n // step for n, step in zip(size, self._step, strict=True))
        self._states = self._local(lambda: self._map.states, "segmentation")
        self._maps = {
            SECONDS: self._local(lambda: self._map.seconds, "image"),
            CONSISTENCY: self._local(lambda: self._map.consistency, "image"),
        }
        self._over, self._still = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="volumetool-progress", daemon=True)

    def layers(self) -> list[dict[str, Any]]:
        """Return the layers as the client's state has them."""
        regions = {
            "type": "segmentation",
            "name": REGIONS,
            "source": self._source(self._states),
            "segments": [str(state) for state in LEGEND],
            "segmentColors": {str(state): colour for state, (_, colour) in LEGEND.items()},
            "selectedAlpha": _ALPHA,
        }
        maps = [
            {
                "type": "image",
                "name": name,
                "source": self._source(self._maps[name]),
                "shader": _HEAT,
                "shaderControls": {"normalized": {"range": list(ends)}},
                "opacity": 1.0,
                "visible": name == self.shown,
            }
            for name, ends in self.ranges().items()
        ]
        return [regions, *maps]

    def ranges(self) -> Ranges:
        """Return what the ends of the heat maps' colours stand for: the least and the largest value of a finished region."""
        return {SECONDS: _ends(self._map.seconds), CONSISTENCY: _ends(self._map.consistency)}

    def front(self) -> float | None:
        """Return where along z the job is: the middle section of the last layer of regions that it has come to, in nm.

        None where it has not begun, or is over.
        """
        states = self._map.states
        reached = np.flatnonzero((states != TODO).any(axis=(1, 2)))
        if not reached.size or (states <= DONE).all():
            return None
        begin = int(reached[-1]) * self._region[0] * self._step[0]
        end = min(begin + self._region[0] * self._step[0], self._layer.shape[0])
        level = self._layer.volume.levels[0]
        return level.translation[0] + (begin + end) // 2 * level.voxel_size[0]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do not follow the job while the block runs: what a picture says of a region is then what it shows there."""
        with self._still:
            yield

    def counts(self) -> dict[str, int]:
        """Return how many regions are in each state."""
        return {name: int(np.count_nonzero(self._map.states == state)) for state, (name, _) in LEGEND.items()}

    def _local(self, values: Callable[[], NDArray[Any]], kind: str) -> neuroglancer.LocalVolume:
        scales = [step * size / _PER_METRE for step, size in zip(self._step, self._layer.voxel_size, strict=True)]
        dimensions = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="m", scales=scales)
        return neuroglancer.LocalVolume(PerRegion(values, self._shape, self._region), dimensions, volume_type=kind)

    def _source(self, volume: neuroglancer.LocalVolume) -> dict[str, Any]:
        lengths = [step * size for step, size in zip(self._step, self._layer.voxel_size, strict=True)]
        shifts = [low / length for low, length in zip(self._layer.corners[0], lengths, strict=True)]
        matrix = [[*(float(row == column) for column in range(3)), shift] for row, shift in enumerate(shifts)]
        dimensions = {axis: [length / _PER_METRE, "m"] for axis, length in zip("zyx", lengths, strict=True)}
        transform = {"outputDimensions": dimensions, "matrix": matrix}
        # Without meshes: regions are boxes.
        return {"url": volume, "transform": transform, "enableDefaultSubsources": False, "subsources": {"default": True}}

    def _follow(self) -> None:
        told, at = self._map.finished, -FRESH_SECONDS
        while not self._over.wait(POLL_SECONDS):
            with self._still:
                if self._map.refresh():
                    for each in (self._states, *self._maps.values()):
                        each.invalidate()
                if self._map.finished > told and time.monotonic() - at >= FRESH_SECONDS:
                    told, at = self._map.finished, time.monotonic()
                    self._on_finished(self.ranges())

    def __enter__(self) -> Overlay:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def _step(region: int, n: int) -> int:
    """Return the largest divisor of a region's size that still cuts the volume's `n` voxels finely."""
    return max(step for step in range(1, region + 1) if region % step == 0 and (step == 1 or step * _FINE <= n))


def _ends(values: NDArray[np.float32]) -> tuple[float, float]:
    """Return the least and the largest value that is known, apart from each other."""
    known = values[values >= 0]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low, low + max(1e-6, abs(low)))


def _triple(values: Any) -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)

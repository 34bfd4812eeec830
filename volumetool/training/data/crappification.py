"""Crappification of whole volumes: read, degrade, write, part by part, and then all coarser levels.

The cut into parts is invisible: see `Crappifier`. So memory is bounded whatever the volume, and parts are made in threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.configuration import with_options
from volumetool.degradation import Crappification
from volumetool.errors import ConfigError, OutputError, ResourceError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, LevelGrid, Size, Triple, downscaled_translation, plan_levels, shard_boxes
from volumetool.machine import memory_limit, usable_cores, usable_memory
from volumetool.paths import AnyPlace
from volumetool.processing.survey import grey_limits
from volumetool.storage.create import (
    VolumeLayout,
    check_output_place,
    choose_format,
    create_volume,
    open_for_writing,
    write_attributes,
)
from volumetool.storage.downsample import build_level, is_stored, require_stored
from volumetool.storage.formats.base import read_json
from volumetool.storage.io.chunks import changed_while_read, level_digests, level_states
from volumetool.storage.io.kvstore import canonical_url, contains, delete_prefix
from volumetool.storage.io.presence import Check
from volumetool.storage.io.roles import name_roles, output_role
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import write_status
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import Source, VerifiedWrite, read_voxels
from volumetool.units import show_bytes

PART_VOXELS: Final = 2**22
"""Fine voxels that one thread degrades at once, halo apart."""

BYTES_PER_VOXEL: Final = 40
"""Most bytes of a step per fine voxel: the image before and after, 64 random bits, and numbers made from them."""

MOST_THREADS: Final = 4

KEY: Final = "crappification"


@dataclass(frozen=True)
class CrappifyPlan:
    """A degradation, planned.

    Attributes
    ----------
    request : Crappification
        The request that was planned.
    source : Volume
        Volume to read.
    layout : VolumeLayout
        Layout of the volume to write.
    limits : tuple of float
        Grey values of black and white.
    left_out : tuple of int
        Fine voxels along z, y, x beyond the last whole block, which are not used.
    threads : int
        Parts that are degraded side by side.
    memory : int
        Bytes that are held at the most, about.
    """

    request: Crappification
    source: Volume
    layout: VolumeLayout
    limits: tuple[float, float]
    left_out: Triple
    threads: int
    memory: int

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the output, as its metadata tell it."""
        asked = self.request
        return {
            "source": self.source.url,
            "source_identity": self.source.identity,
            "level": asked.level,
            "recipe": json.loads(asked.crappifier.model_dump_json()),
            "scale": list(asked.scale),
            "seed": asked.seed,
            "limits": list(self.limits),
        }


def plan_crappification(asked: Crappification) -> CrappifyPlan:
    """Look at the input and decide everything; write nothing.

    Raises
    ------
    InputError
        As `open_volume`; ``input.level``.
    ConfigError
        ``config.scale``, ``config.limits``.
    OutputError
        ``output.inside-input``, ``output.format``.
    ResourceError
        ``resource.memory``.
    """
    source = open_volume(asked.input)
    source.open(asked.level)  # refuses a level that is not there
    fine = source.levels[asked.level]
    if any(f < 1 or f > n for n, f in zip(fine.shape, asked.scale, strict=True)):
        raise ConfigError(
            "config.scale",
            f"{fine.shape} voxels (z, y, x) cannot be reduced by {asked.scale}",
            hint="the scale is whole numbers from 1, none larger than the volume",
        )
    with name_roles(output_role(asked.output)):
        check_output_place(asked.output)
        choose_format(asked.output, "ome-zarr-0.5")
        _refuse_nested(asked, source)
    size: Size = (
        fine.voxel_size[0] * asked.scale[0],
        fine.voxel_size[1] * asked.scale[1],
        fine.voxel_size[2] * asked.scale[2],
    )
    shape = _triple(n // f for n, f in zip(fine.shape, asked.scale, strict=True))
    levels = plan_levels(shape, size, downscaled_translation(fine.voxel_size, fine.translation, size))
    layout = VolumeLayout(source.dtype.name, levels, source.channels, name=Path(source.url).name)
    left_out = _triple(n % f for n, f in zip(fine.shape, asked.scale, strict=True))
    threads, memory = _resources(asked, levels[0], source.dtype)
    return CrappifyPlan(asked, source, layout, _limits(asked, source), left_out, threads, memory)


@with_options(Crappification)
def crappify(
    input: AnyPlace,  # noqa: A002  (the user's word)
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    observer: Observer = ignore,
    **options: Any,
) -> Volume:
    """Degrade a volume as a fast scan would, with all its levels.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs of the fine volume, and of the OME-Zarr volume to write.
    overwrite : bool
        Delete an earlier crappification at the output.
    observer : Observer, optional
        Told by `Progressed` how far it is.
    **options
        Any field of :class:`volumetool.degradation.Crappification`, such as ``recipe="sem-fast"`` or ``scale=(1, 4, 4)``.

    Raises
    ------
    VolumetoolError
        As :func:`plan_crappification` and :func:`crappify_volume`.
    """
    plan = plan_crappification(Crappification(input=input, output=output, **options))
    return crappify_volume(plan, overwrite=overwrite, observer=observer)


def crappify_volume(plan: CrappifyPlan, *, overwrite: bool = False, observer: Observer = ignore) -> Volume:
    """Write the degraded volume with all its levels.

    The same plan again, after an interruption too, gives the same bytes.

    Parameters
    ----------
    plan : CrappifyPlan
        A plan from :func:`plan_crappification`.
    overwrite : bool
        Delete another crappification at the output; anything else there is left alone and refused.
    observer : Observer, optional
        Is told by `Progressed` how many coarse voxels are made.

    Raises
    ------
    OutputError
        ``output.exists``, ``output.foreign``, ``output.unwritable``.
    InputError
        ``input.changed``: somebody wrote to the fine volume meanwhile.
    DataError
        ``data.unreadable``, ``data.read-back``.
    """
    url, layout = canonical_url(plan.request.output), plan.layout
    with name_roles(output_role(url)):
        _prepare(plan, url, overwrite=overwrite)
    states, written = level_states(plan.source, plan.request.level), []
    every = (layout.channels or 1) * Box.whole(layout.levels[0].shape).voxels
    count = counting(observer, "crappifying", every)
    for channel in range(layout.channels or 1):
        written.append((open_for_writing(url, layout, 0, channel), _fill(plan, channel, states[channel][1], count)))
        for number, grid in enumerate(layout.levels[1:], start=1):
            fine = open_for_writing(url, layout, number - 1, channel)
            coarse = open_for_writing(url, layout, number, channel)
            written.append((coarse, build_level(Source(fine), coarse, grid)))
    if level_digests(plan.source, plan.request.level) != [digest for digest, _ in states]:
        raise changed_while_read(plan.source.url)
    for coarse, boxes in written:
        require_stored(coarse, boxes)
    write_attributes(url, {KEY: plan.provenance, "status": "complete"})
    return open_volume(url)


def _fill(plan: CrappifyPlan, channel: int, check: Check, count: Callable[[int], None]) -> list[Box]:
    """Write the finest level of a channel; return the shards of which anything is stored."""
    grid = plan.layout.levels[0]
    target = open_for_writing(canonical_url(plan.request.output), plan.layout, 0, channel)
    stored = []
    with ThreadPoolExecutor(plan.threads) as threads:
        for shard in shard_boxes(grid):
            voxels = np.empty(shard.shape, plan.layout.dtype)
            inside = (-shard.start[0], -shard.start[1], -shard.start[2])
            parts = list(_parts(shard, plan.request.scale))
            for part, made in zip(parts, threads.map(_Degrader(plan, channel, check), parts), strict=True):
                voxels[part.shifted(inside).slices] = made
                count(part.voxels)
            VerifiedWrite(target, shard, voxels, "output:").finish()
            if is_stored(voxels, target.fill_value):
                stored.append(shard)
    return stored


class _Degrader:
    """Makes the output's voxels in any box of it."""

    def __init__(self, plan: CrappifyPlan, channel: int, check: Check) -> None:
        asked, self._check = plan.request, check
        self._crappifier, self._scale = asked.crappifier, asked.scale
        self._seed = asked.seed + (channel << 32)  # each channel is a volume of its own
        self._fine: ts.TensorStore = plan.source.open(asked.level, channel, strict=True)
        self._limits, self._dtype = plan.limits, np.dtype(plan.layout.dtype)
        self._whole = Box.whole(plan.layout.levels[0].shape).enlarged(asked.scale)
        self._halo, self._unit = asked.crappifier.halo(asked.scale), asked.crappifier.granularity(asked.scale)

    def __call__(self, box: Box) -> NDArray[Any]:
        core = box.enlarged(self._scale)
        wide = self._wide(core)
        low, high = (np.float32(limit) for limit in self._limits)
        voxels = read_voxels(self._fine, wide, "input:", check=self._check).astype(np.float32)
        made = self._crappifier.apply((voxels - low) / (high - low), scale=self._scale, seed=self._seed, origin=wide.start)
        start = _triple((a - b) // f for a, b, f in zip(core.start, wide.start, self._scale, strict=True))
        inner = Box(start, _triple(a + n for a, n in zip(start, box.shape, strict=True)))
        return quantised(made[inner.slices] * (high - low) + low, self._dtype)

    def _wide(self, core: Box) -> Box:
        sides = list(zip(core.start, core.stop, self._halo, self._unit, strict=True))
        start = _triple((a - halo) // unit * unit for a, _, halo, unit in sides)
        stop = _triple(-((-b - halo) // unit) * unit for _, b, halo, unit in sides)
        return Box(start, stop).intersection(self._whole)


def quantised(grey: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return grey values as a dtype: integers rounded half to even and kept in range, floats as they are."""
    if dtype.kind == "f":
        return grey.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(grey).clip(limits.min, limits.max).astype(dtype)


def _parts(box: Box, scale: Triple) -> Iterator[Box]:
    """Cut a box of coarse voxels into halves of halves until each has at most `PART_VOXELS` fine voxels."""
    fine = box.enlarged(scale)
    if fine.voxels <= PART_VOXELS or box.voxels == 1:
        yield box
        return
    # Sections first: along them there is seldom a halo.
    axis = 0 if box.shape[0] > 1 else max((1, 2), key=lambda a: fine.shape[a])
    middle = (box.start[axis] + box.stop[axis] + 1) // 2
    yield from _parts(Box(box.start, _with(box.stop, axis, middle)), scale)
    yield from _parts(Box(_with(box.start, axis, middle), box.stop), scale)


def _prepare(plan: CrappifyPlan, url: str, *, overwrite: bool) -> None:
    there = (read_json(url, "zarr.json") or {}).get("attributes", {}).get("volumetool", {})
    if there.get(KEY) == plan.provenance:  # this very one, perhaps interrupted
        write_attributes(url, {KEY: plan.provenance, "status": "unfinished"})
        return
    if overwrite and KEY in there:
        write_status(url, "unfinished")
        delete_prefix(url, "zarr.json")
    elif overwrite and there:
        raise OutputError(
            "output.foreign",
            f"{url} exists and was not written by `volumetool crappify`",
            hint="choose another output, or delete it yourself; nothing was touched",
            where=url,
        )
    create_volume(url, plan.layout, {KEY: plan.provenance, "status": "unfinished"})


def _refuse_nested(asked: Crappification, source: Volume) -> None:
    if contains(asked.output, source.url) or contains(source.url, asked.output):
        raise OutputError(
            "output.inside-input",
            f"the output {asked.output} and the input {asked.input} lie one inside the other",
            hint="Choose a place beside the input.",
            where=asked.output,
        )


def _limits(asked: Crappification, source: Volume) -> tuple[float, float]:
    low, high = asked.limits or grey_limits(source, asked.level)
    if not np.float32(low) < np.float32(high):
        raise ConfigError(
            "config.limits", f"black {low} is not below white {high}", hint="give both: --limits black,white, in grey values"
        )
    return float(low), float(high)


def _resources(asked: Crappification, grid: LevelGrid, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return how many parts are degraded side by side in half of the free memory, and the bytes that this takes."""
    halo = asked.crappifier.halo(asked.scale)
    shard = Box.whole(grid.shard).intersection(Box.whole(grid.shape))
    part = next(_parts(shard, asked.scale)).enlarged(asked.scale)
    wide = Box.whole(_triple(n + 2 * h for n, h in zip(part.shape, halo, strict=True)))
    wide = wide.intersection(Box.whole(grid.shape).enlarged(asked.scale))
    each, held, free = wide.voxels * BYTES_PER_VOXEL, 2 * shard.voxels * dtype.itemsize, usable_memory()
    threads = max(1, min(MOST_THREADS, usable_cores(), (free // 2 - held) // each))
    if (memory := threads * each + held) > free:
        raise ResourceError(
            "resource.memory",
            f"crappifying needs about {show_bytes(memory)}, this process may use {show_bytes(free)} (limit: {memory_limit()})",
            hint="run it where more memory is free, or ask the batch system or container for more",
        )
    return threads, memory


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x


def _with(place: Triple, axis: int, value: int) -> Triple:
    return _triple(value if a == axis else n for a, n in enumerate(place))


def describe_crappification(plan: CrappifyPlan) -> list[tuple[str, str]]:
    """Return the lines of a plan as (name, text)."""
    asked, first = plan.request, plan.layout.levels[0]
    fine = plan.source.levels[asked.level]
    lines = [
        ("input", f"{asked.input}: {_times(fine.shape)} {plan.source.dtype}, voxels {_times(fine.voxel_size)} nm"),
        ("recipe", f"{asked.crappifier.name}: {', '.join(step.kind for step in asked.crappifier.steps)}; seed {asked.seed}"),
        ("limits", f"black {plan.limits[0]:g}, white {plan.limits[1]:g}"),
        ("output", f"{asked.output}: {_times(first.shape)} {plan.layout.dtype}, voxels {_times(first.voxel_size)} nm"),
        ("levels", f"{len(plan.layout.levels)}; chunks {_times(first.chunk)}, shards {_times(first.shard)}"),
        ("memory", f"about {plan.memory / 2**20:.0f} MiB, {plan.threads} threads"),
    ]
    if any(plan.left_out):
        block = _times(asked.scale)
        lines.append(("left out", f"{_times(plan.left_out)} voxels (z, y, x) at the far faces, less than a block of {block}"))
    return lines


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.7g}" for number in numbers)

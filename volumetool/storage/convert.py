"""Writes level 0 of any readable volume or image stack into a new volume, in one pass over the source.

After each slab the volume's own attributes say how far it is; what is begun again goes on there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts
from pydantic import TypeAdapter, ValidationError

from volumetool.errors import DataError, InputError, OutputError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry.box import Box, cut
from volumetool.storage.conversion import ConversionPlan
from volumetool.storage.create import create_volume, open_for_writing, read_root, write_attributes
from volumetool.storage.formats.base import Json
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.arrays import read_part, write_part
from volumetool.storage.io.chunks import changed_while_read, stored_chunks
from volumetool.storage.io.kvstore import delete_prefix, join_url, list_keys
from volumetool.storage.io.prefetch import prefetch
from volumetool.storage.io.presence import Check
from volumetool.storage.io.retries import brief, unwritable
from volumetool.storage.io.roles import name_roles, output_role
from volumetool.storage.io.shards import level_keys
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import provenance_of
from volumetool.storage.volume import Volume
from volumetool.storage.writing.staging import Staging

FINEST_ALONE = "finest level alone"
"""What a volume says of itself while its coarser levels are built."""

DONE_KEY = "sections_done"
"""Under which an unfinished volume says how many sections of all its channels are written."""

STORED_KEY = "shards_stored"
"""Under which it says how many shards those sections are stored in; what is zero throughout is not stored."""

READ_KEY = "source_read"
"""Under which it says what those sections were read from: pairs of the last section, and of a digest of the stored chunks from
the pair before on."""

Read = list[tuple[int, str]]
"""What `READ_KEY` says."""


def write_finest(plan: ConversionPlan, *, overwrite: bool = False, observer: Observer = ignore) -> Volume:
    """Write level 0 of a planned conversion, from where an earlier run ended.

    Parameters
    ----------
    plan : ConversionPlan
        From `plan_conversion`.
    overwrite : bool
        Delete another conversion at the output; anything else there is left alone and refused.
    observer : Observer, optional
        Told by `Progressed` how far it is: each voxel counts once when it was read, and once when it was written.

    Raises
    ------
    InputError
        As `open_volume`; ``input.changed``; ``input.range``: a value does not fit into the data type that is asked for.
    OutputError
        As `create_volume`; ``output.exists``.
    DataError
        ``data.unreadable``: damaged chunks in the source.
    """
    with name_roles(output_role(plan.url)):
        found = _begin(plan, overwrite=overwrite)
    if found is None:
        return open_volume(plan.url)
    done, stored, read = found
    grid, begun = plan.layout.levels[0], {"conversion": plan.provenance, "status": "unfinished"}
    halves = 2 * grid.shape[1] * grid.shape[2]  # of a section: one to read, one to write
    count = counting(observer, "converting", halves * plan.sections, halves * done)
    for channel in range(plan.layout.channels or 1):
        target = open_for_writing(plan.url, plan.layout, 0, channel)
        before = channel * grid.shape[0]
        slabs = [Box((max(slab.start[0], done - before), 0, 0), slab.stop) for slab in plan.slabs]
        rests = [slab for slab in slabs if slab.shape[0] > 0]
        for rest, (state, check) in zip(rests, [_state(plan, channel, rest) for rest in rests], strict=True):
            stored += _Copy(plan, channel, target, count, check).run(rest)
            _require_unchanged(plan, channel, rest, state)
            read.append((before + rest.stop[0], state))
            write_attributes(plan.url, begun | {DONE_KEY: before + rest.stop[0], STORED_KEY: stored, READ_KEY: read})
    _require_stored(plan, stored)
    write_attributes(plan.url, {**begun, "status": FINEST_ALONE, **_read_in_all(plan, read)})
    return open_volume(plan.url)


def _state_of(plan: ConversionPlan) -> Json | None:
    """Return what a volume at the output of a plan says of itself: its own attributes; None where it is of another origin."""
    own = provenance_of(read_root(plan.url)[1] or {})
    return own if own is not None and isinstance(own.get("conversion"), dict) else None


def _begin(plan: ConversionPlan, *, overwrite: bool) -> tuple[int, int, Read] | None:
    """Create the volume, or find it as an earlier run left it.

    Returns
    -------
    tuple, or None
        How many sections are done, how many shards they are stored in, and what they were read from; None where all is done.
    """
    own = _state_of(plan)
    done, stored = (None, None) if own is None else (own.get(DONE_KEY), own.get(STORED_KEY))
    read = None if own is None else _noted(own.get(READ_KEY, []))
    counts = (done, stored, read) if isinstance(done, int) and isinstance(stored, int) and read is not None else None
    empty = own is not None and own.get("status") == "unfinished" and counts is None  # or half deleted
    if own is not None and read is not None and own["conversion"] == plan.provenance and not (overwrite or empty):
        _require_same_source(plan, read)
        return counts if own.get("status") == "unfinished" else None
    if own is not None and (overwrite or empty):
        write_attributes(plan.url, {"conversion": own["conversion"], "status": "unfinished"})
        delete_prefix(plan.url, read_root(plan.url)[0])
    elif own is not None:
        raise OutputError(
            "output.exists",
            f"{plan.url} was converted from {own['conversion'].get('source')}, which was changed since or had other options",
            hint="--overwrite deletes it and starts anew; or choose another output",
            where=plan.url,
        )
    elif overwrite and read_root(plan.url)[1] is not None:
        raise OutputError(
            "output.foreign",
            f"{plan.url} exists and was not written by `volumetool convert`",
            hint="choose another output, or delete it yourself; nothing was touched",
            where=plan.url,
        )
    create_volume(plan.url, plan.layout, {"conversion": plan.provenance, "status": "unfinished"})
    return 0, 0, []


def _noted(read: object) -> Read | None:
    """Return what a volume says that it was read from; None if its note cannot be understood."""
    try:
        return TypeAdapter(Read).validate_python(read)
    except ValidationError:
        return None


class _Copy:
    """Copies slabs of one channel."""

    def __init__(
        self,
        plan: ConversionPlan,
        channel: int,
        target: ts.TensorStore,
        count: Callable[[int], None],
        check: Check,
    ) -> None:
        self._plan, self._channel, self._target, self._count, self._check = plan, channel, target, count, check
        self._dtype, self._shard = np.dtype(plan.layout.dtype), plan.layout.levels[0].shard
        self._source = plan.source.open(plan.level, channel, strict=True)

    def run(self, slab: Box) -> int:
        """Read a slab and write it, each voxel once; return in how many shards it is stored."""
        if self._plan.staged:
            with Staging(self._plan.staging_folder, slab.shape, self._dtype, self._shard[2]) as staging:
                for part in cut(slab, self._plan.chunk, self._plan.part_voxels):
                    staging.put(_within(part, slab), self._read(part))
                    self._count(part.voxels)
                return self._write(slab, staging.take)
        boxes = ((box, self._read(box)) for box in self._plan.boxes(slab))
        read, stored = prefetch(boxes) if self._plan.reads_ahead else boxes, 0
        with closing(read):  # type: ignore[type-var]  # generators have close
            for box, voxels in read:
                self._count(box.voxels)
                stored += self._write(box, partial(_taken, voxels))
                del voxels  # before the next box is read
        return stored

    def _read(self, box: Box) -> npt.NDArray[Any]:
        """Return the voxels (z, y, x) of a box of the source, as they are written."""
        volume, box = self._plan.source, box.shifted(self._plan.start)
        try:
            voxels = read_part(self._source, box.slices, self._check)
        except (ValueError, OSError) as error:
            raise DataError(
                "data.unreadable",
                f"{volume.url} cannot be read in the voxels {box}: {brief(error)}",
                hint="The data may be damaged or incomplete; copy them again.",
                where=volume.url,
            ) from error
        return self._cast(voxels, box)

    def _cast(self, voxels: npt.NDArray[Any], part: Box) -> npt.NDArray[Any]:
        volume = self._plan.source
        if volume.cast is None:
            return voxels
        try:
            return volume.cast.apply(voxels)
        except ValueError as error:
            raise InputError(
                "input.range",
                f"{volume.url} cannot become {volume.cast} in the voxels {part}: {error}",
                hint="Say which values become the least and the greatest: --window lo,hi; or choose another --dtype.",
                where=volume.url,
            ) from error

    def _write(self, box: Box, take: Callable[[Box], npt.NDArray[Any]]) -> int:
        stored = 0
        for part in cut(box, self._shard, self._plan.part_voxels):
            voxels = take(_within(part, box))  # (z, y, x)
            try:
                write_part(self._target, part.slices, voxels)
            except (ValueError, OSError) as error:
                raise unwritable(self._plan.url, error) from error
            stored += sum(_is_stored(voxels[_within(shard, part).slices]) for shard in cut(part, self._shard, 0))
            self._count(part.voxels)
        return stored


def _require_stored(plan: ConversionPlan, stored: int) -> None:
    """Look, before it is called finished, whether what was written is still there.

    Raises
    ------
    OutputError
        ``output.damaged``.
    """
    names = level_keys(plan.layout, 0)
    there = sum(key in names for key in list_keys(join_url(plan.url, WRITTEN[plan.layout.format].path.format(0))))
    if there < stored:
        raise OutputError(
            "output.damaged",
            f"{stored - there} of {stored} shards that were written to {plan.url} are no longer there",
            hint="convert again with --overwrite, where nothing else deletes files",
            where=plan.url,
        )


def _is_stored(voxels: npt.NDArray[Any]) -> bool:
    """Return whether a shard (z, y, x) is stored: it holds more than zeros, which most show in their first section."""
    return any(section.any() for section in voxels)


def _taken(voxels: npt.NDArray[Any], box: Box) -> npt.NDArray[Any]:
    return voxels[box.slices]


def _within(part: Box, box: Box) -> Box:
    """Return a part of a box as seen from the box's corner."""
    return part.shifted((-box.start[0], -box.start[1], -box.start[2]))


def _state(plan: ConversionPlan, channel: int, slab: Box) -> tuple[str, Check]:
    """Return what is stored of a slab's source now, and what `read_part` asks about it.

    Raises
    ------
    DataError, InputError
        The volume is gone, or does not answer.
    """
    return stored_chunks(plan.source, plan.level, channel).state(slab.shifted(plan.start))


def _require_same_source(plan: ConversionPlan, read: Read) -> None:
    """Refuse a source volume some of whose chunks were written to, or have vanished, since an earlier run read them.

    Raises
    ------
    InputError
        ``input.changed``.
    """
    (sections, height, width), first = plan.layout.levels[0].shape, 0
    for stop, state in read:
        channel, start = divmod(first, sections)
        slab = Box((start, 0, 0), (stop - channel * sections, height, width))
        if _state(plan, channel, slab)[0] != state:
            raise InputError(
                "input.changed",
                f"{plan.place} was written to since {plan.url} was converted from it: in sections {slab.start[0]} to "
                f"{slab.stop[0] - 1}{f' of channel {channel}' if plan.layout.channels else ''}, or deleted there",
                hint="--overwrite deletes the output and starts anew; or bring the first input back",
                where=plan.place,
            )
        first = stop


def _read_in_all(plan: ConversionPlan, read: Read) -> Json:
    """Return what a whole volume was read from: the same, whatever the slabs were.

    Raises
    ------
    InputError
        ``input.changed``: the source is no longer what was read.
    """
    shape = plan.layout.levels[0].shape
    states = [_state(plan, channel, Box.whole(shape))[0] for channel in range(plan.layout.channels or 1)]
    whole = [(number * shape[0], state) for number, state in enumerate(states, start=1)]
    _require_same_source(plan, read)  # last: so it holds of what was looked at before it, too
    return {READ_KEY: whole}


def _require_unchanged(plan: ConversionPlan, channel: int, slab: Box, state: str) -> None:
    """Refuse a source of which a slab was changed, or has vanished, since its state was taken.

    Raises
    ------
    InputError
        ``input.changed``.
    """
    try:
        changed = _state(plan, channel, slab)[0] != state
    except (DataError, InputError, OSError):
        changed = True
    if changed:
        raise changed_while_read(plan.place)

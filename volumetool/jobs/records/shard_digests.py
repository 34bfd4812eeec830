"""The coarse levels, which no region owns: what is stored of them, and where they are still to be built."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import tensorstore as ts
from pydantic import TypeAdapter

from volumetool.geometry import Box, Region
from volumetool.jobs.job_dir import COARSE, UNBUILT
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.lease import confirm
from volumetool.jobs.records.volumes import open_written, volume_of, volumes_of
from volumetool.sealed import decode, encode, encode_line
from volumetool.storage.io.kvstore import read_key, write_key
from volumetool.storage.io.shards import shard_keys, stored_shards


@dataclass(frozen=True)
class CoarseShards:
    """The shards of one coarse level and channel.

    Attributes
    ----------
    level, channel : int
        The level of its volume, counted from 0, and the channel, counted over all volumes of the job.
    stored : tuple of str
        Size and CRC-32 of each shard in C order, as :func:`volumetool.storage.io.shards.stored_as` gives them.
    """

    level: int
    channel: int
    stored: tuple[str, ...]


def coarse_parts(plan: Plan) -> list[tuple[int, int]]:
    """Return level and channel of every part of the volumes that regions do not write."""
    return [
        (number, channel)
        for channel in range(plan.spec.count)
        for number, level in enumerate(volume_of(plan, channel)[0].layout.levels)
        if not level.fused
    ]


def coarse_keys(plan: Plan, level: int, channel: int) -> tuple[str, list[str]]:
    """Return the place of a coarse level's array, and the keys of a channel's shards in it, in C order.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    level : int
        The level of its volume, counted from 0.
    channel : int
        The channel, counted over all volumes of the job.
    """
    volume, own = volume_of(plan, channel)
    return volume.level(level), list(shard_keys(volume.layout, level, None, own))


def write_coarse(plan: Plan) -> None:
    """Note what is stored of the coarse levels."""
    lines = []
    for level, channel in coarse_parts(plan):
        stored = stored_shards(*coarse_keys(plan, level, channel))
        lines.append(encode_line({"level": level, "channel": channel, "stored": stored}))
    confirm(plan.job_dir.url)
    write_key(plan.job_dir.url, COARSE, b"".join(lines))


def read_coarse(plan: Plan) -> list[CoarseShards] | None:
    """Return what was noted of the coarse levels, None if nothing was.

    Raises
    ------
    ValueError
        The record is damaged.
    """
    raw = read_key(plan.job_dir.url, COARSE)
    if raw is None:
        return None
    lines = raw.splitlines(keepends=True)
    parts = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = decode(line)
        except ValueError as error:
            raise ValueError(f"{COARSE}, line {number}: {error}") from error
        if not line.endswith(b"\n"):
            raise ValueError(f"{COARSE}, line {number}: its end is cut off")
        parts.append(CoarseShards(fields["level"], fields["channel"], tuple(fields["stored"])))
    if [(part.level, part.channel) for part in parts] != coarse_parts(plan):
        raise ValueError(f"{COARSE}, which has {len(parts)} lines")
    return parts


def note_unbuilt(plan: Plan) -> None:
    """Note that the coarse levels are to be built over what this run computes; to be called before its first record."""
    earlier = read_unbuilt(plan)
    box = plan.computed_box or Box.whole(plan.spec.box.shape)
    box = box if earlier is None else box.joined(earlier)
    confirm(plan.run_dir)
    write_key(plan.job_dir.url, UNBUILT, encode(asdict(box)))


def read_unbuilt(plan: Plan) -> Box | None:
    """Return the voxels of level 0 over which the coarse levels are to be built, None where they are built."""
    raw = read_key(plan.job_dir.url, UNBUILT)
    if raw is None:
        return None
    whole = Box.whole(plan.spec.box.shape)
    try:
        return TypeAdapter(Box).validate_python(decode(raw)).intersection(whole)
    except ValueError:  # a damaged note costs time
        return whole


def open_owned(plan: Plan, channel: int) -> list[ts.TensorStore]:
    """Open what the regions of a channel of the input write: the fused levels of each volume, channel by channel.

    Raises
    ------
    VolumetoolError
        As `open_for_writing`.
    """
    channels, whole = plan.spec.output_channels(channel), Box.whole(plan.spec.box.shape)
    return [open_written(plan, level, channels[number]) for number, level, _ in plan.spec.shadows(whole)]


def region_keys(plan: Plan, region: Region) -> list[tuple[str, list[str]]]:
    """Return the place of each fused level's array, channel by channel, and the keys of a region's shards in it."""
    volumes, channels, found = volumes_of(plan), plan.spec.output_channels(region.channel), []
    for number, level, box in plan.spec.shadows(region.box):
        which, own = plan.spec.stored(channels[number])
        keys = list(shard_keys(volumes[which].layout, level, box, own))
        found.append((volumes[which].level(level), keys))
    return found


def region_shards(plan: Plan, region: Region) -> tuple[tuple[str, ...], ...]:
    """Return size and CRC-32 of the shards of a region, for its record."""
    return tuple(stored_shards(place, keys) for place, keys in region_keys(plan, region))

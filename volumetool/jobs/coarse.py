"""The coarse levels, which no region owns: what is stored of them, and where they are still to be built."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from volumetool.geometry import Box, Region, slab_boxes
from volumetool.jobs.folder import job_url
from volumetool.jobs.plan import Plan
from volumetool.store.kvstore import join_url, read_key, write_key
from volumetool.store.shards import shard_keys, stored_shards

COARSE = "coarse.jsonl"
"""In the job's folder: a line per coarse level and channel, with the CRC-32 of its text in front. It is there for complete
volumes alone."""

UNBUILT = "unbuilt.json"
"""In the job's folder: the box of level 0 over which the coarse levels are to be built; there is none where they are."""


@dataclass(frozen=True)
class CoarseShards:
    """Size and CRC-32 of the shards of one coarse level and channel, in C order; see `store/shards.py`."""

    level: int
    channel: int
    stored: tuple[str, ...]


def coarse_parts(plan: Plan) -> list[tuple[int, int]]:
    """Return level and channel of every part of the volume that regions do not write."""
    levels = [number for number, level in enumerate(plan.spec.levels) if not level.fused]
    return [(number, channel) for channel in range(plan.spec.channels or 1) for number in levels]


def coarse_keys(plan: Plan, level: int, channel: int) -> list[str]:
    """Return the keys of a coarse level's shards, in C order."""
    return list(shard_keys(plan.spec.levels[level], None, None if plan.spec.channels is None else channel))


def write_coarse(plan: Plan) -> None:
    """Note what is stored of the coarse levels."""
    lines = []
    for level, channel in coarse_parts(plan):
        stored = stored_shards(join_url(plan.job.output, str(level)), coarse_keys(plan, level, channel))
        text = json.dumps({"level": level, "channel": channel, "stored": stored}, separators=(",", ":")).encode()
        lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
    write_key(job_url(plan.job.output), COARSE, b"".join(lines))


def read_coarse(plan: Plan) -> list[CoarseShards] | None:
    """Return what was noted of the coarse levels, None where nothing was.

    Raises
    ------
    ValueError
        The record is damaged.
    """
    raw = read_key(job_url(plan.job.output), COARSE)
    if raw is None:
        return None
    lines = raw.splitlines(keepends=True)
    parts = []
    for number, line in enumerate(lines, start=1):
        checksum, _, text = line.partition(b" ")
        if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text[:-1]):
            raise ValueError(f"{COARSE}, line {number}")
        fields = json.loads(text)
        parts.append(CoarseShards(fields["level"], fields["channel"], tuple(fields["stored"])))
    if [(part.level, part.channel) for part in parts] != coarse_parts(plan):
        raise ValueError(f"{COARSE}, which has {len(parts)} lines")
    return parts


def note_unbuilt(plan: Plan) -> None:
    """Note that the coarse levels are to be built over what this run computes; to be called before its first record."""
    earlier = read_unbuilt(plan)
    box = plan.computed_box or Box.whole(plan.spec.box.shape)
    box = box if earlier is None else box.joined(earlier)
    write_key(job_url(plan.job.output), UNBUILT, json.dumps(asdict(box)).encode())


def read_unbuilt(plan: Plan) -> Box | None:
    """Return the voxels of level 0 over which the coarse levels are to be built, None where they are built."""
    raw = read_key(job_url(plan.job.output), UNBUILT)
    if raw is None:
        return None
    whole = Box.whole(plan.spec.box.shape)
    try:
        return TypeAdapter(Box).validate_json(raw).intersection(whole)
    except ValidationError:  # a damaged note costs time
        return whole


def region_keys(plan: Plan, region: Region) -> list[list[str]]:
    """Return the keys of a region's shards on every fused level."""
    fused = [level for level in plan.spec.levels if level.fused]
    channel = None if plan.spec.channels is None else region.channel
    boxes = slab_boxes(region.box, fused)
    return [list(shard_keys(level, box, channel)) for level, box in zip(fused, boxes, strict=True)]


def region_shards(plan: Plan, region: Region) -> tuple[tuple[str, ...], ...]:
    """Return size and CRC-32 of the shards of a region, for its record."""
    keys = region_keys(plan, region)
    return tuple(stored_shards(join_url(plan.job.output, str(level)), own) for level, own in enumerate(keys))

"""The structure of an output: metadata, records, and which shards are there, without reading them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import tensorstore as ts

from volumetool.errors import VolumetoolError
from volumetool.geometry import Box
from volumetool.jobs.execution.clean import LEFTOVER
from volumetool.jobs.job_dir import COARSE, TABLE
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import TODO, Ledger, Record
from volumetool.jobs.records.shard_digests import CoarseShards, coarse_keys, read_coarse, region_keys
from volumetool.jobs.records.volumes import WrittenVolume, volumes_of
from volumetool.sealed import is_sound
from volumetool.storage.create import array_metadata, group_metadata
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.chunk_keys import ARRAY_METADATA
from volumetool.storage.io.kvstore import encode_json, is_local, join_url, list_keys, local_path, read_key, write_key
from volumetool.storage.io.shards import NOTHING, level_keys, stored_as
from volumetool.storage.provenance import provenance_of


class DamageKind(StrEnum):
    """The kinds of damage; each is repaired in a way of its own."""

    METADATA = "metadata"
    """Of the output or of a level; they are written again from the plan."""
    RECORD = "record"
    """A file of the job's folder; what it spoke of counts as not done."""
    COARSE_RECORD = "coarse record"
    """The record of the coarse shards; these are made again."""
    SHARD = "shard"
    """The stored bytes of a shard; its region, or the coarse levels, are made again."""
    VOXELS = "voxels"
    """Voxels that differ from what they were made of, or cannot be read; they are made again like shards."""
    STRANGER = "stranger"
    """A file that is no shard of its level; it is deleted."""
    NOT_RECOMPUTED = "not recomputed"
    """A region that could not be computed again; its shards may be sound, and stay."""


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    Attributes
    ----------
    kind : DamageKind
        Decides how it is repaired.
    detail : str
        What is wrong, in words.
    place : str
        Path or URL of the metadata, the record or the shard.
    region, level : int, optional
        Which are damaged; shards and voxels without a region belong to the coarse levels.
    box : Box, optional
        The damaged voxels.
    """

    kind: DamageKind
    detail: str = ""
    place: str = ""
    region: int | None = None
    level: int | None = None
    box: Box | None = None

    def __str__(self) -> str:
        known = self.as_dict()
        where = [f"{name} {known[name]}" for name in ("region", "level", "box") if name in known]
        return f"{', '.join([self.kind, *where, *filter(None, [self.place])])}: {self.detail}"

    def as_dict(self) -> dict[str, Any]:
        """Return what is known of it as JSON values."""
        box = "" if self.box is None else str(self.box)
        facts = {"kind": str(self.kind), "region": self.region, "level": self.level, "box": box, "place": self.place}
        return {name: value for name, value in facts.items() if value not in (None, "")} | {"detail": self.detail}

    @property
    def is_remade(self) -> bool:
        """Whether the region, or without one the coarse levels, are made again."""
        return self.kind in (DamageKind.SHARD, DamageKind.VOXELS, DamageKind.COARSE_RECORD)


def check_job(plan: Plan, ledger: Ledger, damaged: list[Damage]) -> None:
    """Check the records of a job and the metadata of its output, without reading shards.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    ledger : Ledger
        Records of the job.
    damaged : list of Damage
        Findings are appended here.
    """
    if ledger.damaged:
        places = ledger.places + (["..."] if ledger.damaged > len(ledger.places) else [])
        what = f"{ledger.damaged} damaged records: their regions count as not done"
        damaged.append(Damage(DamageKind.RECORD, what, f"{plan.job_dir.url}: {'; '.join(places)}"))
    _check_statistics(plan, damaged)
    volumes = volumes_of(plan)
    root, *_ = [_root(plan, volume, damaged) for volume in volumes]
    if root is not None and _own(root).get("status") == "complete" and (lost := int((ledger.states == TODO).sum())):
        what = f"the volume calls itself complete, but {lost} of {plan.grid.count} regions have no record"
        damaged.append(Damage(DamageKind.RECORD, what, join_url(plan.job_dir.url, "ledger")))
    damaged += [
        Damage(DamageKind.METADATA, _wrong(raw), join_url(volume.url, key))
        for volume in volumes
        for key, content in WRITTEN[plan.spec.format].beside.items()
        if _parsed(raw := _content(volume.url, key)) != content
    ]
    key = _array_key(plan)
    for volume, level in ((each, level) for each in volumes for level in range(len(each.layout.levels) if key else 0)):
        raw = _content(volume.level(level), key)
        if not _is_array(volume, level, raw):
            damaged.append(Damage(DamageKind.METADATA, _wrong(raw), join_url(volume.level(level), key), level=level))


def says_status(plan: Plan) -> str | None:
    """Return what a volume says of itself; where that cannot be read, what the record of its coarse shards means."""
    root = _parsed(_content(plan.output, WRITTEN[plan.spec.format].root))
    if (status := _own(root).get("status")) in ("complete", "unfinished"):
        return str(status)
    try:
        return "complete" if read_coarse(plan) is not None else None
    except (ValueError, VolumetoolError):
        return "complete"


def lost_metadata(plan: Plan) -> list[tuple[WrittenVolume, list[str]]]:
    """Return the volumes that have lost metadata, with their keys: of the group no JSON, of an array not what was written."""
    written, name = WRITTEN[plan.spec.format], _array_key(plan)
    lost = []
    for volume in volumes_of(plan):
        group = [key for key in (*written.beside, written.root) if _parsed(read_key(volume.url, key)) is None]
        levels = range(len(volume.layout.levels) if name else 0)
        arrays = [level for level in levels if not _is_array(volume, level, read_key(volume.level(level), name))]
        lost.append((volume, group + [f"{written.path.format(level)}/{name}" for level in arrays]))
    return [(volume, keys) for volume, keys in lost if keys]


def restore_metadata(plan: Plan) -> None:
    """Write the metadata of what a job writes again, and mark it as unfinished."""
    written, key = WRITTEN[plan.spec.format], _array_key(plan)
    for volume in volumes_of(plan):
        for level in range(len(volume.layout.levels) if key else 0):
            write_key(volume.level(level), key, _array_document(volume, level))
        root = group_metadata(volume.layout, volume.told(plan, "unfinished"))
        for name, content in {**written.beside, written.root: root}.items():
            write_key(volume.url, name, encode_json(content))


class Shards:
    """Compares the shards of an output with its records.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    damaged : list
        Findings are appended here.
    """

    def __init__(self, plan: Plan, damaged: list[Damage]) -> None:
        self._plan, self._damaged = plan, damaged
        self._recorded: dict[tuple[int, int], tuple[CoarseShards, str, list[str]]] = {}
        self._noted = False
        # Arrays whose metadata are damaged cannot be opened; their shards are compared by their bytes.
        broken = [damage for damage in damaged if damage.kind is DamageKind.METADATA]
        self.decodable = not any(damage.level is not None or not _array_key(plan) for damage in broken)

    def check_region(self, record: Record, *, content: bool) -> bool:
        """Compare a region's shards with its record, by their bytes or by their sizes alone; return whether they agree."""
        if not record.stored:  # of a version that did not note them
            return True
        self._noted = True
        region = self._plan.grid.region(record.region)
        sound = True
        shadows = self._plan.spec.shadows(region.box)
        for (url, keys), noted, (_, level, _) in zip(region_keys(self._plan, region), record.stored, shadows, strict=True):
            for key, then in zip(keys, noted, strict=True):
                where = Damage(DamageKind.SHARD, region=record.region, level=level, box=region.box)
                sound = self._check((url, key), then, where, content=content) and sound
        return sound

    def coarse(self) -> list[CoarseShards] | None:
        """Return the record of the coarse shards, None where there is none that can be used."""
        try:
            found = read_coarse(self._plan)
        except (ValueError, VolumetoolError) as error:
            place = str(error) if isinstance(error, ValueError) else error.message
            place = f"{self._plan.job_dir.url}: {place}"
            self._damaged.append(Damage(DamageKind.COARSE_RECORD, "is damaged", place))
            return None
        if found is None and self._noted:
            place = join_url(self._plan.job_dir.url, COARSE)
            self._damaged.append(Damage(DamageKind.COARSE_RECORD, "is missing", place))
        for part in found or ():
            url, keys = coarse_keys(self._plan, part.level, part.channel)
            self._recorded[part.level, part.channel] = part, url, keys
        return found

    def check_coarse(self, which: tuple[int, int, int], box: Box, *, content: bool) -> bool:
        """Compare a coarse shard with its record; return whether they agree.

        Parameters
        ----------
        which : tuple of int
            Level, channel, and number among the level's shards in C order.
        box : Box
            Voxels of the shard, on its own level.
        content : bool
            Read the shard and compare its checksum; otherwise compare its size alone.
        """
        level, channel, number = which
        part, url, keys = self._recorded[level, channel]
        where = Damage(DamageKind.SHARD, level=level, box=box)
        return self._check((url, keys[number]), part.stored[number], where, content=content)

    def _check(self, place: tuple[str, str], then: str, where: Damage, *, content: bool) -> bool:
        url, key = place
        try:
            now = stored_as(url, key) if content else self._seen(url, key, then)
        except VolumetoolError as error:
            what = error.message
        except OSError as error:
            what = f"cannot be read: {error}"
        else:
            what = _compared(then, now)
        if what:
            self._damaged.append(replace(where, place=join_url(url, key), detail=what))
        return not what

    def _seen(self, url: str, key: str, then: str) -> str:
        """Return what is there as far as it is seen without reading: its size, and the checksum that it should have."""
        if not is_local(url):
            return (then or "?:?") if key in self._listed(url) else NOTHING
        try:
            size = os.stat(f"{local_path(url)}/{key}").st_size  # noqa: PTH116  (of millions, a path object each takes longer)
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        return f"{size}:{then.partition(':')[2]}"

    @functools.cached_property
    def _listed(self) -> Callable[[str], set[str]]:
        return functools.cache(lambda url: set(list_keys(url)))


def check_unexpected_files(plan: Plan, damaged: list[Damage]) -> None:
    """Look for files in the arrays that are no shard of their grids; what killed writers left behind is none."""
    for volume, level in ((each, level) for each in volumes_of(plan) for level in range(len(each.layout.levels))):
        url, keys = volume.level(level), level_keys(volume.layout, level)
        damaged.extend(
            Damage(DamageKind.STRANGER, "is no shard of this level", join_url(url, key), level=level)
            for key in _keys(url)
            if key != _array_key(plan) and not key.endswith(LEFTOVER) and key not in keys
        )


def _keys(url: str) -> Iterator[str]:
    """Yield the keys below an array; those of a local one without holding them all."""
    if not is_local(url):
        yield from list_keys(url)
        return
    root = str(local_path(url))
    for folder, _, files in os.walk(root):
        below = os.path.relpath(folder, root)
        yield from (name if below == "." else f"{below}/{name}".replace(os.sep, "/") for name in files)


def _compared(then: str, now: str) -> str:
    """Return what is wrong with a stored shard, nothing where it is what was recorded."""
    if now == then:
        return ""
    if now == NOTHING:
        return "is not stored"
    if then == NOTHING:
        return "is stored, though it was recorded as nothing but the fill value"
    sizes = then.partition(":")[0], now.partition(":")[0]
    return f"has {sizes[1]} bytes, recorded were {sizes[0]}" if sizes[0] != sizes[1] else "holds other bytes than were recorded"


def _root(plan: Plan, volume: WrittenVolume, damaged: list[Damage]) -> dict[str, Any] | None:
    """Return the metadata of a volume, None where they are not what this job writes."""
    key = WRITTEN[plan.spec.format].root
    raw = _content(volume.url, key)
    root: dict[str, Any] | None = _parsed(raw)
    own = _own(root)
    if "steps" in own and "fingerprint" not in own:  # it shows growing arrays until the last shard of this job is there
        return None
    known = plan.provenance("")
    fixed = {name: known[name] for name in ("model", "fingerprint", "extrapolated", "spec")}
    sound = root is not None and is_sound(own) and fixed.items() <= own.items()
    if root is not None and sound:
        expected = json.loads(json.dumps(group_metadata(volume.layout, own)))
        if "node_type" in expected:  # others may note something beside
            expected["attributes"] = {**root["attributes"], **expected["attributes"]}
        else:
            expected = {**root, **expected}
        if expected == root:
            return root
    damaged.append(Damage(DamageKind.METADATA, _wrong(raw), join_url(volume.url, key)))
    return None


def _own(root: Any) -> dict[str, Any]:
    return (provenance_of(root) if isinstance(root, dict) else None) or {}


def _check_statistics(plan: Plan, damaged: list[Damage]) -> None:
    url = plan.job_dir.url
    try:
        sound = plan.spec.statistics.to_csv().encode() == read_key(url, TABLE)
    except (VolumetoolError, ValueError):
        sound = False
    if not sound:
        damaged.append(Damage(DamageKind.RECORD, "is not the table that the job began with", join_url(url, TABLE)))


@functools.lru_cache(maxsize=64)
def _document(driver: str, text: str) -> bytes:
    """Return what is stored for the metadata of an array."""
    spec = {"driver": driver, "kvstore": "memory://", "metadata": json.loads(text)}
    store = ts.open(spec, create=True, context=ts.Context()).result().kvstore
    assert store is not None  # noqa: S101  (what is stored has one)
    return bytes(store.read(ARRAY_METADATA[driver]).result().value)


def _array_document(volume: WrittenVolume, level: int) -> bytes:
    return _document(WRITTEN[volume.layout.format].driver, json.dumps(array_metadata(volume.layout, level)))


def _array_key(plan: Plan) -> str:
    """Return the name of the file that describes an array; empty where the volume's own describes them all."""
    return ARRAY_METADATA.get(WRITTEN[plan.spec.format].driver, "")


def _is_array(volume: WrittenVolume, level: int, raw: bytes | None) -> bool:
    """Return whether the metadata of an array are what this job writes."""
    expected = _array_document(volume, level)
    return raw == expected or _parsed(raw) == json.loads(expected)


def _content(url: str, key: str) -> bytes | None:
    try:
        return read_key(url, key)
    except VolumetoolError:
        return b""


def _parsed(raw: bytes | None) -> Any:
    try:
        return None if raw is None else json.loads(raw)
    except ValueError:  # also bytes that are no text
        return None


def _wrong(raw: bytes | None) -> str:
    return "is missing" if raw is None else "is not what was written"

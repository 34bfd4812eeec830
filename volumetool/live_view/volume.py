"""The live volume: what stands under its keys, made when it is asked for."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from volumetool.errors import VolumetoolError
from volumetool.live_view.levels import LiveLevel
from volumetool.live_view.metadata import LiveLayout, encode_chunk, live_array, live_group
from volumetool.live_view.reader import LiveVoxels
from volumetool.viewer.server import InMemory

LOG = logging.getLogger(__name__)

_ARRAY = re.compile(r"([a-z0-9-]{1,32})/zarr\.json")
_CHUNK = re.compile(r"([a-z0-9-]{1,32})/c((?:/(?:0|[1-9][0-9]{0,17})){3,4})")


@dataclass(frozen=True)
class Levels:
    """The levels of a live volume, finest first.

    Attributes
    ----------
    computed : tuple of LiveLevel
        Levels that the network computes.
    stand_in : tuple of LiveLevel
        Coarser ones, from the input.
    stored : tuple of LiveLevel
        Those of the job, which take the place of the ones that stand in once the job is complete.
    """

    computed: tuple[LiveLevel, ...]
    stand_in: tuple[LiveLevel, ...]
    stored: tuple[LiveLevel, ...] = ()


class LiveVolume:
    """Reads the keys of a volume that exists where somebody looks; a `KeyReader`.

    Parameters
    ----------
    levels : Levels
        Levels of the volume.
    layout : LiveLayout
        Dtype, channels and fill value; its levels are not looked at.
    provenance : mapping
        Origin of the voxels, which the volume's metadata tell.
    voxels : LiveVoxels
        Source of the voxels.
    """

    def __init__(self, levels: Levels, layout: LiveLayout, provenance: Mapping[str, Any], voxels: LiveVoxels) -> None:
        self._provenance = provenance
        self._voxels = voxels
        self._growing = replace(layout, levels=levels.computed + levels.stand_in)
        self._complete = replace(layout, levels=levels.computed + levels.stored)

    async def __call__(self, key: str) -> InMemory | None:
        """Return what stands under a key; None where the volume has no such key, or nothing is stored under it.

        Raises
        ------
        VolumetoolError
            Why it cannot be computed; ``live.unexpected`` for what nobody foresaw. Either is logged, and concerns this key
            alone.
        """
        try:
            data = await self._read(key)
        except VolumetoolError as error:
            LOG.warning("%s: [%s] %s", key, error.code, error.message)
            raise
        except Exception as error:
            LOG.exception("%s failed", key)
            hint = "this is a bug in volumetool; please report it"
            raise VolumetoolError("live.unexpected", f"{key}: {type(error).__name__}: {error}", hint=hint) from error
        return None if data is None else InMemory(data)

    async def _read(self, key: str) -> bytes | None:
        if key == "zarr.json":
            complete = await self._voxels.is_complete()
            return _json(live_group(self._complete if complete else self._growing, self._provenance))
        if match := _ARRAY.fullmatch(key):
            found = await self._find(match[1])
            return None if found is None else _json(live_array(*found))
        if match := _CHUNK.fullmatch(key):
            return await self._chunk(match[1], [int(number) for number in match[2].split("/")[1:]])
        return None

    async def _find(self, name: str) -> tuple[LiveLayout, int] | None:
        """Return the layout that has a level of this name, and its number there."""
        for layout in (self._growing, self._complete):
            for number, level in enumerate(layout.levels):
                if level.name == name:
                    return (layout, number) if level.kind != "stored" or await self._voxels.is_complete() else None
        return None

    async def _chunk(self, name: str, place: list[int]) -> bytes | None:
        found = await self._find(name)
        if found is None:
            return None
        layout, number = found
        *leading, z, y, x = place
        channel = leading[0] if leading else 0
        box = layout.levels[number].box((z, y, x))
        if (len(leading) == 1) != (layout.channels is not None) or channel >= (layout.channels or 1) or not box.voxels:
            return None
        voxels = await self._voxels.read(layout.levels[number], channel, box)
        return await self._voxels.in_thread(encode_chunk, layout, number, voxels)


def _json(metadata: Mapping[str, Any]) -> bytes:
    return json.dumps(metadata, indent=1).encode()

"""The shelf: sections that have landed, and what was made of them, on disk and in the books."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from volumetool.acquisition.growing import STAGED, Growing, section_levels
from volumetool.acquisition.settings import spec_for
from volumetool.acquisition.state import SectionLedger, SessionHeader
from volumetool.acquisition.steps import Steps
from volumetool.errors import DataError, NumericsError
from volumetool.geometry import Box, Lattice, Region, upscaled
from volumetool.jobs.execution.worker import describe
from volumetool.jobs.planning.resolve import Resolved
from volumetool.jobs.records.ledger import Record
from volumetool.processing.predictor import BatchPredictor
from volumetool.processing.region import enhance_region
from volumetool.storage.create import VolumeLayout
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source, VerifiedWrite, as_bytes
from volumetool.version import __version__


class RawVolume:
    """The raw volume, section by section.

    Parameters
    ----------
    url : str
        Place of the volume.
    begun : SessionHeader
        Settings that the watch was begun with.
    tally : SectionLedger
        Ledger of the sections that are in it.
    """

    def __init__(self, url: str, begun: SessionHeader, tally: SectionLedger) -> None:
        self.url, self.tally = url, tally
        levels = section_levels((1, *begun.shape), 1, begun.voxel_size, begun.translation, most=1)
        self._volume = Growing(url, "", VolumeLayout(begun.dtype, levels)).deeper(begun.count or max(1, tally.stop))

    def prepare(self) -> None:
        """Create the volume, or find it as an earlier run left it."""
        self._volume.grow()
        self._volume.describe({"watched": True, "version": __version__})

    @property
    def depth(self) -> int:
        """Sections that it has room for."""
        return self._volume.depth

    def land(self, z: int, voxels: NDArray[Any]) -> None:
        """Store a section; its record is written last."""
        if z >= self.depth:
            self._volume = self._volume.deeper(z + 1)
            self._volume.grow()
        store, box = self._volume.open(), Box((z, 0, 0), (z + 1, *voxels.shape))
        delete_torn_shards(store, self._volume.layout, 0, box)
        VerifiedWrite(store, box, voxels[None], "raw volume:").finish()
        self.tally.note(z, zlib.crc32(as_bytes(voxels).data))

    def source(self) -> Source:
        """Return what patches are cut from."""
        return Source(open_volume(self.url).open(strict=True))


class GrowingOutput:
    """The growing output, step by step.

    Parameters
    ----------
    url : str
        Place of the output.
    resolved : Resolved
        Everything that decides the voxels of the output.
    begun : SessionHeader
        Settings that hold for all sections.
    tally : SectionLedger
        Ledger of its steps.
    """

    def __init__(self, url: str, resolved: Resolved, begun: SessionHeader, tally: SectionLedger) -> None:
        self.tally = tally
        self._resolved, self._begun = resolved, begun
        scale, level = resolved.spec.lattice.scale, resolved.inputs.level
        size, origin = upscaled(level.voxel_size, level.translation, scale)
        shape = resolved.spec.lattice.output_shape
        thick = resolved.spec.lattice.z.stride * scale[0]
        layout = VolumeLayout(resolved.spec.dtype, section_levels(shape, thick, size, origin), fill_value=resolved.spec.fill)
        self.volume = Growing(url, STAGED, layout)

    @property
    def lattice(self) -> Lattice:
        """Lattice of the job; where the number of sections is open, its length along z is not used."""
        return self._resolved.spec.lattice

    def prepare(self, depth: int) -> None:
        """Create the volume for so many input sections, or find it as an earlier run left it."""
        self._deepen(depth)
        self.volume.grow()
        self.say()

    def say(self) -> None:
        """Write into the volume how much of it is there."""
        steps = {
            "sections": self.lattice.z.stride,
            "done": self.tally.done,
            "missing": self.tally.missing(self.tally.stop),
        }
        self.volume.describe({"version": __version__, "status": "unfinished", "steps": steps})

    def enhance(self, raw: RawVolume, steps: Steps, step: int) -> Record:
        """Enhance a step and store it, and write its record last.

        Parameters
        ----------
        raw : RawVolume
            The sections to enhance.
        steps : Steps
            How the sections are divided into steps.
        step : int
            The step, counted from 0.

        Returns
        -------
        Record
            The record; of a step that failed it holds the error.
        """
        started = time.time()
        if self.volume.depth < raw.depth * self.lattice.scale[0]:
            self._deepen(raw.depth)
            self.volume.grow()
        record = Record(region=step, state="done", numerics=self._begun.probe, finished=started)
        try:
            record = replace(record, **self._store(raw, steps, step))
        except (DataError, NumericsError) as error:  # storage that fails is not a section's own trouble, and ends the watch
            record = replace(record, state="failed", error=describe(error))
        record = replace(record, seconds=round(time.time() - started, 4), finished=time.time())
        self.tally.write(record)
        self.say()
        return record

    def _store(self, raw: RawVolume, steps: Steps, step: int) -> dict[str, Any]:
        levels, box = self.volume.layout.levels, steps.box(step)
        spec = spec_for(self._begun.decided, raw.depth, levels)
        targets = [self.volume.open(level) for level in range(len(levels))]
        shadow = box
        for number, (target, level) in enumerate(zip(targets, levels, strict=True)):
            shadow = shadow.coarsened(level.factor)
            delete_torn_shards(target, self.volume.layout, number, shadow)
        made = enhance_region(spec, Region(step, 0, box), BatchPredictor(self._resolved.engine), raw.source(), targets)
        return {
            "checksums": made.checksums,
            "patches": made.patches,
            "recomputed": made.recomputed,
            "skipped": made.skipped,
            "network_seconds": round(made.network_seconds, 4),
        }

    def _deepen(self, depth: int) -> None:
        self.volume = self.volume.deeper(depth * self.lattice.scale[0])

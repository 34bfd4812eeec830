"""The volumes that a job writes: its output, and where it is asked for the trust volume with all channels but the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from volumetool.geometry import total_factor
from volumetool.jobs.plan import Plan
from volumetool.processing.quantize import integer_limits
from volumetool.storage.create import open_for_writing
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.kvstore import join_url
from volumetool.storage.writing.layout import VolumeLayout


@dataclass(frozen=True)
class WrittenVolume:
    """A volume that a job writes.

    Attributes
    ----------
    url : str
        Its place: an absolute path or a URL.
    layout : VolumeLayout
        Levels, dtype and channels.
    """

    url: str
    layout: VolumeLayout

    def level(self, number: int) -> str:
        """Return the place of a level."""
        return join_url(self.url, WRITTEN[self.layout.format].path.format(number))

    def told(self, plan: Plan, status: str, **more: Any) -> dict[str, Any]:
        """Return what the volume says of its own making.

        A trust volume also says its channels, the noise, what it can hold, and ``block``: the voxels of the output, z, y, x, of
        which each of its voxels is the mean.

        Parameters
        ----------
        plan : Plan
            The plan of the job that writes it.
        status : str
            ``unfinished`` or ``complete``.
        more : JSON values
            Added as they are.
        """
        if self.url != plan.trust:
            return plan.provenance(status, **more)
        outputs, per_input = plan.spec.outputs[1:], plan.spec.count // plan.spec.per_input
        names = [channel.name if per_input == 1 else f"{channel.name} {n}" for n in range(per_input) for channel in outputs]
        # What is beyond these values is clipped to them.
        holds = (
            {"holds": [int(each) for each in integer_limits(self.layout.dtype)]}
            if np.dtype(self.layout.dtype).kind in "iu"
            else {}
        )
        means = {"unit": "grey values of the output", "block": list(total_factor(plan.spec.levels, plan.spec.trust_level))}
        return plan.provenance(status, **more, channels=names, noise=plan.noise, **holds, **means)


def volumes_of(plan: Plan) -> tuple[WrittenVolume, ...]:
    """Return the volumes that a job writes, its output first."""
    places = (plan.job_dir.place, *([] if plan.trust is None else [plan.trust]))
    return tuple(WrittenVolume(*each) for each in zip(places, plan.spec.layouts, strict=True))


def volume_of(plan: Plan, channel: int) -> tuple[WrittenVolume, int]:
    """Return the volume in which a channel is written, and the index on its c axis."""
    number, own = plan.spec.stored(channel)
    return volumes_of(plan)[number], own


def open_written(plan: Plan, level: int, channel: int, context: ts.Context | None = None) -> ts.TensorStore:
    """Open a level of a channel for reading and writing, with axes z, y, x.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    level, channel : int
        The level of its volume, counted from 0, and the channel, counted over all volumes of the job.
    context : tensorstore.Context, optional
        Thread pools and caches; by default those of `shared_context`.

    Raises
    ------
    VolumetoolError
        As `open_for_writing`.
    """
    volume, own = volume_of(plan, channel)
    return open_for_writing(volume.url, volume.layout, level, own, context)

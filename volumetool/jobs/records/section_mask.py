"""The mask of bad sections: a volume of one voxel per section in the job's folder, over the whole output when it is shown."""

from __future__ import annotations

import numpy as np

from volumetool.geometry import Box, LevelGrid
from volumetool.jobs.job_dir import SECTION_MASK
from volumetool.jobs.plan import Plan
from volumetool.processing.sections.quality import VERDICTS
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.io.kvstore import join_url


def write_section_mask(plan: Plan) -> None:
    """Write which sections of the output are made of bad ones, where the job says what stands in for them.

    The volume has the output's sections and channels of the input, and one voxel along y and x, as large as the output. Its
    values are 0 for sections that are ok, else the place of the verdict in `VERDICTS`.

    Parameters
    ----------
    plan : Plan
        The job.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    quality, finest, box = plan.first.statistics.quality, plan.spec.levels[0], plan.spec.box
    if plan.first.repair is None or quality is None:
        return
    table = np.zeros((len(quality.verdicts), box.shape[0]), np.uint8)  # (c, z)
    for z in range(box.shape[0]):
        sections = plan.in_input(Box((box.start[0] + z, 0, 0), (box.start[0] + z + 1, 1, 1)))
        for channel, verdicts in enumerate(quality.verdicts):
            table[channel, z] = max(VERDICTS.index(verdict) for verdict in verdicts[sections.start[0] : sections.stop[0]])
    (thick, *sides), (first, *corner) = finest.voxel_size, finest.translation
    height, width = (n * size for n, size in zip(box.shape[1:], sides, strict=True))
    y, x = (at + (n - 1) / 2 * size for at, n, size in zip(corner, box.shape[1:], sides, strict=True))
    shape = (box.shape[0], 1, 1)
    level = LevelGrid(shape, shape, shape, (thick, height, width), (first, y, x), (1, 1, 1), fused=True)
    layout = VolumeLayout("uint8", (level,), len(table) if len(table) > 1 else None)
    volume = create_volume(join_url(plan.job_dir.url, SECTION_MASK), layout, {"verdicts": list(VERDICTS)})
    for channel, values in enumerate(table):
        open_for_writing(volume.url, layout, 0, channel).write(values.reshape(shape)).result()

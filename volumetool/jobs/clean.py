"""Cleaning: leftovers of killed writers, and shards that are about to be written again."""

from __future__ import annotations

import tensorstore as ts

from volumetool.enhancement.kept import FOLDER
from volumetool.geometry import Box, LevelGrid
from volumetool.jobs.folder import job_url
from volumetool.jobs.ownership import OWNER, own
from volumetool.jobs.plan import Plan
from volumetool.jobs.shards import shard_keys
from volumetool.store.kvstore import canonical_url, delete_prefix, is_local, join_url, list_keys, local_path

LEFTOVER = ".__lock"
"""How tensorstore's file driver ends the names of files that it is still writing; a finished write renames them away."""


def clean_output(plan: Plan) -> list[str]:
    """Remove the kept patches of a job, and temporary files of its output and folder; return their places.

    Object stores hold no temporary files.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a run writes this job, and those may be its files.
    """
    folder = job_url(plan.job.output)
    with own(folder):
        removed = [join_url(folder, key) for key in list_keys(folder, FOLDER + "/")]
        delete_kept(plan)
        for url in (canonical_url(plan.job.output), folder):
            if is_local(url):
                own_lock = local_path(url) / f"{OWNER}{LEFTOVER}"
                for file in sorted(local_path(url).rglob(f"*{LEFTOVER}")):
                    if file != own_lock:
                        file.unlink()
                        removed.append(str(file))
    return removed


def delete_kept(plan: Plan) -> None:
    """Delete all patches that were kept for regions to come."""
    delete_prefix(join_url(job_url(plan.job.output), FOLDER))


def delete_shards(array: ts.TensorStore, level: LevelGrid, box: Box | None, channel: int | None) -> None:
    """Delete the shards of one level that share a voxel with a box.

    A shard that the volume's face cuts is read before it is written; a torn one could never be mended.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The level.
    level : LevelGrid
        Its grid.
    box : Box, optional
        In the level's voxels; without it every shard goes.
    channel : int, optional
        None where the volume has no channels.
    """
    store = array.kvstore
    assert store is not None  # noqa: S101  (zarr3 always has one)
    deletions = [store.write(key, None) for key in shard_keys(level, box, channel)]
    for deletion in deletions:
        deletion.result()

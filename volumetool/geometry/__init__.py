"""Pure integer geometry: boxes, the patch lattice, ramps, regions, levels.

Nothing in this package reads a voxel. Axes are z, y, x; positions and sizes are voxels, voxel sizes and translations are
nanometres.
"""

from __future__ import annotations

from volumetool.geometry.box import AskedBox, Box, Size, Triple, part_inside
from volumetool.geometry.lattice import AxisLattice, Lattice, PatchPlace, Placement, balanced, joined
from volumetool.geometry.levels import (
    LevelGrid,
    coarse_level,
    default_chunk,
    default_shard,
    fused_count,
    plan_levels,
    shard_boxes,
    slab_boxes,
    slabs_of,
    total_factor,
    without_shards,
)
from volumetool.geometry.mirror import mirror_index
from volumetool.geometry.ramps import ramp
from volumetool.geometry.regions import Region, RegionGrid
from volumetool.geometry.sharing import PatchSharing, RegionTask
from volumetool.geometry.transforms import downscaled_translation, moved, upscaled, whole_ratio

__all__ = [
    "AskedBox",
    "AxisLattice",
    "Box",
    "Lattice",
    "LevelGrid",
    "PatchPlace",
    "PatchSharing",
    "Placement",
    "Region",
    "RegionGrid",
    "RegionTask",
    "Size",
    "Triple",
    "balanced",
    "coarse_level",
    "default_chunk",
    "default_shard",
    "downscaled_translation",
    "fused_count",
    "joined",
    "mirror_index",
    "moved",
    "part_inside",
    "plan_levels",
    "ramp",
    "shard_boxes",
    "slab_boxes",
    "slabs_of",
    "total_factor",
    "upscaled",
    "whole_ratio",
    "without_shards",
]

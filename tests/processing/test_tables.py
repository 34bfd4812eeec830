"""Where a grey value alone decides what a voxel becomes, it is looked up; the bytes are those of the patches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorstore as ts
from harness import Case, Voxels, run

from volumetool.geometry import AxisLattice, Box, Lattice
from volumetool.processing.engine import Engine
from volumetool.processing.operation import open_operation, operation_name
from volumetool.processing.quantize import tabulate
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.storage.voxels import Source

SHAPE = (5, 19, 23)  # no multiple of anything: the last patches lie over the faces


def engine_of(operation: str) -> Engine:
    return Engine(open_operation(operation_name(operation, ())), Numerics("float32", 3, pad=False), "cpu")


def case_of(overlap: int = 0) -> Case:
    y, x = (AxisLattice(n, 6, overlap, 0, 1) for n in SHAPE[1:])
    lattice = Lattice(AxisLattice(SHAPE[0], 1, 0, 0, 1), y, x)
    return Case(lattice, 2, Box((1, 3, 2), SHAPE), (1, 4, 4), (2, 8, 8), (1, 1, 2), 3, (8.0, 2.0, 2.0))


def noise(dtype: str) -> Voxels:
    limits = np.iinfo(dtype)
    return np.random.default_rng(0).integers(limits.min, limits.max, SHAPE, dtype, endpoint=True)


def spec_of(case: Case, dtype: str, **more: object) -> OutputSpec:
    return case.spec(dtype, **{"spares": False, **more})


@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize(
    ("given", "made"), [("uint8", "uint8"), ("int8", "uint8"), ("uint16", "uint8"), ("int16", "int16"), ("uint8", "float32")]
)
@pytest.mark.parametrize("operation", ["rescale:window=-50,9000;to=250,-10", "threshold:value=9"])
def test_a_table_gives_the_bytes_that_patches_give(
    operation: str, given: str, made: str, nodata: int | None, overlap: int
) -> None:
    case, engine, voxels = case_of(overlap), engine_of(operation), noise(given)
    voxels[2, 4:9] = 7
    spec = spec_of(case, made, nodata=nodata, fill=0 if nodata is None else 3)
    assert tabulate(spec, 0, engine, voxels.dtype) is not None
    stored = Source(ts.array(voxels))
    looked_up = run(spec, case.grid(), engine, stored)
    by_patches = run(spec, case.grid(), engine, Source(stored.voxels, computed=lambda box: voxels[box.slices]))
    for one, other in zip(looked_up.levels, by_patches.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    counts = [(each.patches, each.recomputed, each.skipped, each.checksums) for each in (looked_up, by_patches)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("operation", "given", "more"),
    [
        ("median:radius=0,1,1", "uint8", {}),
        ("rescale:window=0,9", "float32", {}),
        ("rescale:window=0,9", "uint32", {}),
        ("rescale:window=0,9", "uint8", {"invert": True}),
        ("rescale:window=0,9", "uint8", {"mask": "another volume"}),
        ("rescale:window=0,9", "uint8", {"spares": True}),
    ],
)
def test_what_more_than_a_grey_value_decides_is_in_no_table(operation: str, given: str, more: dict[str, object]) -> None:
    assert tabulate(spec_of(case_of(), "uint8", **more), 0, engine_of(operation), np.dtype(given)) is None

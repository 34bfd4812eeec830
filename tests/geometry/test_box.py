"""Boxes: their algebra is that of sets of voxels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.configuration import FACE
from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple, part_inside

SMALL = st.tuples(*[st.integers(-5, 6)] * 3)
FACTORS = st.tuples(*[st.integers(1, 4)] * 3)
BOXES = st.builds(Box, SMALL, SMALL)


def voxels(box: Box) -> set[Triple]:
    return {(z, y, x) for z, y, x in product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True)))}


@given(BOXES)
def test_voxels_counts_them_and_none_where_a_side_is_negative(box: Box) -> None:
    assert box.voxels == len(voxels(box))
    assert min(box.shape) >= 0


@given(BOXES, BOXES)
def test_intersection_holds_the_common_voxels(a: Box, b: Box) -> None:
    assert voxels(a.intersection(b)) == voxels(a) & voxels(b)
    assert a.touches(b) == bool(voxels(a) & voxels(b))


@given(BOXES, BOXES)
def test_contains_means_every_voxel_of_the_other(a: Box, b: Box) -> None:
    if b.voxels:
        assert a.contains(b) == (voxels(b) <= voxels(a))


@given(BOXES, SMALL)
def test_shifting_there_and_back_is_nothing(box: Box, offset: Triple) -> None:
    back = (-offset[0], -offset[1], -offset[2])
    assert box.shifted(offset).shifted(back) == box
    assert voxels(box.shifted(offset)) == {(z + offset[0], y + offset[1], x + offset[2]) for z, y, x in voxels(box)}


@given(BOXES, FACTORS)
def test_coarsened_holds_exactly_the_coarse_voxels_that_are_touched(box: Box, factor: Triple) -> None:
    fz, fy, fx = factor
    assert voxels(box.coarsened(factor)) == {(z // fz, y // fy, x // fx) for z, y, x in voxels(box)}


@given(BOXES, FACTORS)
def test_coarsening_undoes_enlarging(box: Box, factor: Triple) -> None:
    if box.voxels:
        assert box.enlarged(factor).coarsened(factor) == box
    assert box.enlarged(factor).voxels == box.voxels * factor[0] * factor[1] * factor[2]


def test_slices_cut_the_box_out_of_an_array() -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    box = Box((1, 0, 2), (3, 4, 6))
    assert array[box.slices].shape == box.shape
    assert array[box.slices][0, 0, 0] == array[1, 0, 2]


def test_a_box_prints_as_it_is_typed() -> None:
    assert str(Box((0, 1, 2), (3, 4, 5))) == "0:3,1:4,2:5"


def test_a_box_prints_as_it_is_written() -> None:
    assert str(Box((0, 0, 7), (64, FACE, FACE))) == "0:64,0:,7:"


@given(
    st.tuples(*[st.integers(-2, 9)] * 3),
    st.tuples(*[st.sampled_from([0, 3, 9, FACE])] * 3),
    st.tuples(*[st.integers(1, 6)] * 3),
)
def test_the_part_of_a_box_inside_is_given_and_said_where_it_is_less(start: Triple, stop: Triple, shape: Triple) -> None:
    asked = Box(start, stop)
    inside = asked.intersection(Box.whole(shape))
    if min(start) < 0 or inside.voxels == 0:
        with pytest.raises(ConfigError, match=r"level 1 of in\.zarr") as caught:
            part_inside(asked, shape, "level 1 of in.zarr")
        assert caught.value.code == "config.roi"
        return
    part, note = part_inside(asked, shape, "level 1 of in.zarr")
    assert part == inside
    cut = any(n < end < FACE for n, end in zip(shape, stop, strict=True))
    assert (note is not None) == cut
    assert note is None or (str(asked) in note and str(inside) in note)

"""Volumes that other libraries write, drawn by number: what is read is exact, and what is not is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.storage import foreign_files, foreign_n5, foreign_zarr
from tests.storage.foreign_volumes import SIZE, Draw, Foreign
from volumetool.errors import InputError
from volumetool.storage.cast import Cast
from volumetool.storage.open import open_volume

WRITERS = (*foreign_zarr.WRITERS, *foreign_n5.WRITERS, *foreign_files.WRITERS)


@pytest.mark.thin(7)
@pytest.mark.parametrize("number", range(300))
def test_a_volume_by_other_software_is_read_exactly_or_refused_by_name(
    tmp_path: Path, number: int, record_property: Callable[[str, object], None]
) -> None:
    writer = WRITERS[number % len(WRITERS)]
    draw = Draw(number, writer.__name__)
    made = writer(draw, tmp_path / "volume")
    found = _found(made)
    record_property("found", f"{writer.__name__} {found}")  # a table: --junitxml FILE -o junit_family=xunit1
    assert found == made.expected, f"{number}: {made.label}"


def _found(made: Foreign) -> str:
    """Return ``"exact"``, or the code by which a volume is refused; voxels, size or position that are wrong fail."""
    refused, size = None, None
    try:
        volume = open_volume(made.place)
    except InputError as error:
        if error.code == "input.dtype" and made.castable:
            volume = open_volume(made.place, voxel_size=SIZE, cast=Cast("uint8", (0.0, 1.0)))
            np.testing.assert_array_equal(volume.open().read().result(), made.voxels, made.label)
        if error.code != "input.no-voxel-size":
            return error.code
        refused, size = str(error), SIZE
        volume = open_volume(made.place, voxel_size=size)
    assert (size is None) == (made.size is not None), f"{made.label}: {refused or volume.voxel_size}"
    assert made.told in (refused or ""), f"{made.label}: {refused}"
    assert volume.dtype == made.voxels.dtype.newbyteorder("="), made.label
    np.testing.assert_array_equal(volume.open().read().result(), made.voxels, made.label)
    assert volume.voxel_size == pytest.approx(SIZE), made.label
    assert volume.translation == pytest.approx(made.position), made.label
    return "exact"

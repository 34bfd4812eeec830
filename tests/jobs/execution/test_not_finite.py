"""No NaN, no infinity and no wrapped integer reaches the disk: the region fails by name, or float32 mends it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import SMALL, noise, read_levels, replicated, run, write_input
from torch import Tensor

from volumetool.processing.engine import Engine
from volumetool.testing import Fake

SHAPE = (10, 37, 45)
MARK = {"uint8": 200, "int8": 120, "uint16": 60000, "int16": 30000, "float32": 1000.5}
"""A value that the input has in one voxel alone."""

WHERE = {"core": (0, 8, 8), "halo": (0, 0, 8), "corner": (0, 0, 0)}
"""Input voxel of the patch whose output is bad: in its middle, in its overlap, where it has no weight."""

CASES = list(itertools.product(MARK, WHERE, [math.nan, math.inf], [(5, 20, 22), (0, 0, 0)]))
FAST = CASES[::7]
"""Every dtype, place and kind of bad value is among them; the rest is slow."""


class Bad:
    """Makes a bad value in every patch that holds the mark; in float32 too, unless told to mend."""

    def __init__(self, mark: float, where: tuple[int, int, int], bad: float) -> None:
        self.mark, self.where, self.bad = mark, where, bad
        self.mends = False
        self.made = 0

    def forward(self, x: Tensor) -> Tensor:
        y = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
        if self.mends and not torch.is_autocast_enabled("cpu"):
            return y
        for number in range(len(x)):
            if (x[number] == self.mark).any():
                _, row, column = self.where
                y[number, 0, 4 * row + 1, 4 * column + 2] = self.bad
                self.made += 1
        return y


def marked(folder: Path, dtype: str, place: tuple[int, int, int]) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    voxels = np.clip(noise(SHAPE, dtype), 1, 200) if dtype == "float32" else noise(SHAPE, dtype) % 100 + 1
    voxels = voxels.astype(dtype)
    voxels[place] = MARK[dtype]
    source = write_input(folder / "in.zarr", voxels)
    return SMALL | {"input": str(source), "output": str(folder / "out.zarr")}, voxels


def test_there_are_sixty_cases() -> None:
    assert len(CASES) == 60
    assert [len({case[axis] for case in FAST}) for axis in range(4)] == [5, 3, 2, 2]


@pytest.mark.parametrize(
    ("dtype", "where", "bad", "place"),
    [pytest.param(*case, marks=[] if case in FAST else [pytest.mark.slow]) for case in CASES],
)
def test_a_value_that_is_no_number_fails_its_region_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, where: str, bad: float, place: tuple[int, int, int]
) -> None:
    options, voxels = marked(tmp_path, dtype, place)
    network = Bad(MARK[dtype], WHERE[where], bad)
    monkeypatch.setattr(Fake, "forward", lambda _self, x: network.forward(x))
    outcome = run(**options)
    assert network.made
    assert (outcome.complete, outcome.exit_code) == (False, 3)
    assert 0 < outcome.failed < outcome.regions == outcome.done + outcome.failed
    assert {record.error["code"] for record in outcome.failures} == {"numerics.not-finite"}
    level, want = read_levels(options["output"])[0], replicated(voxels, (1, 4, 4))
    assert np.isfinite(level).all()
    failed = {record.region for record in outcome.failures}
    for index in range(outcome.regions):
        box = outcome.plan.grid.region(index).box.slices
        if index not in failed:
            np.testing.assert_array_equal(level[box], want[box])
        else:  # what was written before the bad value is right, the rest is nothing
            assert ((level[box] == want[box]) | (level[box] == 0)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_overflows_in_bfloat16_is_computed_again_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    """The bad patch alone: the job is complete, and its voxels are right."""
    options, voxels = marked(tmp_path, "uint8", (5, 20, 22))
    network = Bad(MARK["uint8"], WHERE["core"], bad)
    network.mends = True
    monkeypatch.setattr(Fake, "forward", lambda _self, x: network.forward(x))
    assert run(**options | {"precision": "bfloat16"}).complete
    assert network.made
    np.testing.assert_array_equal(read_levels(options["output"])[0], replicated(voxels, (1, 4, 4)))


@pytest.mark.parametrize(("dtype", "value"), [("uint8", 1e9), ("int8", -1e9), ("uint16", 3e38), ("int16", -3e38)])
def test_values_beyond_an_integers_range_become_its_limits(tmp_path: Path, dtype: str, value: float) -> None:
    source = write_input(tmp_path / "in.zarr", noise((4, 20, 20), dtype))
    model = f"fake:constant?value={value:.0f}&patch=1,16,16&overlap=0,4,4&trim=0,1,1"
    options = SMALL | {"input": str(source), "output": str(tmp_path / "out.zarr"), "model": model}
    assert run(**options).complete
    limits = np.iinfo(dtype)
    assert set(np.unique(read_levels(options["output"])[0])) == {limits.max if value > 0 else limits.min}


def test_what_overflows_on_the_way_back_to_intensities_fails_by_name(tmp_path: Path, tiny_model: Path) -> None:
    """Statistics that stretch a finite network value beyond float32: clipped, it would pass for white."""
    voxels = noise((4, 20, 20), "float32")
    source = write_input(tmp_path / "in.zarr", voxels)
    table = "channel,z,low,high\n" + "".join(f"0,{z},0.0,3e38\n" for z in range(4))
    (tmp_path / "sections.csv").write_text(table)
    options = {"input": str(source), "output": str(tmp_path / "out.zarr"), "model": str(tiny_model)}
    more = {"statistics": str(tmp_path / "sections.csv"), "device": "cpu", "memory": "4GiB", "precision": "float32"}
    network_is_large = 50.0
    with pytest.MonkeyPatch.context() as patch:
        compute = Engine._call
        patch.setattr(Engine, "_call", lambda self, part, *places: compute(self, part, *places) * 0 + network_is_large)
        outcome = run(**options | more)
    assert outcome.failed == outcome.regions
    assert {record.error["code"] for record in outcome.failures} == {"numerics.not-finite"}
    assert "between the network and the disk" in outcome.failures[0].error["message"]

"""Consistency is what its definition says, for any cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import torch
from harness import Case, cases, engine_of, flat_case, random_voxels, section_statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from volumetool.geometry import Region
from volumetool.models import load_model
from volumetool.processing.operations import network
from volumetool.processing.operations.network import NetworkOperation, NetworkOptions
from volumetool.processing.predictor import BatchPredictor
from volumetool.processing.region import RegionStats, enhance_region
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.storage.voxels import Source

Voxels = NDArray[Any]


def enhanced(case: Case, spec: OutputSpec, voxels: Voxels, behaviour: str) -> tuple[Voxels, list[tuple[Region, RegionStats]]]:
    """Run all regions of a case; return the output and what is known of each region."""
    targets = [ts.array(np.zeros(level.shape, spec.dtype)) for level in spec.fused]
    engine, source = engine_of(case.model(behaviour), case.batch), Source(ts.array(voxels))
    regions = [case.grid().region(index) for index in range(case.grid().count)]
    made = [(region, enhance_region(spec, region, BatchPredictor(engine), source, targets)) for region in regions]
    return np.asarray(targets[0].read().result()), made


def by_definition(case: Case, region: Region, output: Voxels, voxels: Voxels, valid: Voxels) -> float | None:
    """Return the root mean square over the voxels of the input that a region has as a whole: one at a time, in float64."""
    origin, scale = case.box.start, case.lattice.scale
    places = [
        range(-(-(low + at) // f), (high + at) // f)
        for low, high, at, f in zip(region.box.start, region.box.stop, origin, scale, strict=True)
    ]
    squares = []
    for z in places[0]:
        for y in places[1]:
            for x in places[2]:
                if valid[z, y, x]:
                    block = tuple(slice(n * f - a, (n + 1) * f - a) for n, f, a in zip((z, y, x), scale, origin, strict=True))
                    squares.append((float(output[block].astype(np.float64).mean()) - float(voxels[z, y, x])) ** 2)
    return math.sqrt(sum(squares) / len(squares)) if squares else None


@settings(max_examples=60)
@given(case=cases(), behaviour=st.sampled_from(["position", "box"]), seed=st.integers(0, 2**32 - 1))
def test_each_region_departs_from_its_input_by_what_the_definition_says(case: Case, behaviour: str, seed: int) -> None:
    """60 geometries: 2D, 2.5D and 3D, any scale and cut, cropped ones too."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype("uint8")).astype(np.float32)
    output, made = enhanced(case, case.spec("float32"), voxels, behaviour)
    for region, found in made:
        expected = by_definition(case, region, output, voxels, np.ones(voxels.shape, bool))
        assert found.consistency == (None if expected is None else pytest.approx(expected, rel=1e-4, abs=1e-3))


def test_it_is_said_in_data_windows_of_each_section_and_voxels_without_data_do_not_count() -> None:
    case = flat_case((5, 13, 17))
    voxels = np.clip(random_voxels(3, case.lattice.shape, np.dtype("uint16")), 1, None).astype(np.float32)
    voxels[:, 2:6, 3:9] = 0
    voxels[4] = 0
    statistics = section_statistics(3, 5, np.dtype("uint16"))
    spec = case.spec("float32", statistics, nodata=0, fill=0)
    output, made = enhanced(case, spec, voxels, "box")
    low, high = (values[0][:, None, None] for values in (statistics.low, statistics.high))
    as_seen, given_ = (output - low) / (high - low), (voxels - low) / (high - low)
    for region, found in made:
        expected = by_definition(case, region, as_seen, given_, voxels != 0)
        assert found.consistency == (None if expected is None else pytest.approx(expected, rel=1e-3, abs=1e-5))
    assert {found.consistency is None for _, found in made} == {True, False}


def test_what_only_repeats_its_input_departs_by_nothing() -> None:
    case = flat_case((3, 13, 17))
    _, made = enhanced(case, case.spec("uint8"), random_voxels(1, case.lattice.shape, np.dtype("uint8")), "identity")
    assert {found.consistency for _, found in made} == {0.0}


def test_residuals_reach_the_output_of_a_device_whose_arrays_are_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of Apple and Intel, around whose networks arrays are in the memory of the host."""
    operation = NetworkOperation(load_model("em-x2"), NetworkOptions(consistency=True))
    patches = random_voxels(1, (2, 1 + 2 * operation.card.z_context, 32, 32), np.dtype("uint8")).astype(np.float32) / 255
    numerics = Numerics(batch=2, precision="float32", pad=False)
    function = operation.open(torch.device("cpu"), numerics)
    expected = function(patches)[:, 1].copy()
    assert expected.any()
    monkeypatch.setattr(network, "as_array", lambda tensor: tensor.numpy().copy())
    np.testing.assert_array_equal(function(patches)[:, 1], expected)

"""What the cut costs with the built-in network: nothing with exact margins, less than a tenth of a grey level without."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from harness import Case, Voxels, engine_of, run
from numpy.typing import NDArray
from reference import mirrored

from volumetool.geometry import AxisLattice, Box, Lattice, balanced
from volumetool.models import Model, UNet, load_model
from volumetool.processing.statistics import Statistics
from volumetool.training.data.phantom import phantom

SECTIONS = (2, 171, 230)  # odd in plane, and no multiple of anything: mirrored at all faces, with seams both ways
STRIDE = 104


@pytest.fixture(scope="module")
def model() -> Model:
    """Give the built-in model."""
    return load_model("em-x4")


@pytest.fixture(scope="module")
def awake(model: Model) -> Model:
    """Give the built-in architecture with random weights, of which every level matters: nothing may hide in a trained one."""
    torch.manual_seed(5)
    network = UNet(model.card.architecture)
    torch.nn.init.kaiming_normal_(network.get_parameter("head.weight"))
    return Model(model.card, "random", network.state_dict())


def _coarse(voxels: Voxels) -> Voxels:
    """Return the mean over 4 x 4 pixels: what a microscope with coarse pixels sees."""
    depth, height, width = voxels.shape
    means: Voxels = np.rint(voxels.reshape(depth, height // 4, 4, width // 4, 4).mean((2, 4))).astype(np.uint8)
    return means


@pytest.fixture(scope="module", params=["phantom", pytest.param("brain", marks=pytest.mark.slow)])
def sections(request: pytest.FixtureRequest) -> Voxels:
    """Give made-up tissue, and real sections (mouse brain, serial block-face SEM) where they are at hand."""
    if request.param == "phantom":
        return phantom(SECTIONS, seed=3)
    file = request.getfixturevalue("data") / "cdeep3m-sbem" / "cdeep3m_sbem_z020-037.tif"
    depth, height, width = SECTIONS
    return _coarse(tifffile.imread(file)[:depth])[:, :height, :width]


def _statistics(sections: Voxels) -> Statistics:
    low, high = (np.quantile(sections, q, axis=(1, 2), method="inverted_cdf")[None].astype(float) for q in (0.01, 0.99))
    return Statistics(low, high)


def _case(model: Model, shape: tuple[int, ...], overlap: tuple[int, int], trim: tuple[int, int]) -> Case:
    """Return a job under the given overlap and trim in plane, with strides so short that a small section has several."""
    card = model.card
    lines = [
        balanced(AxisLattice(n, STRIDE, o, t, f, g))
        for n, o, t, g, f in zip(shape[1:], overlap, trim, card.granularity[1:], card.scale[1:], strict=True)
    ]
    lattice = Lattice(AxisLattice(shape[0], 1, 0, 0, 1), lines[0], lines[1], card.z_context)
    return Case(lattice, 2, Box.whole(lattice.output_shape), (1, 64, 64), (1, 256, 256), (1, 2, 2), 4, (30.0, 8.0, 8.0))


def _margins(model: Model) -> tuple[int, int]:
    """Return the receptive field in plane, rounded up to whole granules."""
    y, x = (-(-r // g) * g for r, g in zip(model.card.receptive_field[1:], model.card.granularity[1:], strict=True))
    return y, x


def _whole(model: Model, sections: Voxels) -> NDArray[np.float32]:
    """Run the network once over each whole section, mirrored by the receptive field; grey levels, not rounded."""
    statistics, margins = _statistics(sections), _margins(model)
    grain, scale = model.card.granularity[1:], model.card.scale[1:]
    rows, columns = (
        [mirrored(p, n) for p in range(-m, -(-n // g) * g + m)]
        for n, m, g in zip(sections.shape[1:], margins, grain, strict=True)
    )
    # The memory format is part of the numerics: another one rounds otherwise in the last bit.
    network = model.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    results = []
    low, span = (table[0].astype(np.float32) for table in (statistics.low, statistics.high - statistics.low))
    reach = model.card.z_context
    for z in range(len(sections)):
        near = [mirrored(neighbour, len(sections)) for neighbour in range(z - reach, z + reach + 1)]
        slab = [(sections[k][np.ix_(rows, columns)].astype(np.float32) - low[k]) / span[k] for k in near]
        with torch.inference_mode():
            y = network(torch.from_numpy(np.stack(slab))[None])[0, 0].numpy()
        cut = tuple(slice(m * f, (m + n) * f) for m, n, f in zip(margins, sections.shape[1:], scale, strict=True))
        results.append(y[cut] * span[z] + low[z])
    return np.stack(results)


def _enhanced(model: Model, case: Case, sections: Voxels) -> NDArray[np.float32]:
    pad = engine_of(model, case.batch).batch_matters(case.lattice.patch)  # as the planner decides it
    engine = engine_of(model, case.batch, pad=pad)
    result: NDArray[np.float32] = run(case.spec("float32", _statistics(sections)), case.grid(), engine, sections).levels[0]
    return result


@pytest.mark.parametrize("which", ["model", "awake"])
def test_exact_margins_equal_the_whole_section_bit_for_bit(
    which: str, sections: Voxels, request: pytest.FixtureRequest
) -> None:
    """With the receptive field trimmed from every patch, faces included, no voxel differs from one pass over the section."""
    model = request.getfixturevalue(which)
    y, x = _margins(model)
    case = _case(model, sections.shape, (2 * y, 2 * x), (y, x))
    assert case.lattice.count >= 4 * len(sections)
    np.testing.assert_array_equal(_enhanced(model, case, sections), _whole(model, sections), strict=True)


def test_smaller_margins_than_the_receptive_field_are_seen(awake: Model) -> None:
    """The equality can fail: of a network that uses its whole receptive field, half of it is not enough."""
    sections = phantom(SECTIONS, seed=4)
    y, x = (m // 2 for m in _margins(awake))
    case = _case(awake, sections.shape, (2 * y, 2 * x), (y, x))
    assert (_enhanced(awake, case, sections) != _whole(awake, sections)).mean() > 0.01


def test_the_cards_own_margins_stay_within_a_tenth_of_a_grey_level(model: Model, sections: Voxels) -> None:
    """With the card's overlap and trim every voxel lies within 0.1 of 255 grey levels of one pass, before rounding."""
    card = model.card
    case = _case(model, sections.shape, card.overlap[1:], card.trim[1:])
    assert case.lattice.count >= 4 * len(sections)
    assert np.abs(_enhanced(model, case, sections) - _whole(model, sections)).max() <= 0.1


def test_a_cut_without_margins_would_be_seen(model: Model) -> None:
    """The measure can fail: patches that share nothing miss by more than a grey level."""
    sections = phantom(SECTIONS, seed=4)
    case = _case(model, sections.shape, (0, 0), (0, 0))
    assert np.abs(_enhanced(model, case, sections) - _whole(model, sections)).max() > 1

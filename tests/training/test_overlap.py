"""The cut is measured truly: exact where it must be, and growing as the overlap shrinks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from volumetool.models import Normalisation, UNet, UNetConfig
from volumetool.testing.fakes import load_fake
from volumetool.training.data.phantom import phantom
from volumetool.training.overlap import Cut, least_cut, measure_cuts
from volumetool.training.restore import restore_volume


@pytest.fixture(scope="module")
def section() -> NDArray[np.uint8]:
    return phantom((1, 70, 90), seed=5)[0]


def by_trim(cuts: Iterable[Cut]) -> dict[tuple[int, int], float]:
    return {(cut.overlap, cut.trim): cut.largest for cut in cuts}


def test_patches_of_a_local_network_join_exactly(section: NDArray[np.uint8]) -> None:
    cuts = measure_cuts(load_fake("fake:identity").network(), Normalisation(kind="none"), [section[None]], (0, 4, 8), stride=16)
    assert {cut.largest for cut in cuts} == {0.0}


def test_a_trim_of_the_receptive_field_is_exact_and_less_is_not(
    section: NDArray[np.uint8],
) -> None:
    network = load_fake("fake:box?radius=4").network()
    largest = by_trim(measure_cuts(network, Normalisation(kind="none"), [section[None]], (8,), stride=16))
    assert largest[8, 4] == 0
    assert largest[8, 0] > largest[8, 2] > 1


def test_a_u_net_joins_exactly_once_the_trim_covers_its_reach(
    section: NDArray[np.uint8],
) -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=4, pools=((1, 2, 2),))).eval().requires_grad_(requires_grad=False)
    largest = by_trim(measure_cuts(network, Normalisation(), [section[None]], (24,), stride=24))
    assert largest[24, 12] < 1e-3  # kernels for other tile sizes may round differently
    assert largest[24, 0] > 10 * largest[24, 12]


def test_a_patch_that_sees_its_place_is_betrayed(section: NDArray[np.uint8]) -> None:
    network = load_fake("fake:position").network()
    cuts = measure_cuts(network, Normalisation(kind="none"), [section[None]], (4,), stride=16)
    assert min(cut.largest for cut in cuts) > 5


def test_the_whole_section_is_restored_at_its_own_place(
    section: NDArray[np.uint8],
) -> None:
    whole = restore_volume(load_fake("fake:identity").network(), section[None], Normalisation())[0]
    assert np.abs(whole - section.repeat(4, 0).repeat(4, 1)).max() < 1e-3


def test_the_least_sufficient_overlap_is_chosen() -> None:
    cuts = [Cut(8, 2, 0.2, 0), Cut(12, 4, 0.09, 0), Cut(12, 2, 0.05, 0), Cut(12, 6, 0.0, 0), Cut(16, 4, 0.0, 0)]
    assert least_cut(cuts) == Cut(12, 2, 0.05, 0)  # 12/6 has no ramp left
    with pytest.raises(ValueError, match="no overlap up to 16"):
        least_cut(cuts, limit=0.0)

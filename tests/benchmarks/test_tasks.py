"""Task scores know the truth from its ruins, and do not care for what they should not care for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from tasks import (
    Vesicles,
    compare_partitions,
    components,
    neighbour_correlation,
    place_vesicles,
    segment_cells,
    share_of_loss,
    vesicle_recall,
)

from volumetool.errors import InputError
from volumetool.training.data.phantom import Phantom, draw_phantom


@pytest.fixture(scope="module")
def scene() -> Phantom:
    return draw_phantom((12, 200, 200), seed=5, room=10)


def test_equal_partitions_differ_by_nothing_whatever_their_numbers() -> None:
    truth = np.arange(64, dtype=np.int32).reshape(8, 8) // 16 + 1
    found = compare_partitions(7 * truth[::1] + 3, truth)
    assert found.rand_error == pytest.approx(0)
    assert found.variation == pytest.approx(0)


def test_splits_and_mergers_are_told_apart() -> None:
    whole, halves = np.ones((8, 8), np.int32), np.repeat(np.array([[1, 2]], np.int32), 4, axis=1).repeat(8, axis=0)
    split, merged = compare_partitions(halves, whole), compare_partitions(whole, halves)
    assert (split.split, split.merged) == (pytest.approx(1), pytest.approx(0))  # one bit: which half
    assert (merged.split, merged.merged) == (pytest.approx(0), pytest.approx(1))
    assert split.rand_error > 0


def test_partitions_of_other_fields_are_refused() -> None:
    with pytest.raises(InputError, match="same field"):
        compare_partitions(np.ones((4, 4), np.int32), np.ones((4, 5), np.int32))


def test_the_watershed_finds_cells_and_blur_spoils_it(scene: Phantom) -> None:
    section, truth = scene.grey[6], components(scene.labels[6])
    sharp = compare_partitions(segment_cells(section, 8.0), truth)
    blurred = compare_partitions(segment_cells(ndimage.gaussian_filter(section.astype(np.float32), 6), 8.0), truth)
    assert sharp.rand_error < 0.6
    assert sharp.variation < blurred.variation
    assert sharp.rand_error < blurred.rand_error


def test_contrast_changes_no_segmentation(scene: Phantom) -> None:
    section = scene.grey[6].astype(np.float32)
    assert np.array_equal(segment_cells(section, 8.0), segment_cells(section / 4 + 32, 8.0))


def test_pieces_of_one_neurite_that_do_not_touch_are_numbered_apart() -> None:
    labels = np.array([[5, 0, 5], [5, 0, 5]])
    assert len(np.unique(components(labels))) == 3


def _dots(places: list[tuple[int, int]], tone: float = 60.0) -> np.ndarray:
    section = np.full((120, 120), 170.0, np.float32)
    section[:, :4] = 30  # a membrane: the darkest percent
    for y, x in places:
        section[y - 2 : y + 3, x - 2 : x + 3] = tone
    return ndimage.gaussian_filter(section, 1.0)


def test_vesicles_are_found_and_missed() -> None:
    places = [(20, 20), (20, 60), (60, 90), (90, 40)]
    centres = np.array([(3.4, y, x) for y, x in places], np.float32)
    vesicles = Vesicles(centres, (3,), np.ones((1, 120, 120), bool))
    recall = [vesicle_recall(_dots(places[:count])[None], vesicles, 8.0, false_alarms=0) for count in (4, 3, 0)]
    assert recall == [1, 0.75, 0]


def test_false_alarms_cost_vesicles_and_spots_outside_do_not() -> None:
    real, false = (20, 20), (80, 80)
    section = np.minimum(_dots([real], tone=110), _dots([false], tone=40))[None]
    centre, everywhere = np.array([(0, *real)], np.float32), np.ones((1, 120, 120), bool)
    elsewhere = everywhere.copy()
    elsewhere[0, 70:, 70:] = False
    assert vesicle_recall(section, Vesicles(centre, (0,), everywhere), 8.0, false_alarms=0) == 0
    assert vesicle_recall(section, Vesicles(centre, (0,), everywhere), 8.0, false_alarms=2) == 1  # 0.92 square micrometres
    assert vesicle_recall(section, Vesicles(centre, (0,), elsewhere), 8.0, false_alarms=0) == 1


def test_a_vesicle_cut_off_centre_is_neither_found_nor_false() -> None:
    centres = np.array([(0, 20, 20), (2.5, 80, 80)], np.float32)
    section = np.minimum(_dots([(20, 20)], tone=110), _dots([(80, 80)], tone=40))[None]
    assert vesicle_recall(section, Vesicles(centres, (0,), np.ones((1, 120, 120), bool)), 8.0, false_alarms=0) == 1


def test_no_vesicle_no_score() -> None:
    with pytest.raises(InputError, match="no section shows a vesicle"):
        vesicle_recall(np.ones((1, 64, 64)), Vesicles(np.zeros((0, 3), np.float32), (0,), np.ones((1, 64, 64), bool)), 8.0)


def test_the_truth_shows_more_vesicles_than_its_blur(scene: Phantom) -> None:
    depths = range(1, 11, 3)
    vesicles = place_vesicles(scene.vesicles, scene.labels, depths, 8.0)
    sections = scene.grey[list(depths)]
    blurred = ndimage.gaussian_filter(sections.astype(np.float32), (0, 4, 4))
    assert vesicle_recall(sections, vesicles, 8.0) > vesicle_recall(blurred, vesicles, 8.0)


def test_neighbours_correlate_as_far_as_they_are_alike(scene: Phantom) -> None:
    noise = np.random.default_rng(0).normal(0, 20, scene.grey.shape)
    assert neighbour_correlation(np.repeat(scene.grey[:1], 3, axis=0)) == pytest.approx(1)
    assert neighbour_correlation(scene.grey) > neighbour_correlation(scene.grey + noise) > 0
    assert neighbour_correlation(2.5 * scene.grey - 7) == pytest.approx(neighbour_correlation(scene.grey))


@given(st.floats(-5, 5), st.floats(-5, 5).filter(lambda loss: abs(loss) > 1e-3), st.floats(-3, 3))
def test_share_of_loss_is_a_share(truth: float, loss: float, share: float) -> None:
    found = share_of_loss(truth + share * loss, truth + loss, truth)
    assert found == pytest.approx(abs(share), abs=1e-6)


def test_share_of_no_loss_is_no_number() -> None:
    assert math.isnan(share_of_loss(0.5, 0.7, 0.7))

"""The gate: a volume that looks unlike what its model was trained on is warned of, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from volumetool.degradation import load_recipe
from volumetool.errors import ModelError
from volumetool.geometry import Box
from volumetool.jobs.choices import Familiarity
from volumetool.jobs.clusters import plan
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.choice import check_gate, judge
from volumetool.jobs.planning.report import describe_plan
from volumetool.models import list_models, load_model
from volumetool.processing.survey import FIGURES, Survey, describe_piece
from volumetool.training.data.phantom import phantom

Grey = NDArray[np.uint8]


@pytest.fixture(scope="module")
def fine() -> Grey:
    return phantom((3, 512, 512), 1)


def coarse(fine: Grey, recipe: str) -> Grey:
    image = load_recipe(recipe).apply(fine.astype(np.float32) / 255, scale=(1, 4, 4), seed=1)
    return np.rint(image * 255).clip(0, 255).astype(np.uint8)


def gate(image: Grey, *, invert: bool = False) -> Familiarity:
    survey = Survey(Box.whole(image.shape), len(image))
    survey.add(0, Box.whole(image.shape), image)
    found = judge(load_model("em-x4").card, survey, invert=invert)
    assert found is not None
    return found


@pytest.mark.parametrize("recipe", ["sem-fast", "pssr-em", "pssr2-poisson"])
def test_what_a_fast_microscope_sees_is_in(fine: Grey, recipe: str) -> None:
    image = coarse(fine, recipe)
    assert gate(image).verdict == gate(255 - image, invert=True).verdict == "in"


def test_other_polarity_sharp_saturated_and_segmented_images_are_out(fine: Grey) -> None:
    image = coarse(fine, "sem-fast").astype(np.int32)
    low, high = np.percentile(image, (25, 75))
    images = {
        "bright membranes": 255 - image,
        "noise": fine,
        "repeats": ((image - low) * 255 / (high - low)).clip(0, 255),
        "middle detail": (fine > np.median(fine)) * 255,
    }
    for reason, wrong in images.items():
        found = gate(wrong.astype(np.uint8))
        assert found.verdict == "out", reason
        assert any(told.startswith(reason) for told in found.reasons), (reason, found.reasons)


@given(factor=st.floats(0.5, 200), offset=st.floats(-1e4, 1e4), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_figures_do_not_change_with_brightness_and_contrast(factor: float, offset: float, seed: int) -> None:
    piece = np.random.default_rng(seed).normal(size=(40, 64)).cumsum(axis=1)
    one, other = describe_piece(piece), describe_piece(piece * factor + offset)
    assert one is not None
    assert other is not None
    assert all(one[name] == pytest.approx(other[name], abs=0.01) for name in FIGURES)


def test_pieces_of_one_value_say_nothing() -> None:
    survey = Survey(Box.whole((1, 256, 256)), 1)
    survey.add(0, Box.whole((1, 256, 256)), np.full((1, 256, 256), 7, np.uint8))
    assert survey.figures == {}
    assert judge(load_model("em-x4").card, survey) is None


def test_built_in_models_say_what_they_have_seen() -> None:
    for card in list_models():
        assert list(card.seen) == list(FIGURES), card.name
        assert all(list(ranges) == sorted(ranges) for ranges in card.seen.values()), card.name


def test_a_volume_that_is_out_is_warned_of_refused_or_let_be(tmp_path: Path, fine: Grey) -> None:
    tifffile.imwrite(tmp_path / "sharp.tif", fine, photometric="minisblack")
    job = make_job(
        input=str(tmp_path / "sharp.tif"), output=str(tmp_path / "out.zarr"), model="em-x4", voxel_size=(32, 32, 32), workers=1
    )
    warned = plan(job)
    assert warned.gate is not None
    assert any("unlike what em-x4 was trained on" in note for note in warned.notes)
    assert dict(describe_plan(warned))["gate"].startswith("unlike")
    assert warned.provenance("complete")["gate"]["verdict"] == "out"
    assert check_gate("off", load_model("em-x4").card, warned.gate) == ()
    with pytest.raises(ModelError, match="noise -") as refused:
        check_gate("strict", load_model("em-x4").card, warned.gate)
    assert refused.value.code == "model.unfamiliar"

"""What a plan finds in its input, and says before the job starts; which model follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import SMALL, Size, empty_input, noise, run, tree, write_input

from volumetool.degradation import RECIPES
from volumetool.errors import ConfigError, VolumetoolError
from volumetool.geometry import Box
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.calibrate import Sample
from volumetool.jobs.planning.checks import check_survey
from volumetool.jobs.planning.choice import rank_models
from volumetool.jobs.planning.inputs import open_inputs
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.report import describe_plan
from volumetool.jobs.planning.resolve import resolve
from volumetool.models import UNetConfig, load_model
from volumetool.processing.survey import Evidence, Survey
from volumetool.training.data.phantom import phantom


def test_auto_takes_the_model_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=0.1, compression=0.8))
    source = write_input(tmp_path / "in.zarr", noise((1, 24, 24)), chunk=(1, 24, 24))
    decided = plan(make_job(input=str(source), output=str(tmp_path / "o"), device="cpu", memory="4GiB", batch=1))
    assert decided.model == "em-x4"


def test_nan_is_named_before_the_job_starts(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    voxels = noise((10, 37, 45), "float32")
    voxels[6, 20, 31] = np.nan
    write_input(tmp_path / "nan.zarr", voxels)
    asked = options | {"input": str(tmp_path / "nan.zarr"), "model": str(tiny_model)}
    before = tree(tmp_path)
    with pytest.raises(VolumetoolError, match="z 6, y 20, x 31") as caught:
        run(**asked)
    assert (caught.value.code, "--nodata nan" in caught.value.hint) == ("data.not-finite", True)
    assert tree(tmp_path) == before
    assert plan(make_job(**asked | {"roi": "0:4,:,:", "crop": True})).notes == ()  # none is there
    assert plan(make_job(**asked | {"nodata": float("nan")})).notes == ()
    (note,) = plan(make_job(**asked | {"accept_failed": True})).notes
    assert "z 6, y 20, x 31" in note


def test_nan_in_the_chunk_that_is_tried_is_named_too(options: dict[str, Any], tmp_path: Path) -> None:
    """Where no statistics are fitted, the plan reads a chunk in the middle all the same."""
    voxels = noise((10, 37, 45), "float32")
    voxels[5] = np.nan
    write_input(tmp_path / "nan.zarr", voxels)
    asked = options | {"input": str(tmp_path / "nan.zarr")}
    with pytest.raises(VolumetoolError, match="at voxel z 5, y ") as caught:
        plan(make_job(**asked))
    assert caught.value.code == "data.not-finite"
    plan(make_job(**asked | {"accept_failed": True}))


@pytest.mark.parametrize(("scale", "said"), [("1,1,1", True), ("1,2,2", False)])
def test_a_denoiser_that_changes_nothing_is_said(options: dict[str, Any], scale: str, *, said: bool) -> None:
    decided = plan(make_job(**options | {"model": f"{SMALL['model']}&scale={scale}"}))
    assert ["changes almost nothing" in note for note in decided.notes] == [True] * said


def test_many_exact_zeros_suggest_that_they_are_no_data(options: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    voxels = noise((10, 37, 45))
    voxels[:, :3] = 0  # 8 %
    write_input(tmp_path / "margin.zarr", voxels)
    asked = options | {"input": str(tmp_path / "margin.zarr"), "model": str(tiny_model)}
    (note,) = plan(make_job(**asked)).notes
    assert "8 %" in note.replace("8%", "8 %")
    assert "--nodata 0" in note
    assert plan(make_job(**asked | {"nodata": 0})).notes == ()
    assert plan(make_job(**options | {"model": str(tiny_model)})).notes == ()


@pytest.mark.parametrize(("bright", "invert"), [(False, False), (True, False), (False, True), (True, True)])
def test_bright_membranes_suggest_to_invert(*, bright: bool, invert: bool) -> None:
    survey = Survey(Box.whole((1, 1, 1)), 1, lines=[-0.1, -0.12, -0.09, -0.11] * 4 if bright else [0.1, 0.12, 0.09, 0.11] * 4)
    job = make_job(input="i", output="o", invert=invert or None)
    notes = check_survey(job, load_model("em-x4").card, survey)
    if bright == invert:
        assert notes == ()
        return
    (note,) = notes
    assert ("try --invert" if bright else "leave --invert away") in note
    assert "almost certainly" in note
    assert "100% of 16" in note


@pytest.mark.parametrize(
    ("size", "shape", "model"),
    [
        ((50.0, 8.0, 8.0), (1, 24, 24), "em-x2"),  # one section: others would be invented
        ((50.0, 4.0, 4.0), (6, 24, 24), "em-denoise"),  # serial sections: em-z4 makes four times as many voxels
        ((8.0, 8.0, 8.0), (6, 24, 24), "em-x2"),
        ((40.0, 32.0, 32.0), (6, 24, 24), "em-x4"),
    ],
)
def test_auto_never_adds_sections(tmp_path: Path, size: Size, shape: tuple[int, int, int], model: str) -> None:
    source = empty_input(tmp_path / "in.zarr", shape, size)
    chosen = open_inputs(make_job(input=source, output=str(tmp_path / "o"))).operation.card
    assert (chosen.name, chosen.scale[0]) == (model, 1)


def cards_with(monkeypatch: pytest.MonkeyPatch, **architectures: dict[str, Any]) -> None:
    """Let there be models like em-x4 by the names given, of these architectures, and em-x2."""
    like = load_model("em-x4").card
    made = []
    for name, options in architectures.items():
        architecture = UNetConfig(**options)
        made.append(like.model_copy(update={"name": name, "z_context": architecture.z_context, "architecture": architecture}))
    made.append(load_model("em-x2").card)
    monkeypatch.setattr("volumetool.jobs.planning.choice.fitting_models", lambda _: tuple(made))


def ranked(neighbours: float | None) -> list[str]:
    evidence = Evidence(noise=0.5, sharpness=0.4, neighbours=neighbours)
    return [card.name for card in rank_models((8.0, 32.0, 32.0), evidence)]


def test_sections_that_are_alike_ask_for_a_model_that_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    cards_with(monkeypatch, plain={}, context={"z_context": 2})
    assert ranked(0.8) == ["context", "plain", "em-x2"]
    assert ranked(0.79) == ["plain", "context", "em-x2"]
    assert ranked(None) == ["plain", "context", "em-x2"]
    assert [card.name for card in rank_models((8.0, 32.0, 32.0), None)] == ["plain", "context", "em-x2"]


@pytest.mark.parametrize("neighbours", [None, 0.3, 0.9])
def test_a_model_that_leaves_out_what_differs_suits_all_sections(
    neighbours: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = {"z_context": 4, "gate": True}
    cards_with(monkeypatch, plain={}, context={"z_context": 2}, large=gate | {"width": 64}, gated=gate | {"width": 32})
    rest = ["context", "plain"] if neighbours == 0.9 else ["plain", "context"]
    assert ranked(neighbours) == ["gated", "large", *rest, "em-x2"]


def test_the_plan_says_what_was_measured_and_what_would_be_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.jobs.planning.planner.take_sample", lambda *_: Sample(patch_seconds=0.1, compression=0.8))
    fine = phantom((20, 512, 512), seed=2).astype(np.float32) / 255
    coarse = RECIPES["pssr2-poisson"].apply(fine, scale=(1, 4, 4), seed=1)
    source = str(write_input(tmp_path / "in.zarr", np.rint(coarse * 255).astype(np.uint8), chunk=(20, 64, 64)))
    asked = {"input": source, "output": str(tmp_path / "o"), "device": "cpu", "memory": "4GiB", "batch": 1}
    thin = plan(make_job(**asked, voxel_size=(8.0, 32.0, 32.0)))
    assert thin.choice is not None
    assert thin.choice.evidence is not None
    assert (thin.model, thin.choice.next_best, thin.spec.lattice.context) == ("em-x4", "em-x4-large", 4)
    lines = dict(describe_plan(thin))
    assert "sections 8 nm apart correlate by" in lines["measured"]
    assert lines["next best"] == "em-x4-large"
    assert Plan.model_validate_json(thin.model_dump_json()).choice == thin.choice
    assert plan(make_job(**asked, voxel_size=(8.0, 32.0, 32.0), roi="0:2,:,:")).choice == thin.choice
    named = plan(make_job(**asked, voxel_size=(8.0, 32.0, 32.0), model="em-x4"))
    assert named.choice is None
    assert "measured" not in dict(describe_plan(named))


def test_where_only_models_that_add_sections_fit_auto_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volumetool.jobs.planning.choice.fitting_models", lambda _: (load_model("em-z4").card,))
    source = empty_input(tmp_path / "in.zarr", (6, 24, 24), (32.0, 8.0, 8.0))
    with pytest.raises(VolumetoolError, match="em-z4") as caught:
        open_inputs(make_job(input=source, output=str(tmp_path / "o")))
    assert caught.value.code == "model.none-fits"


def test_auto_goes_on_with_the_model_that_a_job_began_with(options: dict[str, Any]) -> None:
    first = run(**options | {"roi": "0:2,:,:"}).plan
    begun = first.model_copy(update={"job": first.job.model_copy(update={"model": "auto"})})
    assert open_inputs(make_job(**options | {"model": "auto"}), begun).operation.identity == first.spec.model


def test_what_a_job_computes_is_decided_without_an_output_and_a_plan_wants_one(options: dict[str, Any], tmp_path: Path) -> None:
    """A live view, a watch and a preview ask for the former; it writes nothing, and is what the plan holds."""
    named = plan(make_job(**options)).spec
    del options["output"]
    before = sorted(tmp_path.rglob("*"))
    assert resolve(make_job(**options)).spec == named
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ConfigError, match="output is needed"):
        plan(make_job(**options))

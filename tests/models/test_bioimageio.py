"""Packages of the BioImage Model Zoo: what they declare is done as they declare it, and what is not done is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as made
import numpy as np
import pytest
import torch
import zoo_packages as zoo
from torch import nn

from volumetool.errors import ModelError
from volumetool.models.card import Normalisation
from volumetool.models.foreign.bioimageio import BioImageProgram
from volumetool.models.foreign.measure import measure
from volumetool.models.foreign.program import open_program

CPU = torch.device("cpu")
FILES = {"in.npy": zoo.npy(np.zeros((1, 1, 16, 16), np.float32)), "out.npy": zoo.npy(np.zeros((1, 1, 16, 16), np.float32))}


def unet(dims: int = 2) -> nn.Module:
    torch.manual_seed(dims)
    pool, convolution = made.POOLS[dims][0](2), made.conv(dims)
    inside = nn.Sequential(pool, convolution, nn.ReLU(), nn.Upsample(scale_factor=2))
    return nn.Sequential(made.conv(dims, (1, 3)), nn.ReLU(), inside, made.conv(dims, (3, 1))).eval()


@pytest.fixture(scope="module")
def weights() -> bytes:
    return zoo.onnx_bytes(unet(), "bcyx")


def opened(path: Path) -> BioImageProgram:
    program = open_program(path)
    assert isinstance(program, BioImageProgram)
    return program


@pytest.mark.parametrize("describe", [zoo.version_04, zoo.version_05])
@pytest.mark.parametrize("letters", ["bcyx", "byxc", "byx", "yx", "bczyx", "bzyxc", "zyx"])
def test_axes_of_any_order_are_turned(describe: Callable[..., dict[str, Any]], letters: str, tmp_path: Path) -> None:
    dims = 3 if "z" in letters else 2
    network = unet(dims)
    path = zoo.write_package(tmp_path / "p.zip", describe(letters), {**FILES, "w.onnx": zoo.onnx_bytes(network, letters)})
    image = torch.rand(1, 1, *[20, 24, 28][-dims:])
    with torch.inference_mode():
        found = opened(path).open(CPU)(image)
        torch.testing.assert_close(found, network(image), rtol=1e-5, atol=1e-6)


def test_an_axis_of_space_without_a_name_is_x(weights: bytes, tmp_path: Path) -> None:
    """Packages of the zoo leave out what the specification says unasked."""
    said = zoo.version_05()
    for tensors in (*said["inputs"], *said["outputs"]):
        del tensors["axes"][-1]["id"]
    path = zoo.write_package(tmp_path / "p.zip", said, {**FILES, "w.onnx": weights})
    image = torch.rand(1, 1, 20, 24)
    assert opened(path).open(CPU)(image).shape == image.shape


def test_sizes_that_a_package_does_not_take_make_the_grid(weights: bytes, tmp_path: Path) -> None:
    said = zoo.version_05(size={"min": 32, "step": 8})
    path = zoo.write_package(tmp_path / "p.zip", said, {**FILES, "w.onnx": weights})
    assert measure(opened(path)).granularity == (1, 8, 8)
    assert opened(path).declared.least == (1, 32, 32)


def step(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": kind, "kwargs": kwargs}


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([], Normalisation(kind="none")),
        ([step("zero_mean_unit_variance", axes=["y", "x"])], Normalisation(kind="standard")),
        ([step("ensure_dtype", dtype="float32"), step("zero_mean_unit_variance")], Normalisation(kind="standard")),
        ([step("scale_linear", gain=2, offset=3), step("scale_range")], Normalisation(low=0, high=100)),
        ([step("scale_range", min_percentile=5, max_percentile=99.8)], Normalisation(low=5, high=99.8)),
    ],
)
def test_a_step_that_looks_at_the_whole_image_becomes_the_normalisation_of_the_plan(
    steps: list[dict[str, Any]], wanted: Normalisation, weights: bytes, tmp_path: Path
) -> None:
    path = zoo.write_package(tmp_path / "p.zip", zoo.version_05(before=steps), {**FILES, "w.onnx": weights})
    assert opened(path).declared.normalisation == wanted
    assert opened(path).declared.before == []


VALUES = torch.tensor([-300.5, -1.0, 0.0, 0.3, 0.5, 1.0, 130.7, 255.0, 70000.0]).reshape(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("said", "compute"),
    [
        (step("scale_linear", gain=2, offset=-1), lambda x: 2 * x - 1),
        (step("scale_linear", gain=[2], offset=[-1], axis="channel"), lambda x: 2 * x - 1),
        (step("clip", min=0, max=1), lambda x: np.clip(x, 0, 1)),
        (step("clip", min=0), lambda x: np.maximum(x, 0)),
        (step("binarize", threshold=0.4), lambda x: (x > np.float32(0.4)).astype(np.float32)),
        (step("sigmoid"), lambda x: 1 / (1 + np.exp(-x))),
        (step("softmax"), np.ones_like),
        (step("fixed_zero_mean_unit_variance", mean=100, std=20), lambda x: (x - 100) / 20),
        # as version 0.4 has it
        (step("zero_mean_unit_variance", mode="fixed", mean=100, std=20, axes="yx"), lambda x: (x - 100) / 20),
        (step("ensure_dtype", dtype="uint8"), lambda x: np.clip(np.trunc(x), 0, 255)),
        (step("ensure_dtype", dtype="bool"), lambda x: (x != 0).astype(np.float32)),
    ],
)  # fmt: skip
def test_steps_on_voxels_are_those_of_the_specification(
    said: dict[str, Any], compute: Callable[[Any], Any], weights: bytes, tmp_path: Path
) -> None:
    path = zoo.write_package(tmp_path / "p.zip", zoo.version_05(before=[said]), {**FILES, "w.onnx": weights})
    (do,) = opened(path).declared.before
    np.testing.assert_allclose(do(VALUES).numpy(), compute(VALUES.double().numpy()), rtol=1e-5, atol=1e-6)


def _say(change: Callable[[dict[str, Any]], Any], **more: Any) -> dict[str, Any]:
    said = zoo.version_05(**more)
    change(said)
    return said


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two inputs": (_say(lambda said: said["inputs"].append(said["inputs"][0])), "2 inputs and 1 outputs"),
    "Python code": (_say(lambda said: said.update(weights={"pytorch_state_dict": {"source": "w.pt"}})), "pytorch_state_dict"),
    "Keras": (_say(lambda said: said.update(weights={"keras_hdf5": {"source": "w.h5"}})), "keras_hdf5"),
    "an old version": (_say(lambda said: said.update(format_version="0.3.6")), "version 0.3.6; 0.4 and 0.5"),
    "a data set": (_say(lambda said: said.update(type="dataset")), "a dataset, not a model"),
    "a time axis": (_say(lambda said: said["inputs"][0]["axes"].append({"type": "time", "id": "time", "size": 1})), r"bcyx\?"),
    "classes": (_say(lambda said: said["outputs"][0].update(axes=said["outputs"][0]["axes"][:2])), "axes of an image|bc;"),
    "colours": (_say(lambda said: said["inputs"][0]["axes"][1].update(channel_names=["r", "g", "b"])), "3 channels"),
    "a step in Python": (_say(lambda _: None, after=[step("custom")]), "custom"),
    "stars": (_say(lambda _: None, after=[step("stardist_postprocessing", prob_threshold=0.5)]), "stardist_postprocessing"),
    "a mean of the output": (_say(lambda _: None, after=[step("zero_mean_unit_variance")]), "zero_mean_unit_variance after"),
    "clipping at percentiles": (_say(lambda _: None, before=[step("clip", min_percentile=1, max_percentile=99)]), "clip over"),
    "two statistics": (_say(lambda _: None, before=[step("scale_range"), step("scale_range")]), "after scale_range"),
    "no image first": (_say(lambda _: None, before=[step("sigmoid"), step("scale_range")]), "sigmoid before scale_range"),
    "a missing file": (_say(lambda said: said["weights"]["onnx"].update(source="other.onnx")), "other.onnx is missing"),
    "other weights": (_say(lambda said: said["weights"]["onnx"].update(sha256="0" * 64)), "another SHA-256"),
    "no weights": (_say(lambda said: said.update(weights={})), "nothing"),
    "nonsense": (_say(lambda said: said.update(inputs=3)), "inputs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_package_that_cannot_be_run_is_refused_with_the_reason(kind: str, weights: bytes, tmp_path: Path) -> None:
    said, reason = WRONG[kind]
    path = zoo.write_package(tmp_path / "p.zip", said, {**FILES, "w.onnx": weights})
    with pytest.raises(ModelError, match=reason) as caught:
        open_program(path)
    assert caught.value.code == "model.broken"
    assert caught.value.hint

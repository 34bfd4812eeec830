"""What is written of our models for other software computes the same there: onnxruntime, torch, and this tool itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from volumetool.cli.main import main

import volumetool as vt
from volumetool.models.export import export_model
from volumetool.models.foreign.bioimageio import BioImageProgram
from volumetool.models.foreign.program import open_program

NAMES = [card.name for card in vt.list_models()]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "em-denoise" else pytest.mark.slow) for name in NAMES])
def test_an_exported_model_computes_the_same_in_other_software(name: str, tmp_path: Path) -> None:
    """On an image of another size than the one that it was exported with."""
    export_model(name, bioimageio=tmp_path / "m.zip", onnx=tmp_path / "m.onnx", torch_export=tmp_path / "m.pt2")
    model = vt.load_model(name)
    card = model.card
    least = zip(card.granularity[3 - card.dims :], card.receptive_field[3 - card.dims :], strict=True)
    sides = [grain * (2 * -(-far // grain) + 1 + axis) for axis, (grain, far) in enumerate(least)]
    image = torch.rand(1, 1 if card.dims == 3 else 2 * card.z_context + 1, *sides)
    with torch.inference_mode():
        wanted = model.network()(image)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], wanted.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(torch.export.load(tmp_path / "m.pt2").module()(image), wanted, rtol=0, atol=1e-5)
        for file in ("m.onnx", "m.pt2", "m.zip"):
            computed = open_program(tmp_path / file).open(torch.device("cpu"))(image)
            np.testing.assert_allclose(computed, wanted, rtol=0, atol=1e-5, err_msg=file)
    package = open_program(tmp_path / "m.zip")
    assert isinstance(package, BioImageProgram)
    assert package.declared.normalisation == card.normalisation
    given, made = package.test_tensors(tmp_path / "m.zip") or (np.zeros(1), np.zeros(1))
    assert given.shape[:2] == image.shape[:2]
    assert made.shape[2:] == tuple(a * b for a, b in zip(given.shape[2:], card.scale[3 - card.dims :], strict=True))


def test_nothing_to_write_is_an_error_that_names_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["model", "export", "em-x4"])
    assert ended.value.code == 2
    assert "--bioimageio" in capsys.readouterr().err

"""The table of figures says the truth about methods whose figures are known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from volumetool.models import UNet, UNetConfig, load_model
from volumetool.training.crappify import crappify
from volumetool.training.evaluate import evaluate
from volumetool.training.phantom import phantom

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_em_x4.py"


def test_a_network_that_only_enlarges_scores_what_bilinear_scores() -> None:
    network = UNet(UNetConfig(width=2, pools=())).eval().requires_grad_(requires_grad=False)
    network.head.weight.zero_()
    section = phantom((1, 320, 320), seed=2)[0]
    scores = {m.method: m for m in evaluate(network, "phantom", [section], "pssr2-poisson")}
    assert list(scores) == ["bilinear", "bicubic", "gauss+bicubic", "unsharp+bicubic", "net"]
    assert scores["net"].psnr == pytest.approx(scores["bilinear"].psnr, abs=0.1)  # they differ at the faces alone
    assert scores["bilinear"].psnr > scores["unsharp+bicubic"].psnr
    assert scores["net"].dataset == "phantom"
    assert "pssr2-poisson" in scores["net"].protocol


def test_repeating_voxels_scores_what_numpy_says() -> None:
    section = phantom((1, 64, 64), seed=3)[0]
    (net,) = [m for m in evaluate(load_model("fake:identity").network(), "p", [section], "pssr-em") if m.method == "net"]
    repeated = crappify(section, "pssr-em", np.random.default_rng(0)).repeat(4, 0).repeat(4, 1)
    error = np.square(repeated.astype(float) - section).mean()
    assert net.psnr == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)


def test_the_example_trains_measures_and_fills_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = phantom((2, 244, 244), seed=1)
    for name in ("fib25_train1.tif", "fib25_train2.tif", "isbi2012_train.tif"):
        tifffile.imwrite(tmp_path / name, volume)
    tifffile.imwrite(tmp_path / "brain_4w_07_clean.tif", volume[0])
    output = tmp_path / "model.safetensors"
    arguments = [tmp_path, output, "--steps", 2, "--unseen", tmp_path]
    monkeypatch.setattr(sys, "argv", ["train_em_x4.py", *map(str, arguments)])
    spec = importlib.util.spec_from_file_location("train_em_x4", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main()

    card = load_model(output).card
    assert card.stride == (1, 384, 384)
    assert {m.dataset for m in card.provenance.metrics} == {"isbi2012"}
    assert {m.method for m in card.provenance.metrics} >= {"bilinear", "net"}
    assert card.provenance.training["steps"] == 2

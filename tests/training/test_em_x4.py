"""The built-in model is honestly better than enlarging, on data of other laboratories that it has never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from volumetool.models import load_model
from volumetool.training.crappify import crappify
from volumetool.training.evaluate import evaluate
from volumetool.training.overlap import measure_cuts

UNSEEN = {
    "fib25-val": "fib25-fibsem/fib25_val_z0-199_y0-339.tif",
    "isbi2012": "isbi2012-sstem/isbi2012_train.tif",
    "cdeep3m-sbem": "cdeep3m-sbem/cdeep3m_sbem_z020-037.tif",
}


@pytest.mark.parametrize("recipe", ["pssr-em", "pssr2-poisson"])
@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_em_x4_gains_psnr_over_bilinear(name: str, recipe: str, data: Path) -> None:
    section = tifffile.imread(data / UNSEEN[name], key=3)[:384, :512]
    psnr = {m.method: m.psnr for m in evaluate(load_model("em-x4").network(), name, [section], recipe)}
    assert psnr["net"] > psnr["bilinear"]


def test_the_overlap_on_the_card_leaves_less_than_a_tenth_of_a_grey_level(data: Path) -> None:
    model = load_model("em-x4")
    fine = tifffile.imread(data / UNSEEN["isbi2012"], key=7)
    coarse = crappify(fine, "pssr2-poisson", np.random.default_rng(0))
    cuts = measure_cuts(model.network(), model.card.normalisation, [coarse], (model.card.overlap[1],))
    assert {cut.trim: cut.largest for cut in cuts}[model.card.trim[1]] < 0.1

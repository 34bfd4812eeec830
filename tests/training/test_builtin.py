"""The built-in models gain on data that they have never seen, and need no more overlap than their cards say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from volumetool.degradation import RECIPES
from volumetool.evaluation.scores.metrics import psnr
from volumetool.evaluation.scores.resample import enlarge
from volumetool.models import UNet, list_models, load_model
from volumetool.processing.device.arrays import to_host
from volumetool.processing.engine import Engine
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.spec import Numerics
from volumetool.training.overlap import measure_cuts
from volumetool.training.restore import restore_volume

NAMES = [card.name for card in list_models()]
FREE = {"CC-BY", "CC0-1.0", "MIT", "BSD-3-Clause", "ODC-By-1.0"}
"""Licences of data that allow weights to be shared."""

UNSEEN = {
    "isbi2012": "isbi2012-sstem/isbi2012_train.tif",
    "cdeep3m-sbem": "cdeep3m-sbem/cdeep3m_sbem_z020-037.tif",
}


@cache
def validation_cube(data: Path) -> NDArray[np.uint8]:
    """Return sections of the FIB-25 validation cube, of which no model has seen a voxel."""
    cube: NDArray[np.uint8] = tifffile.imread(data / "fib25-fibsem/fib25_val_z0-199_y0-339.tif", key=range(32))[:, :160, :160]
    return cube


def crappified(fine: NDArray[np.uint8], recipe: str, scale: tuple[int, int, int]) -> NDArray[np.uint8]:
    coarse = RECIPES[recipe].apply(fine.astype(np.float32) / 255, scale=scale, seed=1)
    grey: NDArray[np.uint8] = np.rint(coarse * 255).astype(np.uint8)
    return grey


def network_of(name: str) -> UNet:
    network = load_model(name).network()
    assert isinstance(network, UNet)
    return network


@pytest.mark.thin(3)
@pytest.mark.parametrize("recipe", ["pssr-em", "pssr2-poisson", "sem-fast"])
@pytest.mark.parametrize("name", NAMES)
def test_every_model_gains_over_linear_enlargement_on_an_unseen_cube(name: str, recipe: str, data: Path) -> None:
    model = load_model(name)
    fine = validation_cube(data)[:32, :96, :96] if model.card.dims == 3 else validation_cube(data)[:7]
    coarse = crappified(fine, recipe, model.card.scale)
    ours = restore_volume(network_of(name), coarse, model.card.normalisation)
    middle = slice(len(fine) // 2 - 1, len(fine) // 2 + 1)  # sections that have their neighbours
    assert psnr(ours[middle], fine[middle]) > psnr(enlarge(coarse, model.card.scale, "linear")[middle], fine[middle]) + 0.3


@pytest.mark.parametrize("recipe", ["pssr-em", "pssr2-poisson", "sem-fast"])
@pytest.mark.parametrize("name", sorted(UNSEEN))
def test_em_x4_gains_over_linear_enlargement_on_other_tissue(name: str, recipe: str, data: Path) -> None:
    fine = tifffile.imread(data / UNSEEN[name], key=3)[None, :384, :512]
    model = load_model("em-x4")
    coarse = crappified(fine, recipe, model.card.scale)
    ours = restore_volume(network_of("em-x4"), coarse, model.card.normalisation)
    assert psnr(ours, fine) > psnr(enlarge(coarse, model.card.scale, "linear"), fine)


@pytest.mark.parametrize("name", [name for name in NAMES if load_model(name).card.dims == 2])
def test_the_overlap_on_the_card_leaves_less_than_a_tenth_of_a_grey_level(name: str, data: Path) -> None:
    card = load_model(name).card
    fine = tifffile.imread(data / UNSEEN["isbi2012"], key=range(5, 10))[:, :160]
    coarse = crappified(fine, "pssr2-poisson", card.scale)[2:3]
    cuts = measure_cuts(network_of(name), card.normalisation, [coarse], (card.overlap[2],), stride=56)
    assert {cut.trim: cut.largest for cut in cuts}[card.trim[2]] < 0.1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each == "em-z4")) for each in NAMES])
def test_the_number_of_threads_changes_no_bit_or_the_probe_tells(name: str, precision: str) -> None:
    """Workers with other numbers of cores write the same bytes, or are of another numerics class.

    There are processors for which oneDNN splits the sums of a 3D convolution by threads; those of 2D models are the same.
    """
    model, flat = load_model(name), load_model(name).card.dims == 2
    patch = (1, 120, 140) if flat else (24, 48, 56)
    patches = np.random.default_rng(1).random((1, patch[0] + 2 * model.card.z_context, *patch[1:]), np.float32)
    engines = [Engine(NetworkOperation(model), Numerics(precision, 1, pad=False), "cpu", threads) for threads in (1, 2)]
    one, two = (to_host(engine.predict(patches)[0]) for engine in engines)
    if flat or not np.array_equal(one, two):
        assert np.array_equal(one, two) if flat else len({engine.probe(patch) for engine in engines}) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete(name: str) -> None:
    card = load_model(name).card
    assert card.description
    assert card.licence == "CC-BY-4.0"
    assert card.voxel_size is not None
    assert all(FREE & {word.strip("(),") for word in source.split()} for source in card.provenance.data)
    assert "Semi-synthetic" in card.provenance.recipe
    assert card.provenance.training["name"] == name
    assert {metric.method for metric in card.provenance.metrics} == {"linear", "net"}

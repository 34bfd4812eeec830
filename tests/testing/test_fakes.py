"""Each fake gives its known answer, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from volumetool.errors import ModelError
from volumetool.testing import Fake, FakeConfig, fake_model
from volumetool.testing.fakes import RAMP, load_fake


def run(x: torch.Tensor, **fields: object) -> torch.Tensor:
    return Fake(FakeConfig.model_validate(fields)).eval()(x)


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 1, 9, 11)).astype(np.float32))


def test_identity_repeats_each_voxel(grey: torch.Tensor) -> None:
    out = run(grey, behaviour="identity", scale=(1, 3, 2)).numpy()
    assert np.array_equal(out, grey.numpy().repeat(3, axis=2).repeat(2, axis=3))


def test_identity_in_3d_repeats_along_z_too(grey: torch.Tensor) -> None:
    out = run(grey[:, None], behaviour="identity", dims=3, scale=(2, 1, 3)).numpy()
    assert np.array_equal(out, grey.numpy()[:, None].repeat(2, axis=2).repeat(3, axis=4))


def test_constant_is_constant(grey: torch.Tensor) -> None:
    out = run(grey, behaviour="constant", value=7.25)
    assert out.shape == (2, 1, 36, 44)
    assert (out == 7.25).all()


def test_box_is_the_mean_with_zeros_outside(grey: torch.Tensor) -> None:
    out = run(grey, behaviour="box", radius=2, scale=(1, 1, 1)).numpy()
    wanted = ndimage.uniform_filter(grey.numpy().astype(np.float64), (1, 1, 5, 5), mode="constant")
    assert np.allclose(out, wanted, atol=1e-4)


def test_box_gives_the_same_bits_wherever_the_tile_starts() -> None:
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 65536, (1, 1, 80, 80)).astype(np.float32))
    whole = run(x, behaviour="box", radius=4)
    tile = run(x[..., 7:60, 13:70], behaviour="box", radius=4)
    assert torch.equal(whole[..., 44:224, 68:264], tile[..., 16:196, 16:212])


def test_box_averages_over_neighbouring_sections() -> None:
    x = torch.stack([torch.full((8, 8), value) for value in (0.0, 30.0, 90.0)])[None]
    out = run(x, behaviour="box", z_context=1, radius=1, scale=(1, 1, 1))
    assert out[0, 0, 4, 4] == 40


def test_position_adds_a_ramp_that_starts_anew_in_each_patch(grey: torch.Tensor) -> None:
    extra = run(grey, behaviour="position") - run(grey, behaviour="identity")
    assert extra[1, 0, 3, 5] == 3 * RAMP[1] + 5 * RAMP[2]
    assert torch.equal(extra[0], extra[1])
    deep = torch.zeros(1, 1, 4, 4, 4)
    assert run(deep, behaviour="position", dims=3, scale=(2, 1, 1))[0, 0, 5, 2, 1] == 5 * RAMP[0] + 2 * RAMP[1] + RAMP[2]


def test_the_centre_section_is_the_one_that_is_repeated() -> None:
    x = torch.stack([torch.full((4, 4), value) for value in (1.0, 2.0, 3.0, 4.0, 5.0)])[None]
    assert (run(x, behaviour="identity", z_context=2) == 3).all()


def test_values_of_fakes_pass_unscaled() -> None:
    assert load_fake("fake:identity").card.normalisation.kind == "none"


@pytest.mark.parametrize("fields", [{"scale": (2, 4, 4)}, {"dims": 3, "z_context": 1}, {"radius": -1}, {"scale": (1, 0, 1)}])
def test_impossible_fakes_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        FakeConfig.model_validate({"behaviour": "box"} | fields)


@pytest.mark.parametrize(
    "spec",
    [
        "fake:identity",
        "fake:box?scale=1,4,4&dims=2",
        "fake:position?dims=3&scale=2,2,2&patch=16,24,24&overlap=4,8,8&trim=1,2,2",
        "fake:constant?value=3.5&z_context=2",
    ],
)
def test_the_spec_of_a_fake_makes_the_same_fake_again(spec: str) -> None:
    model = load_fake(spec)
    again = load_fake(model.spec)
    assert (again.card, again.spec, again.weights_sha256) == (model.card, model.spec, model.weights_sha256)


def test_fakes_from_python_and_from_a_spec_are_the_same() -> None:
    made = fake_model(FakeConfig(behaviour="box", radius=3), patch=(1, 40, 40))
    assert made.card == load_fake("fake:box?radius=3&patch=1,40,40").card


@pytest.mark.parametrize(
    "spec", ["fake:", "fake:cube", "fake:box?scale=4", "fake:box?colour=red", "fake:box?radius=x", "fake:box?trim=0,9,9"]
)
def test_a_fake_that_cannot_be_is_refused_with_an_example(spec: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_fake(spec)
    assert caught.value.code == "model.fake"
    assert "fake:box?" in caught.value.hint

"""Networks of others: what they look at is measured, and what looks at everything is caught."""

from __future__ import annotations

import hashlib
from pathlib import Path

import foreign_networks as made
import numpy as np
import pytest
import torch
from torch import nn

from volumetool.errors import ModelError
from volumetool.models.foreign import measure as measuring
from volumetool.models.foreign.measure import Measured, measure, measure_seam
from volumetool.models.foreign.program import open_program
from volumetool.models.foreign.trust import TRUSTED
from volumetool.processing.device.arrays import to_host
from volumetool.processing.operations import foreign
from volumetool.processing.operations.filter import GREY_VALUES, Reach, make_card
from volumetool.processing.operations.foreign import ForeignOperation
from volumetool.processing.spec import Numerics


def measured(tmp_path: Path, network: nn.Module, dims: int = 2, channels: int = 1) -> Measured:
    return measure(open_program(made.write_onnx(tmp_path / "network.onnx", network, dims, channels)))


@pytest.mark.thin(10)
@pytest.mark.parametrize("seed", range(30))
def test_reach_and_scale_are_those_that_gradients_show(seed: int, tmp_path: Path) -> None:
    """Of generated networks: dilations, pools, strides, shuffles, residuals."""
    network, dims = made.generated(seed)
    found = measured(tmp_path, network, dims)
    scale, reach = made.reach_by_gradients(network, dims)
    assert found.dims == dims
    assert found.scale[-1] == scale
    assert found.receptive_field[3 - dims :] == reach
    assert found.whole == (False, False, False)


def test_measuring_ends_and_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "SECONDS_BESIDE_HALO", 0.0)
    program = open_program(made.write_onnx(tmp_path / "network.onnx", made.generated(10)[0]))
    with pytest.raises(ModelError, match=r"took longer than 0 s; till then: it is 2D") as refused:
        measure(program)
    assert refused.value.code == "model.slow"
    assert "halo=Z,Y,X" in refused.value.hint
    monkeypatch.setattr(measuring, "SECONDS", 600.0)
    known = measure(program)
    said = measure(program, known.receptive_field)
    assert said == known.model_copy(update={"said": True})
    monkeypatch.setattr(measuring, "SECONDS_BESIDE_HALO", 600.0)
    assert measure(program, (0, 99, 99)) == known


def test_a_torchscript_program_is_measured_like_its_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = made.generated(10)
    file = made.write_torchscript(tmp_path / "network.pt", network)
    monkeypatch.setenv(TRUSTED, hashlib.sha256(file.read_bytes()).hexdigest())
    program = open_program(file)
    assert measure(program) == measured(tmp_path, network)


@pytest.mark.thin(10)
@pytest.mark.parametrize("seed", range(30))
def test_a_program_of_torch_export_computes_the_same_bits_and_is_measured_like_its_onnx_file(seed: int, tmp_path: Path) -> None:
    network, dims = made.generated(seed)
    program, cpu = open_program(made.write_torch_export(tmp_path / "network.pt2", network, dims)), torch.device("cpu")
    for side in (24, 36):
        image = torch.rand(1, 1, *[side] * dims)
        with torch.inference_mode():
            assert torch.equal(program.open(cpu)(image), network(image))
    assert measure(program) == measured(tmp_path, network, dims)


class SizesAndLists(nn.Module):
    """Arithmetic on sizes, lists as results, changes in place, a result that is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = made.conv(2, (1, 4)), nn.BatchNorm2d(4)
        self.register_buffer("weights", torch.tensor([0.25, 0.75]).view(1, 2, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = torch.relu_(self.norm(self.first(x)))
        features += x
        kept, _ = nn.functional.max_pool2d(features, 2, return_indices=True)
        kept = nn.functional.interpolate(kept, size=features.shape[-2:], mode="bilinear")
        left, right = torch.chunk(torch.nn.functional.pad(kept, (1, 1, 1, 1))[..., 1:-1, 1 : x.shape[3] + 1], 2, dim=1)
        return ((left - right) * self.weights).sum(1, keepdim=True).clamp(-0.5, 3)


def test_a_program_of_torch_export_may_calculate_with_sizes_and_change_features_in_place(tmp_path: Path) -> None:
    network, image = SizesAndLists().eval(), torch.rand(1, 1, 34, 50)
    forward = open_program(made.write_torch_export(tmp_path / "network.pt2", network)).open(torch.device("cpu"))
    with torch.inference_mode():
        wanted, before = network(image), image.clone()
        assert torch.equal(forward(image), wanted)
        assert torch.equal(forward(image), wanted)
    assert torch.equal(image, before)


class MirrorsFar(nn.Module):
    """Takes no image that is as small as what it mirrors at the faces, and changes its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2.0)
        return nn.functional.pad(x, (140, 140, 140, 140), mode="reflect")[..., 140:-140, 140:-140]


def test_seams_are_measured_of_a_network_that_takes_large_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made.write_torchscript(tmp_path / "network.pt", MirrorsFar(), 192)
    monkeypatch.setenv(TRUSTED, hashlib.sha256(file.read_bytes()).hexdigest())
    card = make_card("mirrors", Reach((0, 8, 8)), GREY_VALUES)
    assert card.patch[2] > 140
    assert measure_seam(open_program(file), card).largest == 0


def test_a_network_that_computes_in_the_place_of_its_input_changes_no_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made.write_torchscript(tmp_path / "network.pt", MirrorsFar(), 192)
    monkeypatch.setenv(TRUSTED, hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = Measured(
        dims=2, scale=(1, 1, 1), z_context=0, channels=1, granularity=(1, 1, 1), receptive_field=(0, 8, 8), whole=(False,) * 3
    )
    monkeypatch.setattr(foreign, "measure", lambda _program, _halo: found)
    function = ForeignOperation(str(file)).open(torch.device("cpu"), Numerics("float32", 1, pad=False))
    patches = np.random.default_rng(0).random((2, 1, 192, 192), np.float32)
    before = patches.copy()
    np.testing.assert_allclose(to_host(function(patches)), 2 * before)
    np.testing.assert_array_equal(patches, before)


@pytest.mark.parametrize("kind", ["instance-norm", "attention", "pooling"])
def test_a_network_that_looks_at_everything_is_caught(kind: str, tmp_path: Path) -> None:
    assert measured(tmp_path, made.looks_at_everything(kind)).whole == (False, True, True)


@pytest.mark.parametrize(("depth", "grain"), [(0, 1), (1, 2), (3, 8)])
def test_the_grid_of_pools_is_found(depth: int, grain: int, tmp_path: Path) -> None:
    """Also where images of any size are taken: pools that end short are filled up again."""
    torch.manual_seed(0)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = made.conv(2, (1, 3)), made.conv(2, (3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.first(x)
            coarse = features
            for _ in range(depth):
                coarse = nn.functional.max_pool2d(coarse, 2, ceil_mode=True)
            fine = nn.functional.interpolate(coarse, scale_factor=2.0**depth)[..., : x.shape[2], : x.shape[3]]
            return self.last(features + fine)

    assert measured(tmp_path, Pooled()).granularity == (1, grain, grain)


def test_neighbouring_sections_are_found_as_channels(tmp_path: Path) -> None:
    found = measured(tmp_path, nn.Sequential(made.conv(2, (5, 3)), made.conv(2, (3, 1))), channels=5)
    assert (found.z_context, found.receptive_field) == (2, (2, 2, 2))


def test_a_size_that_is_fixed_in_the_file_alone_is_set_free(tmp_path: Path) -> None:
    """As most exporters write it where nobody asks for another."""
    import onnx

    path = made.write_onnx(tmp_path / "n.onnx", made.conv(2, (1, 1)))
    model = onnx.load(path)
    for axis in model.graph.input[0].type.tensor_type.shape.dim:
        axis.dim_value = axis.dim_value or 24
    onnx.save(model, path)
    assert measure(open_program(path)).receptive_field == (0, 1, 1)


REFUSED = {
    "unpadded": (nn.Conv2d(1, 1, 3), "no whole multiple"),
    "smaller": (nn.AvgPool2d(2), "no whole multiple"),
    "fixed": (nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (24, 24))), "takes no image"),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_makes_no_image_of_an_image_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    network, words = REFUSED[kind]
    with pytest.raises(ModelError, match=words) as caught:
        measured(tmp_path, network)
    assert caught.value.code == "model.geometry"

"""A ResUNet of PSSR2 from its weights alone: the network that they are of, as an operation, and no other file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_jobs import read_levels
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import volumetool as vt
from volumetool.errors import ModelError
from volumetool.models.foreign.program import open_program
from volumetool.models.foreign.resunet import ResUNet
from volumetool.processing.operation import open_operation
from volumetool.testing.operation_suite import Floats, OperationSuite

Weights = dict[str, Tensor]


def weights_of(inputs: int = 1, widths: tuple[int, ...] = (4, 8, 16), layers: int = 3, scale: int = 2) -> Weights:
    """Return weights of no meaning, with moments of batches that are not those of noise, by the names that PSSR2 gives them."""
    torch.manual_seed(0)
    weights = ResUNet(inputs, 1, list(widths), layers, scale).state_dict()
    for name, value in weights.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
    return weights


def computed(weights: Weights, x: Tensor) -> Tensor:
    """Return what PSSR2 computes of grey values of 8 bit (n, c, y, x), written as a formula of its tensors."""

    def normalised(x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (weights[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, scale, shift, training=False)

    def convolved(x: Tensor, name: str) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)

    def block(x: Tensor, name: str) -> Tensor:
        y, number = x, 0
        while f"{name}.conv.{number}.weight" in weights:
            y = F.relu(y) if number else y
            y = normalised(convolved(y, f"{name}.conv.{number}"), f"{name}.conv.{number + 1}")
            number += 3
        return F.relu(y + convolved(x, f"{name}.respass"))

    depth = sum(name.startswith("encoder.") and name.endswith("respass.bias") for name in weights)
    image = x = normalised(x / 128 - 1, "norm")
    levels = []
    for number in range(depth):
        x = block(F.max_pool2d(x, 2) if number else x, f"encoder.{number}")
        levels.append(x)
    for number in range(depth - 1):
        x = block(torch.cat([F.pixel_shuffle(x, 2), levels[-2 - number]], 1), f"decoder.{number}")
    y = F.relu(convolved(torch.cat([x, image], 1), "reconstruction.pre"))
    scale = round((y.shape[1] / x.shape[1]) ** 0.5)
    return convolved(F.pixel_shuffle(y, scale), "reconstruction.conv") * 128 + 128


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"inputs": 5, "widths": (4, 8), "layers": 4, "scale": 3},
        {"widths": (8,), "layers": 1, "scale": 1},
        pytest.param({"widths": (64, 128, 256, 512, 1024), "layers": 4, "scale": 4}, marks=pytest.mark.slow),
    ],
)
def test_the_network_is_the_one_that_the_weights_are_of(shape: dict[str, Any], tmp_path: Path) -> None:
    """Any number of sections, levels, layers and voxels; the last is what PSSR2 makes unless it is told otherwise."""
    weights = weights_of(**shape)
    torch.save(weights, tmp_path / "resunet.pth")
    grey = 255 * torch.rand(2, shape.get("inputs", 1), 48, 32)
    with torch.inference_mode():
        made = 255 * open_program(tmp_path / "resunet.pth").open(torch.device("cpu"))(grey / 255)
        torch.testing.assert_close(made, computed(weights, grey), rtol=0, atol=1e-3)


@pytest.mark.slow
class TestResUNet(OperationSuite):
    """It enlarges; values are 0 to 1 over the range of the data type."""

    shape = (3, 48, 60)
    dtype = "uint16"
    shard = "2,32,32"
    other_patch = "1,288,256"
    tolerance = 2.0

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def network(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Write the file."""
        cls.operation = str(tmp_path_factory.mktemp("network") / "resunet.pth")
        torch.save(weights_of(widths=(4, 8), layers=2), cls.operation)

    def whole(self, values: Floats) -> Floats:
        margin = 40
        wide = np.pad(values, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        with torch.inference_mode():
            made = computed(weights_of(widths=(4, 8), layers=2), 255 * torch.from_numpy(wide)[:, None]) / 255
        return made[:, 0, 2 * margin : -2 * margin, 2 * margin : -2 * margin].numpy()


def test_weights_are_imported_and_enhance_grey_values_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the network looks is measured; 0 and 1 are the ends of the data type, and back."""
    monkeypatch.setenv("VOLUMETOOL_MODELS", str(tmp_path / "models"))
    weights = weights_of(widths=(4,), layers=2)
    torch.save(weights, tmp_path / "Ours.pth")
    vt.import_model(tmp_path / "Ours.pth")
    card = open_operation("ours").card
    assert (card.scale, card.receptive_field, card.normalisation.kind) == ((1, 2, 2), (0, 4, 4), "range")
    voxels = np.random.default_rng(0).integers(0, 255, (1, 30, 34), np.uint8)
    source = OperationSuite.write(tmp_path / "in.zarr", voxels)
    assert vt.enhance(source, tmp_path / "out.zarr", model="ours", device="cpu").complete
    with torch.inference_mode():
        wide = np.pad(voxels[0].astype(np.float32), 8, mode="reflect")
        expected = computed(weights, torch.from_numpy(wide)[None, None])[0, 0, 16:-16, 16:-16].numpy()
    made = read_levels(tmp_path / "out.zarr")[0][0]
    np.testing.assert_allclose(made, expected.clip(0, 255), rtol=0, atol=0.51)


class Gadget:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("CANARY", "w")


def _without(weights: Weights) -> None:
    del weights["decoder.0.conv.1.running_var"]


def _atrous(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith("encoder.0.conv.")]:
        weights[name.replace("conv.", "dilations.0.")] = weights.pop(name)


def _pooled(weights: Weights) -> None:
    weights["reconstruction_pool.conv_out.weight"] = torch.zeros(4, 4, 1, 1)


def _of_something_else(weights: Weights) -> None:
    weights.clear()
    weights["layer.weight"] = torch.zeros(3)


def _flat(weights: Weights) -> None:
    weights["encoder.0.respass.weight"] = torch.zeros(4)


def _huge(weights: Weights) -> None:
    weights["encoder.0.respass.weight"] = torch.zeros(1, 1, 1, 1).expand(2**40, 1, 1, 1)


def _executing(weights: dict[str, Any]) -> None:
    weights["norm.weight"] = Gadget()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "running_var"),
        (_atrous, "ResUNetA"),
        (_pooled, "pools pyramids"),
        (_of_something_else, "no tensor encoder.0.respass.weight"),
        (_flat, "no shapes of a ResUNet"),
        (_huge, "more memory than the file has"),
        (_executing, r"no file of weights alone, and what else it holds could run code: \w+\.\w+"),
    ],
)
def test_other_files_are_refused_and_run_nothing(
    change: Callable[[Weights], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is wrong with them, and with what to do."""
    monkeypatch.chdir(tmp_path)
    weights = weights_of()
    change(weights)
    torch.save(weights, "other.pth")
    with pytest.raises(ModelError, match=said) as caught:
        open_program(tmp_path / "other.pth")
    assert caught.value.code == "model.broken"
    assert "ONNX" in caught.value.hint
    assert not Path("CANARY").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02}q\x00.", [1, 2], {"a": 1}])
def test_a_file_that_holds_no_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    """An old pickle without an archive, too."""
    if isinstance(content, bytes):
        (tmp_path / "other.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError) as caught:
        open_program(tmp_path / "other.pth")
    assert caught.value.code == "model.broken"

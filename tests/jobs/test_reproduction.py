"""Packages of the zoo make here, of their own test tensors, what they say that they make; one that does not is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as made
import numpy as np
import pytest
import torch
import zoo_packages as zoo
from numpy.typing import NDArray
from torch import nn
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ModelError

Floats = NDArray[np.float32]


def standardised(x: Floats) -> Floats:
    return (x - x.mean()) / x.std()


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def same(x: Floats) -> Floats:
    return x


def pooled(dims: int = 2) -> nn.Module:
    torch.manual_seed(dims)
    inside = nn.Sequential(made.POOLS[dims][0](2), made.conv(dims), nn.ReLU(), nn.Upsample(scale_factor=2))
    return nn.Sequential(made.conv(dims, (1, 3)), nn.ReLU(), inside, made.conv(dims, (3, 1))).eval()


def doubling() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(made.conv(2, (1, 4)), nn.ReLU(), made.conv(2, (4, 4)), nn.PixelShuffle(2)).eval()


ZERO_MEAN = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "yx"}}
KINDS: dict[str, tuple[dict[str, Any], nn.Module, str, Callable[[Floats], Floats], Callable[[Floats], Floats]]] = {
    # As the packages of the zoo that find nuclei, or boundaries: ONNX, mean 0 and deviation 1, a sigmoid.
    "boundaries of 0.4": (
        zoo.version_04("bcyx", before=[ZERO_MEAN], after=[{"name": "sigmoid"}]),
        pooled(), "bcyx", standardised, sigmoid,
    ),
    "boundaries of 0.5": (
        zoo.version_05("bcyx", before=[{"id": "zero_mean_unit_variance"}], after=[{"id": "sigmoid"}]),
        pooled(), "bcyx", standardised, sigmoid,
    ),
    # As those that came from Keras: channels last, 0 to 1 by a fixed gain.
    "channels last": (
        zoo.version_04("byxc", before=[{"name": "scale_linear", "kwargs": {"axes": "yx", "gain": 0.01, "offset": 0}}]),
        pooled(), "byxc", lambda x: x * 0.01, same,
    ),
    # As restoration by CARE: percentiles.
    "percentiles": (
        zoo.version_05("bcyx", before=[{"id": "scale_range", "kwargs": {"min_percentile": 0, "max_percentile": 100}}]),
        pooled(), "bcyx", lambda x: (x - x.min()) / (x.max() - x.min()), same,
    ),
    "super-resolution": (zoo.version_05("bcyx", scale=2), doubling(), "bcyx", same, same),
    "blocks": (
        zoo.version_05("bczyx", after=[{"id": "clip", "kwargs": {"min": 0, "max": 1}}]),
        pooled(3), "bczyx", same, lambda x: x.clip(0, 1),
    ),
}  # fmt: skip


def package(folder: Path, kind: str, *, off: float = 0.0) -> Path:
    """Write a package with its test tensors; what it should make is off by so much."""
    said, network, letters, before, after = KINDS[kind]
    dims = 3 if "z" in letters else 2
    image = np.random.default_rng(0).normal(100, 20, (1, 1, *[48] * dims)).astype(np.float32)
    with torch.inference_mode():
        output = after(network(torch.from_numpy(before(image).astype(np.float32))).numpy()) + off
    order = [("bczyx" if dims == 3 else "bcyx").index(letter) for letter in letters]
    files = {"in.npy": zoo.npy(image.transpose(order)), "out.npy": zoo.npy(output.transpose(order))}
    return zoo.write_package(folder / "package.zip", said, {**files, "w.onnx": zoo.onnx_bytes(network, letters)})


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_reproduces_its_test_tensor_at_once_and_as_a_job(kind: str, tmp_path: Path) -> None:
    found = vt.check_model(package(tmp_path, kind))
    assert found.ok
    assert found.one_pass < 1e-3
    assert found.inside < 1e-3 * (1 + (100 if kind in ("super-resolution", "blocks") else 1))
    assert found.faces > found.inside


def test_a_package_that_makes_something_else_ends_with_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = package(tmp_path, "boundaries of 0.5", off=0.1)
    with pytest.raises(SystemExit) as ended:
        main(["model", "test", str(path)])
    assert ended.value.code == 4
    assert "NOT as its test tensor; the network differs by at most 0.1" in capsys.readouterr().out


def test_a_check_is_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["model", "test", str(package(tmp_path, "channels last")), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "model-test"
    assert told["ok"]
    assert told["inside"] < told["faces"]


def test_a_network_without_a_test_is_told_from_one_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        vt.check_model(made.write_onnx(tmp_path / "network.onnx", pooled()))
    assert caught.value.code == "model.no-test"

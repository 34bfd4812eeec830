"""Packages of the BioImage Model Zoo for tests: networks of the tests, and descriptions of both versions."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import foreign_networks as made
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]

ABOUT: dict[str, Any] = {
    "type": "model",
    "name": "a network of the tests",
    "description": "made for tests",
    "authors": [{"name": "volumetool"}],
    "cite": [{"text": "nobody", "url": "https://example.org"}],
    "license": "MIT",
    "documentation": "README.md",
}


def axis(letter: str, size: Any, **more: Any) -> dict[str, Any]:
    """Return an axis of version 0.5; `size` counts for axes of space alone."""
    if letter == "b":
        return {"type": "batch"}
    if letter == "c":
        return {"type": "channel", "channel_names": ["grey"]}
    return {"type": "space", "id": letter, "size": size, **more}


def axes_05(letters: str, size: dict[str, int]) -> list[dict[str, Any]]:
    """Return axes of an input of version 0.5, whose sizes are a least one and a step."""
    return [axis(letter, size) for letter in letters]


def version_05(letters: str = "bcyx", *, size: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """Return a description; `more` holds preprocessing and postprocessing."""
    size = size or {"min": 16, "step": 4}
    outer = [axis(letter, {"tensor_id": "raw", "axis_id": letter}, scale=1.0 / more.get("scale", 1)) for letter in letters]
    given = {"id": "raw", "axes": axes_05(letters, size), "preprocessing": more.get("before", [])}
    made_ = {"id": "out", "axes": outer, "postprocessing": more.get("after", [])}
    for tensors, name in ((given, "in.npy"), (made_, "out.npy")):
        tensors["test_tensor"] = {"source": name}
        tensors["data"] = {"type": "float32"}
    return {
        **ABOUT,
        "format_version": "0.5.4",
        "inputs": [given],
        "outputs": [made_],
        "weights": {"onnx": {"source": "w.onnx", "opset_version": 17}},
    }


def version_04(letters: str = "bcyx", **more: Any) -> dict[str, Any]:
    """Return a description of version 0.4, with one fixed size."""
    sizes = [1 if letter in "bc" else 48 for letter in letters]
    shape = {"reference_tensor": "raw", "scale": [1.0] * len(letters), "offset": [0.0] * len(letters)}
    given = {"name": "raw", "axes": letters, "data_type": "float32", "shape": sizes, "preprocessing": more.get("before", [])}
    made_ = {
        "name": "out", "axes": letters, "data_type": "float32", "shape": shape, "postprocessing": more.get("after", []),
        "halo": [0 if letter in "bc" else 8 for letter in letters],
    }  # fmt: skip
    return {
        **ABOUT,
        "format_version": "0.4.9",
        "timestamp": "2022-01-01T00:00:00",
        "inputs": [given],
        "outputs": [made_],
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
        "weights": {
            "pytorch_state_dict": {"source": "https://example.org/w.pt", "architecture": "unet.py:UNet"},
            "onnx": {"source": "w.onnx", "opset_version": 17},
        },
    }


class Turned(nn.Module):
    """A network whose images have other axes."""

    def __init__(self, network: nn.Module, letters: str) -> None:
        super().__init__()
        self.network, usual = network, "bczyx" if "z" in letters else "bcyx"
        kept = [letter for letter in usual if letter in letters]
        self.missing = [number for number, letter in enumerate(usual) if letter not in letters]
        self.inwards = [letters.index(letter) for letter in kept]
        self.outwards = [kept.index(letter) for letter in letters]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(self.inwards)
        for axis in self.missing:
            x = x.unsqueeze(axis)
        y = self.network(x)
        for axis in reversed(self.missing):
            y = y.squeeze(axis)
        return y.permute(self.outwards)


def onnx_bytes(network: nn.Module, letters: str) -> bytes:
    """Return a network as ONNX, whose images have these axes and any size."""
    file = io.BytesIO()
    free = {number: f"size_{letter}" for number, letter in enumerate(letters) if letter in "zyx"}
    image = torch.zeros([24 if letter in "zyx" else 1 for letter in letters])
    made.quietly(
        lambda: torch.onnx.export(
            Turned(network, letters).eval(), (image,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": free}
        )
    )
    return file.getvalue()


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_package(path: Path, description: dict[str, Any], files: dict[str, bytes]) -> Path:
    """Write a package: a zip file, or a folder where the name has no end."""
    entries = {"rdf.yaml": json.dumps(description).encode(), "README.md": b"read me", **files}
    if path.suffix:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        return path
    path.mkdir()
    for name, content in entries.items():
        (path / name).write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

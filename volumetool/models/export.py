"""Our models for other software: ONNX, torch.export, and packages of the BioImage Model Zoo."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from volumetool.errors import ModelError
from volumetool.models.card import ModelCard
from volumetool.models.foreign.archive import write_archive
from volumetool.models.package import Model, load_model
from volumetool.paths import absolute_path, replace_file
from volumetool.version import __version__

OPSET = 18
"""Version of ONNX's operators."""

FORMAT = "0.5.4"
"""Version of the BioImage Model Zoo's specification."""


def export_model(
    model: str | os.PathLike[str],
    *,
    bioimageio: str | os.PathLike[str] | None = None,
    onnx: str | os.PathLike[str] | None = None,
    torch_export: str | os.PathLike[str] | None = None,
) -> tuple[Path, ...]:
    """Write a model for other software.

    What is written takes float32 images (n, c, [z,] y, x) of one channel or, with a z context, of neighbouring sections, of any
    size on the model's grid. 0 and 1 are the percentiles of its card, in the image and in the enhanced one; a package takes
    grey values, and has that as a step before the network.

    Parameters
    ----------
    model : str or path
        A built-in name, or a model file.
    bioimageio : str or path, optional
        Package of the BioImage Model Zoo to write, a zip file.
    onnx : str or path, optional
        ONNX file to write.
    torch_export : str or path, optional
        Program of torch.export to write (``.pt2``).

    Returns
    -------
    tuple of Path
        The files; one that exists is replaced.

    Raises
    ------
    ModelError
        As :func:`volumetool.load_model`; ``model.unreadable``: a package is missing that writes the file.
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    found = load_model(model)
    files = {bioimageio: _package, onnx: _onnx, torch_export: _torch_export}
    written = []
    for place, make in files.items():
        if place is not None:
            written.append(absolute_path(place))
            replace_file(written[-1], make(found))
    return tuple(written)


def _image(card: ModelCard, least: int = 0) -> torch.Tensor:
    """Return an image, (1, c, [z,] y, x), that the network takes; `least` is the least size along an axis."""
    sides = [max(8 * grain, -(-least // grain) * grain) for grain in card.granularity[3 - card.dims :]]
    channels = 1 if card.dims == 3 else 2 * card.z_context + 1
    return torch.rand((1, channels, *sides), generator=torch.Generator().manual_seed(0))


def _onnx(model: Model) -> bytes:
    made, image = io.BytesIO(), _image(model.card)
    free = [0, *range(2, image.dim())]
    ends = {name: {axis: f"{name}_{axis}" for axis in free} for name in ("image", "enhanced")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter that needs no other package is an old one
            torch.onnx.export(
                model.network(),
                (image,),
                made,  # type: ignore[arg-type]  # this exporter writes into files that are open
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["enhanced"],
                dynamic_axes=ends,
            )
    except ImportError as error:
        raise ModelError(
            "model.unreadable", f"ONNX files are written with the package onnx: {error}", hint="pip install 'volumetool[onnx]'"
        ) from error
    return made.getvalue()


def _torch_export(model: Model) -> bytes:
    made, image = io.BytesIO(), _image(model.card)
    free = dict.fromkeys(range(2, image.dim()), torch.export.Dim.AUTO)
    program = torch.export.export(model.network(), (image,), dynamic_shapes=(free,))
    torch.export.save(program, made)
    return made.getvalue()


def _package(model: Model) -> bytes:
    """Return a package: the ONNX network, a description, and test tensors."""
    card, weights = model.card, _onnx(model)
    least = max(4 * far for far in card.receptive_field[3 - card.dims :])
    given = (128 + 40 * (_image(card, least) - 0.5)).numpy()  # grey values
    low, high = np.percentile(given, (card.normalisation.low, card.normalisation.high))
    with torch.inference_mode():
        enhanced = model.network()(torch.from_numpy(((given - low) / (high - low + 1e-6)).astype(np.float32))).numpy()
    files = {
        "weights.onnx": weights,
        "input.npy": _npy(given),
        "output.npy": _npy(enhanced),
        "README.md": _readme(card).encode(),
    }
    said = _description(card, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    return write_archive({"rdf.yaml": yaml.safe_dump(said, sort_keys=False, allow_unicode=True).encode(), **files})


def _description(card: ModelCard, sha256: dict[str, str]) -> dict[str, Any]:
    """Return what the package says of itself; `sha256` holds the digests of its files."""
    spatial = "zyx"[-card.dims :]
    sections = 2 * card.z_context + 1
    names = [f"section_{number}" for number in range(1, sections + 1)] if card.z_context else ["grey"]
    given: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": names}]
    made: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": ["enhanced"]}]
    lengths = (part[3 - card.dims :] for part in (card.granularity, card.receptive_field, card.scale))
    for letter, grain, far, scale in zip(spatial, *lengths, strict=True):
        halo = -(-far // grain) * grain  # what it is added to stays on the grid
        given.append({"type": "space", "id": letter, "size": {"min": 2 * halo + grain, "step": grain}, "scale": 1.0})
        reference = {"tensor_id": "image", "axis_id": letter}
        made.append({"type": "space", "id": letter, "size": reference, "scale": 1.0 / scale, "halo": halo * scale})
    kwargs = {
        "axes": ["channel", *spatial],
        "min_percentile": card.normalisation.low,
        "max_percentile": card.normalisation.high,
    }

    def stored(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sha256[name]}

    return {
        "type": "model",
        "format_version": FORMAT,
        "name": card.name,
        "description": card.description[:1024],
        "authors": [{"name": "volumetool"}],
        "cite": [{"text": text, "url": "https://creativecommons.org/licenses/by/4.0/"} for text in card.provenance.data]
        or [{"text": f"volumetool {__version__}", "url": "https://bioimage.io"}],
        "license": card.licence,
        "tags": ["electron-microscopy", "restoration", "super-resolution"],
        "documentation": "README.md",
        "inputs": [
            {
                "id": "image",
                "axes": given,
                "data": {"type": "float32"},
                "test_tensor": stored("input.npy"),
                "preprocessing": [{"id": "scale_range", "kwargs": kwargs}],
            }
        ],
        "outputs": [{"id": "enhanced", "axes": made, "data": {"type": "float32"}, "test_tensor": stored("output.npy")}],
        "weights": {"onnx": {**stored("weights.onnx"), "opset_version": OPSET}},
    }


def _readme(card: ModelCard) -> str:
    data = "".join(f"- {each}\n" for each in card.provenance.data)
    return (
        f"# {card.name}\n\n{card.description}\n\nIn the image and in the output, 0 and 1 are the percentiles "
        f"{card.normalisation.low:g} and {card.normalisation.high:g} of the image.\n\n# Training data\n\n{data}\n"
        f"# Validation\n\n{card.provenance.recipe or 'See the card of the model.'}\n"
    )


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()

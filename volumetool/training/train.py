"""Training from a configuration to a model file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.geometry import Size, Triple
from volumetool.models import ModelCard, Provenance, UNet, VoxelSizeRange, load_model, measure_receptive_field, save_model
from volumetool.paths import make_folder
from volumetool.storage.io.limits import check_memory
from volumetool.training.checkpoint import mean_weights, read_checkpoint, read_inputs
from volumetool.training.config import CardConfig, TrainConfig
from volumetool.training.data.held_out import calibrate, measure, measure_overlap, measure_seen
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import TrainingSource, open_sources
from volumetool.training.fit import fit
from volumetool.training.preview import write_progress

_ANY_SECTION = (1.0, 1000.0)  # nm along z: a 2D model takes sections of any thickness
NO_GAIN_DB = 0.05
"""Gain in PSNR below which a model does nothing."""

_MAPS = 4  # of the finest level that a gradient needs, at the very least
_STRIDE = {2: (1, 384, 384), 3: (64, 96, 96)}  # coarse voxels; rates are flat around them, larger ones cost memory


def train(config: TrainConfig, folder: Path, observer: Observer = ignore, *, overwrite: bool = False) -> Path:
    """Train a model; run again, an interrupted training goes on from its last checkpoint.

    Parameters
    ----------
    config : TrainConfig
        Configuration of the training.
    folder : Path
        Gets ``NAME.safetensors``, the checkpoint, ``history.json``, ``curves.png`` and ``preview.png``.
    observer : Observer, optional
        As for :func:`volumetool.training.fit.fit`.
    overwrite : bool
        Start over, whatever the folder holds of an earlier training.

    Returns
    -------
    Path
        The model file.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: the folder holds a training with other settings.
    ConfigError, InputError
        A source or a recipe cannot be used.
    ResourceError
        ``resource.memory``.
    """
    check_size(config)
    if overwrite and folder.exists():
        for name in ("checkpoint.safetensors", "history.json", "curves.png", "preview.png", f"{config.name}.safetensors"):
            (folder / name).unlink(missing_ok=True)
    if folder.is_file():
        raise ConfigError("config.option", f"{folder} is a file", hint="name a folder for the training")
    make_folder(folder)
    fit(config, folder, observer, partial(write_progress, folder))
    return finish(config, folder)


def check_size(config: TrainConfig) -> None:
    """Refuse a training that memory cannot hold, before its network is made or a crop is read.

    All that is counted is needed: weights with gradient, two moments and mean, crops, on a CPU the finest level's maps.

    Raises
    ------
    ResourceError
        ``resource.memory``.
    """
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in UNet(config.architecture).parameters())
    crops = config.sampling.acquisitions * config.sampling.crops
    voxels = prod(config.sampling.crop) * config.architecture.channels
    batch = crops * (voxels + prod(config.sampling.crop) * prod(config.architecture.scale))
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    maps = crops * prod(config.sampling.crop) * config.architecture.width * _MAPS if on_cpu else 0
    needed = 4 * (5 * weights + (1 + config.validation.batches) * batch + maps)
    check_memory(config.name, needed, f"a network of {weights} weights on {crops} crops of {config.sampling.crop} voxels")


def finish(config: TrainConfig, folder: Path) -> Path:
    """Write the model file of a training that has reached its last step: weights, measured overlap, scores, provenance."""
    _, tensors = read_checkpoint(folder)
    network = UNet(config.architecture)
    network.load_state_dict(mean_weights(tensors))
    network.eval().requires_grad_(requires_grad=False)
    path = folder / f"{config.name}.safetensors"
    save_model(path, network, make_card(network, Sampler(open_sources(config), config)))
    return path


def describe(config: TrainConfig) -> dict[str, Any]:
    """Open the sources of a training and return what would be learnt from them: JSON values by name, for people to read."""
    check_size(config)
    sampler = Sampler(open_sources(config), config)
    crop, scale = config.sampling.crop, config.architecture.scale
    return {
        "model": config.name,
        "parameters": sum(parameter.numel() for parameter in UNet(config.architecture).parameters()),
        "scale": list(scale),
        "steps": config.steps,
        "crops_a_step": config.sampling.acquisitions * config.sampling.crops * config.devices,
        "voxels_a_crop": [n * f for n, f in zip(crop, scale, strict=True)],
        "pairs": describe_recipe(config, sampler.sources),
        "sources": [
            {
                "path": source.config.path,
                "voxels": list(source.shape),
                "training": sum(box.voxels for box in source.parts["training"]),
                "validation": sum(box.voxels for box in source.parts["validation"]),
                "pairs_dropped": source.dropped,
            }
            for source in sampler.sources
        ],
    }


def find_no_gain(card: ModelCard) -> str | None:
    """Return a warning where a trained model is no better than linear enlargement, None where it is better or not measured."""
    psnr: dict[str, list[float]] = {"linear": [], "net": []}
    for metric in card.provenance.metrics:
        psnr[metric.method].append(metric.psnr)
    if not psnr["net"] or max(net - linear for net, linear in zip(psnr["net"], psnr["linear"], strict=True)) >= NO_GAIN_DB:
        return None
    net, linear = (float(np.mean(psnr[method])) for method in ("net", "linear"))
    what = "changing nothing" if max(card.scale) == 1 else "linear enlargement"
    return f"{card.name} is no better than {what} on its validation part: {net:.2f} dB against {linear:.2f}; train it longer"


def make_card(network: UNet, sampler: Sampler) -> ModelCard:
    """Describe a trained network, measuring what can be measured.

    Parameters
    ----------
    network : UNet
        Network with the trained weights, in eval mode.
    sampler : Sampler
        Sampler of its training.
    """
    config, architecture = sampler.config, sampler.config.architecture
    overlap, trim = measure_overlap(network, sampler)
    stride = config.card.stride or _STRIDE[architecture.dims]
    stride = _longer(stride, overlap, architecture.granularity)
    z, y, x = (a + b for a, b in zip(stride, overlap, strict=True))
    return ModelCard(
        name=config.name,
        description=config.card.description or f"{_times(architecture.scale)} finer; trained by `volumetool train`.",
        licence=config.card.licence,
        dims=architecture.dims,
        scale=architecture.scale,
        z_context=architecture.z_context,
        patch=(z, y, x),
        overlap=overlap,
        trim=trim,
        granularity=architecture.granularity,
        receptive_field=measure_receptive_field(network, architecture),
        normalisation=config.normalisation,
        polarity=config.card.polarity,
        voxel_size=_voxel_size(config.card, sampler),
        precision_safe=("float32", "bfloat16") if config.precision == "bfloat16" else ("float32",),
        seen=measure_seen(sampler),
        error_factor=calibrate(network, sampler),
        architecture=architecture,
        provenance=Provenance(
            data=tuple(dict.fromkeys([*map(_citation, sampler.sources), *_started_from(config)])),
            recipe=describe_recipe(config, sampler.sources),
            training=config.semantic() | read_inputs(config),
            metrics=measure(network, sampler),
        ),
    )


def describe_recipe(config: TrainConfig, sources: Sequence[TrainingSource]) -> str:
    """Describe in a few sentences how the pairs were made."""
    scale = _times(config.architecture.scale)
    if config.blind_spot is not None:
        return "Noisy images alone, with voxels hidden from the network (Noise2Void)."
    real = sum(source.noisy is not None for source in sources)
    told = []
    if real:
        dropped = sum(source.dropped for source in sources)
        told.append(f"Registered real pairs from {real} of {len(sources)} sources ({dropped} sections dropped).")
    if real < len(sources):
        degradation, augmentation = config.degradation, config.augmentation
        recipes = ", ".join(degradation.names)
        told.append(
            f"Semi-synthetic pairs: random crops, degraded {scale} by {recipes} "
            f"at {_span(degradation.noise)} times their noise and {_span(degradation.blur)} times their blur."
        )
        varied = {name: span for name, span in augmentation.model_dump().items() if span[0] != span[1]}
        told.append("Varied: " + ", ".join(f"{name} {_span(span)}" for name, span in varied.items()) + ".")
    return " ".join(told)


def _started_from(config: TrainConfig) -> tuple[str, ...]:
    return load_model(config.start).card.provenance.data if config.start else ()


def _citation(source: TrainingSource) -> str:
    name = source.config.cite or source.config.path.rstrip("/").rsplit("/", 1)[-1]
    size = "" if source.voxel_size is None else f", voxels of {' x '.join(f'{v:g}' for v in source.voxel_size)} nm"
    return f"{name} ({source.config.licence or 'licence not stated'}){size}"


def _voxel_size(card: CardConfig, sampler: Sampler) -> VoxelSizeRange | None:
    if card.smallest is not None and card.largest is not None:
        return VoxelSizeRange(smallest=card.smallest, largest=card.largest)
    known = [source.voxel_size for source in sampler.sources if source.voxel_size is not None]
    if not known:
        return None
    architecture = sampler.config.architecture
    low, high = (
        [pick(size[axis] for size in known) * f * factor for axis, f in enumerate(architecture.scale)]
        for pick, factor in ((min, 0.5), (max, 2.0))
    )
    if architecture.dims == 2 and architecture.z_context == 0:
        low[0], high[0] = _ANY_SECTION
    return VoxelSizeRange(smallest=_size(card.smallest or low), largest=_size(card.largest or high))


def _longer(stride: Triple, overlap: Triple, grain: Triple) -> Triple:
    z, y, x = (-(-max(s, o) // g) * g for s, o, g in zip(stride, overlap, grain, strict=True))
    return z, y, x


def _size(values: list[float] | Size) -> Size:
    z, y, x = values
    return z, y, x


def _times(scale: Triple) -> str:
    return " x ".join(map(str, scale))


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:g}" if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"

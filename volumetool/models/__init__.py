"""Models: cards, networks, files.

A model is a `ModelCard` and the weights of a `UNet`, stored together in one safetensors file. Nothing in a model file is
ever executed.
"""

from __future__ import annotations

from volumetool.models.card import (
    VALIDATION,
    HistogramMatching,
    Metric,
    ModelCard,
    Normalisation,
    OperationCard,
    Provenance,
    VoxelSizeRange,
)
from volumetool.models.package import Model, fitting_models, list_models, load_model, save_model
from volumetool.models.receptive_field import measure_receptive_field
from volumetool.models.unet import UNet, UNetConfig

__all__ = [
    "VALIDATION",
    "HistogramMatching",
    "Metric",
    "Model",
    "ModelCard",
    "Normalisation",
    "OperationCard",
    "Provenance",
    "UNet",
    "UNetConfig",
    "VoxelSizeRange",
    "fitting_models",
    "list_models",
    "load_model",
    "measure_receptive_field",
    "save_model",
]

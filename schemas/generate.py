"""The JSON Schemas of volumetool's configurations, from their pydantic models."""

from __future__ import annotations

import json

from pydantic import BaseModel

from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.models import ModelCard
from volumetool.training.config import TrainConfig
from volumetool.training.crappifiers import Crappifier

MODELS: dict[str, type[BaseModel]] = {
    "crappifier": Crappifier,
    "job": Job,
    "model-card": ModelCard,
    "plan": Plan,
    "train": TrainConfig,
}


def schema_texts() -> dict[str, str]:
    """Return for every configuration its schema as the text of its file."""
    return {name: json.dumps(model.model_json_schema(), indent=1) + "\n" for name, model in MODELS.items()}

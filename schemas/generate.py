"""The JSON Schemas of volumetool's configurations, from their pydantic models and the docstrings of these."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, get_type_hints

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from volumetool.degradation import Crappifier
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.models import ModelCard
from volumetool.training.config import TrainConfig

MODELS: dict[str, type[BaseModel]] = {
    "crappifier": Crappifier,
    "job": Job,
    "model-card": ModelCard,
    "plan": Plan,
    "train": TrainConfig,
}


FILES = ("crappifier", "job", "train")
"""Configurations that users write as files: these may name their schema under ``$schema``."""


class _Described(GenerateJsonSchema):
    """Describes properties in the words of the numpydoc section *Parameters* of their class, else of their own class."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _described(super().dataclass_schema(schema), schema["cls"])


def _described(schema: JsonSchemaValue, cls: type[Any]) -> JsonSchemaValue:
    schema["description"] = _summary(cls)
    types = get_type_hints(cls)
    words = {
        name: _summary(member) for name, member in types.items() if isinstance(member, type) and issubclass(member, BaseModel)
    }
    for base in reversed(cls.__mro__):
        words |= _parameters(base.__doc__ or "")
    for name, member in schema.get("properties", {}).items():
        if name in words:
            member.setdefault("description", words[name])
    return schema


def _summary(cls: type[Any]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\nParameters\n")[0]


def _parameters(docstring: str) -> dict[str, str]:
    """Return the descriptions of a docstring's parameters by name; an entry ``a, b : type`` describes both."""
    _, _, section = inspect.cleandoc(docstring).partition("\nParameters\n----------\n")
    section = re.split(r"\n\S[^\n]*\n-{3,}\n", section)[0]  # the next section's title ends this one
    found = {}
    for entry in re.split(r"\n(?=\S)", section):
        head, _, body = entry.partition("\n")
        for name in head.partition(" : ")[0].split(","):
            found[name.strip()] = " ".join(body.split())
    return found


def schema_texts() -> dict[str, str]:
    """Return for every configuration its schema as the text of its file."""
    return {name: json.dumps(_schema(name, model), indent=1) + "\n" for name, model in MODELS.items()}


def _schema(name: str, model: type[BaseModel]) -> JsonSchemaValue:
    schema = {"$schema": _Described.schema_dialect, **model.model_json_schema(schema_generator=_Described)}
    if name in FILES:
        text = {"type": "string", "description": "Address of this schema, for editors; volumetool does not read it."}
        schema["properties"] = {**schema["properties"], "$schema": text}
    return schema

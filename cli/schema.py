"""``volumetool schema``: the JSON Schema of a configuration."""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from typing import Annotated

import typer


class Name(StrEnum):
    """Configurations that have a schema."""

    CRAPPIFIER = "crappifier"
    JOB = "job"
    MODEL_CARD = "model-card"
    PLAN = "plan"
    TRAIN = "train"


def schema(name: Annotated[Name, typer.Argument(help="Which configuration.")]) -> None:
    """Print the JSON Schema of a configuration, for editors and validators."""
    print(resources.files("volumetool.schemas").joinpath(f"{name.value}.json").read_text(), end="")

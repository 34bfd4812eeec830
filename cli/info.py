"""``volumetool info`` and ``volumetool schema``: what a volume is, and what a configuration may say."""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from typing import Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, VoxelSize, given_size


class Name(StrEnum):
    """Configurations that have a schema."""

    CRAPPIFIER = "crappifier"
    JOB = "job"
    MODEL_CARD = "model-card"
    PLAN = "plan"
    TRAIN = "train"


def info(
    volume: Annotated[str, typer.Argument(help="Volume: path or URL.")],
    voxel_size: VoxelSize = None,
    as_json: Json = False,
) -> None:
    """Return what a volume is: format, axes, shape, dtype, voxel size, levels, chunks, shards, size on disk."""
    from volumetool.storage.info import describe_volume
    from volumetool.storage.open import open_volume

    facts = describe_volume(open_volume(volume, voxel_size=given_size(voxel_size)))
    if as_json:
        print_json("volume", facts)
        return
    from volumetool.cli._tables import print_facts

    in_nm = {"voxel_size": "voxel size nm", "translation": "translation nm"}
    levels = [{in_nm.get(name, name): value for name, value in level.items()} for level in facts["levels"]]
    print_facts({**facts, "axes": ", ".join(facts["axes"]), "levels": levels})


def schema(name: Annotated[Name, typer.Argument(help="Which configuration.")]) -> None:
    """Print the JSON Schema of a configuration, for editors and validators."""
    print(resources.files("volumetool.schemas").joinpath(f"{name.value}.json").read_text(), end="")

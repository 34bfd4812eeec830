"""``volumetool model``: model cards."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from volumetool.cli.options import Json

app = typer.Typer(help="List and show models.", no_args_is_help=True)


@app.command("list")
def list_cards(as_json: Json = False) -> None:
    """List the built-in models."""
    from volumetool.models import list_models

    rows = [
        {
            "name": card.name,
            "scale": list(card.scale),
            "for voxels from nm": list(card.voxel_size.smallest) if card.voxel_size else "any",
            "to nm": list(card.voxel_size.largest) if card.voxel_size else "any",
            "licence": card.licence,
            "description": card.description,
        }
        for card in list_models()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    from volumetool.cli.tables import print_facts

    print_facts({"models": rows})


@app.command("show")
def show_card(name: Annotated[str, typer.Argument(help="Built-in name or model file.")], as_json: Json = False) -> None:
    """Show a model's card: what it was trained on, what it reaches, how it is tiled."""
    from volumetool.models import load_model

    card = load_model(name).card.model_dump(mode="json")
    if as_json:
        print(json.dumps(card))
        return
    from volumetool.cli.tables import print_facts

    provenance = card.pop("provenance")
    print_facts({**card, **provenance})

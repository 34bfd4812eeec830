"""``volumetool model``: model cards, and networks of others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli._json import print_json
from volumetool.cli._logging import logged
from volumetool.cli._options import Json
from volumetool.cli._tables import say

if TYPE_CHECKING:
    from volumetool.models import ModelCard

app = typer.Typer(help="List, show, import, test, export models.", no_args_is_help=True)


@app.command("list")
@logged
def list_cards(as_json: Json = False) -> None:
    """List the built-in and the imported models."""
    from volumetool.models import list_models
    from volumetool.processing.operations.imported import list_imported

    cards, imported = list_models(), list_imported()
    if as_json:
        print_json("models", {"models": [_row(card) for card in cards], "imported": list(imported)})
        return
    from volumetool.cli._tables import print_lines

    for card in cards:
        lines = [(card.name, card.description), ("", f"{_suits(card)} Licence: {card.licence}.")]
        if gains := card.provenance.gains:
            told = "; ".join(f"{tissue} {gain:+.1f}" for tissue, gain in gains.items())
            lines.append(("", f"Gain in dB over {_before(card)}: {told}."))
        print_lines(lines, sys.stdout)
    if imported:
        from volumetool.configuration import models_folder

        print_lines([("imported", f"{', '.join(imported)}, in {models_folder()}")], sys.stdout)


def _row(card: ModelCard) -> dict[str, Any]:
    """Return what a user chooses a model by, under the names of its card."""
    facts = card.model_dump(mode="json", include={"name", "scale", "voxel_size", "licence", "description"})
    return facts | {"gains": card.provenance.gains}


def _before(card: ModelCard) -> str:
    """Return what a model's gains are measured against."""
    return "the noisy image" if max(card.scale) == 1 else "linear enlargement"


def _suits(card: ModelCard) -> str:
    """Return what a model does to voxels, and to which."""
    from volumetool.units import show_scale

    suits = "any size"
    if card.voxel_size is not None:
        axes = zip("zyx", card.voxel_size.smallest, card.voxel_size.largest, strict=True)
        suits = ", ".join(f"{axis} {low:g} to {high:g}" for axis, low, high in axes) + " nm"
    gain = show_scale(card.scale)
    return f"{gain[0].upper()}{gain[1:]}. For voxels of {suits}."


@app.command("show")
@logged
def show_card(name: Annotated[str, typer.Argument(help="Built-in name or model file.")], as_json: Json = False) -> None:
    """Show a model's card: what it was trained on, what it reaches, how it is tiled."""
    from volumetool.models import load_model

    card = load_model(name).card.model_dump(mode="json")
    if as_json:
        print_json("model", card)
        return
    from volumetool.cli._tables import print_facts

    provenance = card.pop("provenance")
    print_facts({**card, **provenance})


@app.command("import")
@logged
def import_package(
    source: Annotated[str, typer.Argument(metavar="PACKAGE", help="Zip file, folder, rdf.yaml or URL; or a network's file.")],
    name: Annotated[str | None, typer.Option(help="What it is called from now on; else as the file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model of that name.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Load a TorchScript program, which is code.")] = False,
    as_json: Json = False,
) -> None:
    """Import a network of others, such as a package of the BioImage Model Zoo, to run it by its name."""
    from volumetool.processing.operations.imported import import_model

    file = import_model(source, name, overwrite=overwrite, trust=trust)
    if as_json:
        print_json("imported", {"name": file.stem, "file": str(file)})
        return
    say(f"{file.stem}: imported into {file.parent}; volumetool enhance INPUT OUTPUT --model {file.stem}", sys.stdout)


@app.command("test")
@logged
def run_test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Imported model, or a package.")],
    trust: Annotated[bool, typer.Option("--trust", help="Load a TorchScript program, which is code.")] = False,
    as_json: Json = False,
) -> None:
    """Run a package of the BioImage Model Zoo on its own test tensor, and say by how much the result differs."""
    from dataclasses import asdict

    from volumetool.jobs.reproduction import check_model

    found = check_model(name, trust=trust)
    if as_json:
        print_json("model-test", asdict(found))
    else:
        say(
            f"{found.model}: {'as' if found.ok else 'NOT as'} its test tensor; the network differs by at most "
            f"{found.one_pass:.2g}, a job by {found.inside:.2g} inside, and by {found.faces:.2g} near faces, which it mirrors",
            sys.stdout,
        )
    raise typer.Exit(0 if found.ok else 4)


@app.command("export")
@logged
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Built-in name or model file.")],
    bioimageio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Package of the BioImage Model Zoo to write, .zip.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="ONNX file to write.")] = None,
    torch_export: Annotated[Path | None, typer.Option(metavar="FILE", help="Program of torch.export to write, .pt2.")] = None,
    as_json: Json = False,
) -> None:
    """Write a model of ours for other software."""
    from volumetool.errors import ConfigError
    from volumetool.models.export import export_model

    if bioimageio is onnx is torch_export is None:
        raise ConfigError(
            "config.option", "nothing is to be written", hint="name a file: --bioimageio, --onnx or --torch-export"
        )
    files = [str(file) for file in export_model(model, bioimageio=bioimageio, onnx=onnx, torch_export=torch_export)]
    if as_json:
        print_json("exported", {"model": model, "files": files})
        return
    say(f"{model}: written to {', '.join(files)}", sys.stdout)

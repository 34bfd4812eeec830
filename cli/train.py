"""``volumetool train``: a model for one's own microscope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from volumetool.cli._options import AllowHost, Json, local_path
from volumetool.cli._progress import LogFormat, observing
from volumetool.cli._tables import say


def train(
    config: Annotated[Path, typer.Argument(parser=local_path, help="YAML file; `volumetool schema train` describes it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=local_path, help="Folder of the training; by default the model's name, here."),
    ] = None,
    allow_host: AllowHost = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the file's.", min=1)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, instead of the file's.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many GPUs, instead of the file's.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the sources and say what would be learnt.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over instead of going on.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="auto: bars or plain lines; json: one line an event.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a model from a YAML file. Run again = go on where it stopped."""
    from volumetool.training.config import change_config, read_config
    from volumetool.training.data.sources import find_shortcomings

    asked = change_config(read_config(config, allow_host or []), steps=steps, device=device, devices=devices)
    folder = output or Path(asked.name)
    for note in find_shortcomings(asked):
        say(f"warning: {note}")
    if dry_run:
        from volumetool.cli._tables import print_facts

        from volumetool.training.train import describe

        facts = describe(asked)
        print(json.dumps(facts)) if as_json else print_facts(facts)
        return
    from volumetool.models import load_model
    from volumetool.training.train import find_no_gain
    from volumetool.training.train import train as run

    with observing(log_format) as observer:
        path = run(asked, folder, observer, overwrite=overwrite)
    card = load_model(path).card
    if as_json:
        print(json.dumps({"model": str(path), "card": card.model_dump(mode="json")}))
    if (no_gain := find_no_gain(card)) is not None:
        say(f"warning: {no_gain}")
    say(f"wrote {path}; pictures and curves are beside it. `volumetool model show {path}`")

"""``volumetool train``: a model for one's own microscope."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import AllowHost, Json, local_path
from volumetool.cli._progress import LogFormat, observing
from volumetool.cli._tables import print_lines, say, warn

if TYPE_CHECKING:
    from volumetool.training.api import Training
    from volumetool.training.config import TrainConfig

TUNING = "Fine-tuning, without a file"
NOT_BETTER = 4
"""Exit code where a fine-tuned model is no better than what was there before: as of `validate`."""


def train(
    config: Annotated[
        Path | None, typer.Argument(parser=local_path, help="YAML file; `volumetool schema train` describes it.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Built-in name or model file.", rich_help_panel=TUNING)
    ] = None,
    truth: Annotated[
        str | None, typer.Option("--on", metavar="TRUTH", help="Fine, clean volume to learn from.", rich_help_panel=TUNING)
    ] = None,
    low: Annotated[
        str | None,
        typer.Option(
            metavar="LOW",
            help="Volume of such tissue from your fast microscope, to fit a recipe to; else the model's recipes are taken.",
            rich_help_panel=TUNING,
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="How long to learn, instead of --steps; 10 by default.", rich_help_panel=TUNING)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=local_path, help="Folder of the training; by default the model's name, here."),
    ] = None,
    allow_host: AllowHost = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the file's.", min=1)] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Instead of the file's.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many GPUs, instead of the file's.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the sources and say what would be learnt.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over instead of going on.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="auto: bars or plain lines; json: one line an event.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a model from a YAML file, or fine-tune one on your own volume. Run again = go on where it stopped."""
    from volumetool.training.api import TrainingOptions, plan_training
    from volumetool.training.api import train as run

    asked: dict[str, Any] = {"config": config, "start": start, "truth": truth, "low": low, "minutes": minutes, "output": output}
    asked |= {"allow_host": tuple(allow_host or ()), "steps": steps, "device": device, "devices": devices}
    with observing(log_format) as observer:
        if dry_run:
            planned, _ = plan_training(TrainingOptions(**asked, overwrite=overwrite), observer)
        else:
            trained = run(**asked, overwrite=overwrite, observer=observer)
    if dry_run:
        _describe(planned, as_json=as_json, as_file=start is not None)
        return
    if as_json:
        print_json("training", trained.as_dict())
    if trained.better is not None:
        _tell_gains(trained)
        return
    say(f"wrote {trained.model}; pictures and curves are beside it. `volumetool model show {trained.model}`")


def _describe(asked: TrainConfig, *, as_json: bool, as_file: bool) -> None:
    """Print what would be learnt; of a training without a file, on stdout, the file that says the same."""
    import yaml
    from volumetool.cli._tables import print_facts, show

    from volumetool.training.train import describe

    facts, config = describe(asked), asked.model_dump(mode="json", exclude_unset=True)
    if as_json:
        print_json("training-plan", facts | ({"config": config} if as_file else {}))
    elif as_file:
        (source,) = facts["sources"]
        print_lines([(name, show(facts[name])) for name in ("model", "pairs", "steps")])
        apart = f"{show(source['validation'])} of them are kept apart, to measure the gain"
        print_lines([("learns from", f"{source['path']}: {show(source['training'] + source['validation'])} voxels; {apart}")])
        say("The same as a file, for `volumetool train FILE`:")
        yaml.safe_dump(config, sys.stdout, sort_keys=False, width=120)
    else:
        print_facts(facts)


def _tell_gains(trained: Training) -> None:
    """Print what a fine-tuned model gains, and end with a code of its own where that is nothing."""
    from volumetool.training.fine_tune import is_certain, show_gain

    path = trained.model
    for gain in trained.gains:
        say(f"on the part kept apart: {show_gain(gain)} (raw PSNR, 95 % interval)")
    if trained.better:
        say(f"wrote {path}; use it with --model {path}")
        return
    worse = ", ".join(gain.rival for gain in trained.gains if not is_certain(gain))
    warn(
        f"{path} was written, and its card says that it is NO BETTER than {worse}: do not prefer it. More --minutes, a larger "
        "volume, or --low of your microscope may help"
    )
    raise typer.Exit(NOT_BETTER)

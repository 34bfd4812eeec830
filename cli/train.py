"""``volumetool train``: a model for one's own microscope."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import AllowHost, DeviceName, Json, local_path
from volumetool.cli._progress import LogFormat, observing
from volumetool.cli._tables import print_lines, say, warn

if TYPE_CHECKING:
    from volumetool.evaluation.results import Gain
    from volumetool.training.config import TrainConfig

TUNING = "Fine-tuning, without a file"
MINUTES = 10.0
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
    device: Annotated[DeviceName | None, typer.Option(help="Instead of the file's.")] = None,
    devices: Annotated[int | None, typer.Option(help="How many GPUs, instead of the file's.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Open the sources and say what would be learnt.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over instead of going on.")] = False,
    log_format: Annotated[LogFormat, typer.Option(help="auto: bars or plain lines; json: one line an event.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a model from a YAML file, or fine-tune one on your own volume. Run again = go on where it stopped."""
    from volumetool.training.config import change_config, read_config
    from volumetool.training.data.sources import find_shortcomings

    _check_task(config, start, truth, {"--low": low, "--minutes": minutes}, steps)
    if config is not None:
        read = read_config(config, allow_host or [])
        for note in find_shortcomings(read):
            warn(f"warning: {note}")
    else:
        from volumetool.training.fine_tune import plan_fine_tuning

        read = plan_fine_tuning(str(start), str(truth), low)
    asked = change_config(read, steps=steps, device=device, devices=devices)
    folder = output or Path(asked.name)
    if start is not None and steps is None:
        asked = _in_minutes(asked, folder, MINUTES if minutes is None else minutes, overwrite=overwrite)
    if dry_run:
        _describe(asked, as_json=as_json, as_file=start is not None)
        return
    from volumetool.models import load_model
    from volumetool.training.train import find_no_gain
    from volumetool.training.train import train as run

    with observing(log_format) as observer:
        path = run(asked, folder, observer, overwrite=overwrite)
    if start is not None:
        from volumetool.training.fine_tune import judge

        _tell_gains(path, judge(asked, path), as_json=as_json)
        return
    card = load_model(path).card
    if as_json:
        print_json("training", {"model": str(path), "card": card.model_dump(mode="json")})
    if (no_gain := find_no_gain(card)) is not None:
        warn(f"warning: {no_gain}")
    say(f"wrote {path}; pictures and curves are beside it. `volumetool model show {path}`")


def _check_task(
    config: Path | None, start: str | None, truth: str | None, tuning: dict[str, object], steps: int | None
) -> None:
    """Refuse options that do not say one task: a file, or a model and a volume.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    from volumetool.errors import ConfigError

    given = [name for name, value in ({"--from": start, "--on": truth} | tuning).items() if value is not None]
    clash = None
    if config is not None and given:
        clash = f"{', '.join(given)}: of no effect with {config}, which says what is learnt"
    elif config is None and (start is None or truth is None):
        clash = f"{given[0]} alone is no training" if given else "a training file is needed, or a model and a volume"
    elif steps is not None and "--minutes" in given:
        clash = f"--steps {steps} and --minutes {tuning['--minutes']:g} both say how long"
    if clash is not None:
        raise ConfigError(
            "config.option",
            clash,
            hint="volumetool train CONFIG, or volumetool train --from MODEL --on TRUTH [--low LOW] [--minutes 10]",
        )


def _in_minutes(asked: TrainConfig, folder: Path, minutes: float, *, overwrite: bool) -> TrainConfig:
    """Return a training with as many steps as fit into so many minutes, or those that it was begun with."""
    from volumetool.training.config import change_config
    from volumetool.training.fine_tune import begun_steps, time_step

    begun = None if overwrite else begun_steps(folder)
    if begun is not None:
        say(f"{folder} was begun with {begun} steps, and goes on; --overwrite starts over")
        return change_config(asked, steps=begun)
    seconds = time_step(asked)
    steps = max(1, round(60 * minutes / seconds))
    say(f"{steps} steps: {minutes:g} min at {seconds:.2g} s a step on this machine")
    return change_config(asked, steps=steps)


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


def _tell_gains(path: Path, gains: tuple[Gain, ...], *, as_json: bool) -> None:
    """Print what a fine-tuned model gains, and end with a code of its own where that is nothing."""
    from dataclasses import asdict

    from volumetool.models import load_model
    from volumetool.training.fine_tune import is_certain, show_gain

    better = all(map(is_certain, gains))
    if as_json:
        card = load_model(path).card.model_dump(mode="json")
        print_json("training", {"model": str(path), "better": better, "gains": [asdict(gain) for gain in gains], "card": card})
    for gain in gains:
        say(f"on the part kept apart: {show_gain(gain)} (raw PSNR, 95 % interval)")
    if better:
        say(f"wrote {path}; use it with --model {path}")
        return
    worse = ", ".join(gain.rival for gain in gains if not is_certain(gain))
    warn(
        f"{path} was written, and its card says that it is NO BETTER than {worse}: do not prefer it. More --minutes, a larger "
        "volume, or --low of your microscope may help"
    )
    raise typer.Exit(NOT_BETTER)

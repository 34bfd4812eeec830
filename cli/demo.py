"""``volumetool demo``: the main job on an embedded volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, local_path
from volumetool.cli._progress import observing
from volumetool.cli._tables import say


def demo(
    folder: Annotated[Path, typer.Argument(parser=local_path, help="Where everything goes.")] = Path("demo"),
    as_json: Json = False,
) -> None:
    """Make a small EM-like volume, degrade it, enhance it with the built-in model, and draw what came out."""
    from volumetool.benchmark.demo import run_demo

    say("making an EM-like volume, and a 16 times smaller, noisy one of it")
    with observing() as observer:
        made = run_demo(folder, observer=observer)
    if as_json:
        psnr = {"psnr_bilinear": made.psnr_bilinear, "psnr_enhanced": made.psnr_enhanced}
        print_json("demo", {"picture": str(made.picture), **psnr})
    say(
        f"PSNR against the truth: bilinear {made.psnr_bilinear:.2f} dB, volumetool {made.psnr_enhanced:.2f} dB\n"
        f"look at it:        {made.picture}\n"
        f"what it is:        volumetool info {made.enhanced}\n"
        f"how it was made:   volumetool status {made.enhanced}\n"
        f"read it again:     volumetool verify {made.enhanced}",
    )
    raise typer.Exit(made.outcome.exit_code)

"""What a training looks like: curves, and pictures of the validation part as it is restored now."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from volumetool.evaluation.pictures import Panel, draw_row
from volumetool.evaluation.scores.resample import enlarge
from volumetool.events import CurvePoint
from volumetool.models import UNet
from volumetool.paths import replace_file
from volumetool.training.checkpoint import TrainingState
from volumetool.training.data.held_out import held_out
from volumetool.training.data.pairs import Sampler
from volumetool.training.restore import restore_volume

_ROWS = 4
_PANEL = 320  # pixels


def write_progress(folder: Path, state: TrainingState, sampler: Sampler) -> None:
    """Write ``history.json``, ``curves.png`` and ``preview.png`` into a training's folder.

    Parameters
    ----------
    folder : Path
        Folder of the training; files that are there are replaced.
    state : TrainingState
        Its history becomes the curves, its running mean of the weights restores the preview.
    sampler : Sampler
        Gives the validation part. Where nothing was held out, there is no preview.
    """
    replace_file(folder / "history.json", json.dumps([vars(point) for point in state.history], indent=1).encode())
    replace_file(folder / "curves.png", draw_curves(state.history))
    if (picture := draw_preview(state.mean, sampler)) is not None:
        replace_file(folder / "preview.png", picture)


def draw_curves(history: list[CurvePoint]) -> bytes:
    """Draw the loss, and the PSNR on the validation part beside linear enlargement: a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [point.step for point in history]
    left.plot(steps, [point.loss for point in history], color="tab:blue")
    left.set(xlabel="step", ylabel="training loss")
    if any(point.psnr is not None for point in history):
        right.plot(steps, [point.psnr for point in history], color="tab:orange", label="running mean of the weights")
        right.plot(steps, [point.enlarged for point in history], color="tab:grey", ls="--", label="linear enlargement")
        right.set(xlabel="step", ylabel="validation PSNR / dB")
        right.legend(frameon=False)
    else:
        right.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def draw_preview(network: UNet, sampler: Sampler) -> bytes | None:
    """Draw validation sections: noisy, enlarged, restored, truth; a PNG, or None where nothing was held out."""
    rows = []
    for volume in list(held_out(sampler))[:_ROWS]:
        scale = sampler.config.architecture.scale
        restored = restore_volume(network, volume.coarse, sampler.config.normalisation)
        plain = enlarge(volume.coarse, scale, "linear")
        middle = len(volume.fine) // 2
        panels = [
            Panel(volume.protocol, volume.coarse[middle // scale[0]]),
            Panel("linear", plain[middle]),
            Panel("restored", restored[middle]),
        ]
        if sampler.config.blind_spot is None:
            panels.append(Panel("truth", volume.fine[middle]))
        low, high = (float(v) for v in np.percentile(volume.fine, (0.5, 99.5)))
        rows.append(draw_row(panels, _PANEL, (low, max(high, low + 1))))
    if not rows:
        return None
    picture = Image.new("L", (rows[0].width, sum(row.height for row in rows)), 255)
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(each.height for each in rows[:number])))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

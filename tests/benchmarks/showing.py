"""How the figures of `method.py` look: tables on stdout, and blocks as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scoring import BLOCK, SCORES

from volumetool.evaluation.baselines import METHODS, restore
from volumetool.evaluation.pictures import Panel, draw_row, grey_limits

PERCENTILES = (95, 50, 5)
"""Blocks that are shown: nearly the worst, the middling one, nearly the best, by the net's own error."""

Bytes = NDArray[np.uint8]


def show_scores(title: str, part: dict[str, Any]) -> None:
    """Print a table of methods, and how far the nets are from the best of the classical ones."""
    table = _table(title, "", "strength", *SCORES)
    for method, row in part["rows"].items():
        strength = _strength(row["strength"], method) if row["strength"] else ""
        table.add_row(method, strength, *(f"{row[name]:.2f}" if "psnr" in name else f"{row[name]:.4f}" for name in SCORES))
    console = Console(width=160)
    console.print(table)
    for net, differences in part["differences"].items():
        for score, found in differences.items():
            against = f"over the best classical one, {found['best']}" if "best" in found else ""
            console.print(f"{net}: {score} {_interval(found)} {against}", highlight=False)


def show_denoising(title: str, part: dict[str, Any]) -> None:
    """Print figure 3."""
    show_scores(f"{title}, {part['pairs']} pairs", part)


def show_tasks(title: str, part: dict[str, Any]) -> None:
    """Print a table of tasks."""
    nets = list(next(iter(part.values()))["shares"])
    table = _table(title, "", "truth", "bilinear", *nets, *(f"{net}: share of loss" for net in nets))
    for task, found in part.items():
        scores, shares = found["scores"], found["shares"]
        cells = [f"{scores[image]:.3f}" for image in ("truth", "bilinear", *nets)]
        table.add_row(task, *cells, *(f"{shares[net]:.2f}" for net in nets))
    Console(width=160).print(table)


def show_mismatch(title: str, part: dict[str, Any]) -> None:
    """Print a table of what was met, by net."""
    nets = list(next(iter(part.values())))
    table = _table(title, "met", *nets)
    for met, row in part.items():
        table.add_row(met, *(_interval(row[net]["all"]) for net in nets))
    Console(width=160).print(table)


def save_blocks(place: Path, images: Sequence[tuple[Bytes, Bytes, Bytes]], net: str) -> None:
    """Draw the blocks at the percentiles of the net's error as rows: input, bilinear, net, truth.

    Parameters
    ----------
    place : Path
        PNG to write.
    images : sequence of tuple
        Coarse, restored and true sections, uint8.
    net : str
        Its name.
    """
    errors = [
        (_error(restored, truth, y, x), number, y, x)
        for number, (_, restored, truth) in enumerate(images)
        for y in range(0, truth.shape[0] - BLOCK + 1, BLOCK)
        for x in range(0, truth.shape[1] - BLOCK + 1, BLOCK)
    ]
    errors.sort()
    rows = []
    for percentile in PERCENTILES:
        error, number, y, x = errors[round((len(errors) - 1) * percentile / 100)]
        coarse, restored, truth = images[number]
        f = truth.shape[0] // coarse.shape[0]
        fine = (slice(y, y + BLOCK), slice(x, x + BLOCK))
        low = coarse[y // f : (y + BLOCK) // f, x // f : (x + BLOCK) // f]
        panels = (
            Panel(f"input; percentile {percentile}, error {error**0.5:.1f}", low),
            Panel("bilinear", restore("bilinear", coarse, f)[fine]),
            Panel(net, restored[fine]),
            Panel("truth", truth[fine]),
        )
        rows.append(np.asarray(draw_row(panels, 3 * BLOCK, grey_limits(truth[fine]))))
    Image.fromarray(np.concatenate(rows)).save(place)


def _strength(numbers: Sequence[float], method: str) -> str:
    largest = [max(each) for each in zip(*METHODS[method].grid, strict=True)]
    end = ", the largest tried" if any(map(float.__eq__, numbers, largest)) else ""
    return f"{', '.join(f'{number:g}' for number in numbers)} ({METHODS[method].meaning}{end})"


def _error(restored: Bytes, truth: Bytes, y: int, x: int) -> float:
    block = (slice(y, y + BLOCK), slice(x, x + BLOCK))
    return float(((restored[block].astype(np.float64) - truth[block]) ** 2).mean())


def _interval(found: dict[str, float]) -> str:
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table

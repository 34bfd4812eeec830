"""Charts for a page: SVG that takes the page's own text colour, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_INK = "#010203"  # no series has this colour; in the page it becomes the colour of the text
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "volumetool",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes
    ----------
    label : str
        Name in the legend; empty for a line without an entry.
    x, y : sequence of float
        Points of the line, as many along x as along y.
    colour : str
        Colour of the line; empty for that of the text.
    style : str
        ``"-"``, ``"--"`` or ``":"``.
    width : float
        Width of the line in points.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = ""
    style: str = "-"
    width: float = 1.6


@dataclass(frozen=True)
class Chart:
    """A chart, before it is drawn.

    Attributes
    ----------
    title : str
        What the chart shows; screen readers read it out.
    x_label, y_label : str
        Names of the axes, with their units.
    curves : sequence of Curve
        Lines to draw.
    log_x, log_y : bool
        Whether the horizontal and the vertical axis is logarithmic.
    y_limits : tuple of float, optional
        Ends of the vertical axis; by default those of the data.
    voxel_nm : float, optional
        Draws a second scale above, in cycles per voxel of this size, where the one below is a frequency in 1/nm.
    whole_x : bool
        Whether only whole numbers stand on the horizontal axis.
    mark : tuple of str and float, optional
        Label and position, along x, of a vertical line.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False
    y_limits: tuple[float, float] | None = None
    voxel_nm: float | None = None
    whole_x: bool = False
    mark: tuple[str, float] | None = None


def draw(chart: Chart) -> str:
    """Return a chart as SVG to stand inside a page: no script, no link, no font of its own."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.9), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        for curve in chart.curves:
            label = curve.label or "_"
            axes.plot(curve.x, curve.y, curve.style, color=curve.colour or _INK, lw=curve.width, label=label)
        _dress(axes, chart)
        canvas: Any = FigureCanvasSVG(figure)
        text = io.StringIO()
        canvas.print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(text.getvalue(), chart.title)


def _dress(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(visible=True)
    axes.margins(x=0.01)
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    if chart.y_limits:
        axes.set_ylim(*chart.y_limits)
    if chart.whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chart.mark:
        axes.axvline(chart.mark[1], color=_INK, lw=0.8, ls=(0, (1, 2)), label=chart.mark[0])
    if chart.voxel_nm:
        size = chart.voxel_nm
        both_ways: Any = (lambda nm: nm * size, lambda voxel: voxel / size)
        top = axes.secondary_xaxis("top", functions=both_ways)
        top.set_xlabel("cycles per voxel", fontsize=8.5)
        top.tick_params(labelsize=8.5)
    if any(curve.label for curve in chart.curves):
        axes.legend(fontsize=8.5, ncols=2)


def _inline(svg: str, title: str) -> str:
    """Strip what only a file of its own needs, with its addresses, and say what the picture is."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", body)
    body = re.sub(r'<svg width="[^"]*" height="[^"]*"|<svg height="[^"]*" width="[^"]*"', "<svg", body)
    body = body.replace(_INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    return body.strip()

"""The client's state: layers, panels, position, zoom. Here z, y, x become the client's x, y, z."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from volumetool.geometry import Size
from volumetool.viewer.layers import Layer

Layout = Literal["side-by-side", "overlay", "4panel"]
Picture = tuple[int, int]
"""Width and height, in pixels."""

DEFAULT_PICTURE: Picture = (1600, 800)
"""Size that a view is fitted into where the size of the window is not known."""

_SHADER = "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }\n"
_MARGIN = 1.04
"""The volume leaves this much of the panel free."""

_PER_METRE = 1e9
"""Nanometres: dividing by it keeps round numbers round."""
_PER_ROW = 3


@dataclass(frozen=True)
class Look:
    """The view of volumes.

    Attributes
    ----------
    layout : {"side-by-side", "overlay", "4panel"}
        A panel for every volume, with one position and zoom; all in one panel; or three planes and a 3D view of each.
    position : tuple of float, optional
        Centre of the view, in nm, z, y, x; by default the middle of the first volume, along z where a job that is followed is.
    zoom : float, optional
        Nanometres per pixel; by default the volumes fit into their panels.
    picture : tuple of int
        Width and height of the whole view, in pixels.
    """

    layout: Layout = "side-by-side"
    position: Size | None = None
    zoom: float | None = None
    picture: Picture = DEFAULT_PICTURE


def build_state(layers: Sequence[Layer], sources: Sequence[dict[str, Any]], look: Look) -> dict[str, Any]:
    """Return the state that shows some layers.

    Parameters
    ----------
    layers : sequence of Layer
        Layers to show, at least one.
    sources : sequence of dict
        Data source of every layer, from :meth:`Layer.source`.
    look : Look
        Panels, position and zoom.

    Returns
    -------
    dict
        JSON state of Neuroglancer; positions count the smallest voxel size of all layers.
    """
    size = finest(layers)
    rows, columns = _rows_columns(len(layers), look.layout)
    position = look.position or _middle(layers[0])
    zoom = look.zoom or _fitting(layers, (look.picture[0] / columns, look.picture[1] / rows))
    drawn = [draw(layer, source) for layer, source in zip(layers, sources, strict=True)]
    if look.layout == "overlay":
        for above in drawn[1:]:
            above["opacity"] = 0.5
    return {
        "dimensions": {axis: [length / _PER_METRE, "m"] for axis, length in zip("xyz", reversed(size), strict=True)},
        "position": [at / length for at, length in zip(reversed(position), reversed(size), strict=True)],
        "crossSectionScale": zoom / min(size),
        "projectionScale": _largest_extent(layers) / min(size),
        "showAxisLines": False,
        "showDefaultAnnotations": False,
        "crossSectionBackgroundColor": "#000000",
        "layers": drawn,
        "layout": _panels([layer.name for layer in layers], look.layout),
    }


def finest(layers: Sequence[Layer]) -> Size:
    """Return the smallest voxel size of all layers per axis, in nm: the unit of positions, so that one step is a section."""
    z, y, x = (min(sizes) for sizes in zip(*(layer.voxel_size for layer in layers), strict=True))
    return z, y, x


def draw(layer: Layer, source: dict[str, Any]) -> dict[str, Any]:
    """Return a layer as the client's state has it."""
    state: dict[str, Any] = {"type": layer.kind, "name": layer.name, "source": source}
    if layer.window is not None:
        low, high = layer.window
        state |= {"shader": layer.shader or _SHADER, "shaderControls": {"normalized": {"range": [low, high]}}, "opacity": 1.0}
    if layer.channel is not None:
        state |= {"localDimensions": {"c'": [1, ""]}, "localPosition": [layer.channel]}
    return state


def _middle(layer: Layer) -> Size:
    """Return the middle of a volume, in nm; along z the centre of the section there."""
    low, high = layer.corners
    level = layer.volume.levels[0]
    z = level.translation[0] + (level.shape[0] // 2) * level.voxel_size[0]
    return z, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2


def _fitting(layers: Sequence[Layer], panel: tuple[float, float]) -> float:
    """Return the nm per pixel at which the first volume fits into a panel of so many pixels."""
    (_, low_y, low_x), (_, high_y, high_x) = layers[0].corners
    return max((high_x - low_x) / panel[0], (high_y - low_y) / panel[1]) * _MARGIN


def _largest_extent(layers: Sequence[Layer]) -> float:
    low, high = layers[0].corners
    return max(b - a for a, b in zip(low, high, strict=True))


def _rows_columns(count: int, layout: Layout) -> tuple[int, int]:
    if layout == "overlay":
        return 1, 1
    columns = min(count, _PER_ROW)
    rows = math.ceil(count / columns)
    return (2 * rows, 2 * columns) if layout == "4panel" else (rows, columns)


def _panels(names: list[str], layout: Layout) -> str | dict[str, Any]:
    """Return the panels; panels of one view share position and zoom unless the user parts them."""
    planes = "4panel" if layout == "4panel" else "xy"
    if layout == "overlay" or len(names) == 1:
        return planes
    panels = [_panel([name], planes) for name in names]
    rows = [panels[start : start + _PER_ROW] for start in range(0, len(panels), _PER_ROW)]
    stacks = [{"type": "row", "children": row} for row in rows]
    return stacks[0] if len(stacks) == 1 else {"type": "column", "children": stacks}


def with_overlay(
    state: dict[str, Any], over: str, overlay: Sequence[dict[str, Any]], apart: str | None = None
) -> dict[str, Any]:
    """Return a state with more layers, in the panels that show the layer `over`.

    Parameters
    ----------
    state : dict
        State from :func:`build_state`.
    over : str
        Name of the layer below.
    overlay : sequence of dict
        Layers to lay over it.
    apart : str, optional
        One of `overlay` that gets a panel of its own, over the same layer, where panels stand side by side.
    """
    names = [layer["name"] for layer in overlay if layer["name"] != apart]
    panels = state["layout"]
    if apart is not None and len(state["layers"]) == 1 and panels == "xy":
        panels = {"type": "row", "children": [_panel([over])]}
    panels = _with_names(panels, over, names)
    if apart is not None and not isinstance(panels, str):
        stands = panels["children"] if panels["type"] == "row" else [panels]
        panels = {"type": "row", "children": [*stands, _panel([over, apart])]}
    return {**state, "layers": [*state["layers"], *overlay], "layout": panels}


def _panel(names: list[str], planes: str = "xy") -> dict[str, Any]:
    return {"type": "viewer", "layers": names, "layout": planes}


def _with_names(panels: Any, over: str, names: list[str]) -> Any:
    if isinstance(panels, str):  # one panel shows every layer
        return panels
    if "children" in panels:
        return {**panels, "children": [_with_names(panel, over, names) for panel in panels["children"]]}
    return {**panels, "layers": [*panels["layers"], *names]} if over in panels["layers"] else panels

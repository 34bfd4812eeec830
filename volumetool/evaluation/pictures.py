"""Pictures, the same crop of several volumes side by side, and the pages that hold them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

MARGIN = 22
"""Pixels above each panel, for its label."""

GAP = 6


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Attributes
    ----------
    label : str
        Text above the panel.
    section : numpy.ndarray, shape (y, x)
        Grey values; smaller sections are shown with square pixels.
    """

    label: str
    section: NDArray[Any]


def enlarge_bilinear(section: NDArray[Any], scale: int) -> NDArray[np.float32]:
    """Enlarge a section by a whole factor, bilinear and pixel-centred.

    Parameters
    ----------
    section : numpy.ndarray, shape (y, x)
        Grey values.
    scale : int
        Output pixels per input pixel.

    Returns
    -------
    numpy.ndarray of float32, shape (y * scale, x * scale)
        Grey values, not rounded.
    """
    enlarged: NDArray[np.float32] = ndimage.zoom(section.astype(np.float32), scale, order=1, mode="nearest", grid_mode=True)
    return enlarged


def draw_row(panels: Sequence[Panel], size: int, limits: tuple[float, float]) -> Image.Image:
    """Draw panels beside each other.

    Parameters
    ----------
    panels : sequence of Panel
        Panels from left to right; all show the same field.
    size : int
        Side of a panel in pixels.
    limits : tuple of float
        Grey values shown as black and white, the same for all panels.
    """
    width = len(panels) * (size + GAP) - GAP
    picture = Image.new("L", (width, size + MARGIN), 255)
    pen = ImageDraw.Draw(picture)
    for number, panel in enumerate(panels):
        grey = to_grey(panel.section, limits)
        left = number * (size + GAP)
        picture.paste(Image.fromarray(grey).resize((size, size), Image.Resampling.NEAREST), (left, MARGIN))
        pen.text((left + 2, 3), panel.label, fill=0, font=ImageFont.load_default(14))
    return picture


def to_grey(section: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return grey values as uint8; the two limits become black and white."""
    low, high = limits
    grey: NDArray[np.uint8] = np.clip((section.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return grey


def grey_limits(section: NDArray[Any]) -> tuple[float, float]:
    """Return grey values to show as black and white: percentiles 0.5 and 99.5, never equal."""
    low, high = np.percentile(section, (0.5, 99.5)).tolist()
    return low, max(high, low + 1e-6)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (y, x) or (y, x, 3), as a PNG file.

    It has a twentieth more bytes than the smallest file, for a ninth of the time.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=4)
    return file.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG file as an address that holds it, for pages that need no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def fill_template(package: str, name: str, **values: Any) -> str:
    """Return a page that needs no other file: a template of a package, with values and the style that all pages have.

    Parameters
    ----------
    package, name : str
        Where the template is; it places the style as ``style``.
    values
        What it shows; texts are escaped.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8"))
    return template.render(style=files("volumetool.evaluation").joinpath("page.css").read_text(encoding="utf-8"), **values)

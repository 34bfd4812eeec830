"""The page of a tryout: one HTML file that holds everything it shows and fetches nothing."""

from __future__ import annotations

import base64
import errno
import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from volumetool.evaluation.pictures import data_uri, encode_png, fill_template, grey_limits, to_grey
from volumetool.evaluation.tryout.places import Crop
from volumetool.evaluation.tryout.results import Tried, Tryout
from volumetool.evaluation.tryout.views import CropView
from volumetool.jobs.planning.report import describe_gate
from volumetool.paths import replace_file, writing
from volumetool.redaction import printable
from volumetool.units import show_bytes, show_duration, show_shape, show_size

ERROR_COLOURS = "magma"


@dataclass(frozen=True)
class _Shown:
    """A view, drawn.

    Attributes
    ----------
    label, note : str
        Name, and what its colours mean.
    xy, xz : str
        PNG as data URIs; `xz` is empty where there is none.
    """

    label: str
    note: str
    xy: str
    xz: str


def check_page(page: Path) -> None:
    """Refuse a page that cannot be written, before anything is computed for it.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    reason = errno.EISDIR if page.is_dir() else errno.EACCES if os.access(page.parent, os.F_OK) else errno.ENOENT
    if page.is_dir() or not os.access(page.parent, os.W_OK):
        with writing(page):
            raise OSError(reason, os.strerror(reason))


def write_page(tryout: Tryout, views: Sequence[Sequence[CropView]]) -> None:
    """Write the page of a tryout.

    Parameters
    ----------
    tryout : Tryout
        What was found.
    views : sequence of sequence of CropView
        What is shown of each crop; the same volumes in the same order of each.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    replace_file(tryout.page, render(tryout, views).encode())


def render(tryout: Tryout, views: Sequence[Sequence[CropView]]) -> str:
    """Return the page as HTML."""
    most = _largest_error(views)
    depth, height, width = (n * nm for n, nm in zip(tryout.crops[0].box.shape, tryout.voxel_size, strict=True))
    page = fill_template(
        "volumetool.evaluation.tryout",
        "tryout_page.html",
        headline=headline(tryout),
        input=printable(tryout.input),
        size=f"{show_shape(tryout.shape)} voxels (z, y, x) of {show_size(tryout.voxel_size)}"
        + (f", the first of {tryout.channels} channels" if tryout.channels > 1 else ""),
        left_out=tryout.left_out,
        models=[(each, describe_gate(each.gate) if each.gate else "", _facts(each)) for each in tryout.models],
        crops=[(crop, _place(crop), _drawn(own, most)) for crop, own in zip(tryout.crops, views, strict=True)],
        labels=[view.label for view in views[0]],
        right=next((number for number, view in enumerate(views[0]) if number > 1), 1),
        aspects=[f"{width:g} / {height:g}", f"{width:g} / {depth:g}"],
        scale_bar=_scale_bar(width),
    )
    return page.replace("CONTENT-SECURITY-POLICY", _policy(page), 1)


def headline(tryout: Tryout) -> str:
    """Return the most important sentence: whether the volume is familiar to the first model, and what the job takes."""
    first = tryout.models[0]
    known = "no verdict" if first.gate is None else describe_gate(first.gate)
    costs = f"about {show_duration(first.seconds)} here and {show_bytes(first.written_bytes)} of space"
    return f"{first.model}: {known}; the whole job takes {costs}"


def _policy(page: str) -> str:
    """Return what the page may do: run and look like what it holds itself, and show pictures that it holds."""
    hashes = []
    for tag in ("script", "style"):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert text is not None  # noqa: S101  (the template has one of each)
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        hashes.append(f"{tag}-src 'sha256-{digest}'")
    return f"default-src 'none'; img-src data:; {'; '.join(hashes)}; base-uri 'none'; form-action 'none'"


def _facts(tried: Tried) -> list[tuple[str, str]]:
    facts = [
        ("makes", f"{show_size(tried.voxel_size)}: {tried.does}"),
        ("time", f"about {show_duration(tried.seconds)}, from a sample on this machine"),
        ("reads", show_bytes(tried.read_bytes)),
        ("writes", f"about {show_bytes(tried.written_bytes)} in {tried.objects} files or objects"),
    ]
    if tried.expected_error:
        low, high = min(tried.expected_error), max(tried.expected_error)
        facts.append(("expected error", f"{low:.3g} to {high:.3g} grey levels, the means of the sections below"))
    return facts


def _place(crop: Crop) -> str:
    (z, y, x), (z_stop, y_stop, x_stop) = crop.box.start, crop.box.stop
    side = f"from the side z {z} to {z_stop}, y {(y + y_stop) // 2}"
    return f"section z {crop.section}, y {y} to {y_stop}, x {x} to {x_stop}; {side}"


def _scale_bar(width: float) -> tuple[str, str]:
    """Return the label of a scale bar and its share of a crop that is `width` nm wide: a round length, about a quarter."""
    power = 10.0 ** math.floor(math.log10(width / 4))
    length = max(n * power for n in (1, 2, 5) if n * power <= width / 4)
    label = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    return label, f"{length / width:.3%}"


def _largest_error(views: Sequence[Sequence[CropView]]) -> float:
    """Return the expected error that is shown as the brightest, one for all crops and models."""
    errors = [np.percentile(view.xy, 99.5) for own in views for view in own if view.is_error]
    return max(float(max(errors, default=0.0)), 1e-6)


def _drawn(views: Sequence[CropView], most: float) -> list[_Shown]:
    """Draw the views of a crop; grey values share one scale, that of the raw section."""
    raw, shown = grey_limits(views[0].xy), []
    for view in views:
        limits = raw if view.is_grey else grey_limits(view.xy)
        if view.is_error:
            mean = float(view.xy.mean())
            note = f"black 0 to white {most:.3g} grey levels; mean {mean:.3g}, {mean / (raw[1] - raw[0]):.0%} of the raw range"
            shown.append(_Shown(view.label, note, _uri(_coloured(view.xy / most)), ""))
        else:
            xz = "" if view.xz is None else _uri(to_grey(view.xz, limits))
            shown.append(_Shown(view.label, "", _uri(to_grey(view.xy, limits)), xz))
    return shown


def _coloured(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return values from 0 to 1 in colours, uint8 (y, x, 3)."""
    colours: NDArray[np.uint8] = (colormaps[ERROR_COLOURS](np.clip(values, 0, 1))[..., :3] * 255).astype(np.uint8)
    return colours


def _uri(pixels: NDArray[np.uint8]) -> str:
    return data_uri(encode_png(pixels))

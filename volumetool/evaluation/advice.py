"""Advice before a night at the microscope: which pixel size and dwell time give which quality, for how much beam time and dose.

A fine volume is the truth. A recipe makes of it what the microscope would have taken with larger pixels and another dwell time,
twice, with independent noise; the job that a user would run restores both, and `evaluate` scores them.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from volumetool.configuration import Options, Place, parse_numbers, with_options
from volumetool.degradation import Crappifier, load_recipe
from volumetool.errors import ConfigError
from volumetool.evaluation.api import evaluate
from volumetool.evaluation.charts import Chart, Curve, draw
from volumetool.evaluation.pictures import data_uri, encode_png, enlarge_bilinear, fill_template, grey_limits, to_grey
from volumetool.evaluation.results import Evaluation, NotAvailable
from volumetool.evaluation.scores.frc import ONE_SEVENTH, PATCH, Correlation
from volumetool.events import Noted, Observer, counting, ignore
from volumetool.geometry import AskedBox, Box, Size, part_inside
from volumetool.jobs.api import enhance
from volumetool.models import ModelCard
from volumetool.models.package import fitting_models
from volumetool.paths import AnyPlace, absolute_path, replace_file
from volumetool.scratch import scratch_folder
from volumetool.storage.convert_volume import convert
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels

SECTIONS, SIDE = 4, 2 * PATCH
"""Sections, and voxels along y and x, of the middle of the truth that is used unless a box is given."""

SCALES = (1, 2, 4)
"""Fine pixels per pixel of the scan, along y and x."""

ELECTRON = 1.602176634e-19
"""Charge of an electron, in coulombs."""

COLOURS = ("#2ba8a0", "#4a90d9", "#e8590c")

LEAST = 64
"""Voxels along y and x below which scores say nothing."""

SHOWN = 256
"""Voxels along a side of a picture, at most."""

Positives = Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], BeforeValidator(parse_numbers)]


class AdviceOptions(Options):
    """What advice is asked for: the options of ``volumetool advise`` and of `volumetool.advise`.

    Parameters
    ----------
    truth : str or path
        Path or URL of a volume that was scanned finely and slowly.
    tissue : float
        Volume of tissue that is to be imaged, in cubic millimetres.
    dwell : tuple of float
        Dwell times to compare, in microseconds.
    recipe : str, path or Crappifier
        What the microscope does to an image: a built-in recipe or a file, such as ``crappify --fit`` writes.
    reference : float
        Dwell time at which the microscope has the recipe's noise, in microseconds; noise falls with the root of the dwell time.
    current : float
        Beam current, in nanoamperes.
    roi : Box or str, optional
        The part of the truth to use, ``"z0:z1,y0:y1,x0:x1"``; by default the middle.
    """

    told_by = "`volumetool advise --help`"

    truth: Place
    tissue: float = Field(1.0, gt=0, allow_inf_nan=False)
    dwell: Positives = (0.1, 0.4, 1.6)
    recipe: Place | Crappifier = "sem-fast"
    reference: float = Field(0.4, gt=0, allow_inf_nan=False)
    current: float = Field(1.0, gt=0, allow_inf_nan=False)
    roi: AskedBox | None = None


@dataclass(frozen=True)
class Setting:
    """A pixel size and a dwell time, with what they give and what they cost.

    Attributes
    ----------
    pixel_nm, dwell_us : float
        Side of a pixel and time that the beam stays on it.
    model : str
        What restored it.
    psnr, ssim : float
        Of the restored volume, raw, against the truth; PSNR in dB.
    psnr_bilinear : float
        Of bilinear enlargement, for comparison; of pixels as fine as the truth's it is the scan itself.
    frc_nm : float or None
        Where the correlation of two acquisitions, each restored, falls below 1/7, but not finer than two pixels of the scan:
        what agrees beyond is the network's own. None where there is no correlation to tell.
    beam_days : float
        Dwell times of all pixels of the tissue added up; what a stage and a knife need is not in it.
    dose : float
        Electrons per square nanometre of each section.
    worth : bool
        No other setting is better by PSNR and takes no more beam time.
    """

    pixel_nm: float
    dwell_us: float
    model: str
    psnr: float
    ssim: float
    psnr_bilinear: float
    frc_nm: float | None
    beam_days: float
    dose: float
    worth: bool = False


@dataclass(frozen=True, repr=False)
class Advice:
    """What settings give and cost.

    Attributes
    ----------
    truth : str
        The fine volume.
    box : Box
        Its voxels that were used.
    tissue : float
        Cubic millimetres that beam days are for.
    section_nm : float
        Thickness of a section.
    recipe : str
        Name of the recipe.
    settings : tuple of Setting
        All that were compared, the cheapest first.
    left_out : tuple of str
        Pixel sizes for which there is no model, and why.
    pictures : tuple
        Labels and sections, uint8 (y, x), of the truth and of each restored setting.
    """

    truth: str
    box: Box
    tissue: float
    section_nm: float
    recipe: str
    settings: tuple[Setting, ...]
    left_out: tuple[str, ...]
    pictures: tuple[tuple[str, NDArray[Any]], ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return f"<Advice for {self.truth}: {len(self.settings)} settings>"

    def as_dict(self) -> dict[str, Any]:
        """Return all but the pictures as JSON values; an infinite PSNR, which JSON has no number for, is None."""
        facts = {name: value for name, value in vars(self).items() if name not in ("pictures", "settings")}
        settings = [asdict(each) for each in self.settings]
        for each in settings:
            each |= {name: None for name in ("psnr", "psnr_bilinear") if math.isinf(each[name])}
        return facts | {"box": str(self.box), "settings": settings, "left_out": list(self.left_out)}


@with_options(AdviceOptions)
def advise(
    truth: AnyPlace, *, report: str | os.PathLike[str] | None = None, observer: Observer = ignore, **options: Any
) -> Advice:
    """Say which quality to expect of which pixel size and dwell time, for how much beam time and dose.

    Parameters
    ----------
    truth : str or path
        Path or URL of a volume that was scanned finely and slowly.
    report : str or path, optional
        HTML file to write: table, chart and pictures.
    observer : Observer, optional
        Told by `Progressed` how many settings were tried.
    **options
        Any field of :class:`volumetool.evaluation.advice.AdviceOptions`, such as ``tissue=10`` or ``dwell=(0.2, 0.8)``.

    Raises
    ------
    InputError, DataError
        The truth cannot be opened or read.
    ConfigError
        ``config.option``, ``config.recipe``, ``config.roi``; ``config.advice``: no built-in model fits any pixel size.
    OutputError
        ``output.unwritable``.
    """
    asked = AdviceOptions(truth=truth, **options)
    volume, recipe = open_volume(asked.truth), load_recipe(asked.recipe)
    box, size = _box(volume, asked, observer), volume.voxel_size
    fine = _eight_bits(read_voxels(volume.open(), box, "truth"))
    models, left_out = _models(size)
    count = counting(observer, "settings", len(models) * len(asked.dwell))
    settings, pictures = [], [("truth", fine[len(fine) // 2])]
    with scratch_folder("advise") as folder:
        trial = _Trial(folder, fine, size)
        for scale, card in models.items():
            for dwell in asked.dwell:
                scored, bilinear, section = trial.run(recipe.varied(math.sqrt(asked.reference / dwell)), scale, card.name)
                settings.append(_setting(scored, bilinear, (card.name, scale * size[2], dwell), asked, size[0]))
                pictures.append((f"{scale * size[2]:g} nm, {dwell:g} µs", section))
                count(1)
    ordered = tuple(sorted((_judged(each, settings) for each in settings), key=lambda each: each.beam_days))
    found = Advice(volume.url, box, asked.tissue, size[0], recipe.name, ordered, left_out, tuple(pictures))
    if report is not None:
        _write(found, absolute_path(report))
    return found


def _box(volume: Volume, asked: AdviceOptions, observer: Observer) -> Box:
    """Return the voxels to use: the box that was asked for, or the middle; whole pixels of every scale."""
    inside, most = Box.whole(volume.shape), (SECTIONS, SIDE, SIDE)
    if asked.roi is not None:
        inside, note = part_inside(asked.roi, volume.shape, asked.truth)
        most = inside.shape
        if note is not None:
            observer(Noted(f"warning: {note}"))
    unit = max(SCALES)
    z, y, x = (min(n, many) for n, many in zip(inside.shape, most, strict=True))
    y, x = y // unit * unit, x // unit * unit
    if min(y, x) < LEAST:
        raise ConfigError(
            "config.advice",
            f"{y} x {x} voxels of {volume.url}, but less than {LEAST} along y and x say nothing",
            hint="take a larger box, or a larger volume",
        )
    start = [low + (n - side) // 2 for low, n, side in zip(inside.start, inside.shape, (z, y, x), strict=True)]
    return Box((start[0], start[1], start[2]), (start[0] + z, start[1] + y, start[2] + x))


def _eight_bits(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return voxels as uint8, whose range scores refer to; others than uint8 between their percentiles 0.5 and 99.5."""
    return voxels if voxels.dtype == np.uint8 else to_grey(voxels, grey_limits(voxels))


def _models(size: Size) -> tuple[dict[int, ModelCard], tuple[str, ...]]:
    """Return the first built-in model for each scale, and for which scale there is none."""
    found, left_out = {}, []
    for scale in SCALES:
        coarse = (size[0], size[1] * scale, size[2] * scale)
        fitting = [card for card in fitting_models(coarse) if card.scale == (1, scale, scale)]
        if fitting:
            found[scale] = fitting[0]
        else:
            left_out.append(f"{coarse[2]:g} nm: no built-in model makes {size[2]:g} nm of it")
    if not found:
        raise ConfigError(
            "config.advice",
            f"no built-in model makes pixels of {size[1]:g} x {size[2]:g} nm",
            hint="see `volumetool model list`; or correct the voxel size of the volume",
        )
    return found, tuple(left_out)


@dataclass
class _Trial:
    """The truth in a folder, and what is made of it there."""

    folder: Path
    fine: NDArray[np.uint8]
    size: Size

    def __post_init__(self) -> None:
        self._save("truth", self.fine, self.size)

    def run(self, recipe: Crappifier, scale: int, model: str) -> tuple[Evaluation, float, NDArray[np.uint8]]:
        """Return the scores of a model, the PSNR of bilinear enlargement, and a restored section."""
        coarse = (self.size[0], self.size[1] * scale, self.size[2] * scale)
        for seed, name in enumerate(("restored", "second")):
            image = self.fine.astype(np.float32) / 255  # (z, y, x)
            low = np.rint(recipe.apply(image, scale=(1, scale, scale), seed=seed) * 255).astype(np.uint8)
            if seed == 0:
                first = np.stack([enlarge_bilinear(section, scale) for section in low])
            self._save("low", low, coarse)
            enhance(self.folder / "low.zarr", self.folder / f"{name}.zarr", model=model, workers=1, overwrite=True)
        error = float(np.mean((np.rint(first) - self.fine) ** 2, dtype=np.float64))
        places = [self.folder / f"{name}.zarr" for name in ("restored", "truth", "second")]
        found = evaluate(places[0], places[1], second=places[2], same_corner=True)
        bilinear = 10 * math.log10(255**2 / error) if error else math.inf
        return found, bilinear, open_volume(places[0])[len(self.fine) // 2]

    def _save(self, name: str, voxels: NDArray[np.uint8], size: Size) -> None:
        np.save(self.folder / "array.npy", voxels)
        convert(self.folder / "array.npy", self.folder / f"{name}.zarr", voxel_size=size, overwrite=True)


def _setting(
    found: Evaluation, bilinear: float, tried: tuple[str, float, float], asked: AdviceOptions, depth: float
) -> Setting:
    """Return what a setting, by model, pixel size and dwell time, gives and costs where sections are `depth` nm thick."""
    model, pixel, dwell = tried
    scores = found.rows[0].scores
    pixels = asked.tissue * 1e18 / (depth * pixel**2)  # cubic millimetres in cubic nm
    electrons = asked.current * 1e-9 * dwell * 1e-6 / ELECTRON
    return Setting(
        pixel_nm=pixel,
        dwell_us=dwell,
        model=model,
        psnr=scores.psnr,
        ssim=scores.ssim,
        psnr_bilinear=bilinear,
        frc_nm=_resolution(found.frc, 2 * pixel),
        beam_days=pixels * dwell * 1e-6 / 86400,
        dose=electrons / pixel**2,
    )


def _resolution(found: Correlation | NotAvailable, finest: float) -> float | None:
    """Return where two acquisitions cease to agree, in nm; None where they agree nowhere, or cannot be compared."""
    if isinstance(found, NotAvailable) or max(found.correlation[2:]) < ONE_SEVENTH:
        return None
    return max(found.crossings[0].nm or 0.0, finest)


def _judged(each: Setting, settings: list[Setting]) -> Setting:
    beaten = any(other.psnr >= each.psnr and other.beam_days <= each.beam_days and other is not each for other in settings)
    return replace(each, worth=not beaten)


def _write(found: Advice, path: Path) -> None:
    curves: list[Curve] = []
    for pixel in sorted({each.pixel_nm for each in found.settings}):
        of = [each for each in found.settings if each.pixel_nm == pixel]
        days = [each.beam_days for each in of]
        colour = COLOURS[len(curves) // 2]
        curves.append(Curve(f"{pixel:g} nm, {of[0].model}", days, [each.psnr for each in of], colour))
        curves.append(Curve(f"{pixel:g} nm, bilinear", days, [each.psnr_bilinear for each in of], colour, ":"))
    chart = Chart("Quality against beam time", "beam days", "PSNR, dB", curves, log_x=True)
    limits = grey_limits(found.pictures[0][1])
    pictures = [(label, data_uri(encode_png(to_grey(section[:SHOWN, :SHOWN], limits)))) for label, section in found.pictures]
    page = fill_template("volumetool.evaluation", "advice.html", found=found, chart=draw(chart), pictures=pictures)
    replace_file(path, page.encode())

"""Blind comparison: people choose between pictures without knowing which is which.

Each trial shows two pictures of the same field, of three kinds: the input enlarged, the restored volume, the truth. Order of
trials and sides are drawn from a seed; what was where stands in a key of its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import jinja2
import numpy as np

from volumetool.errors import InputError, OutputError
from volumetool.evaluation.evaluate import RESTORED, TRUTH, EvaluationRequest
from volumetool.evaluation.pictures import data_uri, encode_png, grey_limits, to_grey
from volumetool.evaluation.scores.align import Matched
from volumetool.evaluation.scores.tiling import Restorer, spread_sections
from volumetool.geometry import Box
from volumetool.paths import open_file, writing

FIELDS = 16
"""Fields shown; each gives a trial per pair of kinds."""

SIDE = 192
"""Voxels along a side of a field, at most."""

KEY = "key.csv"
PAGE = "rate.html"
CHOICES = ("left", "right", "equal")
_ENLARGED = "bilinear"
_COLUMNS = ("kit", "trial", "choice", "seconds")


@dataclass(frozen=True)
class Preference:
    """The preference for one kind of picture over another.

    Attributes
    ----------
    first, second : str
        ``"bilinear"``, ``"restored"`` or ``"truth"``.
    for_first, for_second, equal : int
        Number of trials with this outcome.
    share : float or None
        Share of the trials with a preference, those for `first`; None without any.
    interval : tuple of float or None
        95 %, exact binomial (Clopper and Pearson 1934, Biometrika 26), as if all trials were independent.
    """

    first: str
    second: str
    for_first: int
    for_second: int
    equal: int
    share: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class _Trial:
    number: int
    left: str
    right: str
    box: Box


def write_kit(request: EvaluationRequest, folder: Path) -> int:
    """Write a kit for human raters: PNG pairs, a page to rate them, a read-me and, apart, the key.

    Parameters
    ----------
    request : EvaluationRequest
        Its volumes, `roi` and `seed` are used; without a low-resolution volume only restored and truth are compared.
    folder : pathlib.Path
        Folder to write, new or empty.

    Returns
    -------
    int
        Trials.

    Raises
    ------
    OutputError
        ``output.exists``: the folder holds something. ``output.unwritable``.
    """
    matched = Matched(request.volumes, roi=request.roi, same_corner=request.same_corner)
    restorer = Restorer(matched)
    trials = _trials(matched, request.seed)
    kit = hashlib.sha256(repr([asdict(trial) for trial in trials]).encode()).hexdigest()[:12]
    with writing(folder):
        if folder.exists() and any(folder.iterdir()):
            raise OutputError("output.exists", f"{folder} is not empty", hint="give a new folder", where=str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        shown = [_write_pair(folder, trial, restorer) for trial in trials]
        _write_key(folder / KEY, kit, trials)
        (folder / PAGE).write_text(_page(kit, shown), encoding="utf-8")
        (folder / "README.txt").write_text(_read_me(len(trials)), encoding="utf-8")
    return len(trials)


def read_ratings(folder: Path, ratings: Sequence[Path]) -> list[Preference]:
    """Join ratings with the key of their kit and count preferences.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of the kit.
    ratings : sequence of pathlib.Path
        CSV files saved by its page, one per rater.

    Raises
    ------
    InputError
        ``input.not-found``, ``input.ratings`` (no ratings of this kit).
    """
    key = {(row["kit"], row["trial"]): (row["left"], row["right"]) for row in _rows(folder / KEY)}
    counts: dict[tuple[str, str], list[int]] = {}
    for path in ratings:
        for number, row in enumerate(_rows(path), start=2):
            sides = key.get((row.get("kit", ""), row.get("trial", "")))
            if sides is None or row.get("choice") not in CHOICES:
                raise InputError(
                    "input.ratings",
                    f"line {number} of {path} is no rating of the kit {folder}: {', '.join(map(str, row.values()))}",
                    hint=f"give the CSV that the page {PAGE} of this kit saved",
                    where=str(path),
                )
            names = sorted(sides)
            count = counts.setdefault((names[0], names[1]), [0, 0, 0])
            chosen = sides[CHOICES.index(row["choice"])] if row["choice"] != "equal" else None
            count[2 if chosen is None else names.index(chosen)] += 1
    return [_preference(*names, *count) for names, count in sorted(counts.items())]


def _preference(first: str, second: str, for_first: int, for_second: int, equal: int) -> Preference:
    from scipy.stats import binomtest

    decided = for_first + for_second
    if not decided:
        return Preference(first, second, 0, 0, equal, None, None)
    ends = binomtest(for_first, decided).proportion_ci(0.95, method="exact")
    return Preference(first, second, for_first, for_second, equal, for_first / decided, (float(ends.low), float(ends.high)))


def _trials(matched: Matched, seed: int) -> list[_Trial]:
    rng = np.random.default_rng(seed)
    kinds = [RESTORED, TRUTH] if matched.volumes.low is None else [_ENLARGED, RESTORED, TRUTH]
    drawn = [(pair, box) for box in _fields(matched.box, rng) for pair in combinations(kinds, 2)]
    trials = []
    for number, index in enumerate(rng.permutation(len(drawn)).tolist(), start=1):
        pair, box = drawn[index]
        left, right = pair if rng.random() < 0.5 else pair[::-1]
        trials.append(_Trial(number, left, right, box))
    return trials


def _fields(box: Box, rng: np.random.Generator) -> list[Box]:
    """Draw fields without overlap, in evenly spread sections, or fewer where there is no room."""
    sides = [min(SIDE, n) for n in box.shape[1:]]
    places = [
        (z, box.start[1] + y * sides[0], box.start[2] + x * sides[1])
        for z in spread_sections(box, FIELDS)
        for y in range(box.shape[1] // sides[0])
        for x in range(box.shape[2] // sides[1])
    ]
    chosen = [places[index] for index in rng.permutation(len(places))[:FIELDS].tolist()]
    return [Box(start, (start[0] + 1, start[1] + sides[0], start[2] + sides[1])) for start in chosen]


def _write_pair(folder: Path, trial: _Trial, restorer: Restorer) -> tuple[str, str]:
    """Write two PNG files on one grey scale, and return them as data URIs."""
    limits = grey_limits(restorer.section(TRUTH, trial.box))
    uris = []
    for side, kind in (("left", trial.left), ("right", trial.right)):
        file = encode_png(to_grey(restorer.section(kind, trial.box), limits))
        (folder / f"trial_{trial.number:03d}_{side}.png").write_bytes(file)
        uris.append(data_uri(file))
    return uris[0], uris[1]


def _write_key(path: Path, kit: str, trials: Sequence[_Trial]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("kit", "trial", "left", "right", "z", "y", "x"))
        table.writerows((kit, trial.number, trial.left, trial.right, *trial.box.start) for trial in trials)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise InputError(
            "input.not-found",
            f"{path} cannot be read: {error.strerror}",
            hint="give the folder of --blind and the ratings that its page saved",
            where=str(path),
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError("input.ratings", f"{path} is no CSV: {error}", hint="give the file that the page saved") from error


def _page(kit: str, trials: Sequence[tuple[str, str]]) -> str:
    template = files("volumetool.evaluation").joinpath("blind.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(kit=kit, trials=trials, columns=",".join(_COLUMNS))


def _read_me(trials: int) -> str:
    return f"""Blind comparison, {trials} trials

Open {PAGE} in a browser. Each trial shows the same place twice. Choose the picture in which you would rather trace
membranes and find synapses: arrow left, arrow right, or arrow down where you see no difference. Backspace goes one back. At
the end the page saves a CSV of your choices; nothing is sent anywhere.

Do not open {KEY} before you are done: it says which picture is which. The PNG files are the same pictures, for other
programs.

To count:  volumetool evaluate --unblind THIS_FOLDER RATINGS.csv [MORE_RATINGS.csv]
"""

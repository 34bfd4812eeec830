"""Quality of sections: what was measured of each, and the verdict on it, as columns of the table of sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

Verdict = Literal["ok", "blank", "damaged", "doubled", "shifted", "soft"]
"""What a section is: as its neighbours; lost or without structure; torn, folded, dirty or strange in a part; the same image as
its neighbour; displaced against both neighbours; out of focus."""

VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)

VERDICT: Final = "verdict"
"""Column of the verdict."""

FIGURES: Final = ("noise", "sharpness", "shift_y", "shift_x", "correlation")
"""Columns of the table: standard deviation of the noise and root mean square step between voxels without it, in grey levels;
by how much a section lies off its neighbours, in voxels; correlation with the more alike of them after that shift."""


def _as_table(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


Table = Annotated[
    NDArray[np.float64],
    PlainValidator(_as_table, json_schema_input_type=list[list[float]]),
    PlainSerializer(lambda table: table.tolist(), return_type=list[list[float]], when_used="json"),
]


@dataclass(frozen=True, eq=False)
class SectionQuality:
    """What every section of a volume is like.

    Parameters
    ----------
    noise, sharpness, shift_y, shift_x, correlation : numpy.ndarray of float64, shape (channels, sections)
        The `FIGURES`; 0 where there is nothing to measure.
    verdicts : tuple of tuple of str
        Of each channel the verdict on each section.
    seen : str
        Which part of each section was looked at, in words; empty where the user gave the verdicts.
    """

    noise: Table
    sharpness: Table
    shift_y: Table
    shift_x: Table
    correlation: Table
    verdicts: tuple[tuple[Verdict, ...], ...]
    seen: str = ""

    @classmethod
    def of(
        cls, verdicts: tuple[tuple[Verdict, ...], ...], figures: Mapping[str, NDArray[np.float64]], seen: str = ""
    ) -> SectionQuality:
        """Return the quality of sections.

        Parameters
        ----------
        verdicts, seen
            As of the class.
        figures : mapping of str to numpy.ndarray, shape (channels, sections)
            The `FIGURES` that are known, by name; others are 0.
        """
        none = np.zeros((len(verdicts), len(verdicts[0])))
        return cls(**{name: figures.get(name, none) for name in FIGURES}, verdicts=verdicts, seen=seen)

    @classmethod
    def read(cls, rows: Sequence[Mapping[str, str]], shape: tuple[int, ...]) -> SectionQuality:
        """Read the columns of a table; those of figures may be left out.

        Parameters
        ----------
        rows : sequence of mapping
            Its rows, with ``channel`` and ``z`` inside of `shape`.
        shape : tuple of int
            Channels and sections.

        Raises
        ------
        ValueError
            A verdict is none, or a figure is not a finite number.
        """
        figures = {name: np.zeros(shape) for name in FIGURES}
        verdicts: list[list[Verdict]] = [["ok"] * shape[1] for _ in range(shape[0])]
        for row in rows:
            channel, z = int(row["channel"]), int(row["z"])
            where = f"channel {channel}, section {z}"
            told = row[VERDICT] or ""  # None in a row that is cut short
            known = [verdict for verdict in VERDICTS if verdict == told.strip().lower()]
            if not known:
                raise ValueError(f"{where}: {told!r} is no verdict; they are {', '.join(VERDICTS)}")
            verdicts[channel][z] = known[0]
            for name in FIGURES:
                figures[name][channel, z] = float(row.get(name) or 0)
                if not np.isfinite(figures[name][channel, z]):
                    raise ValueError(f"{where}: {name} is {row[name]!r}, not a finite number")
        return cls.of(tuple(map(tuple, verdicts)), figures)

    def cells(self, channel: int, z: int) -> tuple[str, ...]:
        """Return a row of the table: the figures and the verdict."""
        figures = (float(getattr(self, name)[channel, z]) for name in FIGURES)
        return (*(f"{figure:.6g}" for figure in figures), self.verdicts[channel][z])

    def bad(self, channel: int) -> dict[int, Verdict]:
        """Return the sections of a channel that are not ok, with their verdicts."""
        return {z: verdict for z, verdict in enumerate(self.verdicts[channel]) if verdict != "ok"}


def show_sections(sections: Iterable[int], most: int = 12) -> str:
    """Name some sections, runs of them by their ends: ``3, 7-9``; of more than `most` runs the first, and how many follow."""
    runs: list[list[int]] = []
    for z in sections:
        if runs and runs[-1][-1] == z - 1:
            runs[-1] = [runs[-1][0], z]
        else:
            runs.append([z])
    told = ", ".join("-".join(map(str, run)) for run in runs[:most])
    rest = sum(run[-1] - run[0] + 1 for run in runs[most:])
    return f"{told} and {rest} more" if rest else told

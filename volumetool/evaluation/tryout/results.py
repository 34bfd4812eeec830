"""What a tryout found: for each model the verdict of the gate, the costs of the whole job, and the command that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from volumetool.evaluation.tryout.places import Crop
from volumetool.geometry import Size, Triple
from volumetool.jobs.choices import Familiarity


@dataclass(frozen=True)
class Tried:
    """A model that was tried.

    Attributes
    ----------
    model : str
        Its name.
    does : str
        What it does to voxels.
    voxel_size : tuple of float
        Of its output, in nm, z, y, x.
    gate : Familiarity, optional
        Whether the volume looks like what it was trained on; None where the model or the sample does not say.
    seconds : float
        Time of the whole job on this machine.
    read_bytes, written_bytes, objects : int
        What the whole job reads and writes, and the files or objects of its output.
    expected_error : tuple of float
        For each crop the mean error that the network expects in its section, in grey levels; empty where it says none.
    notes : tuple of str
        What the plan warns of.
    command : str
        The command that enhances the whole volume.
    """

    model: str
    does: str
    voxel_size: Size
    gate: Familiarity | None
    seconds: float
    read_bytes: int
    written_bytes: int
    objects: int
    expected_error: tuple[float, ...]
    notes: tuple[str, ...]
    command: str

    @property
    def verdict(self) -> Literal["in", "edge", "out", "unknown"]:
        """The gate's verdict."""
        return "unknown" if self.gate is None else self.gate.verdict


@dataclass(frozen=True)
class Tryout:
    """What was tried on a volume.

    Attributes
    ----------
    input : str
        The volume.
    shape : tuple of int
        Its voxels, z, y, x.
    voxel_size : tuple of float
        In nm, z, y, x.
    channels : int
        Its channels, at least 1; the first is shown.
    page : pathlib.Path
        The HTML file that shows it.
    crops : tuple of Crop
        What is shown.
    models : tuple of Tried
        As they were asked for; else the one that ``--model auto`` takes comes first.
    left_out : tuple of (str, str)
        Models whose job cannot be planned here, and why.
    """

    input: str
    shape: Triple
    voxel_size: Size
    channels: int
    page: Path
    crops: tuple[Crop, ...]
    models: tuple[Tried, ...]
    left_out: tuple[tuple[str, str], ...] = ()

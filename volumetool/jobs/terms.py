"""Terms: everything that decides the bytes of an output. Their digest is the job's fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from volumetool.errors import FingerprintError
from volumetool.geometry import Box, Lattice, LevelGrid

NUMERICS_VERSION = 2
"""Raised whenever a change of the code changes an output byte: blending, rounding, statistics, mirroring, pyramid."""


class Terms(BaseModel):
    """The resolved settings of a job, as far as they change a byte; every field counts.

    Parameters
    ----------
    input : str
        Identity of the metadata of the input's level; not its path, so that a volume may move.
    level : int
        Level of the input.
    model : str
        SHA-256 of weights and of the card's fields that change a voxel.
    lattice : Lattice
        Positions of all patches.
    precision : str
        Of the network's body.
    padded_batch : int, optional
        Patches per call, where that number changes bytes.
    statistics : str
        SHA-256 of the table of section statistics.
    seed : int
        Of the sample for the statistics.
    flatten, invert : bool
        As the job says.
    nodata, fill : str, optional
        Input value of voxels without data, and what they become; text, because NaN is not equal to itself.
    mask : str, optional
        Identity of the mask's metadata.
    missing : str
        What chunks of the input that are not stored mean.
    dtype : str
        Of the output.
    box : Box
        Voxels of the full output that this output holds.
    channels : int, optional
        Of the output.
    levels : tuple of LevelGrid
        Layout of the output.
    numerics_version : int
        The rules by which bytes were made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: str
    level: int
    model: str
    lattice: Lattice
    precision: str
    padded_batch: int | None
    statistics: str
    seed: int
    flatten: bool
    invert: bool
    nodata: str | None
    fill: str | None
    mask: str | None
    missing: str = "fill"
    dtype: str
    box: Box
    channels: int | None
    levels: tuple[LevelGrid, ...]
    numerics_version: int = NUMERICS_VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the terms' canonical JSON."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def plain(self) -> dict[str, Any]:
        """Return the terms as JSON values."""
        return self.model_dump(mode="json")


def check_version(output: str, before: int) -> None:
    """Refuse to go on with an output whose bytes were made by other rules.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``.
    """
    if before != NUMERICS_VERSION:
        raise FingerprintError(
            "job.fingerprint",
            f"{output} was begun by another version of volumetool, which makes other bytes: "
            f"numerics_version {before} then, {NUMERICS_VERSION} now",
            hint="go on with the version that began it, or begin anew at another place (enhance: or with --overwrite)",
        )


def differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Return (field, old value, new value) for every value in which two sets of terms differ, by dotted name."""
    before, after = _members(old), _members(new)
    if before is None or after is None or (isinstance(old, list) and len(old) != len(new)):
        return [] if old == new else [(name, old, new)]
    found = []
    for member in sorted(before.keys() | after.keys()):
        found += differences(before.get(member), after.get(member), f"{name}.{member}" if name else member)
    return found


def _members(value: Any) -> dict[str, Any] | None:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {str(number): member for number, member in enumerate(value)}
    return value if isinstance(value, dict) else None

"""Whether another viewer opens a volume as it is stored, and where it would draw it.

What a viewer opens was tried with the versions below, or stands in its own documents:

- cloud-volume 12.15.2: reads precomputed; OME-Zarr 0.5 without shards, with the position cut to whole voxels; 0.4 without it.
- Fiji's N5 plugins and MoBIE: Zarr 3 is not opened (mobie-viewer-fiji, issue 1250).
- napari 0.9.2 with napari-ome-zarr 0.11.0: leaves translations out.
- Neuroglancer: its lists of data sources.
- WEBKNOSSOS: its list of formats (Zarr, N5, precomputed).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from volumetool.errors import ConfigError
from volumetool.geometry import Size
from volumetool.storage.io.kvstore import canonical_url
from volumetool.storage.open import open_volume
from volumetool.storage.validate import Finding, validate_volume
from volumetool.storage.volume import Volume

Place = Literal["kept", "whole voxels", "ignored"]
"""What a viewer makes of the position of the first voxel."""

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Viewer:
    """What a viewer opens: formats, the best first, with what becomes of the position, and whether it reads shards."""

    formats: Mapping[str, Place]
    sharded: bool = True


_ALL: Mapping[str, Place] = dict.fromkeys(("ome-zarr-0.5", "ome-zarr-0.4", "n5", "precomputed"), "kept")
_JAVA: Mapping[str, Place] = dict.fromkeys(("ome-zarr-0.4", "n5"), "kept")

VIEWERS = {
    "neuroglancer": _Viewer(_ALL),
    "napari": _Viewer(dict.fromkeys(("ome-zarr-0.5", "ome-zarr-0.4"), "ignored")),
    "fiji": _Viewer(_JAVA),
    "mobie": _Viewer(_JAVA),
    "webknossos": _Viewer(_ALL),
    "cloud-volume": _Viewer({"precomputed": "kept", "ome-zarr-0.5": "whole voxels", "ome-zarr-0.4": "ignored"}, sharded=False),
}
"""The viewers that are known, by name."""


@dataclass(frozen=True)
class Validation:
    """What was found when a volume was validated.

    Attributes
    ----------
    volume : str
        Path or URL of the volume.
    viewer : str, optional
        The viewer that was asked about; None where the volume was held against its format's rules.
    findings : tuple of Finding
        What is wrong, each with what helps; empty where nothing is.
    """

    volume: str
    viewer: str | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Return the validation as JSON values."""
        return {"ok": self.ok, **asdict(self)}


def validate(volume: str | os.PathLike[str], *, viewer: str | None = None) -> Validation:
    """Find out whether a volume keeps its format's rules, so that viewers show it in the right place, or suits one viewer.

    Parameters
    ----------
    volume : str or path
        Path or URL of the volume. No voxel is read.
    viewer : {"neuroglancer", "napari", "fiji", "mobie", "webknossos", "cloud-volume"}, optional
        Ask whether this viewer opens the volume, in its place, instead.

    Raises
    ------
    InputError
        ``input.not-a-volume``, and as `open_volume`.
    ConfigError
        ``config.viewer``: no such viewer is known.
    """
    place = canonical_url(volume)
    findings = validate_volume(place) if viewer is None else check_viewer(open_volume(place), viewer)
    return Validation(place, viewer, tuple(findings))


def check_viewer(volume: Volume, viewer: str) -> list[Finding]:
    """Return what keeps a viewer from opening a volume, or from drawing it in its place.

    Parameters
    ----------
    volume : Volume
        The volume; no voxel is read.
    viewer : str
        One of `VIEWERS`.

    Returns
    -------
    list of Finding
        With the codes ``viewer.format``, ``viewer.sharded`` and ``viewer.place``, each with what helps.
        Empty where all is well.

    Raises
    ------
    ConfigError
        ``config.viewer``: no such viewer is known.
    """
    known = VIEWERS.get(viewer)
    if known is None:
        raise ConfigError("config.viewer", f"--viewer {viewer} is none of {', '.join(VIEWERS)}", hint="see --help")
    copy = f"copy it: volumetool convert {volume.url} NEW --format {next(iter(known.formats))}"
    if volume.format not in known.formats:
        return [Finding("viewer.format", f"{viewer} does not open {volume.format}; {copy}")]
    findings = []
    if volume.format != "precomputed" and not known.sharded and any(level.shard is not None for level in volume.levels):
        findings.append(Finding("viewer.sharded", f"{viewer} does not read shards of {volume.format}; {copy}"))
    place = known.formats[volume.format]
    if _lost(volume.translation, volume.voxel_size, place):
        drawn = "at 0" if place == "ignored" else "at the whole voxel before"
        text = (
            f"the first voxel lies at {volume.translation} nm (z, y, x); {viewer} draws it {drawn}, so volumes of other voxel "
            "sizes do not coincide with it there; move the layer by hand, or look at it with volumetool view"
        )
        findings.append(Finding("viewer.place", text))
    return findings


def _lost(translation: Size, voxel_size: Size, place: Place) -> bool:
    """Return whether the position, nm, z, y, x, is another one where the viewer draws it."""
    if place == "kept":
        return False
    voxels = [start / size for start, size in zip(translation, voxel_size, strict=True)]
    nearest = [0.0 if place == "ignored" else round(start) for start in voxels]
    return any(abs(a - b) > _TOLERANCE for a, b in zip(voxels, nearest, strict=True))

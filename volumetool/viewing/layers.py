"""Volumes as layers: where the client reads them, where they lie in space, and how bright they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from volumetool.errors import InputError
from volumetool.geometry import Size, Triple
from volumetool.jobs.plan import Plan
from volumetool.store.found import read_json
from volumetool.store.kvstore import is_local, join_url
from volumetool.store.open import open_volume
from volumetool.store.volume import Volume
from volumetool.viewing.precomputed import Precomputed, find_precomputed
from volumetool.viewing.window import Window, fitted_window, job_of, sampled_window

Kind = Literal["image", "segmentation"]
_CLIENT_FORMATS = {"zarr": "zarr2:", "zarr3": "zarr3:", "n5": "n5:"}
_PER_METRE = 1e9
"""Nanometres: dividing by it keeps round numbers round."""


@dataclass(frozen=True)
class Layer:
    """One volume as the client shows it; triples are z, y, x.

    Attributes
    ----------
    name : str
        Shown to the user; unique in a view.
    volume : Volume or Precomputed
        What is shown.
    kind : {"image", "segmentation"}
        How it is drawn.
    window : tuple of float, optional
        Grey values of black and white.
    job : Plan, optional
        Of the job that wrote the volume, or is writing it.
    """

    name: str
    volume: Volume | Precomputed
    kind: Kind = "image"
    window: Window | None = None
    job: Plan | None = None

    @property
    def shape(self) -> Triple:
        """Voxels of the finest level."""
        return self.volume.levels[0].shape

    @property
    def voxel_size(self) -> Size:
        """Of the finest level, in nm."""
        return self.volume.levels[0].voxel_size

    @property
    def corners(self) -> tuple[Size, Size]:
        """Lower and upper corner of the volume, in nm: voxels reach half their size around their centres."""
        level = self.volume.levels[0]
        low = tuple(at - size / 2 for at, size in zip(level.translation, level.voxel_size, strict=True))
        high = tuple(at + n * size for at, n, size in zip(low, level.shape, level.voxel_size, strict=True))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    @property
    def is_local(self) -> bool:
        """Whether the volume is on this machine's disks."""
        return is_local(self.volume.url)

    def source(self, served: str | None) -> dict[str, Any]:
        """Return the data source as the client's state has it.

        Parameters
        ----------
        served : str, optional
            URL under which the volume is served; without it the client reads the volume's own URL.
        """
        volume = self.volume
        precomputed = isinstance(volume, Precomputed)
        form = "neuroglancer-precomputed:" if isinstance(volume, Precomputed) else _CLIENT_FORMATS[volume.driver]
        source: dict[str, Any] = {"url": f"{client_url(served or volume.url)}/|{form}"}
        if precomputed and self.kind == "segmentation":
            source |= {"enableDefaultSubsources": False, "subsources": {"default": True}}
        if not precomputed and not self._placed_by_metadata:
            source["transform"] = self._transform()
        return source

    @property
    def _placed_by_metadata(self) -> bool:
        """Whether the client places the volume as volumetool does.

        It takes OME-Zarr's positions for centres of voxels, and N5's for corners; of a single level of either it does not see
        the metadata that say how large its voxels are.
        """
        assert isinstance(self.volume, Volume)  # noqa: S101  (precomputed volumes are placed by their own metadata)
        return self.volume.format.startswith("ome-zarr") and self.volume.levels[0].path != ""

    def _transform(self) -> dict[str, Any]:
        """Return the transformation that puts the corner of the first voxel where it belongs."""
        assert isinstance(self.volume, Volume)  # noqa: S101
        size, low = dict(zip("zyx", self.voxel_size, strict=True)), dict(zip("zyx", self.corners[0], strict=True))
        axes = self.volume.axes
        dimensions = {axis: [size[axis] / _PER_METRE, "m"] if axis in size else [1, ""] for axis in map(_client_axis, axes)}
        # Of an array that names no unit, the client takes a voxel for one metre.
        scaled = _client_sees_voxel_size(self.volume)
        lengths = [1.0 if scaled or axis not in size else size[axis] / _PER_METRE for axis in axes]
        matrix = [
            [
                *(lengths[row] if row == column else 0.0 for column in range(len(axes))),
                low[axis] / size[axis] if axis in size else 0.0,
            ]
            for row, axis in enumerate(axes)
        ]
        return {"outputDimensions": dimensions, "matrix": matrix}


def _client_sees_voxel_size(volume: Volume) -> bool:
    """Say whether the client finds a voxel size in the metadata at or below the volume's URL."""
    if volume.driver != "n5":
        return False
    stored = [read_json(url, "attributes.json") or {} for url in (volume.url, join_url(volume.url, volume.levels[0].path))]
    return any({"resolution", "pixelResolution"} & set(each) for each in stored)


def _client_axis(axis: str) -> str:
    """Return the client's name of an axis; c' belongs to a layer alone."""
    return "c'" if axis == "c" else axis


def client_url(url: str) -> str:
    """Return a URL as the client spells it: buckets behind an own endpoint name it."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if url.startswith("s3://") and endpoint:
        return f"s3+{endpoint.rstrip('/')}/{url.removeprefix('s3://')}"
    return url.rstrip("/")


def make_layers(volumes: Sequence[str], voxel_size: Size | None = None) -> list[Layer]:
    """Describe volumes as layers.

    Parameters
    ----------
    volumes : sequence of str
        Paths or URLs of OME-Zarr, N5, Zarr or precomputed volumes.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, of volumes whose metadata do not say it.

    Raises
    ------
    InputError
        As :func:`volumetool.open_volume`.
    """
    layers: list[Layer] = []
    for url in volumes:
        opened = find_precomputed(url) or _open(url, voxel_size)
        layers.append(Layer(_unique(PurePosixPath(opened.url).name, layers), opened))
    return _with_windows(layers)


def _open(url: str, voxel_size: Size | None) -> Volume:
    """Open a volume; a voxel size is given to those that have none, and corrects no other."""
    try:
        return open_volume(url)
    except InputError as error:
        if voxel_size is None or error.code != "input.no-voxel-size":
            raise
        return open_volume(url, voxel_size=voxel_size)


def _unique(name: str, layers: Sequence[Layer]) -> str:
    taken = {layer.name for layer in layers}
    return next(each for each in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if each not in taken)


def _with_windows(layers: Sequence[Layer]) -> list[Layer]:
    """Give every layer its contrast; a job's input gets that of its output, so that the two can be compared."""
    jobs = [replace(layer, job=job_of(layer.volume.url)) for layer in layers]
    fitted = {layer.name: None if layer.job is None else fitted_window(layer.job) for layer in jobs}
    of_inputs = {layer.job.terms.input: fitted[layer.name] for layer in jobs if layer.job is not None}
    done = []
    for layer in jobs:
        volume = layer.volume
        if isinstance(volume, Precomputed) and volume.kind == "segmentation":
            done.append(replace(layer, kind="segmentation"))
            continue
        shared = of_inputs.get(volume.identity) if isinstance(volume, Volume) else None
        done.append(replace(layer, window=fitted[layer.name] or shared or sampled_window(volume)))
    return done

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
from volumetool.storage.formats.base import read_json
from volumetool.storage.formats.npy import AnyVolume, place_or_array
from volumetool.storage.formats.precomputed import Precomputed, find_precomputed
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import channel_names
from volumetool.storage.volume import Volume
from volumetool.viewer.contrast import Window, fitted_window, job_of, sampled_window
from volumetool.viewer.ngff_compat import is_computed, is_placed, read_from_afar

Kind = Literal["image", "segmentation"]
_CLIENT_FORMATS = {"zarr": "zarr2:", "zarr3": "zarr3:", "n5": "n5:", "neuroglancer_precomputed": "neuroglancer-precomputed:"}
_CLIENT_FORMATS["virtual_chunked"] = "zarr3:"  # what `ComputedKeys` gives
_PER_METRE = 1e9
"""Nanometres: dividing by it keeps round numbers round."""


@dataclass(frozen=True)
class Layer:
    """One volume as the client shows it; triples are z, y, x.

    Attributes
    ----------
    name : str
        Name that the user sees, unique in a view.
    volume : Volume or Precomputed
        Volume that is shown.
    kind : {"image", "segmentation"}
        Whether values are drawn as grey levels or as labels.
    window : tuple of float, optional
        Grey values of black and white.
    job : Plan, optional
        Folder of the job that wrote the volume, or is writing it.
    read_as : tuple of float, optional
        Voxel size, in m, that the client reads from the metadata of an OME-Zarr image at a URL, where it is another one.
    channel : int, optional
        Index on the c axis of the one channel that is shown; by default the first, and the user may turn to others.
    shader : str, optional
        How it is drawn, in the client's GLSL; by default as grey values.
    """

    name: str
    volume: Volume | Precomputed
    kind: Kind = "image"
    window: Window | None = None
    job: Plan | None = None
    read_as: Size | None = None
    channel: int | None = None
    shader: str | None = None

    @property
    def shape(self) -> Triple:
        """Voxels of the finest level."""
        return self.volume.levels[0].shape

    @property
    def voxel_size(self) -> Size:
        """Voxel size of the finest level, in nm."""
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
        """Whether this machine serves the volume: it is on its disks, or the client does not read its files."""
        return is_local(self.volume.url) or is_computed(self.volume)

    def source(self, served: str | None) -> dict[str, Any]:
        """Return the data source as the client's state has it.

        Parameters
        ----------
        served : str, optional
            URL under which the volume is served, as the client can read it; without it the client reads the volume's own URL.
        """
        volume = self.volume
        driver = "virtual_chunked" if is_computed(volume) else volume.driver
        source: dict[str, Any] = {"url": f"{client_url(served or volume.url)}/|{_CLIENT_FORMATS[driver]}"}
        if isinstance(volume, Precomputed) and self.kind == "segmentation":
            source |= {"enableDefaultSubsources": False, "subsources": {"default": True}}
        if isinstance(volume, Volume) and (self.read_as is not None or not is_placed(volume)):
            source["transform"] = self._transform(volume)
        return source

    def _transform(self, volume: Volume) -> dict[str, Any]:
        """Return the transformation that puts the corner of the first voxel where it belongs.

        The client takes OME-Zarr's positions for centres of voxels, and N5's for corners. Of a single level of either it does
        not see the metadata that say how large its voxels are, and takes one for a metre, in N5 for a nanometre.
        """
        metres = {axis: length / _PER_METRE for axis, length in zip("zyx", self.voxel_size, strict=True)}
        corner = {axis: low / size for axis, low, size in zip("zyx", self.corners[0], self.voxel_size, strict=True)}
        if self.read_as is not None:
            stretch = {axis: metres[axis] / read for axis, read in zip("zyx", self.read_as, strict=True)}
            corner = {}  # placed already
        else:
            taken_for = 1 / _PER_METRE if volume.driver == "n5" else 1.0
            stretch = {} if _client_sees_voxel_size(volume) else {axis: size / taken_for for axis, size in metres.items()}
        axes = [axis for axis in volume.axes if axis != "c" or volume.channels is not None]
        dimensions = {_client_axis(axis): [metres[axis], "m"] if axis in metres else [1, ""] for axis in axes}
        matrix = [
            [*(stretch.get(axis, 1.0) if row == column else 0.0 for column in range(len(axes))), corner.get(axis, 0.0)]
            for row, axis in enumerate(axes)
        ]
        return {"outputDimensions": dimensions, "matrix": matrix}


def _client_sees_voxel_size(volume: Volume) -> bool:
    """Return whether the client finds a voxel size in the metadata at or below the volume's URL."""
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


def make_layers(volumes: Sequence[AnyVolume], voxel_size: Size | None = None) -> list[Layer]:
    """Describe volumes as layers.

    Parameters
    ----------
    volumes : sequence of str, path, array or Volume
        What `open_volume` takes, or what it has returned.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, of volumes whose metadata do not say it; by default, of the input of a job whose output is among
        them, what the job was told.

    Raises
    ------
    InputError
        As :func:`volumetool.open_volume`, and ``input.unviewable``: the client cannot read what is at a URL.
    """
    layers: list[Layer] = []
    given = [place_or_array(volume) for volume in volumes]
    places = [each for each in given if isinstance(each, str)]
    for each in given:
        opened: Volume | Precomputed
        if isinstance(each, str):
            opened = find_precomputed(each) or _open(each, voxel_size, places)
        else:
            opened = each if isinstance(each, Volume) else open_volume(each, voxel_size=voxel_size)
        read_as = read_from_afar(opened) if isinstance(opened, Volume) else None
        layers.append(Layer(_unique(PurePosixPath(opened.url).name, layers), opened, read_as=read_as))
    return _with_windows(layers)


def _open(url: str, voxel_size: Size | None, volumes: Sequence[str]) -> Volume:
    """Open a volume; a voxel size is given to those that have none, and corrects no other."""
    try:
        return open_volume(url)
    except InputError as error:
        if error.code != "input.no-voxel-size" or (known := voxel_size or _told_to_job(url, volumes)) is None:
            raise
        return open_volume(url, voxel_size=known)


def _told_to_job(url: str, volumes: Sequence[str]) -> Size | None:
    """Return the voxel size that a job was given for its input, if the output of that job is among some volumes."""
    jobs = [plan.job for other in volumes if (plan := job_of(other)) is not None]
    return next((job.voxel_size for job in jobs if canonical_url(job.input) == canonical_url(url)), None)


def _unique(name: str, layers: Sequence[Layer]) -> str:
    taken = {layer.name for layer in layers}
    return next(each for each in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if each not in taken)


def _with_windows(layers: Sequence[Layer]) -> list[Layer]:
    """Give every layer its contrast; a job's input gets that of its output, so that the two can be compared."""
    jobs = [replace(layer, job=job_of(layer.volume.url)) for layer in layers]
    fitted = {layer.name: None if layer.job is None else fitted_window(layer.job) for layer in jobs}
    of_inputs = {layer.job.spec.input: fitted[layer.name] for layer in jobs if layer.job is not None}
    done = []
    for layer in jobs:
        volume = layer.volume
        if isinstance(volume, Precomputed) and volume.kind == "segmentation":
            done.append(replace(layer, kind="segmentation"))
            continue
        if isinstance(volume, Volume) and (names := channel_names(volume)):
            done += [
                replace(layer, name=f"{layer.name}: {name}", channel=number, window=sampled_window(volume, number))
                for number, name in enumerate(names)
            ]
            continue
        shared = of_inputs.get(volume.identity) if isinstance(volume, Volume) else None
        done.append(replace(layer, window=fitted[layer.name] or shared or sampled_window(volume)))
    return done

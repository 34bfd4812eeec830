"""The job: what the user asked for, before anything is looked at."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from volumetool.configuration import Nanometres, Numbers, explain, parse_box, parse_bytes, read_options
from volumetool.errors import ConfigError
from volumetool.geometry import Box
from volumetool.store.kvstore import place_text
from volumetool.store.urls import check_foreign


class Kind(Enum):
    """What a field of a job is to its fingerprint."""

    SEMANTIC = "changes voxels or layout: another value is another job"
    RUNTIME = "changes only how the same bytes come about: may differ from run to run"


SEMANTIC, RUNTIME = Kind.SEMANTIC, Kind.RUNTIME


def _as_text(place: object) -> object:
    return place_text(place) if isinstance(place, Path) else place


Place = Annotated[str, BeforeValidator(_as_text)]


class Job(BaseModel):
    """One enhancement, as asked for. Every field is marked as semantic or runtime; see :class:`Kind`.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs (file, s3, gs; http for input).
    model : str
        Name of a built-in model, path of a model file, or ``auto``: of the built-in ones that fit the voxel
        size and add no sections the one that gains most voxels.
    level : int
        Level of the input to enhance; 0 is the finest.
    voxel_size : tuple of float, optional
        Corrects the input's voxel size, in nm, z, y, x.
    patch, overlap : tuple of int, optional
        Instead of the card's, in input voxels. A patch that is given is the longest there is; the card's may be a quarter
        larger where one patch then covers a short axis.
    exact : bool
        Overlap twice the receptive field and cut instead of blending: equal to the network on the whole section at once.
    precision : {"auto", "bfloat16", "float32"}
        Of the network's body; auto takes bfloat16 where the model is safe in it and the machine computes in it.
    sections : str, optional
        CSV file of section statistics to use instead of fitting them.
    seed : int
        Moves the sample for the statistics.
    flatten : bool
        Keep the evened contrast instead of giving each section its own back.
    invert : bool
        The volume's polarity is opposite to the model's.
    nodata : float, optional
        Input value of voxels without data; ``nan`` for NaN.
    fill : float, optional
        Output value of voxels without data; by default `nodata` itself.
    mask : str, optional
        Volume that is zero where nothing needs enhancing, on the input's grid or an integer factor coarser.
    missing : {"fill", "fail", "skip"}
        What a chunk of the input that is not stored means: ``fill``, the array's fill value, as formats say; ``fail``, that it
        was lost: the regions that read it fail; ``skip``, voxels without data, which become `fill`.
    dtype : str, optional
        Of the output; by default the input's.
    chunk, shard : tuple of int, optional
        Of the output's level 0, in voxels.
    roi : Box, optional
        In input voxels. Only regions that touch it are computed.
    crop : bool
        Make `roi` the whole output.
    workers : int, optional
        Processes, or GPUs.
    cluster : str
        ``local``, ``cuda``, or the address of a dask scheduler, ``tcp://host:port``.
    device : {"auto", "cpu", "cuda"}
        Where the network runs.
    memory : int, optional
        Bytes for all workers of this machine together; by default 70 % of what is free.
    region : tuple of int, optional
        Shards per region and axis, instead of the planner's choice. Kept for the life of a job.
    keep_patches : {"auto", "always", "never"}
        Keep what the network gave for patches that several regions need on disk, until the last of them is done; auto
        does so where it pays and fits.
    batch : int, optional
        Patches per call of the network, instead of the planner's choice. Kept for the life of a job.
    patience : float
        Seconds without a sign of life after which a region hangs, or ten usual regions if that is longer: its process ends, and
        another one tries it once more.
    retry_quarantined : bool
        Try regions again that are set aside because they ended or hung their workers.
    input_check : {"metadata", "stored", "strict"}
        How a run that goes on makes sure that its input is still what finished regions read: by its metadata alone; by size
        and time (or ETag) of the chunks, too, and by the voxels where these differ; by all voxels.
    recompute_changed : bool
        Make regions again whose input was changed, instead of refusing.
    force_voxel_size : bool
        Go on although the voxel size is far from what the model was trained on, or looks like another unit or order.
    allow_mixed_numerics : bool
        Let workers compute that give other bytes than the plan's probe.
    accept_failed : bool
        Finish the volume although regions failed, and list them in its attributes.
    overwrite : bool
        Delete what an earlier job left at the output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    input: Annotated[Place, SEMANTIC]
    output: Annotated[Place, RUNTIME]
    model: Annotated[Place, SEMANTIC] = "auto"
    level: Annotated[int, SEMANTIC, Field(ge=0)] = 0
    voxel_size: Annotated[Nanometres | None, SEMANTIC] = None
    patch: Annotated[Numbers | None, SEMANTIC] = None
    overlap: Annotated[Numbers | None, SEMANTIC] = None
    exact: Annotated[bool, SEMANTIC] = False
    precision: Annotated[Literal["auto", "bfloat16", "float32"], SEMANTIC] = "auto"
    sections: Annotated[Place | None, SEMANTIC] = None
    seed: Annotated[int, SEMANTIC] = 0
    flatten: Annotated[bool, SEMANTIC] = False
    invert: Annotated[bool, SEMANTIC] = False
    nodata: Annotated[float | None, SEMANTIC, Field(allow_inf_nan=True)] = None
    fill: Annotated[float | None, SEMANTIC, Field(allow_inf_nan=True)] = None
    mask: Annotated[Place | None, SEMANTIC] = None
    missing: Annotated[Literal["fill", "fail", "skip"], SEMANTIC] = "fill"
    dtype: Annotated[Literal["uint8", "int8", "uint16", "int16", "float32"] | None, SEMANTIC] = None
    chunk: Annotated[Numbers | None, SEMANTIC] = None
    shard: Annotated[Numbers | None, SEMANTIC] = None
    crop: Annotated[bool, SEMANTIC] = False
    roi: Annotated[Annotated[Box, BeforeValidator(parse_box)] | None, RUNTIME] = None
    workers: Annotated[int | None, RUNTIME, Field(ge=1)] = None
    cluster: Annotated[str, RUNTIME, Field(pattern=r"^(local|cuda|(tcp|tls|ucx)://.+)$")] = "local"
    device: Annotated[Literal["auto", "cpu", "cuda"], RUNTIME] = "auto"
    memory: Annotated[Annotated[int, BeforeValidator(parse_bytes)] | None, RUNTIME] = None
    region: Annotated[Numbers | None, RUNTIME] = None
    keep_patches: Annotated[Literal["auto", "always", "never"], RUNTIME] = "auto"
    batch: Annotated[int | None, RUNTIME, Field(ge=1)] = None
    patience: Annotated[float, RUNTIME, Field(gt=0, allow_inf_nan=False)] = 600.0
    retry_quarantined: Annotated[bool, RUNTIME] = False
    input_check: Annotated[Literal["metadata", "stored", "strict"], RUNTIME] = "stored"
    recompute_changed: Annotated[bool, RUNTIME] = False
    force_voxel_size: Annotated[bool, RUNTIME] = False
    allow_mixed_numerics: Annotated[bool, RUNTIME] = False
    accept_failed: Annotated[bool, RUNTIME] = False
    overwrite: Annotated[bool, RUNTIME] = False

    @field_validator("voxel_size", "patch", "chunk", "shard", "region")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and min(value) <= 0:
            raise ValueError(f"{value}: every axis must be above 0")
        return value

    @field_validator("roi")
    @classmethod
    def _not_empty(cls, value: Box | None) -> Box | None:
        if value is not None and value.fault:
            raise ValueError(f"the box {value} (z,y,x, in input voxels) cannot be: {value.fault}")
        return value

    @property
    def output_fill(self) -> float | None:
        """Output value of voxels without data."""
        return self.fill if self.fill is not None else self.nodata


def field_kinds() -> dict[str, Kind]:
    """Return for every field of a job whether it is semantic or runtime."""
    kinds = {}
    for name, field in Job.model_fields.items():
        (kinds[name],) = [mark for mark in field.metadata if isinstance(mark, Kind)]
    return kinds


def make_job(**options: Any) -> Job:
    """Make a job from options, with errors that name the option.

    Raises
    ------
    ConfigError
        ``config.option``: unknown option, or a value that cannot be.
    """
    try:
        return Job(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise ConfigError(
            "config.option", explain(error, Job), hint="see `volumetool enhance --help`, or `volumetool schema job`"
        ) from error


def read_job(path: Path, allow_hosts: Collection[str] = (), **options: Any) -> Job:
    """Make a job from a YAML file; options given beside it win.

    The file may have been made by others: of the network it reaches public hosts alone, and no scheduler, which may run what it
    likes in whoever connects to it.

    Parameters
    ----------
    path : Path
        The file.
    allow_hosts : collection of str
        Hosts that the file may name although they are not public.
    options
        As for :func:`make_job`.

    Raises
    ------
    ConfigError
        ``config.file``: the file is missing or no YAML mapping; ``config.option`` as in :func:`make_job`;
        ``config.private-host``, ``config.scheduler``.
    InputError
        ``input.url``, ``input.url-secret``.
    """
    content = read_options(path)
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("input", "output", "mask"):
        if name not in given and isinstance(content.get(name), str):
            check_foreign(content[name], allow_hosts)
    if "cluster" not in given and "://" in str(content.get("cluster")):
        raise ConfigError(
            "config.scheduler",
            f"{path} names the scheduler {content['cluster']!r}; schedulers run code in who connects to them",
            hint="if you know it: give it yourself, --cluster ADDRESS",
        )
    return make_job(**content | given)


def integer_limits(dtype: str) -> tuple[float, float]:
    """Return the range of an integer dtype; everything for floats."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)

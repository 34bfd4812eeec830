"""The job: what the user asked for, before anything is looked at."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple


class Kind(Enum):
    """What a field of a job is to its fingerprint."""

    SEMANTIC = "changes voxels or layout: another value is another job"
    RUNTIME = "changes only how the same bytes come about: may differ from run to run"


SEMANTIC, RUNTIME = Kind.SEMANTIC, Kind.RUNTIME

_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_triple(value: object) -> object:
    """Read ``"1,4,4"`` as three numbers; anything else passes to pydantic."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def parse_bytes(value: object) -> object:
    """Read ``"8GiB"`` as bytes; numbers pass."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", value.lower())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{value!r} is no amount of memory; write 8GiB or 500MB")
    return int(float(match[1]) * _BYTES[match[2]])


def parse_box(value: object) -> object:
    """Read ``"z0:z1,y0:y1,x0:x1"`` as a box; an empty end stands for the volume's face."""
    if not isinstance(value, str):
        return value
    parts = [part.split(":") for part in value.split(",")]
    if len(parts) != 3 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{value!r} is no box; write z0:z1,y0:y1,x0:x1 in input voxels, such as 0:64,100:300,:")
    start, stop = zip(*((int(a or 0), int(b) if b.strip() else 2**62) for a, b in parts), strict=True)
    return {"start": start, "stop": stop}


Numbers = Annotated[Triple, BeforeValidator(parse_triple)]
Nanometres = Annotated[tuple[float, float, float], BeforeValidator(parse_triple)]


class Job(BaseModel):
    """One enhancement, as asked for. Every field is marked as semantic or runtime; see :class:`Kind`.

    Parameters
    ----------
    input, output : str
        Paths or URLs (file, s3, gs; http for input).
    model : str
        Name of a built-in model, path of a model file, or ``auto``: the built-in that fits the voxel size.
    level : int
        Level of the input to enhance; 0 is the finest.
    voxel_size : tuple of float, optional
        Corrects the input's voxel size, in nm, z, y, x.
    patch, overlap : tuple of int, optional
        Instead of the card's, in input voxels.
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
    batch : int, optional
        Patches per call of the network, instead of the planner's choice. Kept for the life of a job.
    force_voxel_size : bool
        Go on although the voxel size is far from what the model was trained on.
    allow_mixed_numerics : bool
        Let workers compute that give other bytes than the plan's probe.
    accept_failed : bool
        Finish the volume although regions failed, and list them in its attributes.
    overwrite : bool
        Delete what an earlier job left at the output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    input: Annotated[str, SEMANTIC]
    output: Annotated[str, RUNTIME]
    model: Annotated[str, SEMANTIC] = "auto"
    level: Annotated[int, SEMANTIC, Field(ge=0)] = 0
    voxel_size: Annotated[Nanometres | None, SEMANTIC] = None
    patch: Annotated[Numbers | None, SEMANTIC] = None
    overlap: Annotated[Numbers | None, SEMANTIC] = None
    exact: Annotated[bool, SEMANTIC] = False
    precision: Annotated[Literal["auto", "bfloat16", "float32"], SEMANTIC] = "auto"
    sections: Annotated[str | None, SEMANTIC] = None
    seed: Annotated[int, SEMANTIC] = 0
    flatten: Annotated[bool, SEMANTIC] = False
    invert: Annotated[bool, SEMANTIC] = False
    nodata: Annotated[float | None, SEMANTIC, Field(allow_inf_nan=True)] = None
    fill: Annotated[float | None, SEMANTIC, Field(allow_inf_nan=True)] = None
    mask: Annotated[str | None, SEMANTIC] = None
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
    batch: Annotated[int | None, RUNTIME, Field(ge=1)] = None
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
        if value is not None and (min(value.start) < 0 or value.voxels == 0):
            raise ValueError(f"the box {value} is empty or begins before voxel 0")
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


def read_job(path: Path, **options: Any) -> Job:
    """Make a job from a YAML file; options given beside it win.

    Raises
    ------
    ConfigError
        ``config.file``: the file is missing or no YAML mapping; ``config.option`` as in :func:`make_job`.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(
            "config.file", f"{path} cannot be read: {error}", hint="a job file is YAML: one `option: value` a line"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            "config.file",
            f"{path} holds {type(content).__name__}, not options",
            hint="write one `option: value` a line",
        )
    content.pop("$schema", None)
    return make_job(**content | {name: value for name, value in options.items() if value is not None})


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Say in one line per problem which field is wrong, what it holds, and for a typo which name is near."""
    import difflib

    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function-"))
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        meant = f"; did you mean {near[0]}?" if problem["type"] == "extra_forbidden" and near else ""
        lines.append(f"{name} = {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}{meant}")
    return "\n".join(lines)


def integer_limits(dtype: str) -> tuple[float, float]:
    """Return the range of an integer dtype; everything for floats."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)

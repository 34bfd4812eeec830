"""The job: what the user asked for, before anything is looked at."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from volumetool.configuration import (
    Bandwidth,
    Bytes,
    Lengths,
    Nanometres,
    Natural,
    Numbers,
    Options,
    Place,
    Positive,
    read_options,
)
from volumetool.errors import ConfigError
from volumetool.geometry import AskedBox, Box
from volumetool.notification import COMMAND, check_target, target_name
from volumetool.options import document, runtime, semantic, told_once
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.operations.chain import ARROW
from volumetool.processing.sections.repair import RepairMode
from volumetool.storage.io.kvstore import canonical_url
from volumetool.storage.io.urls import check_foreign
from volumetool.storage.writing.names import WrittenName

AnyFloat = Annotated[float, Field(allow_inf_nan=True)]

ANY = "any"
"""The part of a job that nobody runs, whichever it is."""

MOST_PARTS = 2**16

MOST_STEP = 8.0
"""Times the expected error that a step of stored voxels may be: beyond, half a step is more than nearly any error."""


@dataclass(frozen=True)
class Part:
    """One of the parts that a job is cut into, each for a driver of its own.

    Parameters
    ----------
    number : int
        From 0.
    count : int
        Parts of the job.
    """

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Part:
        """Read ``"2/4"``.

        Raises
        ------
        ValueError
            It is no part.
        """
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text.strip())
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not part.number < part.count <= MOST_PARTS:
            raise ValueError(f"{text!r} is no part: of four parts they are 0/4, 1/4, 2/4 and 3/4; or {ANY}")
        return part

    def of(self, regions: Sequence[int]) -> Sequence[int]:
        """Return this part of some regions: those that follow one another share patches."""
        low, high = (len(regions) * end // self.count for end in (self.number, self.number + 1))
        return regions[low:high]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def _check_part(text: str) -> str:
    return text if text == ANY else str(Part.read(text))


INPUT, LOOK, OUTPUT = "What to enhance", "How it looks", "The output"
DEVICE, RUN = "Device and memory", "How it runs"


class Job(Options):
    """The request of a user, before anything is opened."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    told_by = "`volumetool enhance --help`, or `volumetool schema job`"

    input: Place = semantic(..., INPUT, "Volume to read: OME-Zarr, N5, precomputed or Zarr; path or URL (file, s3, gs, http).")
    output: Place = runtime("", OUTPUT, "Volume to write; path or URL (file, s3, gs). The same job again goes on.")
    model: Place = semantic("auto", INPUT, "Built-in name or model file; auto, the default, takes what fits.", common=True)
    level: Natural = semantic(0, INPUT, "Level of the input; 0 is the finest.")
    voxel_size: Nanometres | None = semantic(
        None, INPUT, "Voxel size in nm, instead of the metadata's.", metavar="Z,Y,X", common=True
    )
    force_voxel_size: bool = runtime(
        False,
        INPUT,
        "Go on although the voxel size is far from what the model was trained on, or looks like another unit or order.",
    )
    gate: Literal["warn", "strict", "off"] = runtime(
        "warn", INPUT, "A volume that looks unlike what the model was trained on: warn of it, refuse it, or say nothing."
    )
    roi: AskedBox | None = runtime(
        None, INPUT, "Compute only this part: z0:z1,y0:y1,x0:x1 in input voxels.", metavar="BOX", common=True
    )
    crop: bool = semantic(False, INPUT, "Make the box of --roi the whole output.")
    nodata: AnyFloat | None = semantic(None, INPUT, "Input value of voxels without data, or nan.", common=True)
    mask: Place | None = semantic(
        None, INPUT, "Volume that is 0 where nothing needs enhancing, on the input's grid or an integer factor coarser."
    )
    with_: Place | None = semantic(
        None, INPUT, "Volume on the input's very grid that a function of two arguments gets as its second: def f(image, mask)."
    )
    missing: Literal["fill", "fail", "skip"] = semantic(
        "fill",
        INPUT,
        "Chunks of the input that are not stored: fill takes the array's fill value, fail lets their regions fail, "
        "skip takes them for voxels without data.",
    )
    invert: bool = semantic(False, LOOK, "The volume's polarity is opposite to the model's.", common=True)
    equalise_sections: bool = semantic(False, LOOK, "Give all sections the same contrast instead of each its own back.")
    patch: Lengths | None = semantic(
        None,
        LOOK,
        "Longest patch, in input voxels; by default the model's, which may be a quarter longer on a short axis.",
        metavar="Z,Y,X",
    )
    overlap: Numbers | None = semantic(
        None, LOOK, "Overlap of patches, in input voxels; by default the model's.", metavar="Z,Y,X"
    )
    exact: bool = semantic(
        False,
        LOOK,
        "Overlap twice the receptive field and cut instead of blending: as if the network saw each section at once.",
    )
    precision: Literal["auto", "bfloat16", "float32"] = semantic(
        "auto", LOOK, "Of the network; auto takes bfloat16 where the model is safe in it and the machine computes in it."
    )
    statistics: Place | None = semantic(None, LOOK, "CSV of section statistics to use instead of fitting them.")
    repair_sections: RepairMode | None = semantic(
        None,
        LOOK,
        "What stands in for bad sections: what lies between good ones (fill), the nearest good one, or they stay (leave). "
        "No z context holds bad ones then.",
    )
    seed: int = semantic(0, LOOK, "Moves the sample for the statistics.")
    dtype: Literal["uint8", "int8", "uint16", "int16", "float32"] | None = semantic(
        None, OUTPUT, "Type of the output's voxels; by default the input's."
    )
    fill: AnyFloat | None = semantic(None, OUTPUT, "Output value of voxels without data; by default that of --nodata.")
    chunk: Lengths | None = semantic(None, OUTPUT, "Chunk of the output's finest level, in voxels.", metavar="Z,Y,X")
    shard: Lengths | None = semantic(None, OUTPUT, "Shard of the output's finest level, in voxels.", metavar="Z,Y,X")
    format: WrittenName | None = semantic(
        None, OUTPUT, "Format of the output; by default what its name ends like (.n5, .precomputed), else ome-zarr-0.5."
    )
    trust: Place | None = semantic(
        None,
        OUTPUT,
        "Second volume to write, in the same pass: the error that the network expects, and how the output departs from the "
        "input.",
    )
    tta: bool = semantic(
        False,
        OUTPUT,
        "With --trust: how far the outputs of a patch that is turned and mirrored spread. The network runs 8 times.",
    )
    store_error: Annotated[float, Field(gt=0, le=MOST_STEP)] | None = semantic(
        None,
        OUTPUT,
        "Store smaller files: round voxels to steps of at most F times the error that the network expects of each.",
        metavar="F",
    )
    device: DeviceName = runtime(
        "auto", DEVICE, "cpu, cuda, rocm, mps or xpu; auto, the default: cuda or cpu.", metavar="KIND", common=True
    )
    memory: Bytes | None = runtime(
        None,
        DEVICE,
        "For all workers together, such as 8GiB; by default 70 % of what is free.",
        metavar="BYTES",
        common=True,
    )
    batch: Positive | None = runtime(
        None, DEVICE, "Patches per call of the network, instead of the planner's choice; kept for the life of a job."
    )
    allow_mixed_numerics: bool = runtime(False, DEVICE, "Let workers compute that give other bytes than the plan's probe.")
    workers: Positive | None = runtime(None, RUN, "Processes, or GPUs.", common=True)
    cluster: Annotated[str, Field(pattern=r"^([a-z]+(://.+)?|.+\.json)$")] = runtime(
        "local", RUN, "local (unless given), cuda, or a dask scheduler's tcp://HOST:PORT or file.", common=True
    )
    dashboard: bool = runtime(False, RUN, "Print a link to dask's dashboard of this machine's workers, open to who has it.")
    region: Lengths | None = runtime(
        None, RUN, "Shards per region, instead of the planner's choice; kept for the life of a job.", metavar="Z,Y,X"
    )
    patch_cache: Literal["auto", "always", "never"] = runtime(
        "auto", RUN, "Keep patches that several regions need on disk until the last of them is done; auto does where it pays."
    )
    part: Annotated[str, AfterValidator(_check_part)] | None = runtime(
        None,
        RUN,
        "Run one of K parts of the job, 0/K to K-1/K, which may run at once on several machines; any takes those that nobody "
        "runs.",
        metavar="I/K",
    )
    io_limit: Bandwidth | None = runtime(
        None,
        RUN,
        "Bytes a second that all workers of this run together read and write at most, such as 500MB/s; of a part, its own.",
        metavar="RATE",
    )
    open_files: Positive | None = runtime(
        None,
        RUN,
        "Files, or requests, that all workers of this run together have open for voxels; at least one each.",
    )
    hang_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = runtime(
        600.0,
        RUN,
        "Seconds without a sign of life after which a region hangs, or ten usual regions if that is longer: it is tried once "
        "more in another process.",
    )
    retry_quarantined: bool = runtime(
        False, RUN, "Try regions again that are set aside because they ended or hung their workers."
    )
    input_check: Literal["metadata", "stored", "strict"] = runtime(
        "stored",
        RUN,
        "How a run that goes on makes sure that its input is what finished regions read: by metadata; by size and time of "
        "chunks, too; by all voxels (strict).",
    )
    recompute_changed: bool = runtime(False, RUN, "Make regions again whose input was changed, instead of refusing.")
    accept_failed: bool = runtime(
        False, RUN, "Finish with holes where regions failed, and list them in the output's attributes."
    )
    notify: Annotated[str, AfterValidator(check_target)] | None = told_once(
        None,
        RUN,
        "Whom to tell that a run ended: mailto:ADDRESS, https://HOST/PATH (gets a JSON record) or exec:COMMAND (on its stdin).",
        metavar="WHERE",
    )
    overwrite: bool = runtime(False, RUN, "Delete what an earlier job left at the output.", common=True)

    @property
    def placed(self) -> Job:
        """The same job with absolute paths, to be read from another directory."""
        names = ("input", "output", "mask", "with_", "statistics", "trust")
        model, places = self.model, {name: getattr(self, name) for name in names}
        if model != "auto":
            from volumetool.processing.operation import placed_operation  # torch takes its time

            model = ARROW.join(each if each == "auto" else placed_operation(each) for each in self.operations)
        placed = {name: canonical_url(place) for name, place in places.items() if place is not None}
        return self.model_copy(update={**placed, "model": model})

    @property
    def second(self) -> str | None:
        """The volume that is read beside the input: the mask, or what the operation takes; a job has one of them."""
        return self.with_ or self.mask

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations, in order: one, or those of a chain."""
        return tuple(self.model.split(ARROW))

    @property
    def earlier(self) -> Job | None:
        """Of a chain, the job of the operations before the last, over the whole volume and stored nowhere; else None."""
        if len(self.operations) == 1:
            return None
        # Options of what is written.
        last = ("output", "trust", "tta", "store_error", "roi", "crop", "dtype", "fill", "chunk", "shard", "format")
        plain = {name: type(self).model_fields[name].default for name in last}
        return self.model_copy(update={**plain, "model": ARROW.join(self.operations[:-1])})

    def last(self, nodata: float | None, roi: Box | None) -> Job:
        """Return the job of a chain's last operation.

        Parameters
        ----------
        nodata : float, optional
            What marks voxels without data in the output of the operations before.
        roi : Box, optional
            The part that is asked for, in voxels of that output.
        """
        own = {"level": 0, "voxel_size": None, "missing": "fill", "nodata": nodata, "roi": roi, "repair_sections": None}
        return self.model_copy(update={**own, "model": self.operations[-1]})

    @property
    def output_fill(self) -> float | None:
        """Output value of voxels without data."""
        return self.fill if self.fill is not None else self.nodata


document(Job)


def check_places(job: Job, allow_hosts: Collection[str] = ()) -> None:
    """Refuse a stored job, which others may have written, whose input, mask or trust volume leads into a private network.

    Raises
    ------
    ConfigError, InputError
        As `check_foreign`.
    """
    for place in (job.input, job.mask, job.with_, job.trust):
        if place is not None:
            check_foreign(place, allow_hosts)


def make_job(**options: Any) -> Job:
    """Make a job from options; those that are None are left at their defaults.

    Raises
    ------
    ConfigError
        ``config.option``: unknown option, or a value that cannot be.
    """
    return Job(**{name: value for name, value in options.items() if value is not None})


def read_job(path: Path, allow_hosts: Collection[str] = (), **options: Any) -> Job:
    """Make a job from a YAML file; options given beside it win.

    The file may have been made by others: of the network it reaches public hosts alone, and no scheduler, which may run what it
    likes in whoever connects to it.

    Parameters
    ----------
    path : Path
        Path of the YAML file.
    allow_hosts : collection of str
        Hosts that the file may name although they are not public.
    options
        As for :func:`make_job`.

    Raises
    ------
    ConfigError
        ``config.file``: the file is missing or no YAML mapping; ``config.option`` as in :func:`make_job`;
        ``config.private-host``, ``config.scheduler``, ``config.notify``: it names a command.
    InputError
        ``input.url``, ``input.url-secret``.
    """
    content = read_options(path)
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("input", "output", "mask", "with_", "trust"):
        if name not in given and isinstance(content.get(name), str):
            check_foreign(content[name], allow_hosts)
    if "notify" not in given and isinstance(told := content.get("notify"), str):
        _check_told(path, told, allow_hosts)
    cluster = str(content.get("cluster"))
    if "cluster" not in given and ("://" in cluster or cluster.endswith(".json")):
        raise ConfigError(
            "config.scheduler",
            f"{path} names the scheduler {cluster!r}; schedulers run code in who connects to them",
            hint="if you know it: give it yourself, --cluster ADDRESS",
        )
    return make_job(**content | given)


def _check_told(path: Path, target: str, allow_hosts: Collection[str]) -> None:
    """Refuse what a file may not tell of a run: a command to be run, or a host of a private network."""
    if target.startswith(COMMAND):
        raise ConfigError(
            "config.notify",
            f"{path} names the command {target_name(target)!r}, which would be run when the job ends",
            hint="if you know it: give it yourself, --notify 'exec:COMMAND'",
        )
    if not target.startswith("mailto:"):
        check_foreign(target, allow_hosts)

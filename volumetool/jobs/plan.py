"""The plan: everything decided before a voxel is touched. Frozen, printable, refusable."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from volumetool.geometry import Box, PatchSharing, RegionGrid, Size, Triple
from volumetool.jobs.choices import BatchingChoice, Familiarity, ModelChoice
from volumetool.jobs.job import ANY, Job, Part
from volumetool.jobs.job_dir import PARTS, JobDir
from volumetool.options import Kind, kinds
from volumetool.processing.operations.chain import ARROW
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.redaction import fact_table
from volumetool.sealed import seal
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.kvstore import canonical_url, join_url, parent_url
from volumetool.storage.writing.names import DEFAULT
from volumetool.version import __version__

CacheScope = Literal["none", "sides", "all"]
"""Which patches that several regions need are kept on disk: none, those between regions of one layer along z, or all."""

CACHED_AXES: dict[CacheScope, tuple[bool, bool, bool]] = {
    "none": (False, False, False),
    "sides": (False, True, True),
    "all": (True, True, True),
}
"""Along which axes, z, y, x, a patch that several regions need is computed once."""

WINDOW = 2
"""Regions in flight per worker: one that runs and one that waits for it."""

LOOK_AHEAD = 8
"""Regions that may be passed over for each one in flight: in a grid of 2 x 2 x n regions, one of eight is no neighbour."""


class Estimates(BaseModel):
    """The costs of a plan.

    Parameters
    ----------
    patches : int
        Patches that all regions asked for evaluate.
    recomputed : int
        Those of them that an earlier region evaluates too. Where patches are kept, several workers add those that neighbours
        compute at the same time.
    kept : {"none", "sides", "all"}
        Shared patches that are kept on disk during the job: none, those between regions of one layer, or all.
    kept_why : str
        Why these patches are kept, or why none are.
    kept_bytes : int
        Upper bound of what they take on disk at once.
    read_bytes : int
        Input voxels, halo included, before compression.
    rereads : float
        How often the strips of a region touch a stored chunk of the input, on average.
    written_bytes : int
        Output of all levels, compressed as a sample of it was.
    objects : int
        Files or objects of the output.
    opens : int
        About how often files are opened, or requests made, to read and to write.
    free_bytes : int, optional
        Bytes that may still be written where the output goes; unknown for object stores.
    free_files : int, optional
        Files that may still be made there; unknown for object stores, and where the file system does not count them.
    bounds : tuple of str
        What leaves no more bytes and no more files: its file system, or a quota by name and value.
    worker_bytes, allowed_bytes : int
        Memory that one worker needs, and that it may use.
    seconds : float
        From a measured sample of this machine.
    compression : float
        Stored bytes per byte of voxels.
    unrounded : float, optional
        The same without the steps of `--store-error`, where the job has them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patches: int
    recomputed: int
    kept: CacheScope = "none"
    kept_why: str = ""
    kept_bytes: int = 0
    read_bytes: int
    written_bytes: int
    objects: int
    rereads: float = 1.0
    opens: int = 0
    free_bytes: int | None
    free_files: int | None = None
    bounds: tuple[str, str] = ("", "")
    worker_bytes: int
    allowed_bytes: int
    seconds: float
    compression: float
    unrounded: float | None = None


class EarlierStep(BaseModel):
    """An operation of a chain before the last, decided: its output is computed where the next one reads it.

    Parameters
    ----------
    spec, fingerprint, numerics, probe, streams, model, model_spec, about, choice, gate, mask_factor
        As in the plan of a job that would store that output; the grid of the mask is that of the step's input.
    patches, recomputed : int
        Patches that all regions asked for evaluate, and those of them that another region evaluates, too.
    patch_seconds : float
        Measured time of one patch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: OutputSpec
    fingerprint: str
    numerics: Numerics
    probe: str
    streams: int
    model: str
    model_spec: str
    about: str = ""
    choice: ModelChoice | None = None
    gate: Familiarity | None = None
    mask_factor: Triple
    patches: int = 0
    recomputed: int = 0
    patch_seconds: float = 0.0


class Plan(BaseModel):
    """A job, decided.

    Parameters
    ----------
    job : Job
        The options that the user gave.
    spec : OutputSpec
        Everything that decides a byte, with the table of section statistics.
    fingerprint : str
        Digest of the specification.
    grid : RegionGrid
        The regions; kept for the life of the job.
    numerics : Numerics
        How the network is computed; kept for the life of the job.
    probe : str
        Digest of the network on fixed patches, as this machine computes it.
    workers, threads, streams : int
        Processes or GPUs, CPU threads in each, and batches that the network computes side by side in each.
    rates : dict
        Floating-point operations per second of each worker of a dask scheduler, by address, as it measured them; empty else.
    paces : tuple of BatchingChoice
        The ways to run the network that were tried on this machine.
    model, model_spec : str
        Name and where it is loaded from.
    about : str
        What its card says of it, where its name does not tell.
    choice : ModelChoice, optional
        How the model was chosen; None where the job names it.
    gate : Familiarity, optional
        Whether the volume looks like what the model was trained on; None where the model or the sample does not say.
    input_shape, voxel_size : tuple
        Shape and voxel size of the input's level, in voxels and nm.
    input_dtype : str
        Data type of the input.
    mask_factor : tuple of int
        Input voxels per voxel of the mask.
    estimates : Estimates
        Patches, bytes, memory and time that the job will take.
    notes : tuple of str
        Warnings for the user.
    noise : float, optional
        Standard deviation of the input's noise, in its grey values; None where the sample did not say.
    extrapolated : bool
        The voxel size is outside the range that the model was trained on.
    earlier : tuple of EarlierStep
        Of a chain, the operations before the last: all that is said above of spec, numerics and model is the last one's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    job: Job
    spec: OutputSpec
    fingerprint: str
    grid: RegionGrid
    numerics: Numerics
    probe: str
    workers: int
    threads: int
    streams: int = 1
    rates: dict[str, float] = {}
    paces: tuple[BatchingChoice, ...] = ()
    model: str
    model_spec: str
    about: str = ""
    choice: ModelChoice | None = None
    gate: Familiarity | None = None
    input_shape: Triple
    input_dtype: str
    voxel_size: Size
    mask_factor: Triple
    estimates: Estimates
    notes: tuple[str, ...] = ()
    noise: float | None = None
    extrapolated: bool = False
    earlier: tuple[EarlierStep, ...] = ()

    def __repr__(self) -> str:
        return f"<Plan {self.fingerprint[:12]}: model {self.model}, {self.grid.count} regions, {self.job!r}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        nm = " x ".join(f"{n:g}" for n in self.voxel_size)
        facts: dict[str, object] = {"input": self.job.input, "output": self.job.output, "model": self.model}
        facts |= {"input voxels (z, y, x)": f"{' x '.join(map(str, self.input_shape))} of {nm} nm", "regions": self.grid.count}
        facts |= {"workers": self.workers, "fingerprint": self.fingerprint[:12], "notes": " ".join(self.notes)}
        return fact_table("Plan", facts)

    @property
    def output(self) -> str:
        """Path or URL of the output, as it was given."""
        return self.job.output

    @property
    def job_dir(self) -> JobDir:
        """The directory beside the output."""
        return JobDir(self.job.output)

    @property
    def trust(self) -> str | None:
        """Where the trust volume is, an absolute path or a URL; None without one."""
        return None if self.job.trust is None else canonical_url(self.job.trust)

    @property
    def identity(self) -> tuple[object, ...]:
        """What two plans of one output must share to be the same job, cut alike."""
        return self.fingerprint, self.grid, self.probe, self.trust

    @property
    def part(self) -> Part | None:
        """The part of the job that is run, None for all of it."""
        return None if self.job.part in (None, ANY) else Part.read(str(self.job.part))

    @property
    def whole(self) -> Plan:
        """The same plan, to run all of it."""
        return self.model_copy(update={"job": self.job.model_copy(update={"part": None})})

    @property
    def run_dir(self) -> str:
        """Where a run keeps what is its own: the job's directory, or a folder in it for each part."""
        return self.job_dir.url if self.part is None else join_url(self.job_dir.url, PARTS, str(self.part.number))

    @property
    def asked(self) -> Sequence[int]:
        """The regions that are asked for now, in order: those of the box, and of them those of the part."""
        regions = range(self.grid.count) if self.roi is None else list(self.grid.touching(self.roi))
        return regions if self.part is None else self.part.of(regions)

    @property
    def before(self) -> Plan | None:
        """Of a chain, the plan of the job of its operations before the last; else None."""
        job = self.job.earlier
        if job is None or not self.earlier:
            return None
        *earlier, last = self.earlier
        own = {name: getattr(last, name) for name in type(last).model_fields if name in type(self).model_fields}
        return self.model_copy(update={**own, "job": job, "earlier": tuple(earlier)})

    @property
    def first(self) -> OutputSpec:
        """The specification of the operation that reads the input: of a chain, its first."""
        return self.earlier[0].spec if self.earlier else self.spec

    @property
    def first_mask_factor(self) -> Triple:
        """Voxels of the input per voxel of the mask; `mask_factor` is that of what the last operation reads."""
        return self.earlier[0].mask_factor if self.earlier else self.mask_factor

    @property
    def operations(self) -> tuple[tuple[str, str, OutputSpec], ...]:
        """Name, text that opens it, and specification of each operation, in order."""
        steps = ((step.model, step.model_spec, step.spec) for step in self.earlier)
        return (*steps, (self.model, self.model_spec, self.spec))

    @property
    def title(self) -> str:
        """The names of all operations, for people."""
        return ARROW.join(name for name, _, _ in self.operations)

    @property
    def scale(self) -> Triple:
        """Voxels of the output that one voxel of the input becomes; what joins several voxels counts as 1."""
        z, y, x = (math.prod(of) for of in zip(*(spec.lattice.scale for _, _, spec in self.operations), strict=True))
        return z, y, x

    def in_input(self, box: Box) -> Box:
        """Return the voxels of the input of which a box of the full output is made, without halos."""
        for _, _, spec in reversed(self.operations):
            box = box.coarsened(spec.lattice.scale).enlarged(spec.lattice.shrink)
        return box

    @property
    def packs_alike(self) -> bool:
        """Whether equal voxels are stored as equal bytes; what gzip makes of them depends on what it packed before (D52)."""
        return next(iter(WRITTEN[self.spec.format].codecs)) != "gzip"

    @property
    def roi(self) -> Box | None:
        """Voxels of the output that are asked for now, or None for all."""
        if self.job.roi is None or self.job.crop:
            return None
        box = self.job.roi.intersection(Box.whole(self.input_shape))
        for _, _, spec in self.operations:
            box = spec.lattice.made_of(box).intersection(Box.whole(spec.lattice.output_shape))
        return box

    @property
    def computed_box(self) -> Box | None:
        """Voxels of the output that the regions of `roi` hold, or None for all: regions are computed as a whole."""
        if self.roi is None:
            return None
        size = self.grid.size
        return self.roi.coarsened(size).enlarged(size).intersection(Box.whole(self.spec.box.shape))

    @property
    def keep(self) -> CacheScope:
        """For which neighbours patches are kept: as the job says, else as was planned."""
        asked: dict[str, CacheScope] = {"always": "all", "never": "none"}
        return asked.get(self.job.patch_cache, self.estimates.kept)

    @property
    def sharing(self) -> PatchSharing:
        """The regions that need each patch."""
        return PatchSharing(self.grid, self.spec.lattice, self.spec.box.start)

    def provenance(self, status: str, **more: Any) -> dict[str, Any]:
        """Return what the output volume says of its own making.

        Parameters
        ----------
        status : str
            ``unfinished`` or ``complete``.
        more : JSON values
            Added as they are.
        """
        steps = [
            {
                "name": name,
                "operation": text,
                "sha256": spec.model,
                "precision": spec.precision,
                "fingerprint": spec.fingerprint,
            }
            for name, text, spec in self.operations
        ]
        facts = {
            "version": __version__,
            "status": status,
            "model": {"name": self.title, "sha256": self.spec.model} | ({"about": self.about} if self.about else {}),
            **({"chain": steps} if self.earlier else {}),
            "fingerprint": self.fingerprint,
            "extrapolated": self.extrapolated,
            **({"rounded": self.spec.rounded} if self.spec.store_error else {}),
            **({} if self.gate is None else {"gate": self.gate.model_dump(mode="json")}),
            "spec": self.spec.plain(),
            "job": self._options(),
            "host": socket.gethostname(),
            **more,
        }
        return seal(facts)

    def _options(self) -> dict[str, Any]:
        """Return the options from which the job can be planned again, as they were resolved.

        Not the precision, which the specification has, nor a file of section statistics, which may be a copy of what is fitted.
        """
        names = {name for name, kind in kinds(Job).items() if kind is Kind.SEMANTIC} - {"precision", "statistics"}
        names |= {"roi"} if self.job.crop else set()
        unnamed = self.job.model_copy(update={"model": "auto"})  # the model is named below; to find its file takes torch
        said = unnamed.placed.model_dump_json(exclude_defaults=True, include=names)
        options: dict[str, Any] = json.loads(said)  # NaN as text
        *before, last = (text for _, text, _ in self.operations)
        implied = r"(;\w+=[^;]*)+$" if self.spec.trust or self.spec.store_error else r"$^"  # what these ask of the network
        model = ARROW.join([*before, re.sub(implied, "", last)])
        options |= {"model": model, "voxel_size": list(self.voxel_size)}
        if self.trust is not None and parent_url(self.trust)[0] == parent_url(self.job_dir.place)[0]:
            options["trust"] = parent_url(self.trust)[1]  # beside the output, wherever that is moved
        options |= {} if self.spec.format == DEFAULT else {"format": self.spec.format}
        return dict(sorted(options.items()))

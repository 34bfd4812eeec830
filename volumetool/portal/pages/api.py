"""What programs ask: the same as the pages show and do, as JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from volumetool.models import list_models
from volumetool.portal.api import Answer, Wish, describe
from volumetool.portal.pages import jobs, new, shares
from volumetool.portal.pools import runs_in
from volumetool.portal.supervisor import log_of
from volumetool.portal.tables import PortalJob
from volumetool.portal.web import Visit


class RootList(Answer):
    """Folders whose volumes may be named."""

    roots: list[str]


class ModelSummary(Answer):
    """What a model is for."""

    name: str
    scale: tuple[int, int, int] = Field(description="Voxels of the output for one of the input: z, y, x.")
    description: str


class ModelList(Answer):
    """Models by which a job can be done."""

    models: list[ModelSummary]


class JobSummary(Answer):
    """What a job is."""

    id: str
    state: str = Field(description="planned, queued, running, stopping, complete, failed or cancelled.")
    input: str
    account: str
    asked: datetime
    bytes: int = Field(description="Of the output.")


class JobList(Answer):
    """Jobs that may be seen, the last one first."""

    jobs: list[JobSummary]


class JobStatus(Answer):
    """Where a job stands."""

    model_config = ConfigDict(extra="allow")
    id: str
    state: str = Field(description="planned, queued, running, stopping, complete, failed or cancelled.")
    reason: str | None = Field(description="Why it failed.")
    percent: float | None = Field(description="Share of its regions that are done.")
    left: str | None = Field(description="How long it still takes, in words.")
    input: str
    bytes: int = Field(description="Of the output.")
    estimates: dict[str, Any] = Field(description="What it costs, as its page shows it.")


class PlannedJob(JobStatus):
    """A job that is planned, and can be started."""

    status: ClassVar[int] = 201


class NewJob(Wish):
    """A job to plan."""

    input: str = Field(description="Whole path of a volume in a folder that is open to you; empty with `upload`.", default="")
    model: str = Field("auto", description="Name of a model; auto chooses by what the volume is like.")
    voxel_size: str = Field("", description="In nm, z,y,x, where the volume does not say it: 30,8,8.")
    roi: str = Field("", description="A part of the volume, in voxels: 0:16,0:512,0:512.")
    upload: str = Field("", description="Number of an uploaded file, in place of `input`.")


class JobLog(Answer):
    """What a job said."""

    log: str = Field(description="The last lines, of at most 1 MiB.")


class NewLink(Wish):
    """A link to a result."""

    days: Literal[1, 7, 30, 90] = Field(7, description="When it ends.")


class ResultLink(Answer):
    """A link by which anybody has the result until it ends; it is told once."""

    status: ClassVar[int] = 201
    page: str
    archive: str = Field(description="The whole result, as a ZIP file.")


class Removed(Answer):
    """A job that is gone, with its results."""

    id: str


def get_roots(visit: Visit) -> RootList:
    """List the folders whose volumes you may name."""
    return RootList(roots=[str(root.path) for root in visit.portal.settings.roots if root.is_open_to(visit.who.name)])


def get_models(visit: Visit) -> ModelList:  # noqa: ARG001
    """List the models."""
    found = [ModelSummary(name=card.name, scale=card.scale, description=card.description) for card in list_models()]
    return ModelList(models=found)


def get_jobs(visit: Visit) -> JobList:
    """List the jobs that you may see."""
    found = visit.database.jobs(visit.sees())
    fields = ("id", "state", "input", "asked", "bytes")
    return JobList(jobs=[JobSummary(account=who, **{name: getattr(job, name) for name in fields}) for job, who in found])


def _status(visit: Visit, job: PortalJob) -> dict[str, Any]:
    return jobs.state_of(visit, job) | {"input": job.input, "bytes": job.bytes, "estimates": job.estimates}


def get_job(visit: Visit) -> JobStatus:
    """Say where a job stands."""
    return JobStatus(**_status(visit, jobs.find_job(visit)))


@runs_in("volumes")
def plan_job(visit: Visit, wish: NewJob) -> PlannedJob:
    """Plan a job: what it costs is known before it is started."""
    made = new.plan_new(replace(visit, form=wish.model_dump()))
    return PlannedJob(**_status(visit, made))


def start_job(visit: Visit) -> JobStatus:
    """Put a job into the queue, or let it go on."""
    jobs.start(visit)
    return get_job(visit)


def stop_job(visit: Visit) -> JobStatus:
    """Stop a job; what is finished is kept."""
    jobs.stop(visit)
    return get_job(visit)


def remove_job(visit: Visit) -> Removed:
    """Delete a job and its results."""
    jobs.remove(visit)
    return Removed(id=visit.request.path_params["job"])


def share_job(visit: Visit, wish: NewLink) -> ResultLink:
    """Make a link to download the result of a complete job."""
    link = shares.make_link(visit, str(wish.days))
    return ResultLink(page=link, archive=f"{link}/volume.zip")


def get_log(visit: Visit) -> JobLog:
    """Show what a job said."""
    job = jobs.find_job(visit)
    return JobLog(log=log_of(visit.portal.supervisor.folder(job.id), 2**20))


def get_description(visit: Visit) -> Response:  # noqa: ARG001
    """Describe this API (OpenAPI 3.1)."""
    from volumetool.portal.pages.routes import ROUTES, STREAMS  # they name this function

    return JSONResponse(describe((*ROUTES, *STREAMS)))

"""Pages on which jobs are watched, started, stopped and deleted."""

from __future__ import annotations

from typing import Any

from starlette.responses import FileResponse, Response

from volumetool.portal.guard import HEADERS
from volumetool.portal.queries import ALIVE, PLANNED, QUEUED, RESTING
from volumetool.portal.supervisor import OUTPUT, PAGES, READY, log_of
from volumetool.portal.tables import PortalJob
from volumetool.portal.web import Refused, Visit, go_to
from volumetool.units import show_bytes, show_duration

LAST_LINES, LAST_BYTES = 8, 4096
"""What of a job's log its page shows, and brings up to date."""

SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For pages that bring their own script: the browser gives them an origin that nothing else has."""


def show_jobs(visit: Visit) -> Response:
    """Show the jobs that may be seen."""
    found = visit.database.jobs(visit.sees())
    return visit.show("jobs.html", jobs=found, left=visit.database.bytes_left(visit.who.id))


def find_job(visit: Visit) -> PortalJob:
    """Return the job of the path; another account's is none."""
    found = visit.database.job(visit.request.path_params["job"], visit.sees())
    if found is None:
        raise Refused(404, "There is no such job.")
    return found


def show_job(visit: Visit, link: str | None = None) -> Response:
    """Show what a job costs, how far it is, and what it said; a link to its result where one was just made."""
    job = find_job(visit)
    viewer = visit.portal.views.origin(visit.origin) if visit.portal.views is not None and visit.login is not None else None
    answer = visit.show(
        "job.html",
        job=job,
        viewer_origin=viewer,
        state=state_of(visit, job),
        log=log_of(visit.portal.supervisor.folder(job.id)),
        output=visit.portal.supervisor.folder(job.id) / OUTPUT,
        link=link,
        shares=visit.database.shares(job.id),
        can_start=job.state in RESTING,
        can_stop=job.state in (*ALIVE, QUEUED),
        can_remove=job.state not in (*ALIVE, QUEUED),
    )
    return answer if viewer is None else framing(answer, viewer)


def framing(answer: Response, viewer: str) -> Response:
    """Let a page show what comes from the origin of Neuroglancer in a frame, and from nowhere else."""
    answer.headers["Content-Security-Policy"] = f"{HEADERS['Content-Security-Policy']}; frame-src {viewer}"
    return answer


def state_of(visit: Visit, job: PortalJob) -> dict[str, Any]:
    """Return where a job stands: its place in the queue from the database, the rest from its own folder."""
    folder = visit.portal.supervisor.folder(job.id)
    told: dict[str, Any] = {"id": job.id, "state": job.state, "percent": None, "left": None, "reason": job.reason}
    told["pages"] = {name: visit.portal.supervisor.drawn(job.id, name) for name in PAGES}
    told["log"] = log_of(folder, LAST_BYTES).splitlines()[-LAST_LINES:]
    told["view"] = None
    if visit.portal.views is not None and visit.login is not None:
        told["view"] = visit.portal.views.link(visit.login.id, job.id, visit.origin)
    found = None if job.state == PLANNED else visit.portal.supervisor.status(job.id)
    if found is not None:
        left = None if found.seconds_left is None or job.state not in ALIVE else show_duration(found.seconds_left)
        told |= {"percent": found.percent, "left": left, "done": found.done, "regions": found.regions, "failed": found.failed}
        told["mvox_per_s"] = found.mvox_per_s
    return told | {"told": _told(job, told)}


def _told(job: PortalJob, state: dict[str, Any]) -> str:
    """Return in words how far a job is."""
    if job.state == QUEUED:
        return "It waits for its turn."
    if "regions" not in state:
        return "It looks at the volume." if job.state in ALIVE else ""
    words = [f"{state['percent']:g} %", f"{state['done']} of {state['regions']} regions"]
    if state["failed"]:
        words.append(f"{state['failed']} failed")
    if state["mvox_per_s"] is not None:
        words.append(f"{state['mvox_per_s']:.3g} million voxels a second")
    if state["left"]:
        words.append("the last sizes are being written" if state["done"] == state["regions"] else f"about {state['left']} left")
    return ", ".join(words)


def _page(visit: Visit) -> str:
    if (name := visit.request.path_params["page"]) not in PAGES:
        raise Refused(404, "There is nothing here.")
    return str(name)


def draw(visit: Visit) -> Response:
    """Have a page about a job made."""
    job, name = find_job(visit), _page(visit)
    visit.limit("page")
    visit.portal.supervisor.draw(job, name)
    visit.note(name, job.id)
    return go_to(f"/jobs/{job.id}")


def show_page(visit: Visit) -> Response:
    """Show a page about a job: it brings its own script, and so is kept away from everything of this origin."""
    job, name = find_job(visit), _page(visit)
    if visit.portal.supervisor.drawn(job.id, name) != READY:
        raise Refused(404, "This page has not been made.")
    return FileResponse(
        visit.portal.supervisor.page(job.id, name), headers={"Content-Security-Policy": SANDBOX}, media_type="text/html"
    )


def start(visit: Visit) -> Response:
    """Queue a job, where there is room for it."""
    job = find_job(visit)
    if (missing := visit.database.start(job.id, job.account_id)) is not None:
        raise Refused(409, f"Its output needs {show_bytes(missing)} more than is left to you. Remove older results first.")
    visit.note("started", job.id)
    return go_to(f"/jobs/{job.id}")


def stop(visit: Visit) -> Response:
    """Stop a job; what is finished is kept."""
    job = find_job(visit)
    visit.portal.supervisor.stop(job)
    visit.note("stopped", job.id)
    return go_to(f"/jobs/{job.id}")


def remove(visit: Visit) -> Response:
    """Delete a job and its results."""
    job = find_job(visit)
    if not visit.portal.supervisor.remove(job.id):
        raise Refused(409, "It runs, or waits for its turn. Stop it first.")
    visit.note("removed", job.id)
    return go_to("/")

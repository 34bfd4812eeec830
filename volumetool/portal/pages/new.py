"""Pages on which a job is planned."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from starlette.responses import Response

from volumetool.errors import VolumetoolError
from volumetool.models import list_models
from volumetool.portal.pages.uploads import find_upload
from volumetool.portal.pools import runs_in
from volumetool.portal.problems import in_words, note_in_words
from volumetool.portal.queries import PLANNED, USABLE, now
from volumetool.portal.supervisor import OUTPUT, plan_job
from volumetool.portal.tables import PortalJob, Upload
from volumetool.portal.transfer.intake import voxel_size_of
from volumetool.portal.web import Refused, Visit, go_to


def show_new(visit: Visit, wrong: str | None = None) -> Response:
    """Show the form of a new job."""
    visit.portal.supervisor.get_ready()  # for the plan
    roots = [str(root.path) for root in visit.portal.settings.roots if root.is_open_to(visit.who.name)]
    models = [card.name for card in list_models()]
    form = dict(visit.form)
    if upload := _upload(visit):
        form = {"voxel_size": voxel_size_of(upload)} | form
    return visit.show("new.html", 422 if wrong else 200, roots=roots, models=models, form=form, wrong=wrong, upload=upload)


def _upload(visit: Visit) -> Upload | None:
    """Return the uploaded file that a job is planned on; None where it is a volume by its path."""
    number = visit.form.get("upload") or visit.request.query_params.get("upload")
    if not number:
        return None
    found = find_upload(visit, number)
    if found.state != USABLE:
        raise Refused(409, "This upload is no volume yet: see its page.")
    return found


@runs_in("volumes")
def plan(visit: Visit) -> Response:
    """Plan a job: what it costs is known before it is started, and nothing is written."""
    try:
        job = plan_new(visit)
    except Refused as refused:
        return show_new(visit, refused.reason)
    except VolumetoolError as error:
        wrong = in_words(error.message, error.hint)
        if upload := _upload(visit):
            wrong = wrong.replace(str(visit.portal.intake.place(upload)), upload.name)
        return show_new(visit, wrong)
    return go_to(f"/jobs/{job.id}")


def plan_new(visit: Visit) -> PortalJob:
    """Return the job that a form asks for, planned."""
    visit.limit("plan")
    given = {name: visit.form.get(name, "").strip() for name in ("model", "voxel_size", "roi")}
    options = {name: value for name, value in given.items() if value}
    job = secrets.token_hex(8)
    output = visit.portal.supervisor.folder(job) / OUTPUT
    upload = _upload(visit)
    place = visit.portal.intake.place(upload) if upload else _allowed(visit, visit.form.get("input", "").strip())
    if options.get("model", "auto") not in {"auto", *(card.name for card in list_models())}:
        raise Refused(422, "There is no such model here.")
    made = _planned(visit, job, str(place), options, plan_job(str(place), options, output))
    if upload:
        made.estimates["volume"] = upload.name
    visit.database.add_plan(made)
    visit.note("planned", f"{job} {place}")
    return made


def _allowed(visit: Visit, text: str) -> Path:
    """Return the volume of a path inside a root that is open to whoever asks; links that lead out of it are none."""
    for root in visit.portal.settings.roots:
        if not root.is_open_to(visit.who.name):
            continue
        try:
            inside = root.path.resolve(strict=True)
            found = Path(text).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        own = visit.portal.settings.data.resolve()  # results and uploads of all, wherever the operator put them
        if Path(text).is_absolute() and found != inside and found.is_relative_to(inside) and not found.is_relative_to(own):
            return found
    raise Refused(422, "There is no such volume in the folders that are open to you. Write its whole path.")


def _planned(visit: Visit, job: str, place: str, options: dict[str, str], told: dict[str, Any]) -> PortalJob:
    shape, estimates = told["spec"]["levels"][0]["shape"], told["estimates"]
    shown = {
        "model": told["model"],
        "input": " x ".join(map(str, told["input_shape"])),
        "voxels": " x ".join(f"{size:g}" for size in told["voxel_size"]),
        "output": " x ".join(map(str, shape)),
        "seconds": estimates["seconds"],
        "objects": estimates["objects"],
        "memory": estimates["worker_bytes"],
        "notes": [said for note in told["notes"] if (said := note_in_words(note))],
        "gate": told["gate"],
    }
    return PortalJob(
        id=job,
        account_id=visit.who.id,
        input=place,
        options=options,
        state=PLANNED,
        estimates=shown,
        bytes=estimates["written_bytes"],
        attempts=0,
        asked=now(),
    )

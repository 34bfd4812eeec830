"""Pages on which files are sent, and looked at before a job is planned on them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.responses import FileResponse, JSONResponse, Response

from volumetool.configuration import Nanometres
from volumetool.portal.pages.jobs import SANDBOX
from volumetool.portal.queries import LOOKED_AT, RECEIVING, USABLE
from volumetool.portal.supervisor import READY
from volumetool.portal.tables import Upload
from volumetool.portal.transfer.intake import voxel_size_of
from volumetool.portal.web import Refused, Visit, go_to

_NANOMETRES: TypeAdapter[tuple[float, float, float]] = TypeAdapter(Nanometres)


def size_from(text: str) -> str:
    """Return a voxel size as options take it, of what somebody typed; nothing of nothing."""
    if not text.strip():
        return ""
    try:
        return ",".join(f"{size:g}" for size in _NANOMETRES.validate_python(text))
    except ValidationError:
        raise Refused(
            422, f"{text!r} is no voxel size. Write three numbers of nanometres for z, y and x, such as 30,8,8."
        ) from None


def find_upload(visit: Visit, number: str | None = None) -> Upload:
    """Return the upload of the path; another account's is none."""
    found = visit.database.upload(number or visit.request.path_params["upload"], visit.sees())
    if found is None:
        raise Refused(404, "There is no such upload.")
    return found


def show_uploads(visit: Visit) -> Response:
    """Show what was uploaded, and send more."""
    visit.portal.supervisor.get_ready()  # for the preview
    return visit.show(
        "uploads.html",
        uploads=[(upload, who, _share(visit, upload)) for upload, who in visit.database.uploads(visit.sees())],
        limit=visit.portal.settings.upload_limit,
        days=visit.portal.settings.upload_days,
        left=visit.database.bytes_left(visit.who.id),
    )


def _share(visit: Visit, upload: Upload) -> int:
    """Return how many per cent of an upload are there."""
    if upload.state != RECEIVING:
        return 100
    try:
        return 100 * visit.portal.intake.place(upload).stat().st_size // upload.length
    except FileNotFoundError:
        return 0


def show_upload(visit: Visit) -> Response:
    """Show what a file is, and what models make of it."""
    upload = find_upload(visit)
    return visit.show(
        "upload.html", upload=upload, percent=_share(visit, upload), size=voxel_size_of(upload), preview=_preview(visit, upload)
    )


def _preview(visit: Visit, upload: Upload) -> str:
    if upload.state != USABLE or not voxel_size_of(upload):
        return ""
    return visit.portal.supervisor.drawn_page(visit.portal.intake.preview(upload))


def describe(visit: Visit) -> Response:
    """Say how large the voxels of a file are, and have its preview made."""
    upload, size = find_upload(visit), size_from(visit.form.get("voxel_size", ""))
    if not visit.database.change_upload(upload.id, (RECEIVING, LOOKED_AT, USABLE), voxel_size=size):
        raise Refused(409, "It was refused, and its file is deleted.")
    return draw(visit)


def draw(visit: Visit) -> Response:
    """Have the preview of a file made."""
    upload = find_upload(visit)
    if upload.state == USABLE:
        visit.limit("page")
        visit.portal.intake.draw(upload)
        visit.note("preview", f"{upload.id} {upload.name}")
    return go_to(f"/uploads/{upload.id}")


def show_preview(visit: Visit) -> Response:
    """Show the preview of a file: it brings its own script, and so is kept away from everything of this origin."""
    upload = find_upload(visit)
    if _preview(visit, upload) != READY:
        raise Refused(404, "This page has not been made.")
    page = visit.portal.intake.preview(upload)
    return FileResponse(page, headers={"Content-Security-Policy": SANDBOX}, media_type="text/html")


def remove(visit: Visit) -> Response:
    """Delete an upload."""
    upload = find_upload(visit)
    if not visit.portal.intake.remove(upload):
        raise Refused(409, "A job that waits or runs reads it. Stop that first.")
    visit.note("upload removed", f"{upload.id} {upload.name}")
    return go_to("/uploads")


def get_uploads(visit: Visit) -> Response:
    """Answer with one's own uploads, as the page that sends them asks: an operator goes on with nobody else's."""
    return JSONResponse({"uploads": [_told(upload) for upload, _ in visit.database.uploads(visit.who.id)]})


def get_upload(visit: Visit) -> Response:
    """Answer with where an upload stands."""
    upload = find_upload(visit)
    return JSONResponse(_told(upload) | {"preview": _preview(visit, upload)})


def _told(upload: Upload) -> dict[str, Any]:
    told = {name: getattr(upload, name) for name in ("id", "name", "length", "modified", "state", "reason", "facts")}
    return told | {"voxel_size": voxel_size_of(upload)}

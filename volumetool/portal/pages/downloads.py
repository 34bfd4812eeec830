"""What is taken home of a complete job: the volume as a zip file, a box of it as TIFF, and where it comes from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from pydantic import TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse

from volumetool.geometry import Box, part_inside
from volumetool.geometry.box import AskedBox
from volumetool.portal.access.limits import place_of
from volumetool.portal.accounts import hash_token
from volumetool.portal.pages.jobs import find_job, framing
from volumetool.portal.pools import runs_in
from volumetool.portal.queries import COMPLETE
from volumetool.portal.supervisor import OUTPUT
from volumetool.portal.tables import PortalJob
from volumetool.portal.transfer.archive import Archive
from volumetool.portal.web import Refused, Visit
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import without_places
from volumetool.storage.volume import Volume
from volumetool.units import show_bytes

_BOX = TypeAdapter(AskedBox)
_BLOCK = 2**20

NO_LINK = "This link has ended, or there was none."


def _result(visit: Visit) -> tuple[PortalJob, Volume]:
    """Return the complete job of the path, or of the shared link, and its result."""
    if (token := visit.request.path_params.get("token")) is None:
        job = find_job(visit)
    else:
        found = visit.database.shared(hash_token(token))
        if found is None:
            visit.limit("absent", place_of(visit.address))
            raise Refused(404, NO_LINK)
        job = found[1]
    if job.state != COMPLETE:
        raise Refused(409, "The job is not complete.")
    return job, open_volume(str(visit.portal.supervisor.folder(job.id) / OUTPUT))


def _note(visit: Visit, what: str, job: PortalJob) -> None:
    token = visit.request.path_params.get("token")
    visit.note(what if token is None else f"shared {what}", job.id)


@runs_in("volumes")
def send_archive(visit: Visit) -> Response:
    """Send the volume as a zip file, as OME-Zarr programs and `volumetool` open it."""
    job, volume = _result(visit)
    archive = Archive(volume)
    _note(visit, "download", job)
    name = f"volume-{job.id[:8]}.zarr.zip"
    headers = {"Content-Length": str(archive.size), "Content-Disposition": f'attachment; filename="{name}"'}
    blocks = iter(()) if visit.request.method == "HEAD" else iter(archive)
    return StreamingResponse(blocks, headers=headers, media_type="application/zip")


@runs_in("volumes")
def send_box(visit: Visit) -> Response:
    """Send a box of the volume as OME-TIFF."""
    job, volume = _result(visit)
    text = visit.request.query_params.get("box", "")
    try:
        box = part_inside(_BOX.validate_python(text), volume.shape, "the result")[0]
    except ValidationError:
        raise Refused(
            422, f"{text!r} is no box. Write z0:z1,y0:y1,x0:x1 in voxels of the result, such as 0:16,0:512,0:512."
        ) from None
    size, most = box.voxels * (volume.channels or 1) * volume.dtype.itemsize, visit.portal.settings.box_limit
    if size > most:
        raise Refused(
            413,
            f"The box has {show_bytes(size)}; at most {show_bytes(most)} are sent as TIFF. Take a smaller one, or all of it.",
        )
    visit.limit("box")
    if not visit.portal.intake.has_room(size):
        raise Refused(507, "The disk of the portal has no room to cut it out. Ask the operator.")
    file = _cut(volume, box, visit)
    _note(visit, "download of a box", job)
    name = f"volume-{job.id[:8]}-{'_'.join(map(str, box.start))}.ome.tif"
    headers = {"Content-Length": str(file.seek(0, 2)), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_sent(file), headers=headers, media_type="image/tiff")


def _cut(volume: Volume, box: Box, visit: Visit) -> IO[bytes]:
    """Return a file without a name that holds a box: it is gone with its last reader."""
    channels = volume.channels or 1
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop

    def sections() -> Iterator[np.ndarray[Any, Any]]:
        for channel in range(channels):
            for z in range(z0, z1):
                inside = (z, slice(y0, y1), slice(x0, x1))
                yield volume[inside if volume.channels is None else (channel, *inside)]  # (y, x)

    z, y, x = volume.voxel_size
    sizes = {"PhysicalSizeZ": z, "PhysicalSizeY": y, "PhysicalSizeX": x}
    units = {f"{name}Unit": "nm" for name in sizes}
    shape = box.shape if volume.channels is None else (channels, *box.shape)
    file = tempfile.NamedTemporaryFile(dir=visit.portal.settings.data, delete=False)  # noqa: SIM115  (`_sent` closes it)
    Path(file.name).unlink()
    tifffile.imwrite(
        file,
        sections(),
        shape=shape,
        dtype=volume.dtype,
        photometric="minisblack",
        ome=True,
        metadata={"axes": "ZYX" if volume.channels is None else "CZYX", **sizes, **units},
    )
    return file


def _sent(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while block := file.read(_BLOCK):
            yield block


def show_provenance(visit: Visit) -> Response:
    """Show where a result comes from, in a form that can be cited."""
    job, volume = _result(visit)
    told = without_places(volume.attributes)
    token = visit.request.path_params.get("token")
    place = f"/jobs/{job.id}" if token is None else f"/shared/{token}"
    return visit.show("provenance.html", job=job, told=told, volume=volume, place=place)


def provenance_as_json(visit: Visit) -> Response:
    """Answer with all that a result says of its own making."""
    job, volume = _result(visit)
    headers = {"Content-Disposition": f'attachment; filename="volume-{job.id[:8]}-provenance.json"'}
    return JSONResponse(without_places(volume.attributes), headers=headers)


def show_shared(visit: Visit) -> Response:
    """Show a shared result to whoever has the link, in Neuroglancer too."""
    job, volume = _result(visit)
    _note(visit, "result seen", job)
    token, views = visit.request.path_params["token"], visit.portal.views
    found = visit.database.shared(hash_token(token))
    if found is None:  # ended since it was looked up
        raise Refused(404, NO_LINK)
    answer = visit.show(
        "shared.html",
        job=job,
        volume=volume,
        share=found[0],
        place=f"/shared/{token}",
        limit=visit.portal.settings.box_limit,
        view=None if views is None else views.guest_link(found[0].id, job.id, visit.origin),
    )
    return answer if views is None else framing(answer, views.origin(visit.origin))

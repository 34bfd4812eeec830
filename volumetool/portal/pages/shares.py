"""Links by which an owner lets others have one result, without a login, until they end."""

from __future__ import annotations

import secrets

from starlette.responses import Response

from volumetool.portal.accounts import hash_token
from volumetool.portal.pages.jobs import find_job, show_job
from volumetool.portal.queries.shares import MOST_SHARES
from volumetool.portal.web import Refused, Visit, go_to

DAYS = (1, 7, 30, 90)
"""How long a link lasts."""


def share(visit: Visit) -> Response:
    """Make a link to a result, which is shown once."""
    return show_job(visit, make_link(visit, visit.form.get("days", "7")))


def make_link(visit: Visit, days: str) -> str:
    """Return a new link to the result of the path's job."""
    job = find_job(visit)
    if days not in map(str, DAYS):
        raise Refused(422, f"A link lasts {', '.join(map(str, DAYS))} days.")
    token = secrets.token_urlsafe(32)
    if not visit.database.share(job.id, hash_token(token), int(days)):
        raise Refused(409, f"Only results of complete jobs are shared, by at most {MOST_SHARES} links each.")
    visit.note("shared", f"{job.id} for {days} days")
    return f"{visit.origin}/shared/{token}"


def end_share(visit: Visit) -> Response:
    """End a link to a result."""
    job = find_job(visit)
    if not visit.database.end_share(job.id, visit.request.path_params["share"]):
        raise Refused(404, "There is no such link.")
    visit.note("share ended", job.id)
    return go_to(f"/jobs/{job.id}")

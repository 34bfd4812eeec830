"""The page that Prometheus reads."""

from __future__ import annotations

import secrets

from starlette.responses import PlainTextResponse, Response

from volumetool.portal.facility.metrics import metrics_text, read_token
from volumetool.portal.web import Refused, Visit

FORMAT = "text/plain; version=0.0.4; charset=utf-8"


def show_metrics(visit: Visit) -> Response:
    """Show what the portal measures to who has the operator's token; for others there is no such page."""
    file = visit.portal.settings.metrics
    scheme, _, shown = visit.request.headers.get("authorization", "").partition(" ")
    if file is None or scheme.lower() != "bearer":
        raise Refused(404, "There is nothing here.")
    if not secrets.compare_digest(shown.strip().encode(), read_token(file).encode()):
        raise Refused(404, "There is nothing here.")
    return PlainTextResponse(
        metrics_text(visit.database, visit.portal.settings, visit.portal.traffic), headers={"Content-Type": FORMAT}
    )

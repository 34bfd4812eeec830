"""Which page answers where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from volumetool.portal.api import PREFIX, operation
from volumetool.portal.facility.metrics import watched
from volumetool.portal.guard import guarded
from volumetool.portal.pages import (
    accounts,
    api,
    downloads,
    institution,
    jobs,
    metrics,
    new,
    people,
    shares,
    tokens,
    tus,
    uploads,
)
from volumetool.portal.web import COMES_BACK, UPLOADS, Handler, Portal, Refused, Visit, page, streamed


def nothing(visit: Visit) -> Response:  # noqa: ARG001
    """Answer for a page that does not exist."""
    raise Refused(404, "There is nothing here.")


ROUTES: tuple[tuple[str, Callable[..., Any], str | None, str], ...] = (
    ("/", jobs.show_jobs, "user", "GET"),
    ("/login", accounts.show_login, None, "GET"),
    ("/login", accounts.log_in, None, "POST"),
    ("/login/institution", institution.begin, None, "POST"),
    (COMES_BACK, institution.come_back, None, "GET"),
    ("/logout", accounts.log_out, "user", "POST"),
    ("/join/{token}", accounts.show_invitation, None, "GET"),
    ("/join/{token}", accounts.accept_invitation, None, "POST"),
    ("/join/{token}/institution", institution.join, None, "POST"),
    ("/new", new.show_new, "user", "GET"),
    ("/new", new.plan, "user", "POST"),
    ("/jobs/{job}", jobs.show_job, "user", "GET"),
    ("/jobs/{job}/start", jobs.start, "user", "POST"),
    ("/jobs/{job}/stop", jobs.stop, "user", "POST"),
    ("/jobs/{job}/remove", jobs.remove, "user", "POST"),
    ("/jobs/{job}/pages/{page}", jobs.show_page, "user", "GET"),
    ("/jobs/{job}/pages/{page}", jobs.draw, "user", "POST"),
    ("/jobs/{job}/volume.zip", downloads.send_archive, "user", "GET"),
    ("/jobs/{job}/box.tif", downloads.send_box, "user", "GET"),
    ("/jobs/{job}/provenance", downloads.show_provenance, "user", "GET"),
    ("/jobs/{job}/provenance.json", downloads.provenance_as_json, "user", "GET"),
    ("/jobs/{job}/share", shares.share, "user", "POST"),
    ("/jobs/{job}/shares/{share:int}/end", shares.end_share, "user", "POST"),
    ("/shared/{token}", downloads.show_shared, None, "GET"),
    ("/shared/{token}/volume.zip", downloads.send_archive, None, "GET"),
    ("/shared/{token}/box.tif", downloads.send_box, None, "GET"),
    ("/shared/{token}/provenance", downloads.show_provenance, None, "GET"),
    ("/shared/{token}/provenance.json", downloads.provenance_as_json, None, "GET"),
    ("/uploads", uploads.show_uploads, "user", "GET"),
    ("/uploads/{upload}", uploads.show_upload, "user", "GET"),
    ("/uploads/{upload}/describe", uploads.describe, "user", "POST"),
    ("/uploads/{upload}/preview", uploads.show_preview, "user", "GET"),
    ("/uploads/{upload}/preview", uploads.draw, "user", "POST"),
    ("/uploads/{upload}/remove", uploads.remove, "user", "POST"),
    (UPLOADS, tus.get_protocol, None, "OPTIONS"),
    (UPLOADS, tus.begin_upload, "user", "POST"),
    (UPLOADS, uploads.get_uploads, "user", "GET"),
    (UPLOADS + "/{upload}", tus.get_offset, "user", "HEAD"),
    (UPLOADS + "/{upload}", tus.remove_upload, "user", "DELETE"),
    (UPLOADS + "/{upload}", uploads.get_upload, "user", "GET"),
    ("/api/openapi.json", api.get_description, None, "GET"),
    ("/api/roots", api.get_roots, "user", "GET"),
    ("/api/models", api.get_models, "user", "GET"),
    ("/api/jobs", api.get_jobs, "user", "GET"),
    ("/api/jobs", api.plan_job, "user", "POST"),
    ("/api/jobs/{job}", api.get_job, "user", "GET"),
    ("/api/jobs/{job}/start", api.start_job, "user", "POST"),
    ("/api/jobs/{job}/stop", api.stop_job, "user", "POST"),
    ("/api/jobs/{job}/remove", api.remove_job, "user", "POST"),
    ("/api/jobs/{job}/log", api.get_log, "user", "GET"),
    ("/api/jobs/{job}/link", api.share_job, "user", "POST"),
    ("/account", accounts.show_account, "user", "GET"),
    ("/account/password", accounts.change_password, "user", "POST"),
    ("/account/mail", accounts.change_mail, "user", "POST"),
    ("/account/mail/{token}", accounts.show_mail, "user", "GET"),
    ("/account/mail/{token}", accounts.confirm_mail, "user", "POST"),
    ("/account/logins/{login:int}/end", accounts.end_login, "user", "POST"),
    ("/account/identities", institution.link, "user", "POST"),
    ("/account/identities/{identity:int}/end", institution.unlink, "user", "POST"),
    ("/account/tokens", tokens.make_token, "user", "POST"),
    ("/account/tokens/{token:int}/end", tokens.end_token, "user", "POST"),
    ("/people", people.show_people, "admin", "GET"),
    ("/people/invite", people.invite_somebody, "admin", "POST"),
    ("/people/{account:int}/disable", people.disable, "admin", "POST"),
    ("/people/{account:int}/enable", people.enable, "admin", "POST"),
    ("/metrics", metrics.show_metrics, None, "GET"),
    ("/{path:path}", nothing, None, "GET"),
)
"""Paths, what answers there, the least role that may ask (None: everybody), and the method."""

STREAMS = ((UPLOADS + "/{upload}", tus.receive, "user", "PATCH"),)
"""As `ROUTES`: what reads the body of its request while it comes."""


def _handler(path: str, function: Callable[..., Any]) -> Handler:
    return operation(function) if path.startswith(PREFIX) else function


def build_portal(portal: Portal) -> Any:
    """Return the ASGI application of the portal's pages."""
    made = [Route(path, page(portal, _handler(path, made), role), methods=[method]) for path, made, role, method in ROUTES]
    made += [Route(path, streamed(portal, stream, role), methods=[method]) for path, stream, role, method in STREAMS]
    static = Mount("/static", StaticFiles(directory=Path(__file__).parents[1] / "static"))
    named: dict[Any, str] = {route.endpoint: route.path for route in made} | {static.app: "/static"}
    return watched(guarded(portal, Starlette(routes=[static, *made])), portal.traffic, named)

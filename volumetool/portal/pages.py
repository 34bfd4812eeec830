"""The pages: what each form does, and what each page shows."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from volumetool.errors import VolumetoolError
from volumetool.models import list_models
from volumetool.portal.accounts import (
    ROLES,
    SHORTEST,
    begin_login,
    check_password,
    hash_password,
    hash_token,
    invite,
    join,
    why_not,
)
from volumetool.portal.queries import ALIVE, PLANNED, RESTING, now
from volumetool.portal.supervisor import OUTPUT, PAGES, READY, log_of, plan_job
from volumetool.portal.tables import Account, PortalJob
from volumetool.portal.web import COOKIE, Handler, Portal, Refused, Visit, go_to, guarded, page
from volumetool.units import show_bytes, show_duration

SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For pages that bring their own script: the browser gives them an origin that nothing else has."""

WRONG = "Name or password is wrong, or there were too many tries. After ten wrong ones wait a quarter of an hour."


def nothing(visit: Visit) -> Response:  # noqa: ARG001
    """Answer for a page that does not exist."""
    raise Refused(404, "There is nothing here.")


def show_login(visit: Visit) -> Response:
    """Show the form of name and password."""
    return go_to("/") if visit.account else visit.show("login.html", wrong=None)


def log_in(visit: Visit) -> Response:
    """Begin a login: the cookie is new, whatever the browser had."""
    name, password = visit.form.get("name", "").strip().lower(), visit.form.get("password", "")
    found = _checked(visit, name, password)
    if found is None:
        return visit.show("login.html", 403, wrong=WRONG)
    answer = go_to("/")
    _set_cookie(answer, begin_login(visit.database, found, visit.request.headers.get("user-agent", "")))
    visit.database.note(found.name, "login", "", visit.address)
    return answer


def _checked(visit: Visit, name: str, password: str) -> Account | None:
    tries = visit.portal.tries
    if not tries.are_left(visit.address, name):
        return None  # neither counted nor noted: who goes on trying fills no memory and no database
    found = check_password(visit.database, name, password)
    if found is None:
        tries.count(visit.address, name)
        visit.note("password refused", name)
    return found


def _set_cookie(answer: Response, token: str) -> None:
    answer.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="lax")


def log_out(visit: Visit) -> Response:
    """End this login, on the server too."""
    assert visit.login is not None  # noqa: S101  (the page is for those who are logged in)
    visit.database.log_out(visit.who.id, visit.login.id)
    visit.note("logout")
    answer = go_to("/login")
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def show_invitation(visit: Visit) -> Response:
    """Show the form by which an account is made."""
    if visit.database.invitation(hash_token(visit.request.path_params["token"])) is None:
        raise Refused(404, "This invitation has ended, or was used. Ask an administrator for another one.")
    return visit.show("join.html", wrong=None, name="", shortest=SHORTEST)


def accept_invitation(visit: Visit) -> Response:
    """Make the account of an invitation, and log it in."""
    token, name = visit.request.path_params["token"], visit.form.get("name", "").strip().lower()
    password = visit.form.get("password", "")
    if visit.database.invitation(hash_token(token)) is None:
        raise Refused(404, "This invitation has ended, or was used. Ask an administrator for another one.")
    wrong = why_not(name, password)
    made = None if wrong else join(visit.database, token, name, password)
    if made is None:
        return visit.show("join.html", 422, wrong=wrong or f"The name {name} is taken.", name=name, shortest=SHORTEST)
    visit.database.note(made.name, "joined", made.role, visit.address)
    answer = go_to("/")
    _set_cookie(answer, begin_login(visit.database, made, visit.request.headers.get("user-agent", "")))
    return answer


def show_jobs(visit: Visit) -> Response:
    """Show the jobs that may be seen."""
    found = visit.database.jobs(visit.sees())
    return visit.show("jobs.html", jobs=found, left=visit.database.bytes_left(visit.who.id))


def show_new(visit: Visit, wrong: str | None = None) -> Response:
    """Show the form of a new job."""
    roots = [str(root.path) for root in visit.portal.settings.roots if root.is_open_to(visit.who.name)]
    models = [card.name for card in list_models()]
    return visit.show("new.html", 422 if wrong else 200, roots=roots, models=models, form=visit.form, wrong=wrong)


def plan(visit: Visit) -> Response:
    """Plan a job: what it costs is known before it is started, and nothing is written."""
    given = {name: visit.form.get(name, "").strip() for name in ("model", "voxel_size", "roi")}
    options = {name: value for name, value in given.items() if value}
    job = secrets.token_hex(8)
    output = visit.portal.supervisor.folder(job) / OUTPUT
    try:
        place = _allowed(visit, visit.form.get("input", "").strip())
        if options.get("model", "auto") not in {"auto", *(card.name for card in list_models())}:
            raise Refused(422, "There is no such model here.")
        told = plan_job(str(place), options, output)
    except Refused as refused:
        return show_new(visit, refused.reason)
    except VolumetoolError as error:
        return show_new(visit, str(error))
    visit.database.add_plan(_planned(visit, job, str(place), options, told))
    visit.note("planned", f"{job} {place}")
    return go_to(f"/jobs/{job}")


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
        if Path(text).is_absolute() and found != inside and found.is_relative_to(inside):
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
        "notes": told["notes"],
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


def _job(visit: Visit) -> PortalJob:
    """Return the job of the path; another account's is none."""
    found = visit.database.job(visit.request.path_params["job"], visit.sees())
    if found is None:
        raise Refused(404, "There is no such job.")
    return found


def show_job(visit: Visit) -> Response:
    """Show what a job costs, how far it is, and what it said."""
    job = _job(visit)
    return visit.show(
        "job.html",
        job=job,
        state=_state(visit, job),
        log=log_of(visit.portal.supervisor.folder(job.id)),
        output=visit.portal.supervisor.folder(job.id) / OUTPUT,
        can_start=job.state in RESTING,
        can_stop=job.state in (*ALIVE, "queued"),
        can_remove=job.state not in (*ALIVE, "queued"),
    )


def _state(visit: Visit, job: PortalJob) -> dict[str, Any]:
    """Return where a job stands: its place in the queue from the database, the rest from its own folder."""
    told: dict[str, Any] = {"id": job.id, "state": job.state, "percent": None, "left": None, "reason": job.reason}
    told["pages"] = {name: visit.portal.supervisor.drawn(job.id, name) for name in PAGES}
    if job.state != PLANNED and (found := visit.portal.supervisor.status(job.id)) is not None:
        left = None if found.seconds_left is None or job.state not in ALIVE else show_duration(found.seconds_left)
        told |= {"percent": found.percent, "left": left, "done": found.done, "regions": found.regions, "failed": found.failed}
    return told


def _page(visit: Visit) -> str:
    if (name := visit.request.path_params["page"]) not in PAGES:
        raise Refused(404, "There is nothing here.")
    return str(name)


def draw(visit: Visit) -> Response:
    """Have a page about a job made."""
    job, name = _job(visit), _page(visit)
    visit.portal.supervisor.draw(job, name)
    visit.note(name, job.id)
    return go_to(f"/jobs/{job.id}")


def show_page(visit: Visit) -> Response:
    """Show a page about a job: it brings its own script, and so is kept away from everything of this origin."""
    job, name = _job(visit), _page(visit)
    if visit.portal.supervisor.drawn(job.id, name) != READY:
        raise Refused(404, "This page has not been made.")
    return FileResponse(
        visit.portal.supervisor.page(job.id, name), headers={"Content-Security-Policy": SANDBOX}, media_type="text/html"
    )


def start(visit: Visit) -> Response:
    """Queue a job, where there is room for it."""
    job = _job(visit)
    if (missing := visit.database.start(job.id, job.account_id)) is not None:
        raise Refused(409, f"Its output needs {show_bytes(missing)} more than is left to you. Remove older results first.")
    visit.note("started", job.id)
    return go_to(f"/jobs/{job.id}")


def stop(visit: Visit) -> Response:
    """Stop a job; what is finished is kept."""
    job = _job(visit)
    visit.portal.supervisor.stop(job)
    visit.note("stopped", job.id)
    return go_to(f"/jobs/{job.id}")


def remove(visit: Visit) -> Response:
    """Delete a job and its results."""
    job = _job(visit)
    if not visit.portal.supervisor.remove(job.id):
        raise Refused(409, "It runs, or waits for its turn. Stop it first.")
    visit.note("removed", job.id)
    return go_to("/")


def jobs_as_json(visit: Visit) -> Response:
    """Answer with the jobs that may be seen."""
    found = visit.database.jobs(visit.sees())
    return JSONResponse(
        {"jobs": [{"id": job.id, "state": job.state, "input": job.input, "account": who} for job, who in found]}
    )


def job_as_json(visit: Visit) -> Response:
    """Answer with where a job stands."""
    return JSONResponse(_state(visit, _job(visit)))


def show_account(visit: Visit, wrong: str | None = None) -> Response:
    """Show who is logged in where."""
    return visit.show(
        "account.html",
        422 if wrong else 200,
        logins=visit.database.logins(visit.who.id),
        this=visit.login.id if visit.login else 0,
        shortest=SHORTEST,
        wrong=wrong,
        left=visit.database.bytes_left(visit.who.id),
    )


def change_password(visit: Visit) -> Response:
    """Replace the password; all logins end, this one too."""
    name, new = visit.who.name, visit.form.get("new", "")
    if _checked(visit, name, visit.form.get("password", "")) is None:
        return show_account(visit, "The present password is wrong.")
    if wrong := why_not(name, new):
        return show_account(visit, wrong)
    visit.database.set_password(visit.who.id, hash_password(new))
    visit.note("password changed")
    return go_to("/login")


def end_login(visit: Visit) -> Response:
    """End one of one's own logins."""
    if not visit.database.log_out(visit.who.id, visit.request.path_params["login"]):
        raise Refused(404, "There is no such login.")
    visit.note("login ended")
    return go_to("/account")


def show_people(visit: Visit, link: str | None = None) -> Response:
    """Show accounts and the audit log."""
    return visit.show("people.html", accounts=visit.database.accounts(), deeds=visit.database.deeds(), roles=ROLES, link=link)


def invite_somebody(visit: Visit) -> Response:
    """Make an invitation, whose link is shown once."""
    role = visit.form.get("role", "user")
    token = invite(visit.database, role)
    visit.note("invited", role)
    return show_people(visit, f"{visit.request.headers['origin']}/join/{token}")


def disable(visit: Visit) -> Response:
    """Let an account log in no more; its jobs stay."""
    return _set_disabled(visit, disabled=True)


def enable(visit: Visit) -> Response:
    """Let an account log in again."""
    return _set_disabled(visit, disabled=False)


def _set_disabled(visit: Visit, *, disabled: bool) -> Response:
    account = visit.request.path_params["account"]
    if account == visit.who.id:
        raise Refused(409, "This is your own account.")
    if not visit.database.disable(account, disabled=disabled):
        raise Refused(404, "There is no such account.")
    visit.note("disabled" if disabled else "enabled", str(account))
    return go_to("/people")


ROUTES: tuple[tuple[str, Handler, str | None, str], ...] = (
    ("/", show_jobs, "user", "GET"),
    ("/login", show_login, None, "GET"),
    ("/login", log_in, None, "POST"),
    ("/logout", log_out, "user", "POST"),
    ("/join/{token}", show_invitation, None, "GET"),
    ("/join/{token}", accept_invitation, None, "POST"),
    ("/new", show_new, "user", "GET"),
    ("/new", plan, "user", "POST"),
    ("/jobs/{job}", show_job, "user", "GET"),
    ("/jobs/{job}/start", start, "user", "POST"),
    ("/jobs/{job}/stop", stop, "user", "POST"),
    ("/jobs/{job}/remove", remove, "user", "POST"),
    ("/jobs/{job}/pages/{page}", show_page, "user", "GET"),
    ("/jobs/{job}/pages/{page}", draw, "user", "POST"),
    ("/api/jobs", jobs_as_json, "user", "GET"),
    ("/api/jobs/{job}", job_as_json, "user", "GET"),
    ("/account", show_account, "user", "GET"),
    ("/account/password", change_password, "user", "POST"),
    ("/account/logins/{login:int}/end", end_login, "user", "POST"),
    ("/people", show_people, "admin", "GET"),
    ("/people/invite", invite_somebody, "admin", "POST"),
    ("/people/{account:int}/disable", disable, "admin", "POST"),
    ("/people/{account:int}/enable", enable, "admin", "POST"),
    ("/{path:path}", nothing, None, "GET"),
)
"""Paths, what answers there, the least role that may ask (None: everybody), and the method."""


def build_portal(portal: Portal) -> Any:
    """Return the ASGI application of the portal's pages."""
    made = [Route(path, page(portal, handler, role), methods=[method]) for path, handler, role, method in ROUTES]
    static = Mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return guarded(portal, Starlette(routes=[static, *made]))

"""What every request to the portal meets: host, size, origin, login, form token; and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from volumetool.errors import VolumetoolError
from volumetool.listening.gate import accepted_hosts, base_url
from volumetool.portal import pools
from volumetool.portal.access.institution import Provider
from volumetool.portal.access.limits import Limits, place_of
from volumetool.portal.access.sign_ins import SignIns
from volumetool.portal.accounts import ROLES, Tries, hash_token
from volumetool.portal.facility.metrics import PortalTraffic
from volumetool.portal.job_views import JobViews
from volumetool.portal.problems import KNOWN, explain, in_words
from volumetool.portal.queries import Database
from volumetool.portal.settings import PortalSettings, hosts_of
from volumetool.portal.supervisor import Supervisor
from volumetool.portal.tables import Account, ApiToken, Login
from volumetool.portal.transfer.intake import Intake
from volumetool.units import show_bytes, show_duration
from volumetool.version import __version__

_log = logging.getLogger(__name__)

COOKIE = "__Host-volumetool"
"""Browsers take it from this origin alone, for this origin alone, and over TLS or loopback alone."""

COMES_BACK = "/login/institution/callback"
"""Where the institution sends browsers back."""

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing: a token of the scope read does no other."""

UPLOADS = "/api/uploads"
"""Where the protocol of uploads is spoken: with more methods than pages have."""

FAULT = "This is a fault of the portal. The operator's log says more."

NO_NUL = "An address or a field holds the character NUL, which no name has. Write it without."
"""PostgreSQL keeps no text with it, SQLite does: neither is asked."""

MOST_FIELDS = 100
"""Fields of a form."""


@dataclass(frozen=True)
class Portal:
    """What the pages work with.

    Attributes
    ----------
    settings : PortalSettings
        What the operator decided.
    database : Database
        Accounts and jobs.
    supervisor : Supervisor
        Runs the jobs.
    intake : Intake
        Takes in uploads.
    hosts, origins : frozenset of str
        Accepted Host and Origin headers.
    provider : Provider or None
        The institution whose login is taken.
    views : JobViews or None
        Neuroglancer on jobs; None where it has no address.
    tries : Tries
        Wrong passwords of the last minutes.
    limits : Limits
        What else was done in the last minutes.
    sign_ins : SignIns
        Browsers that were sent to the institution.
    traffic : PortalTraffic
        Requests that were answered.
    """

    settings: PortalSettings
    database: Database
    supervisor: Supervisor
    intake: Intake
    hosts: frozenset[str]
    origins: frozenset[str]
    provider: Provider | None = None
    views: JobViews | None = None
    tries: Tries = field(default_factory=Tries)
    limits: Limits = field(default_factory=Limits)
    sign_ins: SignIns = field(default_factory=SignIns)
    traffic: PortalTraffic = field(default_factory=PortalTraffic)


def make_portal(
    settings: PortalSettings, database: Database, supervisor: Supervisor, port: int, views: JobViews | None = None
) -> Portal:
    """Return the portal that listens on a port.

    Parameters
    ----------
    settings : PortalSettings
        What the operator decided.
    database : Database
        Accounts and jobs.
    supervisor : Supervisor
        Runs the jobs.
    port : int
        Port that is listened on.
    views : JobViews, optional
        Neuroglancer on jobs.
    """
    hosts = accepted_hosts(settings.host, port)
    origins = frozenset(f"http://{host}" for host in hosts)
    if settings.url is not None:
        hosts |= hosts_of(settings.url)
        origins |= {settings.url}
    url = settings.url or base_url(settings.host, port)
    provider = None if settings.oidc is None else Provider(settings.oidc, f"{url}{COMES_BACK}")
    intake = Intake(database, settings, supervisor)
    return Portal(settings, database, supervisor, intake, hosts, origins, provider, views)


class Refused(Exception):  # noqa: N818  (no fault of the program)
    """A request that is answered with a status and a sentence; `headers` go with them."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Visit:
    """One request of one browser.

    Attributes
    ----------
    portal : Portal
        The portal.
    request : Request
        The request; its body is read.
    form : mapping of str to str
        Fields of its form.
    login, account : optional
        Who is logged in.
    token : ApiToken, optional
        What a program showed in place of a login.
    body : bytes
        The body of the request.
    """

    portal: Portal
    request: Request
    form: Mapping[str, str]
    login: Login | None
    account: Account | None
    token: ApiToken | None = None
    body: bytes = b""

    @property
    def database(self) -> Database:
        """Accounts and jobs."""
        return self.portal.database

    @property
    def who(self) -> Account:
        """Who is logged in, on a page for which that is needed."""
        assert self.account is not None  # noqa: S101  (`page` has looked)
        return self.account

    @property
    def address(self) -> str:
        """Where the request comes from: behind a proxy, what that says last."""
        if self.portal.settings.url is not None and (told := self.request.headers.getlist("x-forwarded-for")):
            return told[-1].rpartition(",")[2].strip()[:64]  # proxies add to the line that is there, or write another one
        return self.request.client.host if self.request.client else ""

    @property
    def origin(self) -> str:
        """Origin of the pages, as this browser knows it."""
        if (url := self.portal.settings.url) is not None:
            return url
        return f"http://{self.request.headers['host'].lower()}"

    @property
    def asks_for_json(self) -> bool:
        """Whether a program asks."""
        return self.request.url.path.startswith("/api/")

    def sees(self) -> int | None:
        """Return whose jobs may be seen: an account's number, None for all."""
        return self.who.sees

    def limit(self, kind: str, who: str | None = None) -> None:
        """Count a deed of the account, or of the address where nobody is logged in; refuse it where there were too many."""
        if wait := self.portal.limits.wait(kind, who or (self.account.name if self.account else place_of(self.address))):
            raise Refused(429, f"There were too many of these. Try again in {wait} s.", {"Retry-After": str(wait)})

    def note(self, what: str, target: str = "") -> None:
        """Add a line to the audit log."""
        self.database.note(self.account.name if self.account else "-", what, target, self.address)

    def show(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page."""
        text = _TEMPLATES.get_template(template).render(
            account=self.account,
            form_token=self.login.form_token if self.login else "",
            version=__version__,
            institution=self.portal.settings.oidc.title if self.portal.settings.oidc else None,
            passwords=self.portal.settings.passwords,
            **values,
        )
        return HTMLResponse(text, status)


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("volumetool.portal"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"size": show_bytes, "duration": show_duration, "moment": lambda at: at.strftime("%Y-%m-%d %H:%M UTC")}
    found.filters["known"] = KNOWN.__getitem__
    return found


_TEMPLATES = _environment()

Handler = Callable[[Visit], Response]
Endpoint = Callable[[Request], Any]


Stream = Callable[[Visit], Awaitable[Response]]
"""Makes the answer while the body of its request comes."""


def go_to(path: str) -> Response:
    """Return the answer that leads to another page, after a form."""
    return RedirectResponse(path, 303)


def page(portal: Portal, handler: Handler, role: str | None) -> Endpoint:
    """Return the endpoint of a page.

    Parameters
    ----------
    portal : Portal
        The portal.
    handler : callable
        Makes the answer; called in a thread.
    role : str or None
        The least role that may see it; None for everybody, logged in or not.
    """

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        text = "" if request.headers.get("content-type") == "application/json" else body.decode("utf-8", "replace")
        try:
            form = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS))
        except ValueError:
            return explain(413, f"a form has at most {MOST_FIELDS} fields")
        if any("\0" in name + value for name, value in form.items()):
            return explain(422, NO_NUL)
        try:
            return await pools.answer(
                handler, lambda: _answer(handler, role, Visit(portal, request, form, *_who(portal, request), body=body))
            )
        except pools.PoolFull:
            return explain(503, "Too many ask for this at once.", {"Retry-After": "30"})
        except Exception as error:  # noqa: BLE001  (the database does not say who asks)
            _log_fault(request, error)
            return explain(500, FAULT)

    return endpoint


def streamed(portal: Portal, handler: Stream, role: str) -> Endpoint:
    """Return an endpoint that reads the body of its request itself, once it is known who asks.

    Parameters
    ----------
    portal : Portal
        The portal.
    handler : callable
        Makes the answer.
    role : str
        The least role that may ask.
    """

    async def endpoint(request: Request) -> Response:
        try:
            visit = Visit(portal, request, {}, *await asyncio.to_thread(_who, portal, request))
        except Exception as error:  # noqa: BLE001  (as for pages)
            _log_fault(request, error)
            return explain(500, FAULT, {"Connection": "close"})
        _tell_log(visit)
        try:
            answer = await asyncio.to_thread(_admit, visit, role) or await handler(visit)
        except Exception as error:  # noqa: BLE001  (the last resort)
            answer = _explained(visit, error)
        if answer.status_code >= 400:
            answer.headers["Connection"] = "close"  # the rest of the body is not read
        return answer

    return endpoint


def _who(portal: Portal, request: Request) -> tuple[Login | None, Account | None, ApiToken | None]:
    if shows_token(request):
        scheme, _, told = request.headers["authorization"].partition(" ")
        held = portal.database.token(hash_token(told.strip())) if scheme.lower() == "bearer" else None
        return (None, None, None) if held is None else (None, held[1], held[0])
    token = request.cookies.get(COOKIE)
    found = None if token is None else portal.database.login(hash_token(token))
    return (None, None, None) if found is None else (*found, None)


def shows_token(request: Request) -> bool:
    """Return whether a program asks, which shows a token in place of a login."""
    return request.url.path.startswith("/api/") and "authorization" in request.headers


def _tell_log(visit: Visit) -> None:
    visit.request.scope["account"] = visit.account.name if visit.account else None
    visit.request.scope["address"] = visit.address


def _answer(handler: Handler, role: str | None, visit: Visit) -> Response:
    try:
        return _admit(visit, role) or handler(visit)
    except Exception as error:  # noqa: BLE001  (the last resort: nobody should meet a traceback)
        return _explained(visit, error)


def _explained(visit: Visit, error: Exception) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        status, reason, headers = error.status, error.reason, error.headers
    elif isinstance(error, VolumetoolError):
        if visit.asks_for_json:
            return explain(422, error.message, code=error.code, hint=error.hint)
        status, reason = 422, in_words(error.message, error.hint)
    else:
        _log_fault(visit.request, error)
        status, reason = 500, FAULT
    if visit.asks_for_json:
        return explain(status, reason, headers)
    answer = visit.show("message.html", status, title="This did not work", reason=reason)
    answer.headers.update(headers)
    return answer


def _log_fault(request: Request, error: Exception) -> None:
    _log.error("%s %s", request.method, request.scope["route"].path, exc_info=error)  # the path itself may hold a token


def _admit(visit: Visit, role: str | None) -> Response | None:
    """Let a request through, or lead it to the login."""
    _tell_log(visit)
    if shows_token(visit.request):
        _admit_program(visit)
    if role is not None:
        if visit.account is None:
            if visit.asks_for_json:
                raise Refused(401, "Show a token, or log in first.", {"WWW-Authenticate": "Bearer"})
            return go_to("/login")
        if ROLES.index(visit.account.role) < ROLES.index(role):
            raise Refused(404, "There is nothing here.")
    if any(isinstance(number, int) and number >= 2**63 for number in visit.request.path_params.values()):
        raise Refused(404, "There is nothing here.")  # databases hold no such number
    if visit.request.method not in READING and visit.login is not None:
        told = visit.form.get("form_token") or visit.request.headers.get("x-form-token", "")
        if not secrets.compare_digest(told.encode(), visit.login.form_token.encode()):
            raise Refused(403, "This form is of a former login. Go back, reload the page and try again.")
    return None


def _admit_program(visit: Visit) -> None:
    if COOKIE in visit.request.cookies:
        raise Refused(400, "Show a token or a cookie, not both.")
    if visit.token is None:
        visit.limit("absent", place_of(visit.address))
        raise Refused(401, "There is no such token, or it has ended.", {"WWW-Authenticate": "Bearer"})
    if visit.token.scope == "read" and visit.request.method not in READING:
        raise Refused(403, "This token lets you read alone.")
    visit.limit("api")

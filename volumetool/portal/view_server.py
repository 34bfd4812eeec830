"""The server of `JobViews`: Neuroglancer's client, its state, and the keys of volumes, on an origin that no login has.

    http://localhost:PORT/v/TOKEN/              the client's page, and the files that it is made of
    http://localhost:PORT/events/TOKEN          its state, whenever that changes here
    http://localhost:PORT/state/TOKEN           its state, whenever that changes there
    http://localhost:PORT/volumes/TOKEN/NAME/KEY

The first three are what the client of neuroglancer's own Python package asks for. No cookie is read or set: the token is all.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from volumetool.errors import VolumetoolError
from volumetool.listening.gate import Gate
from volumetool.portal.job_views import LONGEST_STATE, JobView, JobViews
from volumetool.viewer.server import answer_key, failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors {page}"
)
"""The client reads from this origin alone, whatever a state names, and is shown in frames of the portal alone."""

WORKER_POLICY = POLICY.replace("'wasm-unsafe-eval'", "'unsafe-eval'")
"""Of a script that is started as a worker: those that decode chunks make functions of text. The page itself may not."""

HEADERS = {
    "Referrer-Policy": "no-referrer",  # the token stands in the address
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_METHODS = {"v": ("GET", "HEAD"), "events": ("GET",), "state": ("POST",), "volumes": ("GET", "HEAD")}
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
_KEPT = "private, max-age=86400, immutable"
"""Names of the client's files hold their hashes."""

TOLD_SECONDS = 0.5
"""A state that another client of the view sent is seen after so long."""

FRESH_SECONDS = 10.0
"""New voxels are shown at most so often: the client reads all that is in sight again."""


def build_view_server(views: JobViews) -> ASGIApp:
    """Return the ASGI application that serves views of jobs."""
    gate, files = Gate(views.hosts, views.origins), _client_files()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer, page = await _answer(request, views, gate, files)
        for name, value in HEADERS.items():
            answer.headers[name] = value
        policy = WORKER_POLICY if answer.media_type == _TYPES[".js"] else POLICY
        answer.headers["Content-Security-Policy"] = policy.format(page=page)
        answer.headers.setdefault("Cache-Control", "no-store")
        if "content-length" in request.headers or "transfer-encoding" in request.headers:
            answer.headers["Connection"] = "close"  # a body that is too long is not read to its end
        await answer(scope, receive, send)

    return app


def _client_files() -> dict[str, Path]:
    """Return the files of neuroglancer's client, by name."""
    found = importlib.util.find_spec("neuroglancer")
    assert found is not None  # noqa: S101  (the package needs it)
    folders = [Path(package) / "static" / "client" for package in found.submodule_search_locations or ()]
    return {file.name: file for folder in folders for file in folder.iterdir() if file.suffix in _TYPES}


async def _answer(request: Request, views: JobViews, gate: Gate, files: dict[str, Path]) -> tuple[Response, str]:
    """Return an answer, and the origin whose pages may show it in a frame."""
    refusal = gate.refusal(request.headers.getlist("host"), request.headers.getlist("origin"))
    if refusal is not None:
        return failure(*refusal), "'none'"
    kind, _, place = request.scope["path"].removeprefix("/").partition("/")
    token, _, rest = place.partition("/")
    if kind not in _METHODS:
        return failure(404, "nothing is here"), "'none'"
    if request.method not in _METHODS[kind]:
        methods = ", ".join(_METHODS[kind])
        return failure(405, f"only {methods}", {"Allow": methods}), "'none'"
    view = await asyncio.to_thread(views.find, token)
    if view is None:
        return failure(404, "nothing is here: the login has ended, or the job is gone"), "'none'"
    request.state.trust()
    try:
        return await _answer_view(request, views, view, (kind, rest), files), view.page
    except VolumetoolError as error:
        return PlainTextResponse(str(error), 503), view.page


async def _answer_view(
    request: Request, views: JobViews, view: JobView, place: tuple[str, str], files: dict[str, Path]
) -> Response:
    kind, rest = place
    if kind == "v" and rest:
        return _file(files, rest) or failure(404, "nothing is here")
    if kind == "state" and not rest:
        return await _keep_state(request, view)
    opened = await asyncio.to_thread(views.open, view)
    if kind == "volumes":
        return await answer_key(request, opened.readers, rest)
    if kind == "v":
        return _file(files, "index.html") or failure(404, "nothing is here")
    if rest:
        return failure(404, "nothing is here")
    client, seen = (request.query_params.get(name, "") for name in ("c", "gs"))
    return StreamingResponse(_events(views, view, client, seen), media_type="text/event-stream")


def _file(files: dict[str, Path], name: str) -> Response | None:
    if name not in files:
        return None
    kept = {} if name == "index.html" else {"Cache-Control": _KEPT}
    return Response(files[name].read_bytes(), headers=kept, media_type=_TYPES[files[name].suffix])


async def _keep_state(request: Request, view: JobView) -> Response:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_STATE:
            return failure(413, f"a state has at most {LONGEST_STATE} bytes")
    try:
        told = json.loads(body)
        state, generation, before = told["s"], f"{told['c']}/{told['g']}", told["pg"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return failure(400, "this is not what the client sends")
    if not isinstance(state, dict) or len(generation) > 100:
        return failure(400, "this is not what the client sends")
    if not view.take(state, generation, before):
        return failure(412, "there is a newer state")
    return Response(json.dumps({"g": generation}), media_type="application/json")


async def _events(views: JobViews, view: JobView, client: str, seen: str) -> AsyncIterator[str]:
    """Yield the state whenever it is another one, until the view ends; a growing volume is looked at again meanwhile."""
    clock = asyncio.get_running_loop().time
    fresh = clock() + FRESH_SECONDS
    while True:
        if view.generation not in (seen, "") and not view.generation.startswith(f"{client}/"):
            seen = view.generation
            yield f"data: {json.dumps({'k': 's', 's': view.state, 'g': seen})}\n\n"
        await asyncio.sleep(TOLD_SECONDS)
        if clock() >= fresh:
            if await asyncio.to_thread(views.find, view.token) is None:
                return
            with suppress(VolumetoolError):  # between two writes; it is looked at again
                await asyncio.to_thread(views.refresh, view)
            fresh = clock() + FRESH_SECONDS
            yield ":\n\n"  # tells whether anybody still listens

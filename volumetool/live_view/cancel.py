"""Answers that nobody waits for any more are given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


def dropping(app: ASGIApp) -> ASGIApp:
    """Return an application whose answers are cancelled when their reader has gone.

    A viewer that moves on closes its requests; without this they would be computed for nobody.

    Parameters
    ----------
    app : ASGI application
        Application, from :func:`volumetool.viewer.server.build_app`.
    """

    async def dropping_app(scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        async def told() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        answer = asyncio.ensure_future(app(scope, told, send))
        watch = asyncio.ensure_future(until_gone())
        try:
            await asyncio.wait((answer, watch), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            answer.cancel()
            watch.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    return dropping_app

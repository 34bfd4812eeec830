"""The JSON API: what a route's function is annotated with is what it reads, what it answers, and what OpenAPI says of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from volumetool.configuration import explain as explain_values
from volumetool.portal.problems import Problem
from volumetool.portal.web import COOKIE, NO_NUL, READING, Handler, Refused, Visit
from volumetool.version import __version__

PREFIX = "/api/"
_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")


class Answer(BaseModel):
    """What a route answers."""

    status: ClassVar[int] = 200


class Wish(BaseModel):
    """What a route reads."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _without_nul(cls, told: object) -> object:
        if isinstance(told, str) and "\0" in told:
            raise ValueError(NO_NUL)
        return told


def operation(function: Callable[..., Answer | Response]) -> Handler:
    """Return the handler of a route of the API: its function takes the visit, and a `Wish` where it reads one."""
    wish, _ = _annotated(function)

    @functools.wraps(function)
    def handler(visit: Visit) -> Response:
        answer = function(visit) if wish is None else function(visit, _read(visit, wish))
        if isinstance(answer, Response):
            return answer
        return Response(answer.model_dump_json(), answer.status, media_type="application/json")

    return handler


def _annotated(function: Callable[..., Any]) -> tuple[type[Wish] | None, type[Answer] | None]:
    hints = get_type_hints(function)
    answer = hints.pop("return", None)
    wish = next((kind for kind in hints.values() if isinstance(kind, type) and issubclass(kind, Wish)), None)
    return wish, answer if isinstance(answer, type) and issubclass(answer, Answer) else None


def _read(visit: Visit, wish: type[Wish]) -> Wish:
    kind = visit.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "Send JSON, and say so: Content-Type: application/json.")
    try:
        return wish.model_validate_json(visit.body)
    except ValidationError as error:
        raise Refused(422, explain_values(error, wish)) from error


def describe(routes: Iterable[tuple[str, Callable[..., Any], str | None, str]]) -> dict[str, Any]:
    """Return the OpenAPI document (3.1) of the routes below ``/api/``.

    Parameters
    ----------
    routes : iterable of tuple
        Path, function, least role and method of each.
    """
    spoken = [route for route in routes if route[0].startswith(PREFIX)]
    models: dict[type[BaseModel], None] = {Problem: None}
    for _, function, _, _ in spoken:
        models |= {model: None for model in _annotated(function) if model is not None}
    _, made = models_json_schema(
        [(model, "validation" if issubclass(model, Wish) else "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for path, function, role, method in spoken:
        paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = _operation(path, function, role, method)
    return {
        "openapi": "3.1.0",
        "info": {"title": "volumetool", "version": __version__, "description": "Jobs on volumes. " + _RULES},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": made["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Made under Account."},
                "login": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of the portal's own pages."},
            },
        },
    }


_RULES = (
    "A program shows a token, and no cookie. A token of the scope `read` does GET alone, one of `run` all. "
    "Errors are of RFC 9457, with a stable code."
)


def _operation(path: str, function: Callable[..., Any], role: str | None, method: str) -> dict[str, Any]:
    wish, answer = _annotated(function)
    words = (function.__doc__ or "").strip()
    good: dict[str, Any] = {"description": (answer.__doc__ or "").strip() if answer else "As the summary says."}
    if answer is not None:
        good["content"] = {"application/json": {"schema": _ref(answer)}}
    problem = {"application/problem+json": {"schema": _ref(Problem)}}
    told: dict[str, Any] = {
        "operationId": function.__name__,
        "summary": words.partition("\n")[0].rstrip("."),
        "security": [{"token": []}, {"login": []}] if role is not None else [],
        "responses": {
            str(answer.status if answer else 200): good,
            "default": {"description": "It did not work.", "content": problem},
        },
    }
    if role is not None:
        told["description"] = f"Scope: {'read' if method in READING else 'run'}. Least role: {role}."
    if given := _PARAMETER.findall(path):
        kinds = {"": "string", "path": "string", "int": "integer"}
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": kinds[kind]}} for name, kind in given
        ]
    if wish is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(wish)}}}
    return told


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}

"""What a program is told where a request did not work: RFC 9457, with a stable code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, Field
from starlette.responses import Response

CODES = {
    400: "portal.request",
    401: "portal.login",
    403: "portal.forbidden",
    404: "portal.absent",
    405: "portal.method",
    408: "portal.cut",
    409: "portal.state",
    412: "portal.protocol",
    413: "portal.size",
    415: "portal.media",
    421: "portal.host",
    422: "portal.value",
    429: "portal.limit",
    460: "portal.checksum",
    500: "portal.fault",
    503: "portal.busy",
    507: "portal.disk",
}
"""By status, the code where the library gives none of its own. Codes are added, never changed."""

_CHECKSUM = {460: "Checksum Mismatch"}
"""What tus says beside the statuses of HTTP."""


KNOWN = {
    "in": "such volumes",
    "edge": "volumes that are a little like it: look at the preview first",
    "out": "no such volumes: look at the preview before you trust what it draws",
}
"""What a model knows, by the verdict on how far a volume is from those that it learnt from."""

_FIELDS = {"--voxel-size": "the voxel size", "--model": "the model", "--roi": "the box"}
"""What options of the command line are called on the pages; there are no others."""

_OTHERS = re.compile(r"`volumetool |--(?!voxel-size\b|model\b|roi\b)[a-z]")


def in_words(message: str, hint: str) -> str:
    """Return what a page says of an error: its hint without what only the command line can do.

    Parameters
    ----------
    message : str
        What is wrong.
    hint : str
        What to do next, as commands say it.
    """
    first, *rest = re.split(r"(; |, or |, | or )", re.sub(r" \(see `volumetool [^)]*\)", "", hint))
    kept, stronger = [] if _OTHERS.search(first) else [first], ""
    for between, clause in zip(rest[::2], rest[1::2], strict=True):
        stronger = stronger or between * (between == "; ")
        if not _OTHERS.search(clause):
            kept += [stronger or between, clause] if kept else [clause]
            stronger = ""
    told = "".join(kept)
    for option, name in _FIELDS.items():
        told = told.replace(option, name)
    return "\n".join(filter(None, (message, told[:1].upper() + told[1:])))


def note_in_words(note: str) -> str:
    """Return what a page says of a plan's note: the sentences that name nothing of the command line alone."""
    return " ".join(sentence for sentence in re.split(r"(?<=\.) ", note) if not _OTHERS.search(sentence))


class Problem(BaseModel):
    """Why a request did not work."""

    type: str = Field("about:blank", description="RFC 9457: the status says what kind of problem it is.")
    title: str = Field(description="The status in words.")
    status: int
    code: str = Field(description="Stable name of the cause.")
    detail: str = Field(description="What is wrong, in a sentence.")
    hint: str = Field("", description="What to do next.")


def explain(
    status: int, detail: str, headers: Mapping[str, str] | None = None, *, code: str | None = None, hint: str = ""
) -> Response:
    """Return the answer that says why a request did not work.

    Parameters
    ----------
    status : int
        Status of the answer.
    detail : str
        What is wrong.
    headers : mapping, optional
        More headers.
    code : str, optional
        Stable name of the cause; that of the status by default.
    hint : str
        What to do next.
    """
    title = _CHECKSUM.get(status) or HTTPStatus(status).phrase
    told = Problem(title=title, status=status, code=code or CODES.get(status, "portal.fault"), detail=detail, hint=hint)
    return Response(told.model_dump_json(), status, headers, "application/problem+json")

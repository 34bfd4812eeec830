"""Trust in files that are code. Such a file runs only where its SHA-256 stands in ``VOLUMETOOL_TRUST``.

``volumetool apply --trust`` writes it there, and processes that this one starts get it. Whoever starts workers elsewhere sets
it there. A job file, a plan or a volume cannot.
"""

from __future__ import annotations

import os
from pathlib import Path

from volumetool.errors import ModelError

TRUSTED = "VOLUMETOOL_TRUST"
"""Environment variable: SHA-256 of the files that may run, with commas between."""


CODE = (".pt", ".pts")
"""Ends of the names of networks that are programs."""


def is_code(path: Path) -> bool:
    """Return whether a network's file is a program, which runs only where it is trusted."""
    return path.suffix.lower() in CODE


def trust(digest: str) -> None:
    """Let the file of that SHA-256 run in this process and in those that it starts."""
    os.environ[TRUSTED] = ",".join(filter(None, [os.environ.get(TRUSTED), digest]))


def require_trust(path: Path, digest: str) -> None:
    """Refuse a file that nobody trusts.

    Raises
    ------
    ModelError
        ``model.untrusted``.
    """
    if digest not in os.environ.get(TRUSTED, "").split(","):
        raise ModelError(
            "model.untrusted",
            f"{path} is code, which would run with your rights, and nobody said that it may",
            hint=f"if you trust it, run `volumetool apply` with --trust, or set {TRUSTED}={digest}, as for workers elsewhere",
            where=str(path),
        )

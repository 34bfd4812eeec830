"""Output of commands for programs: on stdout, one JSON object that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from volumetool.cli._tables import say

if TYPE_CHECKING:
    from volumetool.storage.volume import Volume

Kind = Literal[
    "account", "accounts", "advice", "attestation", "backup", "benchmark", "conversion-plan", "crappification-plan", "curves",
    "demo", "error", "evaluation", "event", "examination", "exported", "imported", "job", "leftovers", "live", "model",
    "model-test", "models", "operations", "picture", "plan", "portal", "publication", "rating-kit", "ratings", "recipe",
    "rescan", "restored", "run", "slurm-script", "training", "training-plan", "tryout", "validation", "verification", "view",
    "volume", "watch", "watched",
]  # fmt: skip
"""What an object may be; `examples/scripting.md` says which command prints which."""


def to_json(kind: Kind, facts: Mapping[str, Any]) -> str:
    """Return facts as one line of JSON that begins with its kind."""
    return json.dumps({"kind": kind, **facts})


def print_json(kind: Kind, facts: Mapping[str, Any]) -> None:
    """Print facts on stdout, at once: whoever reads them may wait for them."""
    print(to_json(kind, facts), flush=True)


def print_written(volume: Volume, *, as_json: bool) -> None:
    """Tell that a volume was written: what it is, as `info` does."""
    if as_json:
        from volumetool.storage.info import describe_volume

        print_json("volume", describe_volume(volume))
    say(f"wrote {volume.url}: {len(volume.levels)} levels")

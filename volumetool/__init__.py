"""Super-resolution of whole-brain electron-microscopy volumes: seamless, resumable, chunk by chunk.

>>> import volumetool as vt
>>> vt.enhance("volume.zarr", "enhanced.zarr", model="em-x4")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from volumetool.errors import VolumetoolError
from volumetool.version import __version__

if TYPE_CHECKING:
    from volumetool.jobs.api import apply, enhance, plan, run, verify
    from volumetool.jobs.job import Job
    from volumetool.jobs.plan import Plan
    from volumetool.jobs.run import RunResult
    from volumetool.live_view.show import live
    from volumetool.models import Model, load_model
    from volumetool.storage.convert_volume import convert
    from volumetool.storage.open import open_volume
    from volumetool.storage.volume import Volume
    from volumetool.viewer.view import view

_HOMES = {
    "Job": "volumetool.jobs.job",
    "Model": "volumetool.models",
    "RunResult": "volumetool.jobs.run",
    "Plan": "volumetool.jobs.plan",
    "Volume": "volumetool.storage.volume",
    "apply": "volumetool.jobs.api",
    "convert": "volumetool.storage.convert_volume",
    "enhance": "volumetool.jobs.api",
    "live": "volumetool.live_view.show",
    "load_model": "volumetool.models",
    "open_volume": "volumetool.storage.open",
    "plan": "volumetool.jobs.api",
    "run": "volumetool.jobs.api",
    "verify": "volumetool.jobs.api",
    "view": "volumetool.viewer.view",
}

__all__ = [
    "Job",
    "Model",
    "Plan",
    "RunResult",
    "Volume",
    "VolumetoolError",
    "__version__",
    "apply",
    "convert",
    "enhance",
    "live",
    "load_model",
    "open_volume",
    "plan",
    "run",
    "verify",
    "view",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import volumetool` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'volumetool' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    if isfunction(found):
        from volumetool.configuration import naming_options

        found = naming_options(found)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__

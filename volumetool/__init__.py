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
    from volumetool.evaluation.advice import advise
    from volumetool.evaluation.api import evaluate
    from volumetool.evaluation.attestation.api import attest
    from volumetool.evaluation.rescan import rescan
    from volumetool.evaluation.tryout.api import try_models
    from volumetool.events.bars import progress
    from volumetool.jobs.api import apply, enhance, plan, run
    from volumetool.jobs.inspection import clean, status, verify
    from volumetool.jobs.job import Job
    from volumetool.jobs.plan import Plan
    from volumetool.jobs.reproduction import check_model
    from volumetool.jobs.run import RunResult
    from volumetool.live_view.show import live
    from volumetool.models import Model, list_models, load_model
    from volumetool.models.export import export_model
    from volumetool.processing.operations.imported import import_model
    from volumetool.storage.convert_volume import convert
    from volumetool.storage.open import open_volume
    from volumetool.storage.pyramid import build_pyramid as pyramid
    from volumetool.storage.volume import Volume
    from volumetool.training.api import train
    from volumetool.training.data.crappification import crappify
    from volumetool.training.data.recipe_fit import fit_recipe
    from volumetool.viewer.support import validate
    from volumetool.viewer.view import view

_HOMES = {
    "Job": "volumetool.jobs.job",
    "Model": "volumetool.models",
    "Plan": "volumetool.jobs.plan",
    "RunResult": "volumetool.jobs.run",
    "Volume": "volumetool.storage.volume",
    "advise": "volumetool.evaluation.advice",
    "apply": "volumetool.jobs.api",
    "attest": "volumetool.evaluation.attestation.api",
    "check_model": "volumetool.jobs.reproduction",
    "clean": "volumetool.jobs.inspection",
    "convert": "volumetool.storage.convert_volume",
    "crappify": "volumetool.training.data.crappification",
    "enhance": "volumetool.jobs.api",
    "evaluate": "volumetool.evaluation.api",
    "export_model": "volumetool.models.export",
    "fit_recipe": "volumetool.training.data.recipe_fit",
    "import_model": "volumetool.processing.operations.imported",
    "list_models": "volumetool.models",
    "live": "volumetool.live_view.show",
    "load_model": "volumetool.models",
    "open_volume": "volumetool.storage.open",
    "plan": "volumetool.jobs.api",
    "progress": "volumetool.events.bars",
    "pyramid": "volumetool.storage.pyramid:build_pyramid",
    "rescan": "volumetool.evaluation.rescan",
    "run": "volumetool.jobs.api",
    "status": "volumetool.jobs.inspection",
    "train": "volumetool.training.api",
    "try_models": "volumetool.evaluation.tryout.api",
    "validate": "volumetool.viewer.support",
    "verify": "volumetool.jobs.inspection",
    "view": "volumetool.viewer.view",
}
"""Where a public name is: its module, and its name there, if that is another."""

__all__ = [
    "Job",
    "Model",
    "Plan",
    "RunResult",
    "Volume",
    "VolumetoolError",
    "__version__",
    "advise",
    "apply",
    "attest",
    "check_model",
    "clean",
    "convert",
    "crappify",
    "enhance",
    "evaluate",
    "export_model",
    "fit_recipe",
    "import_model",
    "list_models",
    "live",
    "load_model",
    "open_volume",
    "plan",
    "progress",
    "pyramid",
    "rescan",
    "run",
    "status",
    "train",
    "try_models",
    "validate",
    "verify",
    "view",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import volumetool` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'volumetool' has no attribute {name!r}")
    module, _, there = _HOMES[name].partition(":")
    found = getattr(import_module(module), there or name)
    if isfunction(found):
        from volumetool.configuration import naming_options
        from volumetool.events.bars import shown_in_notebooks

        found = naming_options(shown_in_notebooks(found))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__

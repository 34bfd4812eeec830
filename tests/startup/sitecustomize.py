"""What Python processes that tests start do first: see to it that they know the fake models once they load models at all.

`conftest.py` names this folder in PYTHONPATH, so that commands, workers and whatever these start are reached alike.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODELS = "volumetool.models.package"


class _Registering(MetaPathFinder):
    """Registers the fakes as soon as the module is imported that can load models."""

    def find_spec(self, name: str, path: Any, _target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == MODELS else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            module.register_scheme("fake", _load)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _load(spec: str) -> Any:
    from volumetool.testing.fakes import load_fake

    return load_fake(spec)


sys.meta_path.insert(0, _Registering())

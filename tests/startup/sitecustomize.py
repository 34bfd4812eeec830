"""What Python processes that tests start do first: see to it that they know the fake models once they open operations at all.

`conftest.py` names this folder in PYTHONPATH, so that commands, workers and whatever these start are reached alike.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

OPERATION = "volumetool.processing.operation"


class _Registering(MetaPathFinder):
    """Registers the fakes as soon as the module is imported that opens operations."""

    def find_spec(self, name: str, path: Any, _target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == OPERATION else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            module.OPERATIONS["fake"] = _open

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _open(spec: str) -> Any:
    from volumetool.testing.fakes import register_fakes

    register_fakes()  # instead of this function
    return sys.modules[OPERATION].open_operation(spec)


sys.meta_path.insert(0, _Registering())

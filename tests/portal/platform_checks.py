"""Checks a platform's files with its own tools, in their environment: ``python platform_checks.py PLATFORM FOLDER``."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any


def galaxy(folder: Path) -> list[str]:
    """Lint the tool."""
    from galaxy.tool_util.lint import LintContext, LintLevel, lint_tool_source_with
    from galaxy.tool_util.parser import get_tool_source

    context = LintContext(LintLevel.WARN)
    lint_tool_source_with(context, get_tool_source(str(folder / "volumetool_enhance.xml")))
    assert len(context.message_list) > 5, "the linter looked at nothing"
    return [str(message) for message in context.message_list if message.level in ("error", "warning")]


def tapis(folder: Path) -> list[str]:
    """Compare the app with the schema of what Tapis takes for a new one."""
    import jsonschema
    import yaml

    text = resources.files("tapipy").joinpath("resources/openapi_v3-apps.yml").read_text(encoding="utf-8")
    schema = {"$ref": "#/components/schemas/ReqPostApp", "components": yaml.safe_load(text)["components"]}
    app = json.loads((folder / "app.json").read_text())
    known = schema["components"]["schemas"]["ReqPostApp"]["properties"]  # the schema lets unknown names pass
    found = [f"unknown: {name}" for name in app.keys() - known.keys()]
    return found + [error.message for error in jsonschema.Draft4Validator(schema).iter_errors(app)]


def fractal(folder: Path) -> list[str]:
    """Make the manifest's task of the models by which Fractal writes manifests, and check its arguments."""
    from fractal_task_tools._specs import validate_schema
    from fractal_task_tools._task_arguments import validate_arguments
    from fractal_task_tools.task_models import ParallelTask

    manifest: dict[str, Any] = json.loads((folder / "volumetool_fractal/__FRACTAL_MANIFEST__.json").read_text())
    (task,) = manifest["task_list"]
    made = ("args_schema_parallel", "executable_parallel", "meta_parallel")
    given = {name: value for name, value in task.items() if name not in made}
    ParallelTask(**given, executable=task["executable_parallel"], meta=task["meta_parallel"])
    validate_arguments(task_type=task["type"], schema=task["args_schema_parallel"], executable_kind="parallel")
    validate_schema(schema=task["args_schema_parallel"], path="args_schema_parallel")
    return []


if __name__ == "__main__":
    checks = {"galaxy": galaxy, "tapis": tapis, "fractal": fractal}
    sys.stdout.write(json.dumps(checks[sys.argv[1]](Path(sys.argv[2]))) + "\n")

"""The house stays as it is: few files a room, one class a name, functions that name their parameters, shapes at the margin."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from volumetool.cli.main import app

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("volumetool/**/*.py"), *ROOT.glob("cli/*.py"), *ROOT.glob("schemas/*.py")])
LIBRARY = [path for path in SOURCES if path.parent.name != "cli"]
ROOMS = sorted({path.parent for path in SOURCES})

MOST_FILES = 15
SHAPED = [
    *(ROOT / "volumetool/processing" / f"{name}.py" for name in ("blend", "columns", "consistency", "patch_cache", "quantize")),
    *(ROOT / "volumetool/processing" / f"{name}.py" for name in ("region", "statistics", "writer")),
    ROOT / "volumetool/storage/downsample.py",
    *(ROOT / "volumetool/degradation" / name for name in ("arrays.py", "noise.py", "optics.py", "scan.py")),
    *(ROOT / "volumetool/training" / name for name in ("losses.py", "data/augment.py", "data/neighbours.py")),
    *ROOT.glob("volumetool/evaluation/scores/[abefmrst]*.py"),
    *(ROOT / "volumetool/models" / name for name in ("section_gate.py", "unet.py")),
]
"""Modules that change the shape of arrays."""


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_has_few_files(room: Path) -> None:
    """Of `cli`, commands count; pieces that several of them share begin with an underscore."""
    shared = room.name == "cli"
    assert sum(not (shared and path.name.startswith("_")) for path in room.glob("*.py")) <= MOST_FILES


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name for path in SOURCES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1 and not name.startswith("_")] == []


def test_public_functions_of_three_arguments_or_more_name_them() -> None:
    """In the Parameters section of their docstring; options of commands carry a help text instead."""
    found = {path.relative_to(ROOT).as_posix(): _unnamed(path) for path in LIBRARY}
    assert {path: missing for path, missing in found.items() if missing} == {}


def _unnamed(path: Path) -> list[str]:
    """Return the parameters of public functions of a module that their docstrings do not name."""
    missing = []
    for owner, function in _functions(ast.parse(path.read_text())):
        names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
        names = names[1:] if owner is not None and names and names[0] in ("self", "cls") else names
        public = not function.name.startswith("_") and not (owner is not None and owner.name.startswith("_"))
        overload = any(isinstance(each, ast.Name) and each.id == "overload" for each in function.decorator_list)
        if overload or not public or function.name.startswith("test_") or len(names) < 3:
            continue
        section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n---|\Z)", ast.get_docstring(function) or "", re.S | re.M)
        missing += [f"{function.name}: {name}" for name in names if not section or not re.search(rf"\b{name}\b", section[1])]
    return missing


@pytest.mark.parametrize("path", SHAPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shapes_stand_where_arrays_change(path: Path) -> None:
    """At least three comments in a hundred lines of code."""
    lines = path.read_text().splitlines()
    docstrings = {
        number
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = [line for number, line in enumerate(lines, start=1) if line.strip() and number not in docstrings]
    assert sum("# " in line and "noqa" not in line for line in code) / len(code) >= 0.03


def _functions(
    node: ast.AST, owner: ast.ClassDef | None = None
) -> Iterator[tuple[ast.ClassDef | None, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield functions of a module and methods of its classes, not functions inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner, child
        else:
            yield from _functions(child, owner)


def commands(group: TyperGroup, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command of the program with its words."""
    for name, command in group.commands.items():
        words = f"{above}{name}"
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{words} ")
        else:
            yield words, command


def test_every_command_and_option_says_what_it_is_for() -> None:
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    silent = [
        f"{words} {parameter.name}".strip()
        for words, command in commands(program)
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []
    assert [words for words, command in commands(program) if not command.help] == []

"""Promises of the repository itself: schemas, public names, sizes, start-up time, documents."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from volumetool.schemas.generate import MODELS, schema_texts

import volumetool

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("volumetool/**/*.py"), *ROOT.glob("cli/*.py"), *ROOT.glob("schemas/*.py")])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_committed_schema_is_the_generated_one(name: str) -> None:
    assert (ROOT / "schemas" / f"{name}.json").read_text() == schema_texts()[name], "run `make schemas`"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_property_of_a_schema_is_described(name: str) -> None:
    schema = json.loads(schema_texts()[name])
    assert schema["properties"]
    assert not [
        f"{part.get('title')}.{member}"
        for part in (schema, *schema.get("$defs", {}).values())
        for member, facts in part.get("properties", {}).items()
        if not facts.get("description")
    ]


def test_the_public_names_are_these_and_all_of_them_import() -> None:
    assert sorted(volumetool.__all__) == volumetool.__all__
    for name in volumetool.__all__:
        assert getattr(volumetool, name) is not None
    with pytest.raises(AttributeError):
        volumetool.no_such_name  # noqa: B018


def test_nothing_lands_at_the_top_of_an_environment() -> None:
    for name in ("cli", "schemas"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
        assert subprocess.run([sys.executable, "-c", code], cwd="/", check=False).returncode == 0
        importlib.import_module(f"volumetool.{name}")


def test_every_folder_of_the_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("volumetool/**/__init__.py")}
    assert folders | {"volumetool.cli", "volumetool.schemas"} == listed


def test_files_and_functions_stay_short() -> None:
    assert [long for path in SOURCES for long in _long(path)] == []


def _long(path: Path) -> Iterator[str]:
    """Yield the functions of a file that are long, and the file if it is."""
    text = path.read_text()
    if text.count("\n") > 400:
        yield str(path)
    for node in ast.walk(ast.parse(text)):
        counted = isinstance(node, ast.FunctionDef) and path.parent.name != "cli"  # what commands take is long
        if counted and (node.end_lineno or 0) - node.body[0].lineno >= 60:
            yield f"{path}: {node.name}"


def test_help_imports_nothing_heavy() -> None:
    """The time of `--help` is the time of its imports; what may be imported is bounded instead of the clock."""
    code = "import sys, volumetool.cli.main; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "numpy", "tensorstore", "dask", "distributed", "pydantic", "scipy", "zarr"]
    found = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_importing_volumetool_imports_nothing_heavy() -> None:
    code = "import sys, volumetool; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_error_codes_are_unique_in_their_meaning() -> None:
    """A code belongs to one class of error: handlers may rely on either."""
    homes: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error") and node.args:
                first = node.args[0]
                if (
                    isinstance(first, ast.Constant)
                    and isinstance(first.value, str)
                    and re.fullmatch(r"[a-z]+\.[a-z0-9-]+", first.value)
                ):
                    homes.setdefault(first.value, set()).add(node.func.id)
    assert len(homes) > 20
    assert {code: kinds for code, kinds in homes.items() if len(kinds) > 1} == {}


def test_schemas_are_json_schemas() -> None:
    from jsonschema import Draft202012Validator

    for text in schema_texts().values():
        Draft202012Validator.check_schema(json.loads(text))


def test_the_function_enhance_stays_a_function_when_everything_is_imported() -> None:
    import volumetool.jobs.api  # each import puts its module's name into the package
    import volumetool.processing.region

    assert callable(volumetool.enhance)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_first_pages_stay_short(name: str) -> None:
    assert (ROOT / name).read_text().count("\n") <= 200


@pytest.mark.parametrize("page", sorted(ROOT.glob("examples/*.md")), ids=lambda page: page.name)
def test_a_page_of_the_guide_is_short_and_linked_from_the_readme(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n") <= 150
    assert f"(examples/{page.name})" in (ROOT / "README.md").read_text()


def test_the_troubleshooting_page_knows_error_codes_that_exist() -> None:
    page = (ROOT / "examples/troubleshooting.md").read_text()
    source = "".join(path.read_text() for path in SOURCES)
    codes = set(re.findall(r"`([a-z]+\.[a-z]+(?:-[a-z]+)*)`", page))
    assert len(codes) > 20
    assert [code for code in sorted(codes) if f'"{code}"' not in source] == []


def test_the_troubleshooting_page_knows_every_family_of_error_codes() -> None:
    page = (ROOT / "examples/troubleshooting.md").read_text()
    source = "".join(path.read_text() for path in SOURCES)
    raised = set(re.findall(r'(?:Error|NotConformant)\(\s*"([a-z]+)\.[a-z-]+"', source))
    assert len(raised) > 10
    assert raised <= set(re.findall(r"^\| `([a-z]+)\.` \|", page, re.MULTILINE))


ONLY_SET = {
    "FILE", "GLOO", "NCCL", "LD_PRELOAD", "PYTHONPATH", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "PGDATABASE", "PGHOST", "PGPASSWORD", "PGPORT", "PGUSER",
    "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512", "S256",
}  # fmt: skip
"""No variables that are read: for programs and libraries, or other words."""


def test_one_page_knows_every_environment_variable_that_is_read() -> None:
    """Constants in capitals, in modules that look at the environment; those that are only set, or no variables, are named."""
    read = {
        node.value
        for path in SOURCES
        if re.search(r"\benviron\b|envvar=", path.read_text())
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", node.value)
    } - ONLY_SET
    page = (ROOT / "examples/scripting.md").read_text().partition("## Environment variables")[2]
    told = {name for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    by_libraries = {"COLUMNS", "GOOGLE_APPLICATION_CREDENTIALS", "NO_COLOR"}
    assert len(read) > 25
    assert told - by_libraries == read


DESIGNS = sorted(ROOT.glob("volumetool/**/DESIGN.md"))
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("tests/**/README.md"), *DESIGNS]
DECISION = re.compile(r"^## (D[0-9]{2}) (.*)$", re.MULTILINE)


def test_every_decision_has_a_number_of_its_own_and_is_in_the_index() -> None:
    decisions = [(*found, path.relative_to(ROOT)) for path in DESIGNS for found in DECISION.findall(path.read_text())]
    rows = re.findall(r"^\| \[(D[0-9]{2})\]\(([^#)]+)#[^)]*\) \| (.*?) \|", (ROOT / "DECISIONS.md").read_text(), re.MULTILINE)
    assert "*Rule" not in (ROOT / "DECISIONS.md").read_text(), "a decision stands in the DESIGN.md of its room"
    numbers = [number for number, _, _ in decisions]
    assert len(set(numbers)) == len(numbers) >= 42
    assert sorted((number, title, str(path)) for number, title, path in decisions) == [
        (number, title, path) for number, path, title in rows
    ]


@pytest.mark.parametrize("path", DESIGNS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_a_decision_says_its_status_its_problem_its_rule_what_was_refused_and_how_it_is_tested(path: Path) -> None:
    _, *parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    for part in parts:
        if re.match(r"D[0-9]{2} ", part):
            assert [word for word in ("Status: ", "*Problem", "*Rule", "*Refused", "*Tested") if word not in part] == [], part


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_decisions_that_a_page_names_exist(path: Path) -> None:
    page = path.read_text()
    named = re.findall(r"(?<![\w/.])((?:volumetool|cli|tests|schemas)/[\w/]+(?:\.\w+)?)", page)
    assert [name for name in named if not (ROOT / name).exists()] == []
    tests = {path.name for path in ROOT.glob("tests/**/test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py", page)) <= tests
    known = {number for each in DESIGNS for number, _ in DECISION.findall(each.read_text())}
    assert set(re.findall(r"\bD[0-9]{2}\b", page)) <= known

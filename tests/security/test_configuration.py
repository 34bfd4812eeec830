"""S2: a configuration made by a stranger is data, small, and either fits the schema or is refused by name."""

from __future__ import annotations

import ast
import os
import random
import re
import string
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_jobs import noise, write_input

from volumetool.degradation import load_recipe
from volumetool.errors import ConfigError, VolumetoolError
from volumetool.jobs.job import Job, read_job
from volumetool.training.config import read_config

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("volumetool/**/*.py"), *ROOT.glob("cli/*.py"), *ROOT.glob("schemas/*.py")])

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1e308, float("nan"), float("-inf"), "", "1,2", "1,2,3", "0:1,0:1,0:1", ":,:,:", "9" * 5000,
    "9" * 400 + "GiB",
    "\u202e", "os.system", [], [1, 2, 3], [[[]]], {}, {"start": [0, 0, 0], "stop": [1, 1, 1]}, {"a": {"b": {}}}, "2001-99-99",
)  # fmt: skip

HOSTILE = {
    "python object": "input: !!python/object/apply:os.system ['touch canary']\noutput: b",
    "python name": "input: !!python/name:os.system\noutput: b",
    "aliases": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\ninput: [*b,*b,*b,*b,*b,*b,*b,*b,*b]",
    "itself": "input: &a [*a]\noutput: b",
    "deep": "input: " + "[" * 1000 + "]" * 1000,
    "deep mappings": "input: " + "{a: " * 1000 + "1" + "}" * 1000,
    "large": "input: " + "a" * 2**18,
    "many": "\n".join(f"k{n}: 1" for n in range(300)),
    "numbers as names": "1: 2",
    "a date that is none": "input: 2001-99-99\noutput: b",
    "a long number": "input: " + "9" * 5000 + "\noutput: b",
    "no utf-8": b"\xff\xfe\x00input".decode("latin-1"),
    "control characters": "input: a\x07b",
    "dotted path": "input: a\noutput: b\nmodel_class: evil.module.Class",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("read", [read_job, read_config, load_recipe])
def test_a_hostile_configuration_is_refused_by_name(
    text: str, read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "job.yaml"
    file.write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
    with pytest.raises(VolumetoolError) as caught:
        read(file)
    assert caught.value.code in ("config.file", "config.option", "config.recipe")
    assert len(str(caught.value)) < 5000
    assert not (tmp_path / "canary").exists()


def _fuzzed(number: int) -> str:
    """Return a job file with one to five options set to something odd, and now and then damaged text."""
    chance = random.Random(number)  # noqa: S311  (no secret)
    names = [*Job.model_fields, "no_such", "input.path", "__class__"]
    content: dict[str, Any] = {"input": "a.zarr", "output": "b.zarr"}
    for _ in range(chance.randint(1, 5)):
        content[chance.choice(names)] = chance.choice(ODD)
    text = yaml.safe_dump(content, allow_unicode=True)
    if chance.random() < 0.3:
        place = chance.randrange(len(text))
        text = text[:place] + "".join(chance.choices(string.printable, k=5)) + text[place + chance.randint(0, 5) :]
    return text


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_fuzzed_job_files_give_a_job_or_a_named_error(first: int, tmp_path: Path) -> None:
    file, codes = tmp_path / "job.yaml", []
    for number in range(first, first + 50):
        file.write_text(_fuzzed(number))
        try:
            codes.append("" if isinstance(read_job(file), Job) else "nothing")
        except VolumetoolError as error:
            codes.append(error.code)
    assert len([code for code in codes if code]) > 25
    assert set(codes) <= {"", "config.option", "config.file"}


@pytest.mark.parametrize("cluster", ["tcp://198.51.100.7:8786", "tls://scheduler:8786", "file:/tmp/s.json", "s.json"])
def test_a_job_file_names_no_scheduler_and_the_user_may(cluster: str, tmp_path: Path) -> None:
    """Dask's messages are pickles: a scheduler runs what it likes in whoever connects to it."""
    file = tmp_path / "job.yaml"
    file.write_text(f"input: a\noutput: b\ncluster: {cluster}\n")
    with pytest.raises(ConfigError) as caught:
        read_job(file)
    assert caught.value.code == "config.scheduler"
    assert read_job(file, cluster=cluster).cluster == cluster


def test_a_job_file_brings_no_fake_model(tmp_path: Path) -> None:
    """Fakes end processes and write files where a test says so; the program as users have it knows none."""
    write_input(tmp_path / "in.zarr", noise((2, 16, 16)))
    (tmp_path / "tally").mkdir()
    model = f"fake:identity?fault=kill&at=255&times=1&tally={tmp_path}/tally"
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"input": "in.zarr", "output": "out.zarr", "model": model}))
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", "--config", "job.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "error [model.unknown]")
    assert sorted(entry.name for entry in tmp_path.rglob("*") if entry.parent == tmp_path) == ["in.zarr", "job.yaml", "tally"]
    assert list((tmp_path / "tally").iterdir()) == []


FORBIDDEN_OF = {
    "builtins": "eval exec compile __import__",
    "importlib": "import_module",
    "joblib": "load",
    "marshal": "load loads",
    "numpy": "load",
    "np": "load",
    "os": "system popen execv execve execvp execvpe spawnv spawnve",
    "pandas": "read_pickle",
    "pickle": "load loads Unpickler",
    "runpy": "run_path run_module",
    "shutil": "unpack_archive",
    "subprocess": "getoutput getstatusoutput",
    "tarfile": "open TarFile",
    "torch": "load hub.load jit.load package.PackageImporter",
    "yaml": "load load_all full_load full_load_all unsafe_load unsafe_load_all",
    "zipfile": "ZipFile",
}
"""What runs text or reads pickles, by module; none of it may be named in the product's sources."""
FORBIDDEN_CALLS = {f"{module}.{name}" for module, names in FORBIDDEN_OF.items() for name in names.split()}
FORBIDDEN_CALLS |= set(FORBIDDEN_OF["builtins"].split())
SPARED = {
    # The functions that its users' own tests name.
    ROOT / "volumetool" / "testing" / "crash.py": {"importlib.import_module"},
    # The public names, when they are first used: out of a table in the source.
    ROOT / "volumetool" / "__init__.py": {"importlib.import_module"},
    # The list of entries alone: none of them is unpacked by it.
    ROOT / "volumetool" / "storage" / "io" / "stores" / "zip_file.py": {"zipfile", "zipfile.ZipFile"},
    # A portal's backup, which its operator names: unpacked through the filter that lets nothing out of a folder of its own.
    ROOT / "volumetool" / "portal" / "facility" / "backup.py": {"tarfile", "tarfile.TarFile", "tarfile.open"},
    # Networks of others: entries are read into memory, after a look at the list, and none is written.
    ROOT / "volumetool" / "models" / "foreign" / "archive.py": {"zipfile", "zipfile.ZipFile"},
    # A program that the user trusts, from an archive that is written anew of what was looked at.
    ROOT / "volumetool" / "models" / "foreign" / "torchscript.py": {"torch.jit.load"},
    # Weights of PSSR2: torch's reader of weights alone, after a look at the archive.
    ROOT / "volumetool" / "models" / "foreign" / "resunet.py": {"torch.load"},
    # A table of the plan, which holds numbers alone: pickles are refused.
    ROOT / "volumetool" / "processing" / "sections" / "curves.py": {"numpy.load", "np.load"},
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "zipfile", "tarfile", "runpy", "code"}


def offences(text: str) -> list[str]:
    """Return what a source names that runs text or reads pickles: under any alias, called or handed on."""
    tree = ast.parse(text)
    full: dict[str, str] = {}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and node.module:
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [node.module] if node.module.partition(".")[0] in FORBIDDEN_IMPORTS else []
        elif isinstance(node, ast.Call):
            harmless = {"allow_pickle": "False"}
            risky = [word for word in node.keywords if word.arg in {"shell", "allow_pickle"}]
            found += [f"{word.arg}=" for word in risky if harmless.get(str(word.arg)) != ast.unparse(word.value)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            first, *rest = ast.unparse(node).split(".")
            names = {ast.unparse(node), ".".join([full.get(first, first), *rest])}
            found += sorted(names & FORBIDDEN_CALLS)
    return found


def test_no_source_runs_text_or_reads_pickles() -> None:
    found = {str(path): set(offences(path.read_text())) - SPARED.get(path, set()) for path in SOURCES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "import torch\ntorch.load(file)",
        "import torch as t\nt.load(file)",
        "from torch import load as fetch\nfetch(file)",
        "from torch import hub\nhub.load(name)",
        "import numpy as np\nlist(map(np.load, files))",
        "import numpy\nread = numpy.load",
        "from os import system\nsystem(text)",
        "import pickle",
        "from pickle import Unpickler",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import builtins\nbuiltins.exec(text)",
        "import yaml\nyaml.unsafe_load_all(text)",
        "from torch import jit\njit.load(file)",
        "import os\nos.execvp(text, [text])",
        "from numpy.lib.npyio import NpzFile\nNpzFile(file, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_is_forbidden_under_any_name(text: str) -> None:
    assert offences(text)


def test_the_linter_looks_for_unsafe_calls_and_exceptions_are_few() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in options["select"]
    assert not [code for code in options["ignore"] if re.fullmatch(r"S\d+", code)]
    allowed = {"S101", "S104", "S105", "S108", "S311", "S314", "S603", "S607"}
    # asserts, a known wildcard, names of secrets, a folder that is looked at, a sample by its seed, XML without declarations,
    # the one browser
    lines = [line for path in SOURCES for line in path.read_text().splitlines()]
    found = {code for line in lines for code in re.findall(r"noqa:.*?\b(S\d{3})\b", line)}
    assert found <= allowed

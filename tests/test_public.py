"""The package as Python's users meet it: its names, what objects look like, and how a mistake is answered."""

from __future__ import annotations

import base64
import inspect
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
from PIL import Image
from typer.core import TyperGroup
from volumetool.cli.main import app, main

import volumetool as vt
from volumetool.errors import ConfigError
from volumetool.jobs.job import make_job
from volumetool.live_view.show import Live
from volumetool.storage import voxels
from volumetool.training.api import TrainingOptions
from volumetool.viewer.view import View

FAKE = "fake:identity?scale=1,2,2"
FUNCTIONS = [name for name in vt.__all__ if inspect.isfunction(getattr(vt, name))]
WITH_OPTIONS = [name for name in FUNCTIONS if inspect.signature(getattr(vt, name)).parameters]

OTHERWISE_NAMED = {
    "try": "try_models",  # a word that Python has itself
    "info": "open_volume",
    "model list": "list_models",
    "model show": "load_model",
    "model import": "import_model",
    "model test": "check_model",
    "model export": "export_model",
}
"""Commands whose function has another name."""

COMMANDS_ALONE = {
    "demo": "it shows how the others are used",
    "view": "vt.view gives an object that stays open, which takes a Look and a Listen",
    "live": "vt.live does, too, and takes a Job",
    "publish": "it serves until it is ended; vt.convert writes the same bytes",
    "doctor": "volumetool.sites.doctor.examine: it is about this machine, not about volumes",
    "serve": "volumetool.portal.serve.serve: it serves until it is ended, and takes settings of a file",
    "portal doctor": "volumetool.portal.facility.doctor.examine_portal: it takes settings of a file, as all of these",
    "portal users": "volumetool.portal.facility.people.list_accounts",
    "portal user": "volumetool.portal.facility.people.set_account",
    "portal backup": "volumetool.portal.facility.backup.back_up",
    "portal restore": "volumetool.portal.facility.backup.restore",
    "slurm": "volumetool.sites.slurm.array_script: what it makes is for the shell of a site",
    "bench": "it measures a machine, and keeps a history",
    "schema": "model_json_schema() of the class",
}
"""Commands that have no function of the same options, and why."""

OPTIONS_ALONE = {
    "": {"as_json", "verbose", "quiet", "log_file", "log_format", "help_all"},  # what is said, and how
    # a job file is read by `read_job`; vt.plan is a dry run; volumetool.evaluation.job_report.write_job_report
    "enhance": {"config", "allow_host", "dry_run", "report"},
    "apply": {"option", "trust", "list_all", "dry_run", "report"},  # a name holds its options, or a function is given
    "convert": {"dry_run"},  # plan_requested
    "crappify": {"dry_run", "fit", "truth", "recipe_out"},  # plan_crappification, vt.fit_recipe
    "train": {"dry_run"},  # plan_training
    "try": {"open_page"},
    "status": {"watch", "report"},  # vt.status in a loop; write_job_report
    "evaluate": {"blind", "unblind"},  # a kit for human raters: volumetool.evaluation.blind_rating
}
"""Options that a command has and its function has not, and what stands for them."""


class Place:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Make a small volume."""
    stack = np.random.default_rng(1).integers(1, 255, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack")
    vt.convert(Place(tmp_path / "s.tif"), Place(tmp_path / "raw.zarr"), voxel_size=(8.0, 32.0, 32.0))
    return tmp_path / "raw.zarr"


def test_dir_names_what_is_public_and_all_of_it_is_documented() -> None:
    program = "import volumetool, sys; sys.exit(dir(volumetool) != sorted(volumetool.__all__))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert dir(vt) == sorted(vt.__all__)
    for name in set(dir(vt)) - {"__version__"}:
        assert inspect.getdoc(getattr(vt, name)), name


@pytest.mark.parametrize("make", [vt.Job, make_job, vt.enhance])
def test_a_misspelt_option_of_a_job_is_answered_with_the_likely_one(make: type) -> None:
    with pytest.raises(ConfigError, match="did you mean model") as caught:
        make(input="a.zarr", output="b.zarr", modle="em-x4")
    assert caught.value.code == "config.option"


@pytest.mark.parametrize("options", [{"level": -1}, {"roi": "1:2"}, {"workers": 0}, {"input": 3}, {"shard": (0, 1, 1)}])
def test_a_value_that_cannot_be_is_answered_with_its_option(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))) as caught:
        vt.Job(**{"input": "a.zarr", "output": "b.zarr", **options})
    assert caught.value.code == "config.option"


def test_what_a_job_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="input"):
        vt.Job(output="b.zarr")


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_function_answers_a_misspelt_option_with_the_likely_one(name: str) -> None:
    function = getattr(vt, name)
    options = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
    meant = options[-1].name
    given = {each.name: "x" for each in options if each.default is each.empty and each.name != meant}
    with pytest.raises(ConfigError, match=f"did you mean {meant}") as caught:
        function(**given, **{f"{meant}x": "x"})
    assert caught.value.code == "config.option"


def _commands() -> Iterator[tuple[str, set[str]]]:
    """Yield the words of every command with the names of its options."""
    program = typer.main.get_command(app)
    assert isinstance(program, TyperGroup)
    for name, command in program.commands.items():
        for below, each in (getattr(command, "commands", None) or {"": command}).items():
            options = {parameter.name for parameter in each.params if parameter.opts[0].startswith("-")}
            yield f"{name} {below}".strip(), {option for option in options if option is not None}


def test_every_command_has_a_function_of_the_same_options_or_a_reason() -> None:
    commands = dict(_commands())
    assert commands.keys() >= COMMANDS_ALONE.keys() | OTHERWISE_NAMED.keys() | OPTIONS_ALONE.keys() - {""}
    for words, options in commands.items():
        if words in COMMANDS_ALONE:
            continue
        alone = OPTIONS_ALONE[""] | OPTIONS_ALONE.get(words, set())
        assert options - alone <= inspect.signature(getattr(vt, OTHERWISE_NAMED.get(words, words))).parameters.keys(), words
        assert OPTIONS_ALONE.get(words, set()) <= options, words


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_in_numpydoc_what_it_takes(name: str) -> None:
    section = (inspect.getdoc(getattr(vt, name)) or "").partition("Parameters\n----------\n")[2]
    code = inspect.unwrap(getattr(vt, name)).__code__
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    assert [each for each in arguments if not re.search(rf"\b{each}\b", section)] == []


def test_functions_return_what_the_commands_print(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every name in a command's JSON is an attribute of what the function of its name returns, and holds the same."""
    output = volume.parent / "out.zarr"
    run = vt.enhance(volume, output, model=FAKE)
    low = vt.crappify(volume, volume.parent / "low.zarr", scale="1,2,2", seed=3)
    evaluation = vt.evaluate(volume, volume, sections=1, report=volume.parent / "page.html")
    calls: list[tuple[str, object, set[str]]] = [
        (f"enhance {volume} {output} --model {FAKE}", run, {"ran"}),
        (f"status {output}", vt.status(output), {"idle_seconds"}),
        (f"verify {output} --depth stored", vt.verify(output, depth="stored"), {"depth", "sample"}),
        (f"attest {output}", vt.attest(output), {"attested", "checksum"}),
        (f"clean {output}", vt.clean(output), set()),
        (f"validate {output}", vt.validate(output), set()),
        (f"validate {output} --viewer fiji", vt.validate(output, viewer="fiji"), {"findings"}),
        (f"evaluate {volume} {volume} --sections 1", evaluation, {"verdict"}),
        (f"info {low.url}", low, {"bytes_on_disk", "status", "blank_sections", "note", "model", "extrapolated", "dtype"}),
        ("model show em-x4", vt.load_model("em-x4").card, set()),
    ]
    capsys.readouterr()
    for words, found, apart in calls:
        with pytest.raises(SystemExit):
            main([*words.split(), "--json"])
        printed = json.loads(capsys.readouterr().out)
        del printed["kind"]
        facts = _plain(found)
        assert printed.keys() - apart <= facts.keys(), words
        for name in printed.keys() - apart:
            assert _alike(printed[name], facts[name]), (words, name)
    assert (volume.parent / "page.html").exists()
    assert vt.pyramid(low.url).shape == low.shape
    assert "em-x4" in {card.name for card in vt.list_models()}


def _plain(found: object) -> dict[str, Any]:
    of_pydantic = ("model_fields", "model_computed_fields")  # which must not be asked of an instance
    return {name: getattr(found, name) for name in dir(found) if not name.startswith("_") and name not in of_pydantic}


def _alike(printed: Any, value: Any) -> bool:
    """Return whether JSON says what an object holds: numbers, texts and counts of the same, objects by their names."""
    if isinstance(printed, list):
        return len(printed) == len(value) and all(map(_alike, printed, value))
    if isinstance(printed, dict):
        facts = value if isinstance(value, dict) else _plain(value)
        return all(name in facts for name in printed if name != "words")
    return printed == value or (printed is None and value == float("inf"))


def test_every_object_fits_one_screen_and_shows_no_secret(volume: Path) -> None:
    output = volume.parent / "out.zarr"
    job = vt.Job(input=volume, output=output, model=FAKE, roi="0:3,:,:")
    plan = vt.plan(job)
    outcome = vt.run(job)
    with vt.view([volume, output]) as shown, vt.live(vt.Job(input=volume, output=output, model=FAKE)) as living:
        tokens = [link.rstrip("/").rpartition("/")[2] for link in (shown.link, living.link)]
        objects = [
            job,
            plan,
            outcome,
            vt.verify(plan),
            vt.open_volume(output),
            vt.load_model("em-x4"),
            vt.load_model("em-x4").card,
            shown,
            living,
        ]
        assert [type(each) for each in objects[-2:]] == [View, Live]
        for each in objects:
            for text in (repr(each), str(each)):
                lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 80) or [""]]
                assert len(lines) <= 24, text
                assert not any(token in text for token in tokens)
    assert "secret" not in repr(vt.Job(input="https://user:secret@host/v?signature=secret", output="b"))
    assert repr(vt.Job(input="a", output="b")) == "Job(input='a', output='b')"


@pytest.mark.parametrize("kind", [*(pytest.param(each, marks=pytest.mark.slow) for each in (str, Path)), Place])
def test_paths_of_every_kind_are_taken_everywhere(volume: Path, kind: type, tiny_model: Path) -> None:
    output = volume.parent / "out.zarr"
    assert vt.open_volume(kind(volume)).identity == vt.open_volume(str(volume)).identity
    assert vt.load_model(kind(tiny_model)).spec == str(tiny_model)
    assert vt.convert(kind(volume), kind(volume.parent / "copy.zarr")).url == str(volume.parent / "copy.zarr")
    assert vt.enhance(kind(volume), kind(output), model=FAKE).complete
    job = vt.Job(
        input=kind(volume), output=kind(output), model=kind(tiny_model), mask=kind(volume), statistics=kind(tiny_model)
    )
    assert [job.input, job.output, job.mask] == [str(volume), str(output), str(volume)]
    assert (job.model, job.statistics) == (str(tiny_model), str(tiny_model))
    assert vt.verify(vt.plan(vt.Job(input=kind(volume), output=kind(output), model=FAKE))).ok
    low = vt.crappify(kind(volume), kind(volume.parent / "low.zarr"), scale=(1, 2, 2))
    assert vt.pyramid(kind(volume.parent / "low.zarr")).url == low.url
    assert vt.evaluate(kind(volume), kind(volume), low=kind(volume.parent / "low.zarr"), sections=1).rows
    assert vt.status(kind(output)).state == "complete"
    assert vt.verify(kind(output)).ok
    assert vt.validate(kind(output)).ok
    assert vt.clean(kind(output)).left == ()
    places = {name: kind(volume) for name in ("config", "start", "truth", "low", "output")}
    assert set(TrainingOptions(**places).model_dump(include=set(places)).values()) == {str(volume)}
    with vt.view(kind(volume)) as shown, vt.view([kind(volume), kind(output)]):
        assert shown.layers[0].volume.url == os.fspath(kind(volume))


def test_notebooks_show_objects_as_escaped_tables_and_read_few_voxels(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = volume.with_name("<script>raw.zarr")
    volume.rename(strange)
    outcome = vt.enhance(strange, volume.parent / "out.zarr", model=FAKE)
    for each in (vt.open_volume(strange), outcome.plan, outcome, vt.load_model("em-x4")):
        page = each._repr_html_()
        assert "<script>" not in page
        assert page.count("<tr>") == page.count("</tr>") > 3
    picture = re.search(r"base64,([^']+)", vt.open_volume(strange)._repr_html_())
    assert picture is not None
    assert Image.open(io.BytesIO(base64.b64decode(picture[1]))).size == (24, 20)
    read: list[Any] = []
    large = np.random.default_rng(1).integers(1, 255, (3, 300, 400)).astype(np.uint8)
    np.save(volume.parent / "large.npy", large)
    opened = vt.open_volume(volume.parent / "large.npy", voxel_size=(8, 8, 8))
    whole = voxels.read_voxels
    monkeypatch.setattr(voxels, "read_voxels", lambda *given: read.append(given[1].shape) or whole(*given))
    assert "base64" in opened._repr_html_()
    assert read == [(1, 128, 128)]
    (volume.parent / "large.npy").unlink()
    assert "no picture" in opened._repr_html_()
    assert repr(opened).startswith("<Volume")

"""Errors call a path what it is, whatever is wrong with it: input, output, job's folder, mask, model, table, options."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli.main import main

from volumetool.errors import InputError
from volumetool.storage.io.kvstore import read_key
from volumetool.storage.io.retries import unwritable

FAKE = "fake:identity?scale=1,2,2"
CLOSED = "http://127.0.0.1:9/v.zarr"
"""Nobody listens there."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a volume, its enhancement, and paths that are wrong in some way; work there."""
    folder, before = tmp_path_factory.mktemp("places"), Path.cwd()
    os.chdir(folder)
    stack = np.random.default_rng(1).integers(1, 255, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite("s.tif", stack, photometric="minisblack")
    for words in (
        ("convert", "s.tif", "raw.zarr", "--voxel-size", "8,32,32"),
        ("enhance", "raw.zarr", "out.zarr", "--model", FAKE),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words])
        assert ended.value.code == 0
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("odd.zarr/zarr.json").mkdir(parents=True)
    shutil.copytree("out.zarr", "no-job.zarr")
    shutil.copytree("out.zarr.job", "gone.zarr.job")
    shutil.copytree("out.zarr", "odd-job.zarr")
    Path("odd-job.zarr.job").write_text("x")
    for name, broken in (("pipe.zarr", "pipe.zarr/zarr.json"), ("pipe-job.zarr", "pipe-job.zarr.job/plan.json")):
        shutil.copytree("out.zarr", name)
        shutil.copytree("out.zarr.job", f"{name}.job")
        Path(broken).unlink()
        os.mkfifo(broken)  # not to be read, by root either
    yield folder
    os.chdir(before)


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Run a command that fails; return the error's code, and what it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*words])
    assert ended.value.code in (1, 2)
    said = capsys.readouterr().err
    found = re.search(r"error \[([a-z.-]+)\]: (.*)", said, re.DOTALL)
    assert found, said
    return found[1], found[2]


READING = {  # command, and the noun that stands before what is wrong, where the code does not say it
    "info {}": "",
    "convert {} new.zarr": "",
    "crappify {} new.zarr": "",
    "pyramid {}": "",
    "validate {}": "",
    "view {}": "",
    "enhance {} new.zarr --model FAKE": "",
    "live {} --model FAKE": "",
    "enhance raw.zarr new.zarr --model FAKE --mask {}": "the mask: ",
    "evaluate {} raw.zarr": "the restored volume: ",
    "evaluate raw.zarr {}": "the truth: ",
    "evaluate raw.zarr raw.zarr --low {}": "--low: ",
    "evaluate raw.zarr raw.zarr --second {}": "--second: ",
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("bad", ["missing.zarr", "file", "empty", "odd.zarr", "pipe.zarr", CLOSED])
def test_what_cannot_be_read_is_an_input_or_called_by_its_name(capsys: pytest.CaptureFixture[str], bad: str) -> None:
    commands = READING if bad != CLOSED else dict(list(READING.items())[6:])
    for command, noun in commands.items():
        code, said = error_of(capsys, *(word.format(bad).replace("FAKE", FAKE) for word in command.split()))
        assert code.startswith("input."), (command, said)
        assert said.removeprefix("the input: ").startswith(noun), (command, said)
        assert "the output" not in said, (command, said)
        assert "AWS" not in said, (command, said)


FILES = {
    "enhance raw.zarr new.zarr --model FAKE --statistics {}": ("config.statistics", "--statistics"),
    "enhance raw.zarr new.zarr --model {}": ("model.", "model"),
    "model show {}": ("model.", "model"),
    "enhance --config {}": ("config.file", "options|cannot be read"),
    "train {}": ("config.file", "options|cannot be read"),
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("bad", ["missing.zarr", "empty", "pipe.zarr/zarr.json"])
def test_a_file_of_options_a_table_and_a_model_are_called_so(capsys: pytest.CaptureFixture[str], bad: str) -> None:
    for command, (code_begins, noun) in FILES.items():
        code, said = error_of(capsys, *(word.format(bad).replace("FAKE", FAKE) for word in command.split()))
        assert code.startswith(code_begins), (command, code)
        assert re.search(noun, said), (command, said)


BAD_OUTPUTS = {
    "missing.zarr": ("output.no-job", "no output missing.zarr"),
    "no-job.zarr": ("output.no-job", "no job of the output no-job.zarr"),
    "odd-job.zarr": ("output.no-job", "no job of the output odd-job.zarr"),
    "raw.zarr": ("output.no-job", "no job of the output raw.zarr"),
    "pipe.zarr": ("output.unreadable", "the output: "),
    "pipe-job.zarr": ("ledger.unreadable", "the job's folder: "),
    CLOSED: ("ledger.unreadable", "the job's folder: "),
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("bad", BAD_OUTPUTS)
@pytest.mark.parametrize("command", ["status", "verify", "clean"])
def test_a_bad_output_is_no_input(capsys: pytest.CaptureFixture[str], bad: str, command: str) -> None:
    code, said = error_of(capsys, command, bad)
    assert (code, BAD_OUTPUTS[bad][1] in said) == (BAD_OUTPUTS[bad][0], True), said
    assert "input" not in said.lower()
    assert "AWS" not in said


@pytest.mark.usefixtures("places")
def test_an_output_that_is_gone_is_told_by_the_job_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = error_of(capsys, "status", "gone.zarr")
    assert (code, said.startswith("the output: nothing to read")) == ("output.not-found", True)


WRITING = {
    "no-job.zarr": "output.exists",
    "file": "output.exists",
    "file/new.zarr": "output.unwritable",
    CLOSED: "output.unwritable",
    "raw.tif": "output.format",
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("bad", WRITING)
@pytest.mark.parametrize(
    "command", ["convert s.tif {} --voxel-size 8,8,8", "crappify raw.zarr {}", "enhance raw.zarr {} --model FAKE"]
)
def test_a_place_that_cannot_be_written_is_an_output(capsys: pytest.CaptureFixture[str], bad: str, command: str) -> None:
    code, said = error_of(capsys, *(word.format(bad).replace("FAKE", FAKE) for word in command.split()))
    assert re.fullmatch(WRITING[bad], code), said
    assert "input" not in said
    assert "AWS" not in said


@pytest.mark.usefixtures("places")
def test_a_file_where_the_jobs_folder_has_to_stand_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken.zarr.job").write_text("x")
    code, said = error_of(capsys, "enhance", "raw.zarr", "taken.zarr", "--model", FAKE)
    assert (code, "is no folder; the job's folder has to stand there" in said) == ("ledger.exists", True)


CLOSED_TO_US = {
    **{command: ("input.unreadable", noun) for command, noun in READING.items()},
    "status {}": ("output.unreadable", "the output: "),
    "verify {}": ("output.unreadable", "the output: "),
    "convert s.tif {} --voxel-size 8,8,8": ("output.unreadable", "the output: "),
    "crappify raw.zarr {}": ("output.unreadable", "the output: "),
    "enhance raw.zarr {} --model FAKE": ("output.unreadable", "the output: "),
    "model show {}": ("model.unreadable", "the model "),
    "enhance raw.zarr new.zarr --model {}": ("model.unreadable", "the model "),
    "enhance raw.zarr new.zarr --model FAKE --statistics {}": ("config.statistics", "--statistics"),
    "enhance --config {}": ("config.file", ""),
    "train {}": ("config.file", ""),
}


def test_what_lies_below_a_folder_that_is_closed_to_us_is_told_by_its_name(
    places: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = str(places / "closed")

    def closing(function: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *more: object, **options: object) -> object:
            if isinstance(path, str | Path) and str(path).startswith(f"{closed}/"):  # root passes everywhere
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *more, **options)

        return call

    for name in ("stat", "lstat", "open", "mkdir", "scandir", "listdir"):
        monkeypatch.setattr(os, name, closing(getattr(os, name)))
    for command, (wanted, noun) in CLOSED_TO_US.items():
        code, said = error_of(capsys, *(word.format(f"{closed}/v").replace("FAKE", FAKE) for word in command.split()))
        assert code == wanted, (command, code, said)
        assert said.removeprefix("the input: ").startswith(noun), (command, said)


HINTS = {
    "s3://bucket/v": ("AWS_REGION", "GOOGLE"),
    "gs://bucket/v": ("GOOGLE_APPLICATION_CREDENTIALS", "AWS"),
    "https://host/v": ("server", "AWS|GOOGLE"),
    "/a/v": ("permission", "AWS|GOOGLE|server"),
}


@pytest.mark.parametrize("place", HINTS)
def test_credentials_are_spoken_of_for_buckets_alone(place: str) -> None:
    wanted, unwanted = HINTS[place]
    hint = unwritable(place, OSError("no")).hint
    assert re.search(wanted, hint)
    assert not re.search(unwanted, hint)
    assert unwritable("a patch", OSError("no"), place).hint == hint


def test_a_bucket_that_cannot_be_reached_speaks_of_its_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InputError) as caught:
        read_key("s3://bucket/v.zarr", "zarr.json")
    assert (caught.value.code, "AWS_ENDPOINT_URL" in caught.value.hint) == ("input.unreadable", True)

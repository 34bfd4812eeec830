"""What the program says: -q what is wrong alone, -v more, and --log-file all of it, of every worker, without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli._tables import SCREEN
from volumetool.cli.main import main

import volumetool.storage.open
from volumetool.logs import LOG_FILE

pytestmark = pytest.mark.xdist_group("logging")  # one volume for all in one process

FAKE = "fake:identity?scale=1,2,2"
LINE = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (DEBUG|INFO|WARNING|ERROR) (\S+:\d+) (volumetool[\w.]*): ", re.MULTILINE
)
SIGNED = "https://user:geheim@example.org/v.zarr?signature=geheim"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a small volume."""
    place = tmp_path_factory.mktemp("logging")
    tifffile.imwrite(
        place / "s.tif", np.random.default_rng(1).integers(1, 255, (8, 60, 60), np.uint8), photometric="minisblack"
    )
    assert run("convert", place / "s.tif", place / "raw.zarr", "--voxel-size", "8,32,32") == 0
    return place


def run(*words: object) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_quiet_says_nothing_but_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("enhance", folder / "raw.zarr", folder / "quiet.zarr", "--model", FAKE, "-q", "--json") == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["kind"], err) == ("run", "")
    assert run("-q", "validate", folder / "quiet.zarr", "--viewer", "fiji") == 4
    out, err = capsys.readouterr()
    assert (out, "viewer.format" in err, "findings" in err) == ("", True, False)
    assert run("info", folder / "nowhere", "--quiet") == 2
    assert "[input.not-found]" in capsys.readouterr().err
    assert run("status", folder / "quiet.zarr", "--quiet") == 0
    assert "complete" in capsys.readouterr().out  # what is asked for is no noise


@pytest.mark.parametrize("place", [("-v", "enhance"), ("enhance", "-v")])
def test_verbose_says_what_modules_do_and_each_event(
    folder: Path, place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / f"verbose{place.index('-v')}.zarr"
    assert run(*place, folder / "raw.zarr", output, "--model", FAKE) == 0
    err = capsys.readouterr().err
    assert f"{output}: a new plan " in err
    assert "region 0 is done after " in err
    assert run("enhance", folder / "raw.zarr", output, "--model", FAKE) == 0
    assert "the stored plan" not in capsys.readouterr().err
    assert run("enhance", folder / "raw.zarr", output, "-q", "-v") == 2
    assert "--quiet and --verbose contradict each other" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_log_has_times_workers_and_modules_and_grows(
    count: int, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    output, log = f"logged{count}.zarr", f"run{count}.log"
    options = "--model", FAKE, "--workers", count, "--region", "1,1,1", "--shard", "8,32,32", "--chunk", "8,32,32"
    assert run("enhance", "raw.zarr", output, *options, "--log-file", log) == 0
    assert "region 0 is done after" not in capsys.readouterr().err
    text = (folder / log).read_text()
    assert [line for line in text.splitlines() if not (LINE.match(line) or line.startswith("    "))] == []
    workers = {found[3] for found in LINE.finditer(text) if found[4] == "volumetool.jobs.execution.worker"}
    assert len(workers) == count
    assert any(worker.endswith(f":{os.getpid()}") for worker in workers) == (count == 1)
    assert "INFO" in text.splitlines()[0]
    assert f"volumetool enhance raw.zarr {output}" in text.splitlines()[0]
    assert run("status", output, "--log-file", log) == 0
    assert (folder / log).read_text().startswith(text)
    assert "volumetool status" not in text


def test_a_log_has_no_secret_and_the_screen_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = folder / "secret.log"
    assert run("info", SIGNED, "--log-file", log) == 2
    shown = capsys.readouterr()

    def fail(*_: object, **__: object) -> None:
        raise KeyError(SIGNED)

    monkeypatch.setattr(volumetool.storage.open, "open_volume", fail)
    assert run("info", SIGNED, "--log-file", log) == 1
    again = capsys.readouterr()
    text = log.read_text()
    assert "geheim" not in text + shown.out + shown.err + again.out + again.err
    assert "Traceback" not in shown.err + again.err
    assert text.count("Traceback") == 2
    assert "raise KeyError(SIGNED)" in text


@pytest.mark.parametrize(
    ("words", "shown"), [((), {"error"}), (("-v",), {"error"}), (("-vv",), {"info", "warning", "error", "deprecation"})]
)
def test_libraries_are_quiet_unless_they_fail_or_are_asked(
    words: tuple[str, ...], shown: set[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def chat(*_: object, **__: object) -> None:
        for level in ("info", "warning", "error"):
            getattr(logging.getLogger("library.part"), level)(f"library {level}")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("library deprecation", DeprecationWarning, stacklevel=1)

    monkeypatch.setattr(volumetool.storage.info, "describe_volume", chat)
    monkeypatch.setattr("volumetool.cli.info.print_json", lambda *_: None)
    log = folder / f"library{len(words and words[0])}.log"
    assert run("info", folder / "raw.zarr", *words, "--json", "--log-file", log) == 0
    assert set(re.findall(r"library (\w+)", capsys.readouterr().err)) == shown
    assert {"library warning", "library deprecation"} <= set(re.findall(r"library \w+", log.read_text()))


def test_a_log_that_cannot_be_written_is_an_error_before_anything_is_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", folder / "raw.zarr", "--log-file", folder / "no" / "run.log") == 2
    assert "[output.unwritable]" in capsys.readouterr().err


def test_a_log_whose_disk_is_full_stops_no_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    assert run("info", folder / "raw.zarr", "--log-file", "/dev/full") == 0
    err = capsys.readouterr().err
    assert (err.count("warning: /dev/full, the log, cannot be written"), "Traceback" in err) == (1, False)


def test_the_environment_names_a_log_and_logging_is_left_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger("volumetool").level, SCREEN.level
    monkeypatch.setenv(LOG_FILE, str(folder / "named.log"))
    assert run("info", folder / "raw.zarr", "-vv") == 0
    assert "volumetool" in (folder / "named.log").read_text()
    assert (list(logging.getLogger().handlers), logging.getLogger("volumetool").level, SCREEN.level) == before
    assert os.environ[LOG_FILE] == str(folder / "named.log")

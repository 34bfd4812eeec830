"""The command line as its users meet it: its streams and its exit code, in turn in a real process and in this one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import tifffile
from volumetool.cli._tables import print_facts
from volumetool.cli.main import main

Run = Callable[..., subprocess.CompletedProcess[str]]
FAKE = "fake:identity?scale=1,2,2"


@pytest.fixture(scope="module")
def start() -> Run:
    """Return a function that runs the installed ``volumetool`` with arguments as a process."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("volumetool"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)

    return call


@pytest.fixture(scope="module")
def run() -> Run:
    """Return a function that does the same in this process, which has loaded torch already."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess([], ended.value.code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="module")
def volume(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert a small stack into a volume."""
    folder = tmp_path_factory.mktemp("cli")
    stack = np.random.default_rng(1).integers(1, 255, (5, 30, 41)).astype(np.uint8)
    tifffile.imwrite(folder / "stack.tif", stack)
    done = run("convert", folder / "stack.tif", folder / "volume.zarr", "--voxel-size", "8,32,32")
    assert done.returncode == 0, done.stderr
    return folder / "volume.zarr"


def test_help_names_every_command(start: Run) -> None:
    text = start("--help").stdout
    names = "demo info convert crappify enhance train evaluate status verify attest clean validate bench model schema"
    for name in names.split():
        assert f" {name} " in text


def test_info_speaks_json_on_stdout_alone(start: Run, volume: Path) -> None:
    done = start("info", volume, "--json")
    facts = json.loads(done.stdout)
    assert (facts["dtype"], facts["levels"][0]["shape"]) == ("uint8", [5, 30, 41])
    assert done.stderr == ""


def test_a_dry_run_writes_nothing(run: Run, volume: Path) -> None:
    before = sorted(volume.parent.rglob("*"))
    done = run("enhance", volume, volume.parent / "dry.zarr", "--model", FAKE, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "patches" in done.stderr
    assert sorted(volume.parent.rglob("*")) == before


def test_what_is_printed_for_people_fits_80_columns(run: Run, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(volume.parent)  # short paths: a path is never cut
    plan = run("enhance", "volume.zarr", "wide.zarr", "--model", FAKE, "--dry-run", "--roi", "0:1,0:9,0:99")
    assert run("enhance", "volume.zarr", "wide.zarr", "--model", FAKE).returncode == 0
    done = run("status", "wide.zarr")
    printed = [*plan.stderr.splitlines(), *done.stdout.splitlines(), *run("model", "list").stdout.splitlines()]
    assert len(printed) > 50
    assert sum("Gain in dB over" in line for line in printed) >= 5
    assert [line for line in printed if len(line) > 80] == []


def test_enhance_begins_with_one_line_that_names_model_and_sizes(run: Run, volume: Path) -> None:
    done = run("enhance", volume, volume.parent / "first-line.zarr", "--model", FAKE)
    first = done.stderr.splitlines()[0]
    for words in ("fake-identity", "5 x 30 x 41 voxels of 8 x 32 x 32 nm -> 5 x 60 x 82 of 8 x 16 x 16 nm"):
        assert words in first


def test_enhance_status_verify_validate_in_turn(start: Run, run: Run, volume: Path) -> None:
    output = volume.parent / "enhanced.zarr"
    done = start("enhance", volume, output, "--model", FAKE, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] is True
    state = json.loads(run("status", output, "--json").stdout)
    assert (state["state"], state["done"], state["failed"]) == ("complete", state["regions"], 0)
    assert run("verify", output).returncode == 0
    assert run("validate", output).returncode == 0
    again = run("enhance", volume, output, "--model", FAKE, "--json")
    assert json.loads(again.stdout)["ran"] == 0


def test_wrong_words_are_told_to_programs_too(run: Run) -> None:
    """With --json, a usage error is an object of the form of every other error."""
    for words in (
        ["info", "--bogus", "--json"],
        ["convert", "--json"],
        ["bogus", "--json"],
        ["verify", "x", "--json", "--depth", "deep"],
    ):
        done = run(*words)
        assert done.returncode == 2
        error = json.loads(done.stdout)["error"]
        assert error["code"] == "config.usage"
        assert error["message"].split()[0] in done.stderr


def test_commands_that_do_not_compute_import_no_torch(run: Run, volume: Path) -> None:
    """Torch takes longer to import than any of these takes to answer."""
    output = volume.parent / "computed.zarr"
    assert run("enhance", volume, output, "--model", FAKE).returncode == 0
    commands = [
        ["info", volume],
        ["convert", volume, volume.parent / "copy.zarr"],
        ["pyramid", volume.parent / "copy.zarr"],
        ["validate", volume],
        ["status", output],
        ["verify", output, "--depth", "structure"],
        ["verify", output],
        ["clean", output],
        ["schema", "job"],
    ]
    code = """if True:
        import json, sys
        from volumetool.cli.main import main
        for command in json.loads(sys.argv[1]):
            try:
                main(command)
            except SystemExit as ended:
                if ended.code or "torch" in sys.modules:
                    sys.exit(f"{command} ended with {ended.code}, or imported torch")
    """
    texts = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", code, texts], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr


def test_other_settings_are_refused_with_their_name_and_exit_2(run: Run, volume: Path) -> None:
    output = volume.parent / "mine.zarr"
    assert run("enhance", volume, output, "--model", FAKE).returncode == 0
    done = run("enhance", volume, output, "--model", FAKE, "--invert")
    assert done.returncode == 2
    assert "[job.fingerprint]" in done.stderr
    assert "invert" in done.stderr


def test_a_process_ends_with_the_code_of_its_error(start: Run) -> None:
    assert start("enhance").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("info", "nowhere.zarr"), "input.not-found"),
        (("enhance", "nowhere.zarr", "out.zarr"), "input.not-found"),
        (("enhance",), "config.option"),
        (("status", "nowhere.zarr"), "output.no-job"),
        (("enhance", "--config", "nowhere.yaml"), "config.file"),
        (("model", "show", "em-x44"), "model.unknown"),
    ],
)
def test_a_wrong_command_ends_with_a_code_a_hint_and_no_traceback(run: Run, arguments: tuple[str, ...], code: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert f"[{code}]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_names_the_option(run: Run, volume: Path) -> None:
    done = run("enhance", volume, "out.zarr", "--roi", "1:2,3", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "config.option"
    assert "roi" in done.stderr


def test_log_format_json_gives_one_object_a_line(run: Run, volume: Path) -> None:
    done = run("enhance", volume, volume.parent / "logged.zarr", "--model", FAKE, "--log-format", "json")
    lines = done.stderr.splitlines()
    events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert events[0] == "RunStarted"
    assert "RegionEnded" in events


def test_schema_is_printed_as_json(run: Run) -> None:
    assert json.loads(run("schema", "job").stdout)["title"] == "Job"


def test_an_option_of_zero_is_an_option(run: Run, volume: Path) -> None:
    arguments = ("--model", FAKE, "--nodata", 0, "--fill", 0, "--seed", 0, "--dry-run", "--json")
    plan = json.loads(run("enhance", volume, volume.parent / "zero.zarr", *arguments).stdout)
    assert (plan["spec"]["nodata"], plan["spec"]["fill"]) == (0.0, 0.0)


def test_a_long_name_is_apart_from_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"state": "done", "network_seconds": 3.5})
    assert capsys.readouterr().out.splitlines() == ["state         done", "network seconds 3.5"]

"""A place is found however it is spelled: by every command, in files, and from Python."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import InputError
from volumetool.jobs.job import Job
from volumetool.paths import absolute_path
from volumetool.storage.io.kvstore import canonical_url, contains, join_url, kvstore_spec, parent_url

FAKE = "fake:identity?scale=1,2,2"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a small volume in a home folder with a blank in its name; the working directory is one below, reached by a link."""
    home = tmp_path / "my home"
    (home / "real" / "run").mkdir(parents=True)
    (home / "link").symlink_to(home / "real" / "run")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "link")
    stack = np.random.default_rng(1).integers(1, 255, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(home / "real" / "s.tif", stack, photometric="minisblack")
    vt.convert(home / "real" / "s.tif", str(home / "real" / "raw.zarr"), voxel_size=(8.0, 32.0, 32.0))
    return home


def call(*words: object) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


SPELLINGS = (
    "../raw.zarr", "..//raw.zarr/", "./../raw.zarr//.", "../../real/raw.zarr", "~/real/raw.zarr", "~/real/run/../raw.zarr",
    "{home}/link/../raw.zarr", "/{home}/real/./raw.zarr", "file://{quoted}/real/raw.zarr", "file:{quoted}/real/raw.zarr/",
    "file://localhost{quoted}/real/run/../raw%2Ezarr", "file://{quoted}/link/../raw.zarr", "zarr3://{home}/link/../raw.zarr",
)  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_volume_is_found_by_any_spelling_of_its_path(home: Path, spelling: str) -> None:
    place = spelling.format(home=home, quoted=quote(str(home)))
    assert vt.open_volume(place).identity == vt.open_volume(home / "real" / "raw.zarr").identity
    assert call("info", place) == 0


def test_every_command_takes_paths_that_go_up(home: Path, tiny_model: Path) -> None:
    out, (model, table) = "../run/../out.zarr", (os.path.relpath(tiny_model), "../out.zarr.job/sections.csv")
    assert call("convert", "../s.tif", "~/again.zarr", "--voxel-size", "8,32,32") == 0
    assert call("enhance", "../raw.zarr", out, "--model", model, "--mask", "../raw.zarr", "--device", "cpu") == 0
    for command in ("status", "verify", "clean", "validate", "info", "pyramid"):
        assert call(command, out) == 0, command
    assert call("enhance", "../raw.zarr", "../2.zarr", "--model", FAKE, "--statistics", table, "-n") == 0
    assert call("crappify", "../raw.zarr", "../low.zarr", "--scale", "1,2,2") == 0
    assert call("model", "show", model) == 0
    (home / "job.yaml").write_text(f"input: ../raw.zarr\noutput: ~/out2.zarr\nmodel: {FAKE}\n")
    assert call("enhance", "--config=~/real/../job.yaml") == 0
    assert (home / "out2.zarr" / "zarr.json").is_file()
    assert call("evaluate", "../raw.zarr", "../raw.zarr", "--report=~/r.html", "--blind", f"file://{quote(str(home))}/kit") == 0
    assert (home / "r.html").is_file()
    assert (home / "kit").is_dir()


def test_python_takes_path_objects_everywhere(home: Path) -> None:
    raw, out = Path("../raw.zarr"), Path("..") / "out.zarr"
    assert vt.enhance(raw, out, model=FAKE, mask=raw).complete
    assert Job.model_validate({"input": Path("s3://bucket/raw.zarr"), "output": out}).input == "s3://bucket/raw.zarr"
    assert canonical_url(Path("https://host/a/raw.zarr")) == "https://host/a/raw.zarr"
    assert vt.convert(raw, home / "c.zarr").url == str(home / "c.zarr")


def test_a_training_finds_what_its_file_names_beside_it(home: Path) -> None:
    from volumetool.training.config import read_config
    from volumetool.training.data.sources import _array

    for place in ("../s.tif", "~/real/s.tif", f"file://{quote(str(home))}/link/../s.tif"):
        (home / "real" / "run" / "train.yaml").write_text(f"name: x\nsources:\n- path: {place}\n  voxel_size: 8,32,32\n")
        (source,) = read_config(Path("../run/train.yaml")).sources
        assert _array(source.path, 0, source.voxel_size)[0].shape == (3, 20, 24)


def test_dots_in_urls_go_up_and_percent_signs_are_decoded() -> None:
    assert canonical_url("https://host/a/../b/./raw%20one.zarr/") == "https://host/b/raw%20one.zarr"
    assert canonical_url("s3://bucket/a/%2e%2E/b") == "s3://bucket/b"
    assert canonical_url("http://host/../../b") == "http://host/b"
    assert kvstore_spec("http://host/raw%20one.zarr")["path"] == "/raw one.zarr/"
    assert kvstore_spec("s3://bucket/raw%20one.zarr")["path"] == "raw one.zarr/"
    level = join_url("http://host/raw%20one.zarr", "level 0%")
    assert (level, parent_url(level)) == ("http://host/raw%20one.zarr/level%200%25", ("http://host/raw%20one.zarr", "level 0%"))


@pytest.mark.parametrize(
    "place", ["~nobody-of-this-name/v", "a\0b", "file:///a?b", "file:///a#b", "file://host/v", "file:///%00"]
)
def test_what_is_no_path_is_refused_by_name(place: str) -> None:
    with pytest.raises(InputError) as caught:
        canonical_url(place)
    assert caught.value.code == "input.url"


def test_an_output_inside_the_input_is_seen_through_links(home: Path) -> None:
    (home / "alias.zarr").symlink_to(home / "real" / "raw.zarr")
    assert contains("../raw.zarr", "~/alias.zarr/deeper")
    assert not contains("~/alias.zarr", "../raw.zarr-other")
    assert call("enhance", "../raw.zarr", "~/alias.zarr/out", "--model", FAKE) == 2
    assert call("convert", "../raw.zarr", "~/alias.zarr/out") == 2
    assert call("crappify", "../raw.zarr", "~/alias.zarr/out") == 2


@given(st.lists(st.sampled_from(["..", ".", "", "a", "link", "b", "~"]), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200, deadline=None)
def test_a_spelling_names_what_the_system_finds_there(tmp_path: Path, parts: list[str]) -> None:
    with suppress(FileExistsError):
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "b").mkdir()
        (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    text = f"{tmp_path}/" + "/".join(parts)
    path = absolute_path(text)
    assert path.is_absolute()
    assert not {"..", ".", ""} & set(path.parts)
    if os.path.exists(text):  # noqa: PTH110  (a Path would drop dots)
        assert path.samefile(text)
    assert absolute_path(path) == path


def test_a_deleted_working_directory_is_an_error_of_ours(tmp_path: Path) -> None:
    program = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from volumetool.errors import InputError\nfrom volumetool.paths import absolute_path\n"
        "try: absolute_path('v')\nexcept InputError as error: sys.exit(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "input.url"

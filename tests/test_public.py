"""The package as Python's users meet it: its names, what objects look like, and how a mistake is answered."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tifffile

import volumetool as vt
from volumetool.errors import ConfigError
from volumetool.jobs.job import make_job
from volumetool.live_view.show import Live
from volumetool.viewer.view import View

FAKE = "fake:identity?scale=1,2,2"
FUNCTIONS = [name for name in vt.__all__ if inspect.isfunction(getattr(vt, name))]


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


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_answers_a_misspelt_option_with_the_likely_one(name: str) -> None:
    function = getattr(vt, name)
    options = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
    meant = options[-1].name
    given = {each.name: "x" for each in options if each.default is each.empty and each.name != meant}
    with pytest.raises(ConfigError, match=f"did you mean {meant}") as caught:
        function(**given, **{f"{meant}x": "x"})
    assert caught.value.code == "config.option"


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


@pytest.mark.parametrize("kind", [str, Path, Place])
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
    with vt.view(kind(volume)) as shown, vt.view([kind(volume), kind(output)]):
        assert shown.layers[0].volume.url == os.fspath(kind(volume))

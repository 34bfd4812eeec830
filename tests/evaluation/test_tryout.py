"""A tryout shows what a job would store and what it would cost, on a page that trusts no name and asks nobody."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from volumetool.cli.main import main

import volumetool as vt
from volumetool.errors import ConfigError, OutputError, ResourceError
from volumetool.evaluation.pictures import grey_limits, to_grey
from volumetool.evaluation.tryout.places import choose_crops
from volumetool.evaluation.tryout.results import Tryout
from volumetool.geometry import Box
from volumetool.models import ModelCard, Normalisation, UNet, UNetConfig, VoxelSizeRange, save_model
from volumetool.storage.open import open_volume
from volumetool.storage.voxels import Source
from volumetool.training.data.phantom import phantom
from volumetool.viewer.browser import browser_flags, find_browser

IDENTITY = "fake:identity?scale=1,1,1"
HOSTILE = "<img src=x onerror=alert(1)> & 'a\".tif"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a small U-Net with random weights that says which error it expects."""
    config = UNetConfig(width=4, pools=((1, 2, 2),), expected_error=True)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    lattice: dict[str, Any] = {"patch": (1, 16, 16), "overlap": (0, 4, 4), "trim": (0, 1, 1), "receptive_field": (0, 12, 12)}
    meant: dict[str, Any] = {"voxel_size": VoxelSizeRange(smallest=(1.0, 16.0, 16.0), largest=(100.0, 64.0, 64.0))}
    own: dict[str, Any] = {"name": "tiny", "description": "For tests.", "licence": "BSD-3-Clause", "dims": 2}
    own |= {"scale": config.scale, "granularity": config.granularity, "normalisation": Normalisation(), "architecture": config}
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(file, network, ModelCard(**own, **lattice, **meant))
    return file


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a TIFF whose name is HTML."""
    file = tmp_path_factory.mktemp("stack") / HOSTILE.replace("/", "")
    tifffile.imwrite(file, phantom((12, 64, 80), 3), photometric="minisblack")
    return file


@pytest.fixture(scope="module")
def tried(stack: Path, model: Path) -> Tryout:
    return vt.try_models(
        stack, stack.parent / "page.html", models=[model, "fake:identity?dims=3&scale=2,1,1"], side=24, voxel_size=(8, 32, 32)
    )


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def pictures(page: Path) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures of a page by their alternative texts."""
    found = {}
    for tag, attributes in _Elements(page.read_text()).found:
        if tag == "img" and (attributes.get("src") or "").startswith("data:"):
            file = io.BytesIO(base64.b64decode((attributes["src"] or "").split(",", 1)[1]))
            found[attributes["alt"] or ""] = np.asarray(Image.open(file))
    return found


def test_a_crop_shows_the_bytes_that_the_job_stores_there(tried: Tryout, stack: Path, model: Path, tmp_path: Path) -> None:
    raw, shown = open_volume(str(stack), voxel_size=(8, 32, 32))[...], pictures(tried.page)
    for number, name in enumerate((str(model), "fake:identity?dims=3&scale=2,1,1")):
        vt.enhance(stack, tmp_path / f"{number}.zarr", model=name, voxel_size=(8, 32, 32))
        stored, label = open_volume(str(tmp_path / f"{number}.zarr"))[...], tried.models[number].model
        scale = tuple(fine // coarse for fine, coarse in zip(stored.shape, raw.shape, strict=True))
        for crop in tried.crops:
            limits = grey_limits(raw[crop.section][crop.box.slices[1:]])
            own = stored[crop.box.enlarged((scale[0], scale[1], scale[2])).slices]
            section = (crop.section - crop.box.start[0]) * scale[0] + (scale[0] - 1) // 2
            assert np.array_equal(shown[f"{label}, {crop.name}, section"], to_grey(own[section], limits))
            assert np.array_equal(shown[f"{label}, {crop.name}, from the side"], to_grey(own[:, own.shape[1] // 2], limits))


def test_a_bad_section_at_the_end_of_a_crop_is_filled_as_the_job_fills_it(tmp_path: Path) -> None:
    """From good sections, of which one lies outside of the crop."""
    voxels = phantom((20, 64, 64), 5)
    voxels[6] = np.random.default_rng(0).integers(0, 255, voxels[6].shape)
    tifffile.imwrite(tmp_path / "raw.tif", voxels, photometric="minisblack")
    options: dict[str, Any] = {"voxel_size": (200, 32, 32), "repair_sections": "fill"}
    found = vt.try_models(tmp_path / "raw.tif", tmp_path / "p.html", models=[IDENTITY], at=(10, 32, 32), side=32, **options)
    vt.enhance(tmp_path / "raw.tif", tmp_path / "out.zarr", model=IDENTITY, **options)
    box, stored = found.crops[0].box, open_volume(str(tmp_path / "out.zarr"))[...]
    assert box.start[0] == 6
    assert not np.array_equal(stored[6], voxels[6])
    limits = grey_limits(voxels[10][box.slices[1:]])
    side = pictures(found.page)[f"{found.models[0].model}, as asked, from the side"]
    assert np.array_equal(side, to_grey(stored[box.slices][:, 16], limits))


def test_the_costs_are_those_of_the_dry_run(tried: Tryout, stack: Path, model: Path, tmp_path: Path) -> None:
    plan = vt.plan(vt.Job(input=stack, output=tmp_path / "o.zarr", model=model, voxel_size=(8, 32, 32)))
    first = tried.models[0]
    assert (first.read_bytes, first.written_bytes, first.objects) == (
        plan.estimates.read_bytes,
        plan.estimates.written_bytes,
        plan.estimates.objects,
    )


def test_the_command_on_the_page_plans_the_very_job(tried: Tryout, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(tried.models[0].command)
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--dry-run", "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["estimates"]["written_bytes"] == tried.models[0].written_bytes


def test_crops_are_chosen_by_rule_and_the_same_each_time(tried: Tryout, stack: Path) -> None:
    voxels = tifffile.imread(stack)
    source: Any = type("Stack", (Source,), {"read": lambda _, box: voxels[box.slices]})(None)
    again = choose_crops(source, Box.whole(voxels.shape), (12, 24, 24), None, (11, "damaged"), lambda _: None)
    assert again == tried.crops  # the plan calls the last section of this phantom damaged
    assert [crop.name for crop in tried.crops] == ["textured", "flat", "large shapes", "worst section"]
    assert len({(crop.box, crop.section) for crop in tried.crops}) == 4


def test_a_rule_finds_what_it_is_for() -> None:
    random = np.random.default_rng(0)
    yy, xx = np.mgrid[:96, :96]
    volume = np.full((9, 96, 96), 120.0)
    volume += 6 * np.sin((yy + xx) / 2)  # everywhere a little
    volume[:, :32, :32] += 60 * np.sign(np.sin(yy + 2 * xx)[:32, :32])  # lines
    volume[:, 64:, 64:] = 120 + random.normal(0, 0.1, (9, 32, 32))  # nothing
    volume[:, :32, 64:] += 60 * np.cos(np.hypot(yy - 16, xx - 80) / 6)[:32, 64:]  # a large shape
    volume += random.normal(0, 1, volume.shape)
    volume[5] += random.normal(0, 25, (96, 96))
    source: Any = type("Array", (Source,), {"read": lambda _, box: volume[box.slices]})(None)
    crops = choose_crops(source, Box.whole((9, 96, 96)), (1, 32, 32), None, None, lambda _: None)
    found = {crop.name: crop for crop in crops}
    assert found["textured"].box.start[1:] == (0, 0)
    assert found["flat"].box.start[1:] == (64, 64)
    assert found["large shapes"].box.start[1:] == (0, 64)
    assert found["worst section"].section == 5
    *_, worst = choose_crops(source, Box.whole((9, 96, 96)), (1, 32, 32), None, (7, "soft"), lambda _: None)
    assert (worst.name, worst.section) == ("worst section", 7)
    assert "that the plan calls soft" in worst.rule


def test_where_nothing_has_contrast_the_middle_is_shown() -> None:
    source: Any = type("Blank", (Source,), {"read": lambda _, box: np.zeros(box.shape, np.uint8)})(None)
    (crop,) = choose_crops(source, Box.whole((9, 96, 96)), (3, 32, 32), None, None, lambda _: None)
    assert (crop.name, crop.box) == ("middle", Box((3, 32, 32), (6, 64, 64)))


def test_a_hostile_name_is_shown_and_not_obeyed(tried: Tryout) -> None:
    text = tried.page.read_text()
    assert "onerror=alert(1)&gt;" in text
    for tag, attributes in _Elements(text).found:
        assert not any(name.startswith("on") for name in attributes), tag
        assert tag != "img" or (attributes.get("src") or "data:").startswith("data:")


def test_the_page_fetches_nothing_and_runs_its_own_script_alone(tried: Tryout) -> None:
    text = tried.page.read_text()
    elements = _Elements(text).found
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (body,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    assert not any("style" in attributes for _, attributes in elements)
    assert {tag for tag, _ in elements} & {"link", "iframe", "object", "form", "base"} == set()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.usefixtures("chromium")
def test_in_a_browser_the_script_runs_under_its_policy_and_fills_both_sides(tried: Tryout) -> None:
    words = [find_browser(), *browser_flags(), "--dump-dom", tried.page.as_uri()]
    dom = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    assert 'class="scripted"' in dom
    images = [a for tag, a in _Elements(dom).found if tag == "img" and a.get("class") in ("left", "right")]
    assert len(images) == 4 * len(tried.crops)
    assert all((image.get("src") or "").startswith("data:image/png") and image["alt"] for image in images)


def test_every_picture_is_described_and_every_control_has_a_name(tried: Tryout) -> None:
    elements = _Elements(tried.page.read_text()).found
    assert len(pictures(tried.page)) == len(tried.crops) * (4 * 2 + 1)  # raw, bilinear, two models; the error has no side view
    assert all(attributes.get("aria-label") for tag, attributes in elements if tag == "button")
    assert len(tried.models[0].expected_error) == len(tried.crops)
    assert tried.models[1].expected_error == ()


def test_the_command_prints_what_the_function_returns(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["try", str(stack), str(stack.parent / "c.html"), "--model", IDENTITY, "--at", "3,20,20", "--side", "24"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--voxel-size", "8,32,32", "--json"])
    assert ended.value.code in (0, None)
    printed = json.loads(capsys.readouterr().out)
    assert printed["kind"] == "tryout"
    assert [crop["name"] for crop in printed["crops"]] == ["as asked"]
    assert printed["crops"][0]["box"] == {"start": [0, 8, 8], "stop": [12, 32, 32]}
    assert printed["models"][0]["command"].startswith("volumetool enhance ")


def test_a_model_that_cannot_be_planned_is_a_row_with_the_reason_and_stops_no_other(stack: Path) -> None:
    asked: dict[str, Any] = {"at": (3, 20, 20), "side": 24, "voxel_size": (8, 8, 8), "memory": "450MiB"}
    tried = vt.try_models(stack, stack.parent / "f.html", models=["em-iso2", IDENTITY], **asked)
    assert [each.model for each in tried.models] == ["fake-identity"]
    ((name, reason),) = tried.left_out
    assert name == "em-iso2"
    assert "MiB" in reason
    assert "not tried: " in tried.page.read_text()
    with pytest.raises(ResourceError):
        vt.try_models(stack, stack.parent / "g.html", models=["em-iso2"], **asked)


def test_a_place_outside_the_volume_is_refused(stack: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing"):
        vt.try_models(stack, stack.parent / "d.html", models=[IDENTITY], at=(99, 0, 0), voxel_size=(8, 32, 32))
    assert not (stack.parent / "d.html").exists()


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_opened(stack: Path) -> None:
    for page in (stack.parent / "no" / "e.html", stack.parent):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            vt.try_models("no-such-volume.zarr", page)
        assert caught.value.code == "output.unwritable"


@pytest.mark.slow
def test_of_a_single_section_no_model_makes_further_ones(stack: Path, tmp_path: Path) -> None:
    section = tmp_path / "section.tif"
    tifffile.imwrite(section, vt.open_volume(stack, voxel_size=(30, 16, 16))[0], photometric="minisblack")
    found = vt.try_models(section, tmp_path / "try.html", voxel_size=(30, 16, 16), side=64)
    assert [each.model for each in found.models] == ["em-x4", "em-x2", "em-denoise"]

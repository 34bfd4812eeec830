"""What a real browser reads and draws: voxels of every level, edges that coincide, pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import neuroglancer
import numpy as np
import pytest
from numpy.typing import NDArray
from small_jobs import SMALL, Interrupting, noise, run, write_input
from small_views import alter_levels, at_url, bright_box, pixels, with_unit, without_units, write_n5, write_zarr2

from volumetool.geometry import plan_levels
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.records.in_flight import InFlight
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.run import RunResult
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.storage.open import open_volume
from volumetool.storage.writing.names import WrittenName
from volumetool.viewer.browser import browsing, capture
from volumetool.viewer.page import Page
from volumetool.viewer.progress import LEGEND
from volumetool.viewer.state import Look
from volumetool.viewer.view import View, view

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("chromium"), pytest.mark.xdist_group("browser")]

PICTURE = (720, 360)
DARK, BRIGHT = 50, 200
NM_PER_PIXEL = 2.0


@dataclass
class Screen:
    """A view in a running browser."""

    shown: View
    state: dict[str, Any]
    browser: subprocess.Popen[bytes]

    @property
    def page(self) -> Page:
        return self.shown.page

    def picture(self) -> NDArray[np.uint8]:
        return pixels(capture(self.page, self.browser, PICTURE))


@contextmanager
def opened(volumes: Sequence[Path | str], *, blank: bool = False, **options: Any) -> Iterator[Screen]:
    """Open volumes in a browser; `blank` waits for somebody to say what is drawn."""
    with view(list(map(str, volumes)), Look(picture=PICTURE), **options) as shown:
        state = shown.page.state.to_json()
        if blank:
            shown.page.show(state | {"layers": [], "layout": "xy"})
        with browsing(shown.link, PICTURE) as browser:
            yield Screen(shown, state, browser)


def test_the_client_reads_the_voxels_of_every_level(job: RunResult, tmp_path: Path) -> None:
    # The client hands out voxels of levels whose corner lies on a voxel of the view's grid: with all corners at 0 each does.
    def at_corner(levels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for level in levels:
            scale = level["coordinateTransformations"][0]["scale"]
            level["coordinateTransformations"][1:] = [{"type": "translation", "translation": [size / 2 for size in scale]}]
        return levels

    copy = alter_levels(Path(job.plan.output), tmp_path / "copy.zarr", at_corner)
    volume, random = open_volume(copy), np.random.default_rng(0)
    assert len(volume.levels) >= 4
    with opened([copy]) as screen:
        for number, level in enumerate(volume.levels):
            scales = [size / 1e9 for size in level.voxel_size]
            dimensions = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="m", scales=scales)
            through = screen.page.volume("copy.zarr", dimensions=dimensions).result(timeout=120)
            # Along y and x a level that was rounded up is told to end with the volume.
            wanted = [level.shape[0], *(n >> number for n in volume.shape[1:])]
            assert list(through.shape) == wanted
            stored = volume.open(number)
            for start in random.integers(0, wanted, (4, 3)):
                # One chunk at a time: neuroglancer's own bookkeeping of many requests at once may wait for itself.
                stop = np.minimum((start // level.chunk + 1) * level.chunk, wanted)
                box = tuple(slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
                np.testing.assert_array_equal(through[box].read().result(), stored[box].read().result())


def cube(*shape: int) -> NDArray[np.uint8]:
    """Return a bright box in the middle half of a dark one: its faces lie on voxels of every level."""
    made = np.full(shape, DARK, np.uint8)
    made[tuple(slice(n // 4, -n // 4) for n in shape)] = BRIGHT
    return made


def boxes_of(screen: Screen, red: str, green: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Draw one layer in red and one in green, in an xy and an xz panel; return where each panel is red and where green."""
    state = screen.state
    layers = {layer["name"]: layer for layer in state["layers"]}
    drawn = []
    for name, colour in ((red, "normalized(), 0.0, 0.0"), (green, "0.0, normalized(), 0.0")):
        shader = f"#uicontrol invlerp normalized\nvoid main() {{ emitRGB(vec3({colour})); }}"
        look = {
            "blend": "additive",
            "opacity": 1,
            "shader": shader,
            "shaderControls": {"normalized": {"range": [DARK, BRIGHT]}},
        }
        drawn.append(layers[name] | look | {"name": f"as {name}"})
    panels = [{"type": "viewer", "layout": plane, "layers": [layer["name"] for layer in drawn]} for plane in ("xy", "xz")]
    finest = min(scale for scale, _ in state["dimensions"].values()) * 1e9
    shown = {"layers": drawn, "layout": {"type": "row", "children": panels}, "showScaleBar": False}
    screen.page.show(state | shown | {"crossSectionScale": NM_PER_PIXEL / finest})
    halves = np.split(screen.picture(), 2, axis=1)
    return [(bright_box(half[..., 0]), bright_box(half[..., 1])) for half in halves]


def largest_difference(boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> float:
    return max(abs(a - b) for red, green in boxes for a, b in zip(red, green, strict=True))


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("scale", "model", "voxel_size"),
    [
        ((1, 4, 4), "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1", (8.0, 32.0, 32.0)),
        ((2, 2, 2), "fake:identity?dims=3&scale=2,2,2&patch=8,8,8&overlap=2,2,2&trim=0,0,0", (16.0, 16.0, 16.0)),
    ],
)
def test_edges_of_raw_and_enhanced_coincide_on_every_level(
    tmp_path: Path, scale: tuple[int, int, int], model: str, voxel_size: tuple[float, float, float]
) -> None:
    raw = write_input(tmp_path / "raw.zarr", cube(64 // scale[0], 32, 32), voxel_size=voxel_size, levels=2)
    output = tmp_path / "out.zarr"
    assert run(
        **{**SMALL, "input": str(raw), "output": str(output), "model": model, "chunk": "4,8,8", "shard": "16,32,32"}
    ).complete
    count = len(open_volume(output).levels)
    assert count >= 3

    def alone(source: Path, number: int) -> Path:
        return alter_levels(source, tmp_path / f"{source.stem}-{number}.zarr", lambda levels: [levels[number]])

    levels = [alone(output, number) for number in range(count)]
    misplaced = alter_levels(levels[0], tmp_path / "misplaced.zarr", _without_translation)
    half = min(open_volume(output).voxel_size) / 2 / NM_PER_PIXEL
    with opened([raw, alone(raw, 1), *levels, misplaced], blank=True) as screen:
        for level in levels:
            assert largest_difference(boxes_of(screen, "raw.zarr", level.name)) <= half, level.name
        boxes = boxes_of(screen, "raw-1.zarr", "out-0.zarr")
        assert largest_difference(boxes) <= half
        top, bottom, left, right = boxes[0][0]
        assert (bottom - top, right - left) == (16 * voxel_size[1] / NM_PER_PIXEL, 16 * voxel_size[2] / NM_PER_PIXEL)
        # The measure sees what it is there for: an output without the half-voxel shift.
        shift = (scale[2] - 1) / 2 * voxel_size[2] / scale[2] / NM_PER_PIXEL
        assert largest_difference(boxes_of(screen, "raw.zarr", "misplaced.zarr")) == pytest.approx(shift, abs=1)


def _without_translation(levels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for level in levels:
        level["coordinateTransformations"][1]["translation"] = [0.0, 0.0, 0.0]
    return levels


def test_edges_coincide_in_every_format(tmp_path: Path) -> None:
    size = (8.0, 16.0, 16.0)
    ome = write_input(tmp_path / "ome.zarr", cube(32, 32, 32), voxel_size=size)
    n5, bare = write_n5(tmp_path / "volume.n5", cube(32, 32, 32), size), write_zarr2(tmp_path / "bare.zarr", cube(32, 32, 32))
    with opened([ome, n5, bare, ome / "0"], blank=True, voxel_size=size) as screen:
        for name in ("volume.n5", "bare.zarr", "0"):
            assert largest_difference(boxes_of(screen, "ome.zarr", name)) <= 1, name


@pytest.mark.slow
def test_edges_coincide_in_every_format_that_is_written(tmp_path: Path) -> None:
    size, place = (8.0, 16.0, 16.0), (20.0, 40.0, 40.0)  # corners at whole voxels, as precomputed needs them
    source = write_input(tmp_path / "in.zarr", cube(32, 32, 32), voxel_size=size)
    levels = plan_levels((32, 32, 32), size, place, (8, 8, 8), (16, 16, 16))
    names: tuple[WrittenName, ...] = get_args(WrittenName)
    for name in names:
        convert_volume(plan_conversion(source, tmp_path / name, levels=levels, format=name))
    with opened([tmp_path / name for name in names], blank=True) as screen:
        for name in names[1:]:
            assert largest_difference(boxes_of(screen, names[0], name)) <= 1, name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ome-zarr at a URL", "n5", "zarr3", "ome-zarr"])
def test_edges_coincide_where_only_the_user_knows_the_voxel_size(tmp_path: Path, form: str) -> None:
    size, voxels = (8.0, 16.0, 16.0), cube(32, 32, 32)
    ome = write_input(tmp_path / "ome.zarr", voxels, voxel_size=size, levels=2)
    bare = tmp_path / "bare"
    if form == "n5":
        write_n5(bare, voxels, None)
    elif form == "zarr3":
        shutil.copytree(ome / "0", bare)
    else:
        without_units(ome, bare, (0.5, 1.0, 1.0))
    with at_url(bare, size) as url, opened([ome, url if form.endswith("URL") else bare], blank=True, voxel_size=size) as screen:
        assert largest_difference(boxes_of(screen, "ome.zarr", "bare")) <= 1


@pytest.mark.slow
def test_edges_coincide_whatever_the_unit_is_called(tmp_path: Path) -> None:
    ome = write_input(tmp_path / "ome.zarr", cube(32, 32, 32), voxel_size=(8.0, 16.0, 16.0), levels=2)
    others = [with_unit(ome, tmp_path / f"{unit}.zarr", unit, nm) for unit, nm in (("nm", 1), ("µm", 1000), ("micron", 1000))]
    # Of a URL the client reads a level alone.
    with at_url(others[0]) as url, opened([ome, *others, f"{url}/0"], blank=True) as screen:
        for name in (*(other.name for other in others), "0"):
            assert largest_difference(boxes_of(screen, "ome.zarr", name)) <= 1, name


@pytest.mark.slow
def test_nothing_is_drawn_beyond_the_volume(tmp_path: Path) -> None:
    # 37 x 45 voxels: levels round up, the coarsest to 40 x 48.
    voxels = np.full((8, 37, 45), BRIGHT, np.uint8)
    path = write_input(tmp_path / "in.zarr", voxels, voxel_size=(8.0, 8.0, 8.0), chunk=(8, 8, 8), levels=4)
    assert open_volume(path).levels[3].shape[1:] == (5, 6)
    with opened([path, path], blank=True) as screen:
        ((top, bottom, left, right), _), _ = boxes_of(screen, "in.zarr", "in.zarr (2)")
    assert (bottom - top, right - left) == pytest.approx((37 * 8 / NM_PER_PIXEL, 45 * 8 / NM_PER_PIXEL), abs=1)


def test_a_picture_shows_raw_beside_enhanced(job: RunResult, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    command = [
        sys.executable,
        "-m",
        "volumetool.cli.main",
        "view",
        job.plan.job.input,
        job.plan.output,
        "--size",
        "600,300",
    ]
    done = subprocess.run([*command, "--screenshot", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    picture = pixels(file.read_bytes())
    assert picture.shape == (300, 600, 3)
    raw, enhanced = (half[40:-60, 40:-40].astype(float) for half in np.split(picture, 2, axis=1))
    assert min(raw.std(), enhanced.std()) > 30
    # The identity enlarges: both halves show the same, one beside the other.
    assert max(np.corrcoef(raw[:, 9 + at : at - 9].ravel(), enhanced[:, 9:-9].ravel())[0, 1] for at in range(-8, 9)) > 0.8


def test_the_overlay_shows_the_regions_of_a_running_job_and_follows_it(tmp_path: Path) -> None:
    raw = write_input(tmp_path / "in.zarr", noise((8, 64, 64)))
    output = tmp_path / "out.zarr"
    options = {**SMALL, "input": str(raw), "output": str(output), "chunk": "8,32,32", "shard": "8,64,64", "region": "1,1,1"}
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(4), **options)
    plan = stored_plan(str(output))
    assert plan.grid.grid == (1, 4, 4)
    ledger = open_ledger(plan)
    ledger.append(Record(5, "failed"))
    ledger.append(Record(6, "done", patches=3, skipped=3))
    ledger.flush()
    with opened([output], progress=True) as screen, InFlight(JobDir(str(output)).url) as in_flight:
        list(in_flight.beginning(iter([8, 9])))
        expected = ["done"] * 4 + ["to do", "failed", "skipped", "to do"] + ["running"] * 2 + ["to do"] * 6
        assert _until(screen, expected) == expected
        ledger.append(Record(8, "done"))
        ledger.flush()
        in_flight.ended(8)
        expected[8] = "done"
        assert _until(screen, expected) == expected


def _until(screen: Screen, expected: list[str], patience: float = 120.0) -> list[str]:
    """Return what the picture says of 16 regions once it says what is expected, or as it is after a while."""
    until = time.monotonic() + patience
    while (seen := _states(screen.picture())) != expected and time.monotonic() < until:
        time.sleep(0.2)
    return seen


def _states(picture: NDArray[np.uint8]) -> list[str]:
    """Return the state whose tint is nearest in the middle of each of 4 x 4 regions of a grey volume as high as the picture."""
    names = {name: np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], float) for name, colour in LEGEND.values()}
    side = picture.shape[0] / 1.04 / 4
    middle = np.array(picture.shape[:2]) / 2
    seen = []
    for row in range(4):
        for column in range(4):
            y, x = (middle + (np.array([row, column]) - 1.5) * side).astype(int)
            tint = picture[y - 3 : y + 3, x - 3 : x + 3].reshape(-1, 3).mean(axis=0)
            # Voxels are grey: what is not grey comes from the overlay.
            wanted = {name: colour - colour.mean() for name, colour in names.items()}
            seen.append(min(wanted, key=lambda name: float(np.abs(tint - tint.mean() - 0.2 * wanted[name]).sum())))
    return seen

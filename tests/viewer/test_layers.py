"""Volumes become layers that lie where they belong, as bright as they should be."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import neuroglancer
import numpy as np
import pytest
from PIL import Image
from small_jobs import noise, write_input
from small_views import at_url, without_units, write_n5, write_zarr2

from volumetool.errors import ConfigError, InputError
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.run import RunResult
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.viewer.browser import name_panels
from volumetool.viewer.layers import Layer, client_url, make_layers
from volumetool.viewer.ngff_compat import read_from_afar
from volumetool.viewer.served_keys import files_of
from volumetool.viewer.state import Look, build_state, with_overlay
from volumetool.viewer.view import hosted_link, tunnel_command

SIZE = (30.0, 8.0, 4.0)


def _state(layers: list[Any], look: Look) -> dict[str, Any]:
    return build_state(layers, [layer.source("http://127.0.0.1:1/t/0") for layer in layers], look)


def test_every_format_is_read_by_the_clients_reader_of_that_format(formats: dict[str, Path]) -> None:
    layers = make_layers(list(map(str, formats.values())), SIZE)
    urls = [layer.source("http://127.0.0.1:1/t/0")["url"] for layer in layers]
    ends = ["zarr3:", "n5:", "neuroglancer-precomputed:", "zarr2:"]
    assert urls == [f"http://127.0.0.1:1/t/0/|{end}" for end in ends]


def test_formats_that_place_corners_are_put_where_ome_zarr_puts_centres(formats: dict[str, Path]) -> None:
    # Centres of first voxels: at 0 in OME-Zarr, N5 and Zarr as volumetool reads them, half a voxel further in precomputed.
    ome, n5, precomputed, bare = make_layers(list(map(str, formats.values())), SIZE)
    assert ome.corners[0] == n5.corners[0] == bare.corners[0] == (-15.0, -4.0, -2.0)
    assert precomputed.corners == ((0.0, 0.0, 0.0), (180.0, 80.0, 56.0))
    assert "transform" not in ome.source(None)
    assert "transform" not in precomputed.source(None)
    voxels = {"x": [4e-9, "m"], "y": [8e-9, "m"], "z": [3e-8, "m"]}
    assert n5.source(None)["transform"] == {
        "outputDimensions": voxels,
        "matrix": [[1, 0, 0, -0.5], [0, 1, 0, -0.5], [0, 0, 1, -0.5]],
    }
    # The client takes a voxel without a size for a metre.
    assert bare.source(None)["transform"]["matrix"] == [[3e-8, 0, 0, -0.5], [0, 8e-9, 0, -0.5], [0, 0, 4e-9, -0.5]]


def test_a_precomputed_input_is_put_where_its_corrected_voxel_size_says(formats: dict[str, Path]) -> None:
    path = formats["precomputed"]
    plain, twice = open_volume(path), open_volume(path, voxel_size=(60.0, 16.0, 8.0))
    assert read_from_afar(plain) is None
    assert "transform" not in Layer("raw", plain).source(None)
    assert files_of(plain).find("4_8_30/8-14_8-10_4-6") is not None
    source = Layer("raw", twice, read_as=read_from_afar(twice)).source(None)
    assert source["url"].endswith("/|neuroglancer-precomputed:")
    assert source["transform"] == {
        "outputDimensions": {"x": [8e-9, "m"], "y": [1.6e-8, "m"], "z": [6e-8, "m"]},
        "matrix": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]],
    }


def test_relative_scales_become_the_voxel_size_that_is_given(tmp_path: Path) -> None:
    ome = write_input(tmp_path / "in.zarr", noise((4, 130, 130)), voxel_size=SIZE, levels=2)
    bare = without_units(ome, tmp_path / "bare.zarr", (0.5, 1.0, 2.0))
    with pytest.raises(InputError, match="does not say how large"):
        make_layers([str(bare)])
    with at_url(bare, SIZE) as url:
        known, given, far = make_layers([str(ome), str(bare), url], SIZE)
        transform = far.source(None)["transform"]
    assert far.corners == given.corners == known.corners
    # On a disk of ours the metadata say it on the way to the client.
    assert "transform" not in known.source(None)
    assert "transform" not in given.source(None)
    assert transform["outputDimensions"] == {"z": [3e-8, "m"], "y": [8e-9, "m"], "x": [4e-9, "m"]}
    # Lengths without a unit are metres to the client.
    assert transform["matrix"] == [[3e-8 / 0.5, 0, 0, 0], [0, 8e-9, 0, 0], [0, 0, 4e-9 / 2, 0]]


def test_what_a_job_was_told_of_its_input_need_not_be_said_again(tmp_path: Path) -> None:
    source, output = write_zarr2(tmp_path / "bare.zarr", noise((6, 40, 40))), tmp_path / "out.zarr"
    options = {"input": str(source), "output": str(output), "model": "em-x4", "device": "cpu", "voxel_size": "8,32,32"}
    prepare(plan(make_job(**options)))
    raw, enhanced = make_layers([str(source), str(output)])
    assert raw.voxel_size == (8.0, 32.0, 32.0)
    assert raw.corners == enhanced.corners
    assert raw.window == enhanced.window


def test_a_single_level_of_an_image_is_placed_though_the_client_does_not_see_the_images_metadata(tmp_path: Path) -> None:
    path = write_input(tmp_path / "in.zarr", noise((4, 130, 130)), levels=2)
    (level,) = make_layers([str(path / "1")])
    assert level.volume.levels[0].path == ""
    assert level.source(None)["transform"]["outputDimensions"]["z"] == [16e-9, "m"]


def test_buckets_are_named_as_the_client_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert client_url("s3://bucket/a/b.zarr") == "s3://bucket/a/b.zarr"
    assert client_url("gs://bucket/a/") == "gs://bucket/a"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    assert client_url("s3://bucket/a/b.zarr") == "s3+http://127.0.0.1:9000/bucket/a/b.zarr"


def test_volumes_of_one_name_become_layers_of_two(tmp_path: Path) -> None:
    paths = [write_input(tmp_path / folder / "in.zarr", noise((2, 8, 8))) for folder in "ab"]
    assert [layer.name for layer in make_layers(list(map(str, paths)))] == ["in.zarr", "in.zarr (2)"]


def test_what_is_not_a_volume_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to read at"):
        make_layers([str(tmp_path / "nothing.zarr")])


def test_contrast_spans_the_sampled_percentiles_without_margins_of_zeros(tmp_path: Path) -> None:
    voxels = np.zeros((4, 64, 64), np.uint16)
    voxels[:, 8:, 8:] = np.random.default_rng(0).integers(1000, 2000, (4, 56, 56))
    (layer,) = make_layers([str(write_input(tmp_path / "in.zarr", voxels))])
    assert layer.window == pytest.approx((1005, 1995), abs=3)


def test_a_blank_volume_has_a_contrast_too(tmp_path: Path) -> None:
    (layer,) = make_layers([str(write_input(tmp_path / "in.zarr", np.zeros((2, 8, 8), np.uint8)))])
    assert layer.window == (0, 255)
    (layer,) = make_layers([str(write_input(tmp_path / "float.zarr", np.full((2, 8, 8), np.nan, np.float32)))])
    assert layer.window == (0, 1)


def test_input_and_output_of_a_job_have_the_contrast_that_the_job_fitted(tmp_path: Path) -> None:
    voxels = noise((6, 40, 40))
    source, output = write_input(tmp_path / "in.zarr", voxels), tmp_path / "out.zarr"
    prepare(plan(make_job(input=str(source), output=str(output), model="em-x4", device="cpu")))
    table = np.genfromtxt(tmp_path / "out.zarr.job" / "sections.csv", delimiter=",", names=True)
    fitted = (np.median(table["low"]), np.median(table["high"]))
    other = write_n5(tmp_path / "other.n5", voxels // 2, SIZE)
    raw, enhanced, beside = make_layers([str(source), str(output), str(other)])
    assert raw.window == enhanced.window == fitted
    assert beside.window != fitted


def test_positions_are_in_steps_of_the_finest_voxel_and_the_view_is_in_the_middle(job: RunResult) -> None:
    layers = make_layers([job.plan.job.input, job.plan.output])
    state = _state(layers, Look(picture=(1000, 500)))
    assert state["dimensions"] == {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [8e-9, "m"]}
    x, y, z = (at * 8 for at in state["position"])
    # 10 sections of 8 nm; 37 x 45 voxels of 32 nm whose first centre is at 0.
    assert (z, y, x) == (40.0, 37 * 16 - 16, 45 * 16 - 16)
    assert state["crossSectionScale"] * 8 == pytest.approx(max(45 * 32 / 500, 37 * 32 / 500), rel=0.05)
    assert [panel["layers"] for panel in state["layout"]["children"]] == [["in.zarr"], ["out.zarr"]]


def test_position_and_zoom_are_taken_in_nm(job: RunResult) -> None:
    state = _state(make_layers([job.plan.output]), Look(position=(16.0, 80.0, 800.0), zoom=4.0))
    assert state["position"] == [100.0, 10.0, 2.0]
    assert state["crossSectionScale"] == 0.5
    assert state["layout"] == "xy"


def test_layouts(job: RunResult) -> None:
    layers = make_layers([job.plan.output] * 4)
    rows = _state(layers, Look())["layout"]
    assert rows["type"] == "column"
    assert [len(row["children"]) for row in rows["children"]] == [3, 1]
    assert _state(layers[:1], Look("4panel"))["layout"] == "4panel"
    first, _ = _state(layers, Look("4panel"))["layout"]["children"]
    assert [(panel["layers"], panel["layout"]) for panel in first["children"]] == [
        ([layer.name], "4panel") for layer in layers[:3]
    ]
    wide, narrow = (_state(layers[:2], Look(layout))["crossSectionScale"] for layout in ("side-by-side", "4panel"))
    assert narrow == pytest.approx(2 * wide)
    overlay = _state(layers, Look("overlay"))
    assert overlay["layout"] == "xy"
    assert [layer["opacity"] for layer in overlay["layers"]] == [1.0, 0.5, 0.5, 0.5]


def test_an_overlay_joins_the_panel_of_its_volume(job: RunResult) -> None:
    layers = make_layers([job.plan.job.input, job.plan.output])
    state = with_overlay(_state(layers, Look()), "out.zarr", [{"name": "regions"}])
    assert [panel["layers"] for panel in state["layout"]["children"]] == [["in.zarr"], ["out.zarr", "regions"]]
    assert [layer["name"] for layer in state["layers"]] == ["in.zarr", "out.zarr", "regions"]


def test_a_layer_of_an_overlay_may_stand_apart(job: RunResult) -> None:
    names = [{"name": "regions"}, {"name": "heat"}]

    def panels(count: int, look: Look) -> Any:
        layers = make_layers([job.plan.output] * count)
        return with_overlay(_state(layers, look), "out.zarr", names, "heat")["layout"]

    assert [panel["layers"] for panel in panels(1, Look())["children"]] == [["out.zarr", "regions"], ["out.zarr", "heat"]]
    assert [panel["layers"] for panel in panels(2, Look())["children"]] == [
        ["out.zarr", "regions"],
        ["out.zarr (2)"],
        ["out.zarr", "heat"],
    ]
    rows, beside = panels(4, Look())["children"]
    assert (rows["type"], beside["layers"]) == ("column", ["out.zarr", "heat"])
    assert panels(2, Look("overlay")) == "xy"
    assert panels(1, Look("4panel")) == "4panel"


def test_a_link_for_others_refuses_what_only_this_machine_can_read(job: RunResult) -> None:
    with pytest.raises(ConfigError, match="on this machine's disks"):
        hosted_link([job.plan.output])


def test_a_link_for_others_holds_the_whole_view(job: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    (layer,) = make_layers([job.plan.output])
    assert isinstance(layer.volume, Volume)
    public = replace(layer, volume=replace(layer.volume, url="https://example.org/v.zarr"))
    monkeypatch.setattr("volumetool.viewer.view.make_layers", lambda *_: [public])
    link = hosted_link(["https://example.org/v.zarr"], hosted="https://viewer.example/")
    assert link.startswith("https://viewer.example/#!")
    state = neuroglancer.parse_url(link)
    assert state.layers[0].source[0].url == "https://example.org/v.zarr/|zarr3:"
    assert list(state.dimensions.names) == ["x", "y", "z"]


def test_the_tunnel_names_this_end_of_the_connection() -> None:
    assert tunnel_command((1, 2), None) is None
    command = tunnel_command((1, 2), "10.0.0.9 5000 10.0.0.1 22")
    assert command is not None
    assert command.startswith("ssh -N -L 1:127.0.0.1:1 -L 2:127.0.0.1:2 ")
    assert command.endswith("@10.0.0.1")


@pytest.mark.parametrize(
    ("layout", "rows", "columns"),
    [
        ("xy", 1, 1),
        ("4panel", 2, 2),
        ({"type": "row", "children": [{"type": "viewer", "layers": [name], "layout": "xy"} for name in "abc"]}, 1, 3),
        ({"type": "column", "children": [{"type": "viewer", "layers": [name], "layout": "4panel"} for name in "ab"]}, 4, 2),
    ],
)
def test_every_panel_of_a_picture_is_named_in_its_corner_and_nowhere_else(layout: Any, rows: int, columns: int) -> None:
    grey = Image.new("RGB", (600, 480), (90, 90, 90))
    file = io.BytesIO()
    grey.save(file, "PNG")
    named = Image.open(
        io.BytesIO(name_panels(file.getvalue(), {"layers": [{"name": name} for name in "abc"], "layout": layout}))
    )
    written = (np.asarray(named) != 90).any(axis=2)
    for row in np.split(written, rows):
        for panel in np.split(row, columns, axis=1):
            assert panel[:24, :100].any()
            assert not panel[24:].any()
            assert not panel[:, 100:].any()

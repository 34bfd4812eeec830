"""The benchmark: its arithmetic, and that it measures what it says. Never a speed."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from volumetool.cli.main import main

from volumetool.benchmark import bench as bench_module
from volumetool.benchmark import bench as module
from volumetool.benchmark import flops
from volumetool.benchmark.bench import bench, floor_seconds, made_up
from volumetool.benchmark.demo import write_volume
from volumetool.benchmark.flops import count_operations, product_rate
from volumetool.benchmark.result import BenchResult, Pair
from volumetool.errors import ConfigError, DataError, ResourceError
from volumetool.events import Event, Progressed
from volumetool.models import Model, UNet, UNetConfig, load_model
from volumetool.processing.operation import open_operation
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.pipeline import STAGES

MODEL = "fake:identity?patch=1,32,32&overlap=0,8,8&trim=0,2,2"


@pytest.fixture
def volume(tmp_path: Path) -> str:
    write_volume(tmp_path / "in.zarr", made_up((3, 50, 60), seed=1), (8.0, 32.0, 32.0))
    return str(tmp_path / "in.zarr")


def result(*pairs: Pair) -> BenchResult:
    return BenchResult(
        model="m",
        device="cpu",
        precision="float32",
        batch=4,
        streams=1,
        threads=2,
        workers=1,
        input_shape=(1, 1000, 1000),
        output_shape=(1, 4000, 4000),
        patches=80,
        computed=100,
        stored_bytes=20_000_000,
        operations=10**9,
        product_rate=5e10,
        pairs=pairs,
    )


def pair(network: float, write: float, floor: float, job: float, job_network: float) -> Pair:
    return Pair(network, write, floor, job, job_network, dict.fromkeys(STAGES, job / 2))


def test_medians_and_spread_over_the_pairs() -> None:
    found = result(pair(3, 1, 4, 5, 4), pair(6, 2, 8, 8, 4), pair(8, 2, 10, 12, 4))
    assert found.ratio == 1.2
    assert found.share == pytest.approx(10 / 12)
    assert not found.void
    facts = found.as_dict()
    assert facts["ratio"] == {"median": 1.2, "min": 1.0, "max": 1.25}
    assert facts["seconds"] == {"network": 6, "write": 2, "floor": 8, "job": 8, "job_network": 4}
    assert facts["stages"] == dict.fromkeys(STAGES, 4)
    assert len(facts["pairs"]) == 3
    json.dumps(facts)


def test_rates_come_from_medians() -> None:
    rates = result(pair(4, 2, 6, 8, 4)).rates
    assert rates == {
        "network_mvox_per_s": 4.0,
        "network_patches_per_s": 20.0,
        "write_mb_per_s": 10.0,
        "job_mvox_per_s": 2.0,
        "network_tflop_per_s": 0.02,
        "product_tflop_per_s": 0.05,
    }


def test_operations_are_those_of_the_convolutions() -> None:
    """A 3 x 3 convolution from c to d channels takes 18 c d operations a voxel: counted by hand for a network of one level."""
    width, scale, voxels = 4, (1, 1, 1), 16 * 24
    config = UNetConfig(width=width, scale=scale, pools=())
    model = Model(
        load_model("em-denoise").card.model_copy(update={"architecture": config}), "one level", UNet(config).state_dict()
    )
    by_hand = 18 * voxels * (width + 2 * width**2 + width)  # stem, the bottom's two, head
    assert count_operations(NetworkOperation(model), (1, 16, 24)) == by_hand
    assert count_operations(NetworkOperation(model), (1, 32, 24)) == 2 * by_hand


def test_a_network_without_convolutions_does_no_arithmetic() -> None:
    assert count_operations(open_operation("fake:identity"), (1, 32, 32)) == 0


def test_a_product_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of matrices of side 64, at 2 x 64 cubed operations: the rate is that over a time within what the whole took."""
    monkeypatch.setattr(flops, "SIDES", {"cpu": 64})
    started = time.perf_counter()
    rate = product_rate(torch.device("cpu"), "float32")
    assert rate >= 2 * 64**3 / (time.perf_counter() - started)


def test_one_job_below_its_floor_voids_the_run() -> None:
    below, above = pair(4, 0, 4, 3, 3), pair(4, 0, 4, 5, 3)
    assert result(below, below, above).void
    assert result(below, above, above).void
    assert not result(above, above, above).void


def test_beside_a_gpu_the_cores_write_while_it_computes() -> None:
    assert floor_seconds(5, 2, "cpu") == 7
    assert floor_seconds(5, 2, "cuda") == 5


def test_made_up_volumes_have_their_size_and_depend_on_the_seed() -> None:
    assert np.array_equal(made_up((2, 20, 300)), made_up((2, 20, 300)))
    assert made_up((2, 20, 300)).shape == (2, 20, 300)
    assert not np.array_equal(made_up((2, 20, 30), seed=1), made_up((2, 20, 30), seed=2))


def test_a_small_run_measures_both_and_leaves_nothing(volume: str, tmp_path: Path) -> None:
    scratch, told = tmp_path / "scratch", list[Event]()
    scratch.mkdir()
    found = bench(volume, pairs=2, model=MODEL, scratch=scratch, observer=told.append)
    assert len(found.pairs) == 2
    for each in found.pairs:
        assert min(each.network, each.write, each.job, each.job_network) > 0
        assert each.floor == each.network + each.write
        assert min(each.stages.values()) > 0
        assert max(each.stages.values()) < each.job
    assert found.input_shape == (3, 50, 60)
    assert found.output_shape == (3, 200, 240)
    assert found.ratio > 0
    assert told == [Progressed("measuring", done, 5) for done in (0, 1, 3, 5)]
    assert list(scratch.iterdir()) == []


def test_the_floor_asks_for_each_patch_once_however_often_the_job_does(volume: str) -> None:
    whole = bench(volume, pairs=1, model=MODEL, chunk=(1, 32, 32), shard=(1, 64, 64))
    cut = bench(volume, pairs=1, model=MODEL, chunk=(1, 32, 32), shard=(1, 64, 64), region=(1, 1, 1), batch=5)
    assert cut.patches == whole.patches == whole.computed
    assert cut.computed > cut.patches


def test_the_floor_writes_every_level(volume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(module, "_delete", written.append)
    found = bench(volume, pairs=1, model=MODEL, roi="0:2,0:32,0:32")
    levels = written[0].spec.levels
    assert found.output_shape == (2, 128, 128)
    assert found.stored_bytes == sum(int(np.prod(level.shape)) for level in levels)


def test_no_pairs_are_refused(volume: str) -> None:
    with pytest.raises(ConfigError, match="0 pairs"):
        bench(volume, pairs=0, model=MODEL)


def test_an_output_that_memory_cannot_hold_is_refused(volume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_SHARE", 1e-9)
    with pytest.raises(ResourceError, match="stay in memory") as caught:
        bench(volume, pairs=1, model=MODEL)
    assert "--roi" in caught.value.hint


def test_a_job_that_fails_is_no_measurement(tmp_path: Path) -> None:
    voxels = np.ones((2, 40, 40), np.float32)
    voxels[1, 3, 3] = np.nan
    write_volume(tmp_path / "in.zarr", voxels, (8.0, 32.0, 32.0))
    with pytest.raises(DataError) as caught:
        bench(str(tmp_path / "in.zarr"), pairs=1, model=MODEL, dtype="float32")
    assert caught.value.code in {"data.incomplete", "data.not-finite"}


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().model = "other"  # type: ignore[misc]


def test_the_command_prints_data_alone_with_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = result(pair(3, 1, 4, 5, 4))
    monkeypatch.setattr(bench_module, "bench", lambda *_, **__: measured)
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--history", str(tmp_path / "h.jsonl"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["share"], found["ratio"]) == ("benchmark", measured.share, measured.as_dict()["ratio"])


def drop_rate(history: Path, name: str) -> None:
    """Make a history one that was written before there was such a rate."""
    runs = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    for run in runs:
        del run["rates"][name]
    history.write_text("".join(json.dumps(run) + "\n" for run in runs))


def test_the_command_draws_the_stages_and_compares_with_the_run_before(
    volume: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BenchResult, "void", property(lambda _: False))  # a job this small is mostly noise
    words = ["bench", volume, "--pairs", "1", "--model", MODEL, "--history", str(tmp_path / "h.jsonl"), "--compare"]
    for said in ("no earlier run like this one", "now in times of then"):
        drop_rate(tmp_path / "h.jsonl", "network_tflop_per_s")
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code in (0, None)
        printed = capsys.readouterr().out
        assert said in printed
        assert all(f"  {stage}" in printed for stage in STAGES)

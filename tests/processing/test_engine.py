"""The engine: batches, padding, probes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from harness import engine_of, flat_case
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.errors import NumericsError
from volumetool.geometry import PatchPlace
from volumetool.models import Model, UNet, UNetConfig
from volumetool.processing.columns import Column
from volumetool.processing.device.cuda_graph import GraphReplay
from volumetool.processing.engine import Engine, probe_patches
from volumetool.processing.operations.network import NetworkOperation
from volumetool.processing.predictor import BatchPredictor, spared_output
from volumetool.processing.spec import Numerics
from volumetool.testing import Fake, FakeConfig, FakeModel, fake_model


@pytest.fixture(scope="module")
def model() -> Model:
    """Give a small U-Net with random weights."""
    torch.manual_seed(1)
    architecture = UNetConfig(width=8, pools=((1, 2, 2),))
    card = fake_model(FakeConfig(behaviour="identity")).card.model_copy(
        update={"name": "small", "architecture": architecture, "granularity": architecture.granularity}
    )
    return Model(card, "small", UNet(architecture).state_dict())


@settings(max_examples=10)
@given(count=st.integers(1, 7), batch=st.integers(1, 5))
def test_a_padded_batch_gives_every_patch_the_same_bytes(model: Model, count: int, batch: int) -> None:
    """However many patches are asked for at once, each gets what it gets in a call of its own."""
    engine = engine_of(model, batch, pad=True)
    patches = probe_patches(0, (1, 32, 32), count)
    together = engine.predict(patches)
    assert len(together) == count
    for patch, output in zip(patches, together, strict=True):
        (alone,) = engine.predict(patch[None])
        assert output.shape == (1, 128, 128)
        np.testing.assert_array_equal(output, alone)


def test_no_patch_is_no_call(model: Model) -> None:
    engine = engine_of(model, 2, pad=True)
    assert engine.predict(probe_patches(0, (1, 32, 32), 1)[:0]) == []


def test_the_probe_is_stable_and_tells_networks_apart(model: Model) -> None:
    """Two engines alike have one digest, another network has another."""
    patch = (1, 48, 48)
    assert engine_of(model, 3, pad=True).probe(patch) == engine_of(model, 3, pad=True).probe(patch)
    other = Model(model.card, "other", UNet(model.card.architecture).state_dict())
    assert engine_of(other, 3, pad=True).probe(patch) != engine_of(model, 3, pad=True).probe(patch)


class Counting(GraphReplay):
    """Stands in for a recording: it keeps the size of every batch that is asked of it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network)
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        y: torch.Tensor = self._network(x)
        return y


def counted(model: Model, batch: int, *, pad: bool = False) -> tuple[Engine, Counting]:
    engine = engine_of(model, batch, pad=pad)
    counting = engine._function.recorded = Counting(engine._function.network)
    return engine, counting


def test_whole_batches_are_replayed_and_short_ones_are_not(model: Model) -> None:
    patches = probe_patches(0, (1, 32, 32), 5)
    for pad, sizes in ((False, [2, 2]), (True, [2, 2, 2])):
        engine, counting = counted(model, 2, pad=pad)
        plain = engine_of(model, 2, pad=pad).predict(patches)
        for one, other in zip(engine.predict(patches), plain, strict=True):
            np.testing.assert_array_equal(one, other)
        assert counting.sizes == sizes


def test_a_patch_that_is_computed_again_in_float32_is_not_replayed(model: Model) -> None:
    """A recording has the precision that it was made in: the second try asks the network itself, which is finite here."""
    engine, counting = counted(model, 2)
    counting._network = lambda x: engine._function.network(x) * float("nan")
    engine._function._numerics = Numerics("bfloat16", 2, pad=False)
    patches = probe_patches(0, (1, 32, 32), 2)
    outputs = engine.predict(patches)
    assert counting.sizes == [2]
    for output, patch in zip(outputs, patches, strict=True):
        np.testing.assert_array_equal(output, engine_of(model, 1).predict(patch[None])[0])


def test_every_engine_records_with_its_probe(model: Model) -> None:
    """The second one knows the digest without asking its network, and asks it all the same for a whole batch."""
    patch = (1, 16, 24)
    digests, sizes = set(), []
    for _ in range(2):
        engine, counting = counted(model, 3)
        engine.device = torch.device("cuda")  # as far as the probe can tell
        digests.add(engine.probe(patch))
        sizes.append(counting.sizes)
    assert len(digests) == 1
    assert sizes == [[3], [3]]


def test_short_memory_lets_go_of_recordings(model: Model) -> None:
    engine, counting = counted(model, 4)
    engine.make_room(4)
    assert (counting._records, engine.room) == (False, 2)


def test_without_a_gpu_nothing_is_recorded(model: Model) -> None:
    assert engine_of(model, 2)._function.recorded is None


def test_probe_patches_are_a_growing_series() -> None:
    """The n-th patch is the same however many are asked for, within 0 and 1, with z context."""
    few, many = probe_patches(2, (1, 8, 9), 2), probe_patches(2, (1, 8, 9), 5)
    assert many.shape == (5, 5, 8, 9)
    np.testing.assert_array_equal(few, many[:2])
    assert 0 <= many.min() < many.max() < 1


@pytest.mark.parametrize("behaviour", ["identity", "constant", "box", "position"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_never_matters_to_a_network_of_known_answer(behaviour: str, dims: int) -> None:
    config = FakeConfig.model_validate({"behaviour": behaviour, "dims": dims, "scale": (1, 2, 3), "radius": 1})
    engine = engine_of(fake_model(config), 4)
    patch = (1, 9, 11) if dims == 2 else (5, 9, 11)
    assert not engine.batch_matters(patch)


class Crowded(FakeModel):
    """A model whose answer depends on how many patches come along."""

    def network(self) -> Fake:
        class Counting(Fake):
            def forward(self, x: object) -> object:  # type: ignore[override]
                y = super().forward(x)  # type: ignore[arg-type]
                return y + len(y)

        return Counting(self.config)


def test_a_network_that_minds_its_batch_is_found_out_and_cured_by_padding() -> None:
    plain = flat_case((1, 9, 9)).model()
    model = Crowded(plain.card, "crowded", {}, plain.config)
    assert engine_of(model, 4).batch_matters((1, 8, 8))
    assert not engine_of(model, 4, pad=True).batch_matters((1, 8, 8))
    assert not engine_of(model, 1).batch_matters((1, 8, 8))


@settings(max_examples=30)
@given(
    scale=st.tuples(*[st.integers(1, 4)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    context=st.integers(0, 2),
)
def test_enlarging_repeats_the_patchs_own_sections(
    scale: tuple[int, int, int], shape: tuple[int, int, int], context: int
) -> None:
    """What a skipped patch counts as: its own sections without context, pixel-centred."""
    dims = 2 if context else 3
    scale = (1, *scale[1:]) if dims == 2 else scale
    config = FakeConfig.model_validate({"behaviour": "identity", "dims": dims, "scale": scale, "z_context": context})
    engine = Engine(NetworkOperation(fake_model(config)), Numerics("float32", 1, pad=False), "cpu")
    patch = np.random.default_rng(0).random((shape[0] + 2 * context, *shape[1:]), np.float32)
    expected = np.kron(patch[context : context + shape[0]], np.ones(scale, np.float32))
    np.testing.assert_array_equal(spared_output(engine, patch), expected, strict=True)


def column_of(patches: np.ndarray, number: int) -> Column:
    every = np.ones(len(patches), bool)
    return Column(0, number, range(len(patches)), range(1), patches, every, None, (0, 0, 0))


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(0, 5), max_size=6), batch=st.integers(1, 3), streams=st.integers(1, 4))
def test_streams_change_neither_bytes_nor_order(model: Model, sizes: list[int], batch: int, streams: int) -> None:
    """Columns come in order, each with its own patches' answers, however many batches run side by side."""
    engine = Engine(NetworkOperation(model), Numerics("float32", batch, pad=True), "cpu", threads=2, streams=streams)
    patches = probe_patches(0, (1, 32, 32), sum(sizes) + 1)
    starts = np.cumsum([0, *sizes])
    columns = (column_of(patches[start : start + size], n) for n, (start, size) in enumerate(zip(starts, sizes, strict=False)))
    expected = engine_of(model, batch, pad=True).predict(patches)
    seen = 0
    for number, (column, outputs) in enumerate(BatchPredictor(engine).predict(columns)):
        assert (column.x, len(outputs)) == (number, sizes[number])
        for output in outputs:
            np.testing.assert_array_equal(output, expected[seen])
            seen += 1
    assert seen == sum(sizes)


def test_columns_without_work_for_the_network_do_not_pile_up(model: Model) -> None:
    """Blank parts of a volume: whatever streams there are, no more columns wait than hold a batch for each."""
    engine = Engine(NetworkOperation(model), Numerics("float32", 1, pad=False), "cpu", threads=2, streams=4)
    patches, made = probe_patches(0, (1, 32, 32), 2), 0

    def columns() -> Iterator[Column]:
        nonlocal made
        for number in range(40):
            made += 1
            yield replace(column_of(patches, number), active=np.full(2, number == 0))

    for column, _ in BatchPredictor(engine).predict(columns()):
        assert made - column.x <= 3


def test_an_error_in_one_stream_ends_the_others_work(model: Model) -> None:
    """The error arrives, and batches that did not begin are not computed."""
    calls: list[int] = []

    class SessionResult(Engine):
        def _call(self, part: np.ndarray, places: Sequence[PatchPlace]) -> np.ndarray:
            calls.append(len(part))
            return super()._call(part, places)

    engine = SessionResult(NetworkOperation(model), Numerics("float32", 1, pad=False), "cpu", threads=1, streams=1)
    patches = probe_patches(0, (1, 64, 64), 200)
    patches[0] = np.nan
    with pytest.raises(NumericsError):
        engine.predict(patches)
    engine.predict(patches[1:2])  # waits behind whatever was not given up
    assert sum(calls) < 200

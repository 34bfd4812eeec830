"""Models go into files and come back as they were; everything else is refused by name."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from volumetool.errors import ModelError
from volumetool.models import (
    ModelCard,
    Normalisation,
    UNet,
    UNetConfig,
    fitting_models,
    list_models,
    load_model,
    measure_receptive_field,
    package,
    save_model,
)

CONFIG = UNetConfig(width=2, pools=((1, 2, 2),))


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name="tiny",
        description="for tests",
        licence="MIT",
        dims=2,
        scale=(1, 4, 4),
        patch=(1, 32, 32),
        overlap=(0, 8, 8),
        trim=(0, 2, 2),
        granularity=(1, 2, 2),
        receptive_field=(0, 11, 11),
        normalisation=Normalisation(),
        architecture=CONFIG,
    )


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG)


@pytest.fixture
def file(tmp_path: Path, network: UNet, card: ModelCard) -> Path:
    save_model(tmp_path / "tiny.safetensors", network, card)
    return tmp_path / "tiny.safetensors"


def rewrite(file: Path, state: dict[str, torch.Tensor], card_json: str | None) -> None:
    save_file(state, file, metadata={} if card_json is None else {"volumetool.card": card_json})


def test_a_saved_model_computes_the_same_after_loading(file: Path, network: UNet, card: ModelCard) -> None:
    model, x = load_model(file), torch.rand(1, 1, 16, 16)
    assert model.card == card
    assert torch.equal(model.network()(x), network.eval()(x))


def test_the_loaded_network_is_ready_for_inference(file: Path) -> None:
    network = load_model(file).network()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_file_url_is_a_path(file: Path) -> None:
    assert load_model(file.as_uri()).weights_sha256 == load_model(file).weights_sha256


def test_the_spec_of_a_file_is_absolute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert load_model("tiny.safetensors").spec == str(file.resolve())


def test_saving_to_a_file_with_other_permissions_than_the_user_s_is_not_forced(file: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert file.stat().st_mode == plain.stat().st_mode


def test_the_hash_sees_one_bit_of_one_weight_and_the_lattice_but_no_prose(
    tmp_path: Path, network: UNet, card: ModelCard
) -> None:
    def sha(card: ModelCard) -> str:
        save_model(tmp_path / "m.safetensors", network, card)
        return load_model(tmp_path / "m.safetensors").weights_sha256

    plain = sha(card)
    assert sha(card.model_copy(update={"description": "other"})) == plain
    assert sha(card.model_copy(update={"trim": (0, 4, 4)})) != plain
    with torch.no_grad():
        network.stem.weight[0, 0, 0, 0] = torch.nextafter(network.stem.weight[0, 0, 0, 0], torch.tensor(9.0))
    assert sha(card) != plain


def test_unknown_names_are_answered_with_the_nearest_built_in() -> None:
    with pytest.raises(ModelError, match="em-x4") as caught:
        load_model("em_x4")
    assert caught.value.code == "model.unknown"
    assert "did you mean em-x4" in caught.value.hint


def test_a_truncated_file_is_broken(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.code == "model.broken"


def test_a_pickle_in_disguise_is_broken_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    file = tmp_path / "evil.safetensors"
    torch.save(Trap(), file)
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.code == "model.broken"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_other_software_are_called_what_they_are(tmp_path: Path, network: UNet) -> None:
    torch.save(network.state_dict(), tmp_path / "new.pt")
    torch.save(network.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.jit.trace(torch.nn.ReLU(), torch.rand(4)).save(str(tmp_path / "script.pt"))
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    (tmp_path / "keras.model").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "rdf.yaml").write_text("type: model")
    with zipfile.ZipFile(tmp_path / "zoo.zip", "w") as archive:
        archive.writestr("rdf.yaml", "type: model")
    names = {"new.pt": "PyTorch", "old.pth": "PyTorch", "script.pt": "TorchScript", "net.onnx": "ONNX", "keras.model": "HDF5"}
    for name, kind in (names | {"rdf.yaml": "YAML", "zoo.zip": "BioImage"}).items():
        with pytest.raises(ModelError, match=kind) as caught:
            load_model(tmp_path / name)
        assert caught.value.code == "model.broken"
        assert "volumetool train" in caught.value.hint


def test_safetensors_without_a_card_says_so(file: Path, network: UNet) -> None:
    rewrite(file, network.state_dict(), None)
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.code == "model.no-card"


@pytest.mark.parametrize(
    "change",
    [
        {"width": 10**6},  # weights of another size
        {"pools": [[1, 2, 2], [1, 2, 2]]},
        {"kind": "os.system"},
    ],
)
def test_a_card_that_is_not_that_of_the_weights_is_broken(
    file: Path, network: UNet, card: ModelCard, change: dict[str, object]
) -> None:
    lie = json.loads(card.model_dump_json())
    lie["architecture"] |= change
    lie["granularity"], lie["patch"], lie["overlap"] = [1, 4, 4], [1, 32, 32], [0, 8, 8]
    rewrite(file, network.state_dict(), json.dumps(lie))
    with pytest.raises(ModelError) as caught:
        load_model(file)
    assert caught.value.code == "model.broken"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_broken(file: Path, network: UNet, card: ModelCard, value: float) -> None:
    state = network.state_dict()
    state["stem.bias"][0] = value
    rewrite(file, state, card.model_dump_json())
    with pytest.raises(ModelError, match=r"stem\.bias") as caught:
        load_model(file)
    assert caught.value.code == "model.broken"


def test_saving_a_network_under_a_card_of_another_is_refused(tmp_path: Path, card: ModelCard) -> None:
    with pytest.raises(ModelError):
        save_model(tmp_path / "x.safetensors", UNet(UNetConfig(width=4, pools=((1, 2, 2),))), card)
    assert not (tmp_path / "x.safetensors").exists()


def test_every_built_in_model_is_whole_small_and_described() -> None:
    for card in list_models():
        model = load_model(card.name)
        assert model.spec == card.name
        weight_bytes = sum(tensor.numel() * 4 for tensor in model.state.values())
        assert weight_bytes < (12_000_000 if card.name == "em-x4-large" else 3_000_000)
        assert card.provenance.data
        assert card.provenance.training
        assert card.provenance.metrics
        assert len(card.provenance.gains) >= (1 if card.dims == 3 else 5)


def test_models_are_listed_by_their_cards_and_no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = tuple(load_model(name).card for name in package.builtin_names())
    list_models.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(package, "_load_file", None)
        assert list_models() == cards
        assert fitting_models((30, 16, 16))[0].name == "em-x4"


def test_the_card_of_em_x4_tells_its_true_receptive_field() -> None:
    model = load_model("em-x4")
    assert measure_receptive_field(model.network(), model.card.architecture) == model.card.receptive_field


def test_models_are_offered_for_the_voxel_sizes_they_are_meant_for() -> None:
    assert fitting_models((40, 32, 32))[0].name == "em-x4"
    assert fitting_models((40, 500, 500)) == ()


def test_models_that_keep_the_sections_are_offered_first_and_of_these_the_one_that_gains_most() -> None:
    cards = fitting_models((16, 16, 16))
    assert cards[0].name == "em-x4"
    keys = [(card.scale[0] > 1, -math.prod(card.scale), card.dims) for card in cards]
    assert keys == sorted(keys)
    assert keys[-1][0]

"""Programs of torch.export that were made to do harm run nothing, whatever torch's own loader would do with them."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_networks as made
import pytest
import torch

from volumetool.errors import ModelError
from volumetool.models.foreign.program import open_program

RUNS = "__import__('pathlib').Path('CANARY').touch()"
CONFIG, GRAPH = "data/weights/model_weights_config.json", "models/model.json"


class Gadget:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("CANARY", "w")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("sound") / "network.pt2"
    return made.write_torch_export(file, made.conv(2, (1, 1)).eval()).read_bytes()


def changed(sound: bytes, entries: dict[str, Callable[[bytes], bytes]], new: dict[str, bytes] | None = None) -> bytes:
    """Return an archive with other entries."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as source, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            change = entries.get(name.partition("/")[2], bytes)
            target.writestr(name, change(source.read(name)))
        for name, data in (new or {}).items():
            target.writestr(f"network/{name}", data)
    return content.getvalue()


def with_json(sound: bytes, name: str, change: Callable[[Any], None]) -> bytes:
    def edit(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return changed(sound, {name: edit})


def with_graph(sound: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    return with_json(sound, GRAPH, lambda model: change(model["graph_module"]))


def with_step(sound: bytes, target: str, *given: dict[str, Any]) -> bytes:
    """Put a step before all others."""
    inputs = [{"name": f"a{number}", "arg": each, "kind": 1} for number, each in enumerate(given)]
    step = {"target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": "new"}}], "metadata": {}}
    return with_graph(sound, lambda module: module["graph"]["nodes"].insert(0, step))


def pickled_tensor() -> bytes:
    file = io.BytesIO()
    torch.save(Gadget(), file)
    return file.getvalue()


def pickled_weights(sound: bytes) -> bytes:
    def change(config: Any) -> None:
        config["config"]["weight"] |= {"use_pickle": True, "path_name": "evil"}

    return changed(with_json(sound, CONFIG, change), {}, {"data/weights/evil": pickled_tensor()})


def pickled_constant(sound: bytes) -> bytes:
    said = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"evil": said}}).encode()
    name = "data/constants/model_constants_config.json"
    return changed(sound, {name: lambda _: config}, {"data/constants/opaque_obj_0": pickle.dumps(Gadget())})


def weights_elsewhere(sound: bytes) -> bytes:
    return with_json(sound, CONFIG, lambda config: config["config"]["weight"].update(path_name="../../../../etc/passwd"))


def weights_out_of_nothing(sound: bytes) -> bytes:
    def change(config: Any) -> None:
        meta = config["config"]["weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 2**40}], [{"as_int": 0}]

    return with_json(sound, CONFIG, change)


def weights_behind_the_end(sound: bytes) -> bytes:
    def change(config: Any) -> None:
        config["config"]["weight"]["tensor_meta"]["storage_offset"] = {"as_int": 2**40}

    return with_json(sound, CONFIG, change)


def reading_a_file(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.from_file.default", {"as_string": "CANARY"}, {"as_bool": True}, {"as_int": 4})


def own_library(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.mylib.run.default", {"as_string": RUNS})


def higher_order(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.higher_order.cond", {"as_string": RUNS})


def python_function(sound: bytes) -> bytes:
    return with_step(sound, "builtins.exec", {"as_string": RUNS})


def module_of_an_operator(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.relu.__class__", {"as_string": RUNS})


def through_the_namespace(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.relu.default._op.__globals__", {"as_string": RUNS})


def writing_where_it_is_told(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.add.out", {"as_tensor": {"name": "p_weight"}}, {"as_tensor": {"name": "p_weight"}})


def changing_weights(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.relu_.default", {"as_tensor": {"name": "p_weight"}})


def value_of_nothing(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.relu.default", {"as_tensor": {"name": "__builtins__"}})


def graph_as_argument(sound: bytes) -> bytes:
    return with_step(sound, "torch.ops.aten.relu.default", {"as_graph": {"name": "g", "graph": {}}})


def nested(sound: bytes) -> bytes:
    return changed(sound, {GRAPH: lambda _: b"[" * 10**6})


def long_number(sound: bytes) -> bytes:
    return changed(sound, {GRAPH: lambda data: data.replace(b'"as_int": 1}', b'"as_int": ' + b"9" * 10**5 + b"}", 1)})


def bomb(sound: bytes) -> bytes:
    return changed(sound, {}, {"extra": bytes(2**28)})


def huge_graph(sound: bytes) -> bytes:
    return changed(sound, {GRAPH: lambda data: data + b" " * 2**26})


def two_graphs(sound: bytes) -> bytes:
    return changed(sound, {}, {"models/other.json": b"{}"})


def compiled(sound: bytes) -> bytes:
    return changed(sound, {GRAPH: lambda data: data}, {"models/network.so": b"\x7fELF"})


def cut_short(sound: bytes) -> bytes:
    return sound[:-200]


def bare_pickle(_: bytes) -> bytes:
    return pickle.dumps(Gadget())


HOSTILE = (
    pickled_weights, pickled_constant, weights_elsewhere, weights_out_of_nothing, weights_behind_the_end, reading_a_file,
    own_library, higher_order, python_function, module_of_an_operator, through_the_namespace, writing_where_it_is_told,
    changing_weights, value_of_nothing, graph_as_argument, nested, long_number, bomb, huge_graph, two_graphs, compiled,
    cut_short, bare_pickle,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_hostile_program_of_torch_export_is_refused_and_runs_nothing(
    make: Callable[[bytes], bytes], sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("volumetool.models.foreign.archive.usable_memory", lambda: 2**29)
    (tmp_path / "network.pt2").write_bytes(make(sound))
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "CANARY").unlink()  # making a gadget runs it, too
    with pytest.raises(ModelError) as caught:
        open_program(tmp_path / "network.pt2")
    assert caught.value.code == "model.broken"
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "CANARY").exists()


def code_as_a_size(sound: bytes) -> bytes:
    def change(module: dict[str, Any]) -> None:
        for each in module["graph"]["tensor_values"]["input"]["sizes"][2:]:
            each["as_expr"]["expr_str"] = RUNS

    return with_graph(sound, change)


def code_as_a_guard(sound: bytes) -> bytes:
    return with_json(sound, GRAPH, lambda model: model.update(guards_code=[RUNS]))


def pickled_example(sound: bytes) -> bytes:
    return changed(sound, {"data/sample_inputs/model.pt": lambda _: pickled_tensor()})


@pytest.mark.parametrize("make", [code_as_a_size, code_as_a_guard, pickled_example], ids=lambda make: make.__name__)
def test_what_torch_would_run_beside_the_graph_is_not_even_read(
    make: Callable[[bytes], bytes], sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, image = tmp_path / "network.pt2", torch.rand(1, 1, 24, 24)
    file.write_bytes(sound)
    wanted = open_program(file).open(torch.device("cpu"))(image)
    file.write_bytes(make(sound))
    assert torch.equal(open_program(file).open(torch.device("cpu"))(image), wanted)
    assert not (tmp_path / "CANARY").exists()


def test_torch_would_run_code_of_such_a_file(sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary that cannot sing shows nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.pt2").write_bytes(code_as_a_size(sound))
    with contextlib.suppress(Exception):
        torch.export.load(tmp_path / "network.pt2")
    assert (tmp_path / "CANARY").exists()


def test_sizes_stay_below_64_bits(sound: bytes, tmp_path: Path) -> None:
    """Squares of squares would take all memory otherwise."""

    def change(module: dict[str, Any]) -> None:
        for number in range(40):
            given = {"as_sym_int": {"as_int": 2**20} if number == 0 else {"as_name": f"n{number - 1}"}}
            inputs = [{"name": name, "arg": given, "kind": 1} for name in "ab"]
            step = {"target": "_operator.mul", "inputs": inputs, "outputs": [{"as_sym_int": {"as_name": f"n{number}"}}]}
            module["graph"]["nodes"].insert(number, step)

    (tmp_path / "network.pt2").write_bytes(with_graph(sound, change))
    with pytest.raises(OverflowError):
        open_program(tmp_path / "network.pt2").open(torch.device("cpu"))(torch.rand(1, 1, 24, 24))


def test_a_program_for_images_of_one_size_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(made.conv(2, (1, 1)), (torch.zeros(1, 1, 24, 24),)), tmp_path / "network.pt2")
    with pytest.raises(ModelError, match="one size alone") as caught:
        open_program(tmp_path / "network.pt2")
    assert "dynamic_shapes" in caught.value.hint

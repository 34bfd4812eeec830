"""NumPy files: both orders and byte orders, and what is refused unread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volumetool.errors import InputError
from volumetool.storage.open import open_volume

SIZE = (30.0, 8.0, 4.0)
VOXELS = np.random.default_rng(3).integers(-100, 100, (2, 3, 5, 7), np.int16)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", "i1"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_channels_in_both_orders_and_byte_orders_are_what_numpy_reads(tmp_path: Path, dtype: str, version: Any) -> None:
    for order in "CF":
        voxels = np.asarray(VOXELS, dtype, order=order)
        with (tmp_path / "v.npy").open("wb") as file:
            np.lib.format.write_array(file, voxels, version)
        volume = open_volume(tmp_path / "v.npy", voxel_size=SIZE)
        for channel in (0, 1):
            np.testing.assert_array_equal(volume.open(channel=channel).read().result(), voxels[channel])
            np.testing.assert_array_equal(
                volume.open(channel=channel)[1:2, 2:4, 3:6].read().result(), voxels[channel, 1:2, 2:4, 3:6]
            )


class Harm:
    """An object that acts when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (np.array([[[Harm()]]], object), "input.dtype"),
        (np.zeros((2, 3, 4), [("a", "u1"), ("b", "f4")]), "input.dtype"),
        (np.zeros((2, 3, 4), "f8"), "input.dtype"),
        (np.zeros(9, "u1"), "input.axes"),
        (np.zeros((0, 3, 4), "u1"), "input.empty"),
    ],
    ids=["objects", "records", "float64", "a line", "nothing"],
)
def test_what_is_no_volume_is_refused_and_nothing_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", content, allow_pickle=True)
    with pytest.raises(InputError) as caught:
        open_volume("v.npy", voxel_size=SIZE)
    assert caught.value.code == code
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ("(1000000, 1000000, 9)", "input.unreadable"),
        ("(-1, 3, 4)", "input.broken-metadata"),
        ("(2, 3, None)", "input.broken-metadata"),
        ("__import__", "input.broken-metadata"),
    ],
)
def test_a_header_that_declares_what_is_not_there_is_refused(tmp_path: Path, shape: str, code: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (tmp_path / "v.npy").write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(24))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "v.npy", voxel_size=SIZE)
    assert caught.value.code == code

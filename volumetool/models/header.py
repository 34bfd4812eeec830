"""What a model file says of itself before any of it is loaded: bounded work, whatever it says.

The head of a safetensors file is eight bytes with the length of a JSON text, and that text.
"""

from __future__ import annotations

from pathlib import Path

from volumetool.paths import open_file

MOST_HEAD = 2**22
"""Bytes: thirty times the head of the largest model here. The library takes 100 MB, which is a million tensors."""


_PICKLE = "a PyTorch file (a pickle, which could run code)"
_BEGINS = {
    b"\x80\x02": _PICKLE,
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes models",
}
_IN_ARCHIVES = {
    b"rdf.yaml": "a package of the BioImage Model Zoo",
    b"bioimageio.yaml": "a package of the BioImage Model Zoo",
    b"/code/": "a TorchScript program",
    b"/data.pkl": _PICKLE,
    b"/archive_format": "an exported PyTorch program",
}
_ENDS = {
    ".onnx": "an ONNX network",
    ".pt": "a PyTorch file by its name",
    ".pth": "a PyTorch file by its name",
    ".ckpt": "a checkpoint of another program by its name",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
}
_LOOKED_AT = 2**16


def foreign_kind(path: Path) -> str | None:
    """Return what a model file of other software is, by its first bytes or else by its name; None for what may be ours.

    Nothing of it is unpacked or run.
    """
    with open_file(path) as file:
        head = file.read(_LOOKED_AT)
        file.seek(max(0, path.stat().st_size - _LOOKED_AT))
        tail = file.read(_LOOKED_AT)  # an archive lists its names at its end
    if head.startswith(b"PK\x03\x04"):
        return next((kind for name, kind in _IN_ARCHIVES.items() if name in tail), "a zip archive")
    begins = next((kind for begin, kind in _BEGINS.items() if head.startswith(begin)), None)
    return begins or _ENDS.get(path.suffix.lower())


def wrong_head(path: Path) -> str | None:
    """Return what is wrong with the length of a file's head; None where it can be read."""
    with open_file(path) as file:
        head = file.read(8)
    length, most = int.from_bytes(head, "little"), min(MOST_HEAD, path.stat().st_size - 8)
    if len(head) < 8 or not 2 <= length <= most:
        return f"it is not a safetensors file of a model: its head says {length} bytes, at most {max(most, 0)} can be"
    return None

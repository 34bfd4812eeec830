"""What a volume says of its own making: a sealed document among the attributes of its group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from volumetool.configuration import OutputChannel
from volumetool.geometry import Triple
from volumetool.sealed import CHECKSUM, is_sound, seal
from volumetool.storage.create import OWN_KEY, read_root, write_attributes
from volumetool.storage.formats.base import Json
from volumetool.storage.io.kvstore import canonical_url
from volumetool.storage.volume import Volume

_OUTPUTS = TypeAdapter(tuple[OutputChannel, ...])
_PLACES = ("input", "mask", "with_", "trust")
_FOLDERS = re.compile(r"(?:^|(?<= -> )|(?<==))(?:\w[\w+.-]*:/)?/(?:(?! -> )[^;])*/")  # of a file, in the text of operations


def provenance_of(root: Json) -> Json | None:
    """Return what volumetool wrote into the metadata of a volume, None where it wrote nothing."""
    attributes = root.get("attributes") if "node_type" in root else root  # of Zarr 3; all others have them at the top
    own = attributes.get(OWN_KEY) if isinstance(attributes, dict) else None
    return own if isinstance(own, dict) else None


def is_damaged(own: Json) -> bool:
    """Return whether what a volume says of its making does not fit its own checksum."""
    return CHECKSUM in own and not is_sound(own)


def without_places(own: Mapping[str, Any]) -> Json:
    """Return what a volume says of its making for people whom the machine does not concern.

    Parameters
    ----------
    own : mapping
        What the volume says.

    Returns
    -------
    dict
        The same, without the name of the machine; of the paths and URLs that were read, the last part is left. It is sealed
        anew where it was sound; what is damaged stays known as that.
    """
    said: Json = {name: value for name, value in own.items() if name != "host"}
    if isinstance(job := said.get("job"), dict):
        last = {name: str(job[name]).rstrip("/").rpartition("/")[2] for name in _PLACES if name in job}
        said["job"] = _without_folders(job | last, "model")
    if isinstance(steps := said.get("chain"), list):
        said["chain"] = [_without_folders(step, "operation") for step in steps]
    return seal(said) if is_sound(own) else said


def _without_folders(told: Json, name: str) -> Json:
    return {**told, name: _FOLDERS.sub("", str(told[name]))} if name in told else told


def write_status(url: str, status: str) -> None:
    """Change the status that a volume says of itself, and nothing else that it says."""
    before = provenance_of(read_root(canonical_url(url))[1] or {}) or {}
    own = {**before, "status": status}
    write_attributes(url, seal(own) if is_sound(before) else own)


def trust_channels(volume: Volume) -> list[str]:
    """Return the names of the channels of a trust volume; none of another volume."""
    names = volume.attributes.get("channels")
    return [str(name) for name in names] if isinstance(names, list) and len(names) == volume.channels else []


def block_of(volume: Volume) -> Triple:
    """Return the voxels of an output, z, y, x, of which each voxel of its trust volume is the mean; of another volume one."""
    block = volume.attributes.get("block")
    if not isinstance(block, list) or len(block) != 3 or not all(type(n) is int and n > 0 for n in block):
        return 1, 1, 1  # others may have written it
    return (block[0], block[1], block[2]) if trust_channels(volume) else (1, 1, 1)


def channel_names(volume: Volume) -> list[str]:
    """Return the names of the channels of a job's output; none where its operation made no several ones."""
    made_by = volume.attributes.get("spec")
    if isinstance(made_by, dict) and "trust" in made_by:  # what is not the image has a volume of its own, which names it
        return trust_channels(volume)
    try:
        outputs = _OUTPUTS.validate_python(made_by.get("outputs", ()) if isinstance(made_by, dict) else ())
    except ValidationError:  # others may have written it
        return []
    names, inputs = [output.name for output in outputs], (volume.channels or 1) // (len(outputs) or 1)
    return names if inputs == 1 else [f"{name} {number}" for number in range(inputs) for name in names]

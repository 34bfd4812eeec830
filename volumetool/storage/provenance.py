"""What a volume says of its own making: a sealed document among the attributes of its group."""

from __future__ import annotations

from volumetool.sealed import CHECKSUM, is_sound, seal
from volumetool.storage.create import OWN_KEY, write_attributes
from volumetool.storage.formats.base import Json, read_json
from volumetool.storage.io.kvstore import canonical_url


def provenance_of(root: Json) -> Json | None:
    """Return what volumetool wrote into the metadata of a volume, None where it wrote nothing."""
    attributes = root.get("attributes")
    own = attributes.get(OWN_KEY) if isinstance(attributes, dict) else None
    return own if isinstance(own, dict) else None


def is_damaged(own: Json) -> bool:
    """Return whether what a volume says of its making does not fit its own checksum."""
    return CHECKSUM in own and not is_sound(own)


def write_status(url: str, status: str) -> None:
    """Change the status that a volume says of itself, and nothing else that it says."""
    group = read_json(canonical_url(url), "zarr.json") or {}
    before = group.get("attributes", {}).get(OWN_KEY, {})
    own = {**before, "status": status}
    write_attributes(url, seal(own) if is_sound(before) else own)

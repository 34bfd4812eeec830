"""Units of length, in nanometres."""

from __future__ import annotations

# The names that OME-Zarr allows, of the sizes that microscopy knows, and the short forms that other software writes.
_NANOMETRES = {
    "picometer": 1e-3,
    "angstrom": 0.1,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
    "inch": 2.54e7,
}
_SHORT = {
    "pm": "picometer",
    "a": "angstrom",
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "in": "inch",
}


def nanometres_per(unit: object) -> float | None:
    """Return how many nanometres a unit of length is, or None if it is none ("pixel", missing, unknown).

    Parameters
    ----------
    unit : object
        A long or short name, singular or plural, American or British.
    """
    if not isinstance(unit, str):
        return None
    name = unit.strip().lower()
    if name.endswith(("metre", "metres")):
        name = name.replace("metre", "meter")
    if len(name) > 2:
        name = name.removesuffix("s")
    return _NANOMETRES.get(_SHORT.get(name, name))


def is_long_name(unit: object) -> bool:
    """Say whether a unit is spelled as OME-Zarr asks ("nanometer", never "nm")."""
    return unit in _NANOMETRES

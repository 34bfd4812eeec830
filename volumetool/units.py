"""Lengths in nanometres and amounts of memory: what texts mean, and how numbers are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from volumetool.errors import ConfigError

_Size = tuple[float, float, float]

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


SMALLEST = 0.1
"""Nanometres: no voxel of a microscope is smaller."""

_UNEQUAL = 2
"""Pixels of a microscope are about as wide as high; only sections are thicker."""

_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_MOST_BYTES = 2**63

_MOST_RUNS = 100
"""Runs of numbers that are shown."""

_LARGER = (("µm", 1e3), ("mm", 1e6), ("m", 1e9))


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


def likely_meant(size: _Size) -> tuple[_Size, str] | None:
    """Return what a voxel size that a user typed is likely meant to be.

    Parameters
    ----------
    size : tuple of float
        Nanometres, z, y, x, as typed.

    Returns
    -------
    tuple or None
        The likely size, z, y, x, and what speaks for it; None where nothing speaks against what was typed.
    """
    z, y, x = size
    if max(size) < 1 and min(size) < SMALLEST:
        name, unit = next(each for each in _LARGER if max(size) * each[1] >= 1 or each is _LARGER[-1])
        meant = (_tidy(z * unit), _tidy(y * unit), _tidy(x * unit))
        return meant, f"voxels smaller than an atom; in {name} it would be this size"
    if x >= _UNEQUAL * max(z, y):
        return (x, y, z), "pixels much wider than high; in the order x, y, z it would be this size"
    if y >= _UNEQUAL * max(z, x):
        return (y, z, x), "pixels much higher than wide; with the sections' thickness first it would be this size"
    return None


def _tidy(value: float) -> float:
    return float(f"{value:.9g}")


def is_long_name(unit: object) -> bool:
    """Return whether a unit is spelled as OME-Zarr asks ("nanometer", never "nm")."""
    return unit in _NANOMETRES


def show_bytes(number: float) -> str:
    """Write an amount of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024:
            return f"{number:.3g} {unit}" if unit != "B" and abs(number) < 999.5 else f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.3g} PiB"


def show_size(size: _Size) -> str:
    """Write a voxel size for people: ``8 x 32 x 32 nm``."""
    return " x ".join(f"{value:.4g}" for value in size) + " nm"


def parse_bytes(value: object) -> object:
    """Read ``"8GiB"`` as bytes; numbers pass."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", value.lower())
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{value!r} is no amount of memory; write 8GiB or 500MB")
    amount = float(match[1]) * _BYTES[match[2]]
    if not amount < _MOST_BYTES:
        raise ValueError(f"{value!r} is more memory than there is")
    return int(amount)


def show_shape(shape: tuple[int, ...]) -> str:
    """Write a number of voxels for people: ``8 x 32 x 32``."""
    return " x ".join(str(n) for n in shape)


def show_duration(seconds: float) -> str:
    """Write a duration for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def show_scale(scale: tuple[int, int, int], shrink: tuple[int, int, int] = (1, 1, 1)) -> str:
    """Return what a model does to voxels."""
    if max(shrink) > 1:
        return f"makes {show_shape(scale)} voxels of {show_shape(shrink)} (z, y, x)"
    return "keeps the voxel size" if max(scale) == 1 else f"makes voxels {show_shape(scale)} times finer (z, y, x)"


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last of every run of rising numbers without a gap."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def in_words(spans: Sequence[tuple[int, int]]) -> str:
    """Return runs of numbers in words: ``3, 5 to 9``."""
    words = [f"{first} to {last}" if last - first > 1 else ", ".join(map(str, range(first, last + 1))) for first, last in spans]
    return ", ".join([*words[:_MOST_RUNS], *(["..."] if len(words) > _MOST_RUNS else [])])


def show_sections(numbers: Sequence[int]) -> str:
    """Return "section 3", or "sections 3, 5 to 9": numbers in words, however many they are."""
    return f"section{'s' if len(numbers) > 1 else ''} {in_words(runs_of(numbers))}"


def check_given_size(size: _Size | None, *, sure: bool = False) -> None:
    """Ask about a voxel size that a user typed, if its unit or order is likely another.

    Raises
    ------
    ConfigError
        ``config.voxel-size``: it is likely another, and the user did not say that it is not.
    """
    if size is None or sure or (likely := likely_meant(size)) is None:
        return
    typed, meant = (",".join(f"{value:.9g}" for value in each) for each in (size, likely[0]))
    raise ConfigError(
        "config.voxel-size",
        f"--voxel-size {typed} means {show_size(size)} (z, y, x): {likely[1]}, --voxel-size {meant}",
        hint=f"write --voxel-size {meant} if that is what is meant, in nm and in the order z,y,x; otherwise confirm what you "
        "wrote with --force-voxel-size",
    )

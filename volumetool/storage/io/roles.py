"""Roles: what a place is for. Functions of the store know a place by its address, their callers know its role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from volumetool.errors import InputError, OutputError, StorageFullError, VolumetoolError
from volumetool.paths import absolute_path
from volumetool.storage.io.kvstore import canonical_url, is_local


@dataclass(frozen=True)
class Role:
    """A place, and what it is for.

    Attributes
    ----------
    place : str
        Path or URL.
    noun : str
        What an error calls it, such as ``"the mask"``.
    error : type
        Class of its errors; with the first part of its codes this makes ``output.unreadable`` of ``input.unreadable``.
    prefix : str
        That part.
    """

    place: str
    noun: str
    error: type[VolumetoolError] = InputError
    prefix: str = "input"

    def covers(self, where: str) -> bool:
        """Return whether something lies at the place or below it."""
        spellings = {self.place}
        with suppress(InputError):
            spellings.add(str(absolute_path(self.place)) if is_local(self.place) else canonical_url(self.place))
        return any(where == each or where.startswith(f"{each.rstrip('/')}/") for each in spellings)


def output_role(place: str) -> Role:
    """Return the role of a volume that is written."""
    return Role(place, "the output", OutputError, "output")


@contextmanager
def name_roles(*roles: Role) -> Iterator[None]:
    """Add to errors about a place its role; of several roles that cover it, that of the longest place, then the first.

    Raises
    ------
    VolumetoolError
        The role's class of error instead of an `InputError` or `OutputError`, which stays its cause.
    """
    try:
        yield
    except StorageFullError:
        raise  # no room is no trouble of one place alone, and ends the program in its own way
    except (InputError, OutputError) as error:
        family, _, cause = error.code.partition(".")
        covering = [role for role in roles if error.where is not None and role.covers(error.where)]
        if not covering or family not in ("input", "output"):
            raise
        role = max(covering, key=lambda each: len(each.place))
        if error.message.startswith(role.noun):
            raise
        kind, prefix = (type(error), family) if role.error is InputError else (role.error, role.prefix)
        raise kind(
            f"{prefix}.{cause}", f"{role.noun}: {error.message}", hint=error.hint, where=error.where, detail=error.detail
        ) from error

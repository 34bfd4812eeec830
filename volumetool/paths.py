"""Local files: their paths as users write them, the opening of those that can be read to an end, and whole replacement."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from volumetool.errors import InputError, OutputError, StorageFullError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CUT_SCHEME = re.compile(r"^(file|s3|gs|https?):/(?!/)")


@runtime_checkable
class ZarrNode(Protocol):
    """An array or a group of zarr-python, whose store says where it is."""

    @property
    def store_path(self) -> Any:
        """The store, and the path inside it."""


AnyPlace = str | os.PathLike[str] | ZarrNode
"""Where something is, as users give it."""


def absolute_path(place: str | os.PathLike[str]) -> Path:
    """Return the one absolute spelling of a local path.

    A leading ``~`` is the user's home. ``..`` leads up from where links lead, as the system does it; other links stay as they
    are written.

    Parameters
    ----------
    place : str or path
        A path, absolute or relative to the working directory, or a ``file:`` URL, which is percent-decoded.

    Raises
    ------
    InputError
        ``input.url``: no path can be spelled so.
    """
    text = os.fspath(place)
    try:
        path = (Path(_from_url(text)) if text.startswith("file:/") else Path(text).expanduser()).absolute()
        if ".." in path.parts:
            last = len(path.parts) - path.parts[::-1].index("..")
            path = Path(*path.parts[:last]).resolve().joinpath(*path.parts[last:])
        if "\0" in str(path):
            raise ValueError("it holds a NUL character")
        str(path).encode()  # what is no UTF-8 could neither be handed on nor be written down
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.lstat()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            "input.url", f"'{text}' is no path: {error}", hint="Give a path of this machine, or a URL.", where=text
        ) from error
    return Path("/", *path.parts[1:]) if path.anchor == "//" else path


def place_text(place: AnyPlace) -> str:
    """Return a place as text; a path object has lost one slash of the URL that it was made from.

    Raises
    ------
    InputError
        ``input.no-place``: it is no place, or an array of zarr-python in a store that has no path and no URL.
    """
    if isinstance(place, str):
        return place
    if isinstance(place, os.PathLike):
        return _CUT_SCHEME.sub(r"\1://", os.fspath(place))
    if isinstance(place, ZarrNode):
        if (found := zarr_place(place)) is not None:
            return found
        raise InputError(
            "input.no-place",
            f"an array in a {type(place.store_path.store).__name__} of zarr has no path or URL that other processes could open",
            hint="Give its voxels, `array[...]`, with voxel_size=(z, y, x) in nm; or save it to a disk.",
        )
    raise InputError(
        "input.no-place",
        f"a {type(place).__name__} was given where a path or URL is wanted",
        hint="Give the path or URL of a volume. vt.enhance, vt.apply, vt.open_volume and vt.view take an array of NumPy, too; "
        "elsewhere save it, numpy.save('raw.npy', array), and give that file with voxel_size=(z, y, x) in nm.",
    )


def zarr_place(node: ZarrNode) -> str | None:
    """Return the path or URL of an array or group of zarr-python; None where its store has none."""
    store, inside = node.store_path.store, node.store_path.path
    if (files := getattr(store, "fs", None)) is not None:  # fsspec, asynchronous or in a wrapper
        above = str(getattr(files, "sync_fs", files).unstrip_protocol(store.path))
    elif isinstance(found := getattr(store, "root", getattr(store, "path", None)), str | os.PathLike):
        above = os.fspath(found)
    else:
        return None
    return f"{above.rstrip('/')}/{inside}".rstrip("/")


def _from_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"a file: URL cannot reach the host '{parts.netloc}'")
    if parts.query or parts.fragment:
        raise ValueError("in a file: URL, '?' is written %3F and '#' is written %23")
    return unquote(parts.path)


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        As `open`, and for what is no regular file: of a pipe, socket or device a read may never end.
    """
    check_regular(path)
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # nothing waits, whatever it was replaced with
    file = os.fdopen(opened, "rb")
    try:
        _check_mode(path, os.fstat(opened).st_mode)
    except OSError:
        file.close()
        raise
    return file


def file_on(path: Path) -> Path | None:
    """Return the file that a path names, or leads into like ``file.h5/raw``; None if there is none on the way."""
    return next((each for each in (path, *path.parents) if each.is_file()), None)


def replace_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that at every moment it is whole: the old one or the new one. A pipe or device is written into.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    with writing(path):
        place = Path(path).resolve()
        if place.exists() and not place.is_file():
            place.write_bytes(content)
            return
        temporary = place.with_name(place.name + ".new")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(place)
        except BaseException:
            with suppress(OSError):  # half a file takes the room that is missing
                temporary.unlink()
            raise


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those that it lies in, where they are missing.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Tell in words for users why a local file or folder cannot be written.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """
    try:
        yield
    except OSError as error:
        where = os.fspath(path)
        if error.errno in _FULL:
            raise StorageFullError(
                "output.full",
                f"there is no room to write {where}: {error.strerror}",
                hint="make room there (space, quota, or the limit of a file's size) and run the same command again",
                where=where,
            ) from error
        raise OutputError(
            "output.unwritable",
            f"{where} cannot be written: {error.strerror}",
            hint="check the path, and whether you may write into its folder",
            where=where,
        ) from error


def check_regular(path: str | os.PathLike[str]) -> os.stat_result:
    """Return the state of a regular file.

    Raises
    ------
    OSError
        It is missing, or no regular file.
    """
    found = Path(path).stat()
    _check_mode(path, found.st_mode)
    return found


def special_kind(mode: int) -> str | None:
    """Return what something is from which a read may never end; None for regular files and folders."""
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "special file")


def refuse_special(path: str | Path) -> os.stat_result | None:
    """Refuse to read something from which a read may never end; what is missing passes.

    Returns
    -------
    os.stat_result or None
        What the system says of it; None if it says nothing: reading says what is wrong.

    Raises
    ------
    InputError
        ``input.unreadable``.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  (every read of a small file asks, and a path object would take most of its time)
    except (OSError, ValueError):
        return None
    if (kind := special_kind(found.st_mode)) is not None:
        raise InputError(
            "input.unreadable",
            f"{path} is a {kind}, not a regular file",
            hint="Only regular files are read: remove it, or put the file there that belongs there.",
            where=str(path),
        )
    return found


def refuse_unreachable(path: str | Path) -> None:
    """Refuse a path below a folder that does not let this user pass.

    Raises
    ------
    InputError
        ``input.unreadable``.
    """
    try:
        os.lstat(path)
    except PermissionError as error:
        raise InputError(
            "input.unreadable",
            f"{path} cannot be reached: {error.strerror}",
            hint="A folder above it is closed to you: ask its owner, or give another path.",
            where=str(path),
        ) from error
    except (OSError, ValueError):
        return  # whoever reads or writes it says more


def _check_mode(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if (kind := special_kind(mode)) is not None:
        raise OSError(errno.EINVAL, f"it is a {kind}, not a regular file", os.fspath(path))


_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows which names a folder holds: a loss of power must not undo a deletion that is believed."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def empty_leftover(file: Path) -> None:
    """Empty the temporary file of a writer that was killed, unless one that lives holds it.

    tensorstore writes over what it finds there: what is longer than the new content would keep its end.
    """
    with suppress(ImportError, OSError):  # there is none, or a living writer has locked it
        import fcntl

        with file.open("r+b") as left:
            fcntl.lockf(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(left.fileno()), file.stat()):  # else it was renamed meanwhile, and holds data
                left.truncate()

"""Imported models: networks of others in the user's folder of models, which are found by name from then on."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from volumetool.configuration import models_folder
from volumetool.errors import ModelError, OutputError
from volumetool.machine import usable_memory
from volumetool.models.foreign.archive import open_archive
from volumetool.models.foreign.bioimageio import check_package, pack
from volumetool.models.foreign.description import DESCRIPTIONS
from volumetool.models.foreign.program import ENDS, PACKAGE, digest_of, open_program, read_whole, unusable
from volumetool.models.foreign.trust import trust as trust_digest
from volumetool.models.package import builtin_names
from volumetool.paths import absolute_path, make_folder, replace_file
from volumetool.processing.operation import filters
from volumetool.processing.operations.foreign import NAME, imported_file
from volumetool.storage.io.urls import check_url

TIMEOUT = 60
"""Seconds that a server may be silent."""


def import_model(
    source: str | os.PathLike[str], name: str | None = None, *, overwrite: bool = False, trust: bool = False
) -> Path:
    """Put a network of others into the folder of models, after a look at it.

    Parameters
    ----------
    source : str or path
        A package of the BioImage Model Zoo, as a zip file, a folder, its ``rdf.yaml`` or an ``http(s)://`` URL of a zip file;
        or a network in a file of ONNX, torch.export or TorchScript, or the weights of a ResUNet of PSSR2.
    name : str, optional
        What it is called from now on; else the name of the file or folder.
    overwrite : bool
        Replace the model of that name.
    trust : bool
        Load a TorchScript program, which is code.

    Returns
    -------
    Path
        The file in the folder of models, to which ``VOLUMETOOL_MODELS`` leads.

    Raises
    ------
    ModelError
        ``model.broken``, ``model.unreadable``, ``model.untrusted``: as for running it. ``model.unknown``: there is nothing at
        `source`. ``model.exists``: the name is taken, or is none. ``model.folder``: the folder cannot be written.
    InputError
        ``input.url``, ``input.url-secret``: the URL is none, or carries a user or a password.
    """
    text = os.fspath(source)
    remote = text.startswith(("http://", "https://"))
    place = Path(unquote(check_url(text.partition("?")[0]).path)) if remote else absolute_path(text)
    end, content = (PACKAGE, _fetched(text, place)) if remote else _found(place)
    folder = place.parent if place.name in DESCRIPTIONS else place
    called = name or re.sub(r"[^a-z0-9.\-]", "-", folder.name.lower().removesuffix(end)).strip(".-")
    _check_name(called, overwrite=overwrite)
    target = models_folder() / f"{called}{end}"
    tried = target.with_name(f".{os.getpid()}{end}")
    if trust:
        trust_digest(digest_of(content))
    try:
        make_folder(target.parent)
        replace_file(tried, content)
        open_program(tried)
        replace_file(target, content)
    except ModelError as error:
        raise ModelError(error.code, error.message.replace(str(tried), text), hint=error.hint, where=text) from error
    except OutputError as error:
        raise ModelError(
            "model.folder",
            error.message,
            hint="make room there, or set VOLUMETOOL_MODELS to a folder that you may write into",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            tried.unlink()
    for other in ENDS:
        if other != end:
            target.with_name(f"{called}{other}").unlink(missing_ok=True)
    return target


def list_imported() -> tuple[str, ...]:
    """Return the names of the imported models."""
    files = models_folder().glob("*") if models_folder().is_dir() else ()
    return tuple(sorted({file.stem for file in files if file.suffix in ENDS and NAME.fullmatch(file.stem)}))


def _check_name(name: str, *, overwrite: bool) -> None:
    hint = "give it another name with --name"
    if not NAME.fullmatch(name):
        raise ModelError(
            "model.exists", f"{name!r} is no name of a model: lower-case letters, digits, dots and dashes", hint=hint
        )
    if name in builtin_names() or name in filters():
        raise ModelError("model.exists", f"{name} is the name of a built-in model or operation", hint=hint)
    if (file := imported_file(name)) is not None and not overwrite:
        raise ModelError(
            "model.exists", f"there is a model {name} already, {file}", hint=f"{hint}, or replace it with --overwrite"
        )


def _found(place: Path) -> tuple[str, bytes]:
    """Return the end of the name and the content under which a network is kept."""
    if place.is_dir():
        return PACKAGE, pack(place, _reader_of_folder(place))
    if place.name in DESCRIPTIONS:
        return PACKAGE, pack(place, _reader_of_folder(place.parent))
    end = place.suffix.lower()
    if not place.is_file() or end not in ENDS:
        raise ModelError(
            "model.unknown",
            f"there is no package or network at {place}",
            hint=f"give a zip file, a folder, rdf.yaml, a URL of a zip file, or a file that ends in {', '.join(ENDS)}",
            where=str(place),
        )
    content = read_whole(place)
    return end, _packed_anew(place, content) if end == PACKAGE else content


def _packed_anew(place: Path, content: bytes) -> bytes:
    """Return a package without what is not needed to run it."""
    with open_archive(place, content, "zip file that can be read", "fetch it again") as archive:
        check_package(place, archive)
        return pack(place, archive.read)


def _reader_of_folder(folder: Path) -> Callable[[str], bytes]:
    """Return a reader of files of a folder, that leaves it through no link."""

    def read(name: str) -> bytes:
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise unusable(
                folder, f"its file {name[:200]!r} lies outside of it", "put all files of the package into one folder"
            )
        if not file.is_file():
            raise KeyError(name)
        return read_whole(file)

    return read


def _fetched(url: str, place: Path) -> bytes:
    """Return a package that lies on a web server; what it names is not fetched."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler, urllib.request.HTTPSHandler, urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor, urllib.request.HTTPDefaultErrorHandler, urllib.request.ProxyHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    most = usable_memory() // 4
    try:
        with opener.open(url, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(most + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise ModelError(
            "model.unreadable", f"{url} cannot be fetched: {error}", hint="look whether the address is right", where=url
        ) from error
    if len(content) > most:
        raise unusable(place, f"it has more than {most} bytes, a quarter of the memory that is free", "")
    return _packed_anew(place, content)

"""URLs: which places are opened, depending on who named them.

What a user types is the user's will: any host, also one of a private network. What a *file* names, made by somebody else,
is not: a job or training file reaches public hosts alone unless the user allows others by name, and a volume's metadata reach
nothing outside of the volume.

URLs carry no credentials. They would end up in shells' histories, logs, plans and the attributes of outputs; signed URLs are
given through the environment instead (see `signed_query`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Collection, Iterable
from urllib.parse import SplitResult, unquote, urlsplit

from volumetool.errors import ConfigError, InputError
from volumetool.paths import absolute_path
from volumetool.storage.io.s3 import s3_hint

SCHEMES = ("file", "s3", "gs", "http", "https")
SIGNED = "VOLUMETOOL_SIGNED_URLS"
"""Environment variable: signed URLs, separated by spaces; what lies below one is read with its query."""

_HINTS = {
    "file": "Check the spelling, the disk, and that you have permission.",
    "http": "Check the address, and that the server runs and can be reached from here.",
    "s3": "Check the bucket's name, your credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), AWS_REGION "
    "and, for a server of your own, AWS_ENDPOINT_URL.",
    "gs": "Check the bucket's name and your credentials (GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default "
    "login`).",
}

FORBIDDEN = "Check that you may read it; some servers answer so for what does not exist, too."
"""Hint about a file that a web server does not give out."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,254}")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[\w.\-]+")
_REDIRECTED = "[HTTP code 3"
_AZURE = re.compile(r"(az|azure|abfss?|adl|wasbs?)://")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str], Iterable[str]]
"""Finds the addresses of a host's name."""


def hint_of(url: str, error: Exception | None = None) -> str:
    """Return what to look at where a place, a path or a URL, cannot be read or written; more precise if the error is given."""
    scheme = url.partition("://")[0].replace("https", "http")
    if scheme == "s3" and (hint := s3_hint(str(error))) is not None:
        return hint
    if scheme == "http" and _REDIRECTED in str(error):
        return "The server leads to another address, and is not followed: give that one (`curl -sIL ADDRESS` shows it)."
    return _HINTS.get(scheme, _HINTS["file"])


def check_url(text: str) -> SplitResult:
    """Return the parts of a URL of a volume.

    Parameters
    ----------
    text : str
        With the scheme file, s3, gs, http or https.

    Raises
    ------
    InputError
        ``input.url``: another scheme, a chain (``a::b``), no such host or bucket. ``input.url-secret``: it carries a user, a
        password or a query.
    """
    scheme = text.partition("://")[0]
    if scheme not in SCHEMES:
        raise _refused(text, f"has the scheme '{scheme}', which is none of {', '.join(SCHEMES)}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _refused(text, f"is no URL: {error}") from error
    if scheme == "file":
        absolute_path(text)
        return parts
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            "input.url-secret",
            f"'{text}' carries a user, a password or a query",
            hint="Credentials stay out of URLs: s3 and gs take them from their usual environment. Put a signed URL into "
            f"{SIGNED}, and give it here without what follows the '?'.",
            where=text,
        )
    if _UNSAFE.search(text) or "::" in re.sub(r"\[[^\]]*\]", "", text):
        raise _refused(text, "holds spaces, backslashes or the chain '::'")
    if scheme in ("s3", "gs"):
        if port is not None or not _BUCKET.fullmatch(parts.netloc):
            raise _refused(text, f"has '{parts.netloc}' where a bucket's name is wanted")
    elif not _HOST.fullmatch(re.sub(r":[0-9]*$", "", parts.netloc)):
        raise _refused(text, f"has '{parts.netloc}' where a host's name is wanted")
    return parts


def without_dots(path: str) -> str:
    """Return the path of a URL without ``.`` and ``..``, however they are spelled."""
    kept: list[str] = []
    for part in path.split("/"):
        name = re.sub("%2e", ".", part, flags=re.IGNORECASE)
        if name == "..":
            del kept[max(1, len(kept) - 1) :]
        elif name != ".":
            kept.append(part)
    return "/".join(kept)


def signed_query(url: str) -> str:
    """Return the query with which a URL is read, from the environment; empty where none is meant for it."""
    wanted = urlsplit(url)
    for signed in os.environ.get(SIGNED, "").split():
        own = urlsplit(signed)
        same = (own.scheme, own.netloc) == (wanted.scheme, wanted.netloc)
        if same and f"{wanted.path.rstrip('/')}/".startswith(f"{own.path.rstrip('/')}/"):
            return own.query
    return ""


def check_below(url: str, path: str) -> str:
    """Return a path that a volume's metadata give, if it leads to a place below the volume.

    Raises
    ------
    InputError
        ``input.broken-metadata``: it leads elsewhere, or is longer than the name of any file.
    """
    plain = unquote(path)
    if max(map(len, plain.encode(errors="replace").split(b"/"))) > _LONGEST_NAME or len(plain) > _LONGEST_PATH:
        raise InputError(
            "input.broken-metadata",
            f"{url} places a level at '{path[:_LONGEST_NAME]}...', {len(path)} characters: no file has such a name",
            hint="Correct its metadata.",
            where=url,
        )
    wrong = {".", ".."} & set(plain.split("/")) or _CONTROL.search(plain) or any(sign in plain for sign in _LEADING)
    if wrong:
        raise InputError(
            "input.broken-metadata",
            f"{url} places a level at '{path}', outside of itself",
            hint="Only what lies below the volume is read; correct its metadata.",
            where=url,
        )
    return path


_LONGEST_NAME, _LONGEST_PATH = 255, 2048
"""Bytes of one part of a path, as file systems take them; characters of a path below a volume."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LEADING = ("://", "::", "\\", "?", "#", "|")


def look_up(host: str) -> list[str]:
    """Return the addresses of a host, as this machine finds them."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def check_foreign(url: str, allowed: Collection[str] = (), lookup: Lookup = look_up) -> None:
    """Refuse a URL that somebody else's file names, if it leads into this machine or a private network.

    Parameters
    ----------
    url : str
        Local paths, s3 and gs pass: their host is the user's own setting.
    allowed : collection of str
        Hosts that the user allows by name.
    lookup : callable
        Finds the addresses of a host.

    Raises
    ------
    InputError
        ``input.url`` and ``input.url-secret`` as :func:`check_url`.
    ConfigError
        ``config.private-host``: the host has an address that is not public, or none.
    """
    if "://" not in url:
        return
    parts = check_url(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or host in allowed:
        return
    try:
        addresses = list(lookup(host))
    except OSError as error:
        raise _private(url, host, f"which has no address ({error})") from error
    for text in addresses:
        if not _is_public(ipaddress.ip_address(text.partition("%")[0])):
            raise _private(url, host, f"at {text}, which is not public")
    if not addresses:
        raise _private(url, host, "which has no address")


def _is_public(address: _Address) -> bool:
    """Return whether an address, and the IPv4 address that it may stand for, is for everybody to reach."""
    inner: list[_Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner += [each for each in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if each is not None]
    return all(each.is_global and not each.is_multicast and not each.is_reserved for each in inner if each not in _NAT64)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _refused(url: str, why: str) -> InputError:
    hint = f"Give a local path or a URL with one of the schemes {', '.join(SCHEMES)}."
    if _AZURE.match(url):
        hint = "Read it at https://ACCOUNT.blob.core.windows.net/CONTAINER/..., with its shared access signature in " + SIGNED
        hint += " where it is not public. Write to a disk, and upload with azcopy."
    return InputError("input.url", f"'{url}' {why}", hint=hint, where=url)


def _private(url: str, host: str, where: str) -> ConfigError:
    return ConfigError(
        "config.private-host",
        f"the file names {url}: host {host}, {where}",
        hint=f"a file may have been made by others; if this is meant: --allow-host {host}",
        where=url,
    )

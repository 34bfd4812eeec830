"""How S3 is reached: as the environment and the files in ``~/.aws`` say, as for other programs that use S3."""

from __future__ import annotations

import os
from configparser import ConfigParser
from configparser import Error as ParsingError
from functools import cache
from pathlib import Path
from typing import Any

from volumetool.errors import InputError

_CREDENTIAL_SOURCES = (
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# Linux tells here whose machine it runs on.
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")

_KEYS_WRONG = (
    "The server does not take these credentials: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile that "
    "AWS_PROFILE names. Temporary ones need AWS_SESSION_TOKEN, and end."
)
_REGION_WRONG = (
    "The bucket lies in another region: set AWS_REGION to that one. At AWS it is found by itself where AWS_REGION is not set."
)
_BUCKET_WRONG = "Check the bucket's name and, for a server of your own, AWS_ENDPOINT_URL."
_HINTS = {
    "InvalidAccessKeyId": _KEYS_WRONG,
    "SignatureDoesNotMatch": _KEYS_WRONG,
    "InvalidToken": _KEYS_WRONG,
    "ExpiredToken": _KEYS_WRONG,
    "PermanentRedirect": _REGION_WRONG,
    "AuthorizationHeaderMalformed": _REGION_WRONG,
    "IllegalLocationConstraint": _REGION_WRONG,
    "NoSuchBucket": _BUCKET_WRONG,
    "InvalidBucketName": _BUCKET_WRONG,
    "RequestTimeTooSkewed": "Set this machine's clock: it differs from the server's by minutes.",
}
"""What to do, by S3's word for what is wrong."""

_DENIED = (
    "These credentials do not allow it. Listing (s3:ListBucket) is allowed apart from reading: an output needs it, and where "
    "it is not allowed, the server answers so for what does not exist, too."
)
_DENIED_WITHOUT = (
    "No credentials were found, so it was asked for without any: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY. Some public buckets answer so for what does not exist."
)


def s3_settings() -> dict[str, Any]:
    """Return the members of tensorstore's description of a bucket that tell where S3 is.

    Raises
    ------
    InputError
        ``input.credentials``: a key without the other, a profile that does not exist, or a file that cannot be read.
    """
    keys = [bool(os.environ.get(name)) for name in _KEYS]
    if any(keys) and not all(keys):
        raise _wrong(f"{_KEYS[keys.index(True)]} is set, and {_KEYS[keys.index(False)]} is not", "Set both, or neither.")
    profile = {} if all(keys) and not os.environ.get("AWS_PROFILE") else _profile()
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, named), profile.get("endpoint_url"))
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        return {"endpoint": endpoint, "aws_region": region or profile.get("region", "us-east-1")}
    return {"aws_region": region} if region else {}  # the region of a bucket at AWS is found, whatever the profile's is


def s3_credentials() -> dict[str, Any]:
    """Return the member of tensorstore's context that tells where it finds credentials.

    Left to itself, tensorstore asks for no profile, and the AWS library prints many lines about every place where it finds no
    credentials.
    """
    if all(map(os.environ.get, _KEYS)):
        found = {"type": "environment"}
    elif _may_have_credentials():
        found = {"type": "default", "profile": os.environ.get("AWS_PROFILE") or "default"}
    else:
        found = {"type": "anonymous"}
    return {"aws_credentials": found}


def s3_hint(error: str) -> str | None:
    """Return what to do about an error of S3, by the server's word for it; None where the word says nothing more."""
    if "AccessDenied" in error:
        return _DENIED_WITHOUT if s3_credentials()["aws_credentials"]["type"] == "anonymous" else _DENIED
    return next((hint for word, hint in _HINTS.items() if word in error), None)


def _profile() -> dict[str, str]:
    """Return what the files of the user say of the profile that is asked for."""
    files = [
        Path(os.environ.get(variable) or default).expanduser()
        for variable, default in (
            ("AWS_CONFIG_FILE", "~/.aws/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        )
    ]
    asked = os.environ.get("AWS_PROFILE")
    parser = ConfigParser(interpolation=None, strict=False, default_section="")  # [default] is a profile like others
    try:
        for file in files:
            if file.exists():
                parser.read_string(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, ParsingError):  # whose words hold lines of the file
        raise _wrong(f"{' or '.join(map(str, files))} cannot be read", "Correct the file.") from None
    sections = [name for name in (f"profile {asked or 'default'}", asked or "default") if parser.has_section(name)]
    if asked and not sections:
        raise _wrong(
            f"AWS_PROFILE is '{asked}', and neither {files[0]} nor {files[1]} has such a profile", "Correct AWS_PROFILE."
        )
    return {key: value for name in sections for key, value in parser.items(name)}


def _wrong(what: str, hint: str) -> InputError:
    return InputError("input.credentials", f"S3 cannot be reached: {what}", hint=hint)


def _may_have_credentials() -> bool:
    """Return whether the AWS library could find credentials by itself: profile, container, web identity or EC2 role."""
    own = os.path.expanduser("~/.aws")  # noqa: PTH111  (every read of a file asks, and pathlib would take most of its time)
    return any(map(os.environ.get, _CREDENTIAL_SOURCES)) or os.path.isdir(own) or _is_amazon(_VENDOR)  # noqa: PTH112


@cache
def _is_amazon(vendor: Path) -> bool:
    return vendor.is_file() and "Amazon" in vendor.read_text()

"""How S3 is reached: as the usual environment says, ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ..."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_CREDENTIAL_SOURCES = (
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
# Linux tells here whose machine it runs on.
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")


def s3_settings() -> dict[str, Any]:
    """Return the members of tensorstore's description of a bucket that the environment decides."""
    settings: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        settings["endpoint"] = endpoint
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ("us-east-1" if settings else None)
    if region:
        settings["aws_region"] = region
    # Left to itself, the AWS library prints many lines about every place where it finds no credentials.
    if "AWS_ACCESS_KEY_ID" in os.environ:
        settings["aws_credentials"] = {"type": "environment"}
    elif not _may_have_credentials():
        settings["aws_credentials"] = {"type": "anonymous"}
    return settings


def _may_have_credentials() -> bool:
    """Return whether the AWS library could find credentials by itself: profile, container, web identity or EC2 role."""
    named = any(name in os.environ for name in _CREDENTIAL_SOURCES)
    return named or Path("~/.aws").expanduser().is_dir() or (_VENDOR.is_file() and "Amazon" in _VENDOR.read_text())

"""Reading for somebody who looks: stored chunks are many sections deep, and are looked at section by section."""

from __future__ import annotations

import functools

import tensorstore as ts

from volumetool.storage.io.s3 import s3_credentials

CACHED = 2**28
"""Bytes of decoded chunks to keep, of the input and of the job's output together."""


@functools.cache
def cached_context() -> ts.Context:
    """Return a tensorstore context that keeps chunks; each is checked against what is stored whenever it is used."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHED}, **s3_credentials()})

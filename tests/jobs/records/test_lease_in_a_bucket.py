"""Who owns a job in a bucket is decided by conditional writes, so a server has to keep to them."""

from __future__ import annotations

import pytest
from bucket_server import BucketServer

from volumetool.errors import OutputError
from volumetool.jobs.records import lease as module
from volumetool.jobs.records.lease import own
from volumetool.storage.io.kvstore import read_version


def test_a_server_that_takes_no_notice_of_conditions_gets_no_job(kept: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept.url
    with own("s3://bucket/job"):
        pass
    real = module.replace_key

    def heedless(url: str, key: str, data: bytes, _generation: bytes) -> bytes | None:
        return real(url, key, data, read_version(url, key)[1])

    monkeypatch.setattr(module, "replace_key", heedless)
    with pytest.raises(OutputError) as caught, own("s3://bucket/job"):
        pytest.fail("the job would begin")
    assert caught.value.code == "output.no-conditions"

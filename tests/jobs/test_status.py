"""Status names the regions that depart most from their input."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from small_jobs import run

from volumetool.jobs.folder import job_url, open_ledger
from volumetool.jobs.ledger import Record
from volumetool.jobs.status import job_status


def test_the_least_consistent_regions_are_named_worst_first(options: dict[str, Any]) -> None:
    plan = run(**options).plan
    assert job_status(plan).consistency == 0.0  # of the identity
    ledger = open_ledger(plan)
    for region, consistency in {0: 0.5, 1: 0.01, 4: 0.03, 7: 0.04, 8: None}.items():
        ledger.append(Record(region, "done", consistency=consistency))
    ledger.append(Record(5, "failed"))
    ledger.flush()
    status = job_status(plan)
    assert [(each["region"], each["consistency"]) for each in status.least_consistent] == [(0, 0.5), (7, 0.04), (4, 0.03)]
    assert status.least_consistent[0]["box"] == str(plan.grid.region(0).box)
    expected = ((0.5**2 + 0.01**2 + 0.03**2 + 0.04**2) / 10) ** 0.5  # the failed one and the one that does not say are left out
    assert status.consistency == pytest.approx(expected)


def test_records_of_before_are_read_and_say_nothing(options: dict[str, Any]) -> None:
    plan = run(**options).plan
    for file in (Path(job_url(options["output"]).removeprefix("file://")) / "ledger").glob("*.jsonl"):
        lines = []
        for line in file.read_bytes().splitlines():
            fields = json.loads(line.partition(b" ")[2])
            del fields["consistency"]
            text = json.dumps(fields, separators=(",", ":")).encode()
            lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
        file.write_bytes(b"".join(lines))
    status = job_status(plan)
    assert (status.done, status.consistency, status.least_consistent) == (plan.grid.count, None, [])
    assert run(**options).ran == 0

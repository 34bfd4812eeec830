"""A local cluster for a prepared job, whose owner asks it something with each line: `python cluster_program.py OUTPUT`."""

from __future__ import annotations

import json
import sys

from volumetool.jobs.clusters.dask_driver import ThroughDask
from volumetool.jobs.clusters.local import local_cluster
from volumetool.jobs.records.plan_file import stored_plan

with local_cluster(stored_plan(sys.argv[1])) as cluster:
    assert isinstance(cluster, ThroughDask)
    cluster.client.wait_for_workers(2, timeout=240)
    nodes = [cluster.client.scheduler.address, *cluster.client.scheduler_info()["workers"]]
    sys.stdout.write(json.dumps({"nodes": nodes, "link": cluster.link}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{cluster.client.submit(abs, -int(line), pure=False).result()}\n")
        sys.stdout.flush()

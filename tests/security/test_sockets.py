"""S4: whatever a command starts, nobody from outside can speak to it, and no other user of the machine either."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from distributed import Client
from distributed.security import Security
from small import small_options
from small_jobs import SMALL, noise, write_input

from volumetool.jobs.clusters.dask_driver import ThroughDask
from volumetool.jobs.clusters.local import local_cluster
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare

PATIENCE = 240


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Return the addresses on which a process and its children listen at this moment."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            sockets = each.net_connections("inet")
        except psutil.Error:
            continue  # it ended meanwhile
        found |= {(s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN or (s.laddr and not s.raddr)}
    return found


def watch(command: list[str]) -> set[tuple[str, int]]:
    """Run a command to its end and return every address on which it listened."""
    seen: set[tuple[str, int]] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "volumetool.cli.main", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as running:
        process, end = psutil.Process(running.pid), time.monotonic() + PATIENCE
        while running.poll() is None and time.monotonic() < end:
            try:
                seen |= listening(process)
            except psutil.Error:
                break
            time.sleep(0.2)
        _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, errors
    return seen


def _enhance(folder: Path) -> list[str]:
    source = write_input(folder / "in.zarr", noise((10, 37, 45)))
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    return ["enhance", str(source), str(folder / "out.zarr"), "--workers", "2", *options]


def _train(folder: Path) -> list[str]:
    config = folder / "train.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(small_options(folder, device="cpu", devices=2, steps=2)))))
    return ["train", str(config), "--output", str(folder / "training")]


@pytest.mark.slow
@pytest.mark.parametrize("command", [_enhance, _train])
def test_every_command_listens_on_loopback_alone(command: Callable[[Path], list[str]], tmp_path: Path) -> None:
    seen = watch(command(tmp_path))
    assert seen, "several processes of one machine speak to each other"
    assert {address for address, _ in seen if not ipaddress.ip_address(address).is_loopback} == set()


def prepared(folder: Path, **options: Any) -> Plan:
    """Plan a job for two workers, and let it begin."""
    source = write_input(folder / "in.zarr", noise((10, 37, 45)))
    planned = plan(make_job(input=str(source), output=str(folder / "out.zarr"), workers=2, **SMALL, **options))
    prepare(planned)
    return planned


def test_another_user_of_the_machine_cannot_speak_to_the_scheduler_or_to_a_web_server_of_dask(tmp_path: Path) -> None:
    """Whoever reaches a scheduler of dask runs code as its user, and all users of a machine share its loopback."""
    planned, before = prepared(tmp_path), listening(psutil.Process())  # other tests have servers of their own
    with local_cluster(planned) as cluster:
        assert isinstance(cluster, ThroughDask)
        cluster.client.wait_for_workers(2, timeout=PATIENCE)
        scheduler = cluster.client.scheduler.address
        workers = cluster.client.scheduler_info()["workers"]
        assert len(workers) == 2
        opened = listening(psutil.Process()) - before
        assert {f"tls://{host}:{port}" for host, port in opened} == {scheduler, *workers}
        assert cluster.link is None
        assert all(address.startswith("tls://127.0.0.1:") for address in [scheduler, *workers])
        strangers = [(scheduler.replace("tls", "tcp"), None), (scheduler, Security.temporary())]
        for address, security in strangers:
            with pytest.raises((OSError, TimeoutError)):
                Client(address, security=security, timeout=2, set_as_default=False)


def test_the_dashboard_answers_its_own_page_alone(tmp_path: Path) -> None:
    with local_cluster(prepared(tmp_path, dashboard=True)) as cluster:
        assert cluster.link is not None
        link = httpx.URL(cluster.link)
        own, upgrade = f"http://127.0.0.1:{link.port}", {"Connection": "Upgrade", "Upgrade": "websocket"}
        shake = {**upgrade, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        socket_of_page = f"{cluster.link}/ws?bokeh-protocol-version=1.0"
        refused = [
            ({"Host": f"rebound.example:{link.port}"}, 421),
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
        ]
        for headers, status in refused:
            assert httpx.get(link, headers=headers, timeout=60).status_code == status
            assert httpx.get(socket_of_page, headers=headers | shake, timeout=60).status_code == status
        for path in ("/", "/status", "/json/identity.json", "/metrics", "/dashboard/wrong/status"):
            assert httpx.get(f"{own}{path}", timeout=60).status_code == 404
        page = httpx.get(link, headers={"Origin": own}, timeout=60)
        assert page.status_code == 200
        token = re.search(r'"token":"([^"]+)"', page.text)
        assert token is not None
        shake["Sec-WebSocket-Protocol"] = f"bokeh, {token[1]}"
        with httpx.stream("GET", socket_of_page, headers={"Origin": own} | shake, timeout=60) as answer:
            assert answer.status_code == 101

"""`volumetool live`, as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import zarr
from small_jobs import attributes

from volumetool.jobs.job import make_job
from volumetool.live_view.show import live

MODEL = "fake:identity?patch=1,16,16&overlap=0,4,4&trim=0,1,1"
PATIENCE = 120


def test_one_command_shows_raw_beside_live_on_loopback_alone(volume: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "volumetool.cli.main", "live", str(volume), "--model", MODEL, "--json"]
    command += ["--into", str(tmp_path / "out.zarr"), "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            group = zarr.open_group(said["url"], mode="r")
            assert dict(group.attrs)["volumetool"]["fingerprint"] == said["fingerprint"]  # type: ignore[index,call-overload]
            assert httpx.get(said["link"], timeout=60).status_code == 200
            listening = [
                each.laddr.ip for each in psutil.Process(process.pid).net_connections("tcp") if each.status == "LISTEN"
            ]
            assert len(listening) == 2
            assert set(listening) == {"127.0.0.1"}
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert attributes(tmp_path / "out.zarr")["status"] in ("unfinished", "complete")


def test_the_page_shows_both_with_one_contrast(volume: Path) -> None:
    with live(make_job(input=str(volume), output="nowhere.zarr", model=MODEL, device="cpu")) as shown:
        raw, enhanced = shown.page.state.to_json()["layers"]
        assert (raw["name"], enhanced["name"]) == ("in.zarr", "in.zarr enhanced")
        assert raw["shaderControls"] == enhanced["shaderControls"]
        for layer in (raw, enhanced):
            address = layer["source"]["url"].partition("|")[0]
            assert httpx.get(f"{address}zarr.json", timeout=60).status_code == 200
            answer = httpx.get(f"{address}0/zarr.json", headers={"Origin": shown.page.origin}, timeout=60)
            assert answer.headers["access-control-allow-origin"] == shown.page.origin
    with pytest.raises(httpx.ConnectError):
        httpx.get(shown.url, timeout=60)

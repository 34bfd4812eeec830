"""How long somebody waits for the preview of a section that was uploaded, from its last byte on.

``python tests/benchmarks/portal_preview.py SECTION.tif --voxel-size 30,16,16 --times 3``: on loopback, a server of its own,
that has drawn nothing before. It prints the seconds until the file is a volume, and until its preview is there.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

PASSWORD = "plain words are long"
TUS = {"Tus-Resumable": "1.0.0"}


def join(client: httpx.Client, invitation: str) -> str:
    """Make the first account, and return the token of its forms."""
    answer = client.post(invitation, data={"name": "ada", "password": PASSWORD, "again": PASSWORD})
    assert answer.status_code == 303, answer.text
    client.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
    return client.get("/new").text.partition('name="form_token" value="')[2].partition('"')[0]


def wait_for(client: httpx.Client, place: str, field: str, state: str) -> dict[str, Any]:
    """Ask about an upload until a field of it says so."""
    while True:
        told: dict[str, Any] = client.get(place).json()
        if told[field] == state:
            return told
        if told[field] not in ("", "receiving", "looked at", "in work"):
            raise SystemExit(f"{field}: {told[field]}")
        time.sleep(0.05)


def upload(client: httpx.Client, token: str, data: bytes, size: str) -> tuple[float, float]:
    """Send a section; return the seconds until it is a volume, and until it has a preview."""
    fields = {"filename": "one.tif", "voxel_size": size}
    told = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in fields.items())
    own = TUS | {"X-Form-Token": token}
    begun = client.post("/api/uploads", headers=own | {"Upload-Length": str(len(data)), "Upload-Metadata": told})
    assert begun.status_code == 201, begun.text
    place = begun.headers["location"]
    own |= {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    assert client.patch(place, content=data, headers=own).status_code == 204
    began = time.perf_counter()
    wait_for(client, place, "state", "ready")
    usable = time.perf_counter() - began
    wait_for(client, place, "preview", "ready")
    return usable, time.perf_counter() - began


def main() -> None:
    """Measure, and print a line for each upload."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("section", type=Path)
    parser.add_argument("--voxel-size", default="30,16,16")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--pause", type=float, default=30.0, help="seconds between two uploads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        config = Path(made) / "portal.yaml"
        config.write_text(yaml.safe_dump({"data": str(Path(made) / "data"), "port": 0}))
        command = [sys.executable, "-m", "volumetool", "serve", "--config", str(config), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
            try:
                assert serving.stdout is not None
                told = json.loads(serving.stdout.readline())
                with httpx.Client(base_url=told["url"], headers={"origin": told["url"]}, timeout=300) as client:
                    token = join(client, re.sub(r"^http://[^/]+", "", told["invitation"]))
                    for number in range(options.times):
                        time.sleep(options.pause if number else 0)
                        usable, drawn = upload(client, token, options.section.read_bytes(), options.voxel_size)
                        load = os.getloadavg()[0]
                        sys.stdout.write(f"a volume after {usable:.1f} s, its preview after {drawn:.1f} s; load {load:.1f}\n")
            finally:
                serving.terminate()


if __name__ == "__main__":
    main()

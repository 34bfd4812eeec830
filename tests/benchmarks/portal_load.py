"""How many people a portal bears: they log in, look at lists, jobs and previews, and follow a job, while another one runs.

``python tests/benchmarks/portal_load.py --people 200 --minutes 5``: on loopback, a server of its own. It prints requests,
errors, median, 95th and 99th percentile of the seconds of each kind of page, what a request costs the server, and its memory.
Pages are shown twice, while people still log in and after: a password costs a core some time on purpose. All log in within
``--ramp`` seconds; 0 is a class that begins at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np
import psutil
import tifffile
import yaml

from volumetool.portal.accounts import hash_password
from volumetool.portal.queries import PLANNED, Database, now
from volumetool.portal.settings import read_settings
from volumetool.portal.tables import PortalJob
from volumetool.portal.web import COOKIE

PASSWORD = "plain words are long"
JOBS = 5
"""Planned jobs of each account."""

Times = dict[str, list[tuple[float, int, float]]]
"""Seconds and status of each request, and when it began, by kind."""


class Person:
    """Somebody with a browser: a page every few seconds, and a question about a job every two, as the page's script asks."""

    def __init__(self, client: httpx.AsyncClient, url: str, name: str, jobs: list[str], times: Times) -> None:
        self.client, self.url, self.name, self.jobs, self.times = client, url, name, jobs, times
        self.cookie = ""
        self.random = random.Random(name)  # noqa: S311

    async def ask(self, kind: str, path: str, form: dict[str, str] | None = None) -> httpx.Response | None:
        """Send a request, and write down how long it took."""
        head = {"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}
        began = time.perf_counter()
        try:
            if form is None:
                answer = await self.client.get(self.url + path, headers=head)
            else:
                answer = await self.client.post(self.url + path, data=form, headers=head | {"origin": self.url})
        except httpx.HTTPError as error:
            self.times[kind].append((time.perf_counter() - began, 0, began))
            sys.stderr.write(f"{kind}: {type(error).__name__} {error}\n")
            return None
        self.times[kind].append((time.perf_counter() - began, answer.status_code, began))
        return answer

    async def work(self, wait: float, end: float) -> None:
        """Come after so many seconds, log in, and look at pages until the end."""
        await asyncio.sleep(wait)
        answer = await self.ask("login", "/login", {"name": self.name, "password": PASSWORD})
        if answer is None or answer.status_code != 303:
            return
        self.cookie = answer.headers["set-cookie"].partition("=")[2].partition(";")[0].strip('"')
        while time.monotonic() < end:
            job = self.random.choice(self.jobs)
            for kind, path in (("list", "/"), ("job", f"/jobs/{job}"), ("preview", f"/jobs/{self.jobs[0]}/pages/preview")):
                await self.ask(kind, path)
                for _ in range(2):
                    await asyncio.sleep(self.random.uniform(1.5, 2.5))
                    if time.monotonic() < end:
                        await self.ask("status", f"/api/jobs/{self.jobs[0]}")


def wait_for(client: httpx.Client, place: str, until: str, seconds: float = 900) -> None:
    """Wait until a page about a job says so."""
    end = time.monotonic() + seconds
    while until not in client.get(place).text:
        if time.monotonic() > end:
            raise SystemExit(f"{place} did not become {until}: {client.get(place).text}")
        time.sleep(1)


def prepare(folder: Path, people: int) -> tuple[dict[str, list[str]], str]:
    """Make accounts of one password, and their planned jobs; return the jobs of each, and the first administrator's name."""
    settings = read_settings(folder / "portal.yaml")
    settings.data.mkdir(mode=0o700)
    database, hashed = Database(settings), hash_password(PASSWORD)
    jobs: dict[str, list[str]] = {}
    told = {"model": "em-x4", "input": "1 x 1 x 1", "voxels": "1 x 1 x 1", "output": "1 x 4 x 4", "seconds": 1.0}
    estimates = told | {"objects": 1, "memory": 1, "notes": [], "gate": None}
    for number in range(people):
        name = f"person{number}"
        database.invite(f"token {number}", "admin" if number == 0 else "user", name)
        account = database.accept(f"token {number}", name, hashed)
        assert account is not None
        jobs[name] = [f"{number:08x}{each:08x}" for each in range(JOBS)]
        for job in jobs[name]:
            fields = {"input": "/lab/in.tif", "options": {}, "state": PLANNED, "attempts": 0, "bytes": 1}
            database.add_plan(PortalJob(id=job, account_id=account.id, estimates=estimates, asked=now(), **fields))
        page = settings.data / "jobs" / jobs[name][0] / "preview.html"
        page.parent.mkdir(parents=True)
        page.write_text("<!doctype html><p>" + "0123456789abcdef" * 16_384)  # as large as that of a small crop
    database.engine.dispose()
    return jobs, "person0"


def start_job(url: str, name: str, lab: Path) -> str:
    """Start a job that takes longer than the measurement; return its number."""
    with httpx.Client(base_url=url, headers={"origin": url}, timeout=300) as client:
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        cookie = answer.headers["set-cookie"].partition(";")[0]
        client.headers["cookie"] = cookie
        form_token = client.get("/new").text.partition('name="form_token" value="')[2].partition('"')[0]
        form = {
            "form_token": form_token,
            "input": str(lab / "in.tif"),
            "model": "em-denoise",
            "voxel_size": "30,8,8",
            "roi": "",
        }
        planned = client.post("/new", data=form)
        assert planned.status_code == 303, planned.text
        place = planned.headers["location"]
        client.post(f"{place}/start", data={"form_token": form_token})
        wait_for(client, f"/api{place}", '"running"')
    return place.rpartition("/")[2]


def end_job(folder: Path) -> str:
    """End the job that runs, and say whether one did."""
    database = Database(read_settings(folder / "portal.yaml"))
    alive = database.alive()
    for job in alive:
        os.kill(json.loads(job.process or "{}")["pid"], signal.SIGKILL)
    database.engine.dispose()
    return "running" if alive else "at its end"


async def measure(
    url: str, jobs: dict[str, list[str]], seconds: float, ramp: float, server: psutil.Process
) -> tuple[Times, list[int]]:
    """Let everybody come within the ramp and stay until the end; return times, and memory every ten seconds."""
    times: Times = defaultdict(list)
    memory: list[int] = []
    end = time.monotonic() + seconds
    bound = httpx.Limits(max_connections=len(jobs), max_keepalive_connections=len(jobs))
    async with httpx.AsyncClient(timeout=300, limits=bound) as client:
        people = [Person(client, url, name, jobs[name], times) for name in jobs]
        working = asyncio.gather(*(person.work(ramp * n / len(people), end) for n, person in enumerate(people)))
        while time.monotonic() < end:
            memory.append(server.memory_info().rss)
            await asyncio.sleep(min(10.0, max(0.1, end - time.monotonic())))
        await working
    memory.append(server.memory_info().rss)
    return times, memory


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--ramp", type=float, default=60.0, help="seconds within which all log in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "lab").mkdir()
        noise = np.random.default_rng(0).normal(128, 40, (256, 1024, 1024))
        tifffile.imwrite(folder / "lab/in.tif", np.clip(noise, 0, 255).astype(np.uint8), photometric="minisblack")
        roots = [{"path": str(folder / "lab"), "accounts": ["everybody"]}]
        (folder / "portal.yaml").write_text(yaml.safe_dump({"data": str(folder / "data"), "port": 0, "roots": roots}))
        jobs, admin = prepare(folder, options.people)
        command = [sys.executable, "-m", "volumetool", "serve", "--config", str(folder / "portal.yaml"), "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
            try:
                assert serving.stdout is not None
                url = json.loads(serving.stdout.readline())["url"]
                running = start_job(url, admin, folder / "lab")
                jobs[admin].insert(0, running)
                (folder / "data/jobs" / running / "preview.html").write_text("<!doctype html>")
                before, server = os.getloadavg()[0], psutil.Process(serving.pid)
                spent = -sum(server.cpu_times()[:2])
                times, memory = asyncio.run(measure(url, jobs, 60 * options.minutes, options.ramp, server))
                spent += sum(server.cpu_times()[:2])
            finally:
                serving.terminate()
                state = end_job(folder)
    count = sum(map(len, times.values()))
    about = f"{count / (60 * options.minutes):.0f} requests a second, for each {1000 * spent / count:.1f} ms of a server core"
    tell(times, memory, f"{about}; load before {before:.1f}, after {os.getloadavg()[0]:.1f}; the job was {state}")


def tell(times: Times, memory: list[int], about: str) -> None:
    """Print the table."""
    lines = [f"{'':8} {'requests':>8} {'errors':>6} {'p50':>7} {'p95':>7} {'p99':>7}  seconds"]
    pages = [each for kind, found in times.items() if kind != "login" for each in found]
    last = max((took + began for took, _, began in times["login"]), default=0.0)
    during, after = [each for each in pages if each[2] < last], [each for each in pages if each[2] >= last]
    for kind, found in [*sorted(times.items()), ("pages", pages), ("  during", during), ("  after", after)]:
        seconds = np.array([took for took, _, _ in found] or [np.nan])
        wrong = sum(status not in (200, 303) for _, status, _ in found)
        shares = " ".join(f"{np.percentile(seconds, share):7.3f}" for share in (50, 95, 99))
        lines.append(f"{kind:8} {len(found):8} {wrong:6} {shares}")
    lines.append(f"memory of the server, MiB: {' '.join(f'{each / 2**20:.0f}' for each in memory)}")
    sys.stdout.write("\n".join([*lines, about, ""]))


if __name__ == "__main__":
    main()

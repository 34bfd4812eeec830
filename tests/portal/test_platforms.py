"""Files for operators: platforms' own tools accept theirs, and systemd, nginx and the shell accept ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_jobs import noise, write_input

from volumetool.configuration import cache_folder
from volumetool.portal.pages.routes import ROUTES

ROOT = Path(__file__).parents[2]
PLATFORMS, PORTAL = ROOT / "examples/platforms", ROOT / "examples/portal"
TOOLS = {
    "galaxy": ("galaxy-tool-util==26.1.2", "edam-ontology"),
    "tapis": ("tapipy==25.4.0", "jsonschema==4.26.0"),
    "fractal": ("fractal-task-tools==0.5.1",),
}


def environment(platform: str) -> Path:
    """Return the interpreter of a platform's tools; the first time they are installed."""
    folder = cache_folder() / "platforms" / platform
    program, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", *TOOLS[platform]], check=True)
        ready.touch()
    return program


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("platform", TOOLS)
def test_the_platforms_own_tools_find_nothing_wrong(platform: str) -> None:
    checks = Path(__file__).with_name("platform_checks.py")
    command = [environment(platform), checks, platform, PLATFORMS / platform]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.slow
def test_the_task_of_fractal_enhances_an_image_and_names_it(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.zarr", noise((4, 16, 16)))
    given = {"zarr_url": str(source), "model": "fake:identity?scale=1,2,2"}
    (tmp_path / "args.json").write_text(json.dumps(given))
    task = PLATFORMS / "fractal/volumetool_fractal/enhance.py"
    places = [f"--args-json={tmp_path / 'args.json'}", f"--out-json={tmp_path / 'out.json'}"]
    subprocess.run([sys.executable, task, *places], check=True, cwd=tmp_path)
    (update,) = json.loads((tmp_path / "out.json").read_text())["image_list_updates"]
    assert update["origin"] == str(source)
    assert Path(update["zarr_url"], "zarr.json").exists()


def test_forms_of_open_ondemand_ask_for_what_the_script_takes() -> None:
    folder = PLATFORMS / "open-ondemand"
    form = yaml.safe_load((folder / "form.yml").read_text())
    yaml.safe_load((folder / "manifest.yml").read_text())
    script = (folder / "template/script.sh.erb").read_text()
    used = set(re.findall(r"context\.(\w+)", script))
    assert used <= set(form["form"])
    assert set(form["attributes"]) <= set(form["form"])
    for word in used:  # what people type is never a part of the shell's text
        assert len(re.findall(rf"context\.{word}(?!\.shellescape|\.to_s\.empty\?)", script)) == 0


@pytest.mark.slow
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not installed: systemd-analyze")
    text = (PORTAL / "volumetool.service").read_text()
    program = Path(sys.executable).with_name("volumetool")
    (tmp_path / "volumetool.service").write_text(text.replace("/opt/volumetool/bin/volumetool", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "volumetool.service")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nginx_logs_no_address_with_a_token() -> None:
    text = (PORTAL / "nginx.conf").read_text()
    unlogged = re.search(r"~(\S+) 0;", text)
    assert unlogged is not None
    for path, *_ in ROUTES:
        assert ("{token}" in path) == bool(re.match(unlogged[1], path)), path
    assert text.count("access_log") == text.count("server {") == 3


@pytest.mark.slow
def test_nginx_accepts_its_example(tmp_path: Path) -> None:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("not installed: nginx")
    keys = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "fullchain.pem"), "-subj", "/CN=em.example.org"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *keys], check=True, capture_output=True)
    site = (PORTAL / "nginx.conf").read_text().replace("/etc/ssl/volumetool", str(tmp_path))
    site = site.replace("/var/log/nginx", str(tmp_path))
    whole = f"pid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{site}\n}}\n"
    (tmp_path / "nginx.conf").write_text(whole)
    done = subprocess.run([program, "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

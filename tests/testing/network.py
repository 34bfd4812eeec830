"""A network on one machine: hosts in network namespaces of Linux, on one switch, whose links can be cut.

Nothing of it has a name outside: a namespace goes with the process that holds it, and its links with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

PROGRAMS = ("ip", "nsenter", "unshare")


def missing() -> str:
    """Return why there can be no such network here; nothing where there can."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not installed (iproute2, util-linux): {', '.join(absent)}"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "add", "type", "bridge"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespaces: {tried.stderr.decode().strip()}"


class _Namespace:
    """A network namespace, for as long as its context lasts."""

    def __enter__(self) -> _Namespace:
        # It ends with its standard input, and so with this process, whatever becomes of that.
        self._holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.place = Path(f"/proc/{self._holder.pid}/ns/net")
        while self.place.readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._holder.communicate()

    def ip(self, command: str) -> None:
        """Run a command of `ip` inside."""
        subprocess.run(["nsenter", f"--net={self.place}", "ip", *command.split()], check=True)


class Host(_Namespace):
    """A host on a network.

    Parameters
    ----------
    switch : _Namespace
        Where the other end of its link is.
    number : int
        Last part of its address.
    log : Path
        Gets what its programs print.

    Attributes
    ----------
    address : str
        Its address on the network.
    """

    def __init__(self, switch: _Namespace, number: int, log: Path) -> None:
        self._switch, self._port, self.log = switch, f"port{number}", log
        self.address = f"10.0.0.{number}"
        self._programs = list[subprocess.Popen[bytes]]()

    def __enter__(self) -> Host:
        super().__enter__()
        self._switch.ip(f"link add {self._port} type veth peer name eth0 netns {self._holder.pid}")
        self._switch.ip(f"link set {self._port} master switch up")
        self.ip(f"address add {self.address}/24 dev eth0")
        self.ip("link set eth0 up")
        self.ip("link set lo up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        super().__exit__(kind, error, trace)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program on this host."""
        with self.log.open("ab") as log:
            program = subprocess.Popen(
                ["nsenter", f"--net={self.place}", *command], stdout=log, stderr=log, start_new_session=True
            )
        self._programs.append(program)
        return program

    def keep(self, *command: str) -> None:
        """Start a program on this host, and again whenever it ends."""
        self.start("sh", "-c", 'while true; do "$@"; sleep 1; done', "sh", *command)

    def kill(self) -> None:
        """Kill all programs of this host, and what they started, by SIGKILL."""
        while self._programs:
            program = self._programs.pop()
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()

    def cut(self) -> None:
        """Take the link down: what others send is lost, and they hear nothing of it."""
        self._switch.ip(f"link set {self._port} down")

    def mend(self) -> None:
        """Bring the link up again."""
        self._switch.ip(f"link set {self._port} up")


class Network:
    """Hosts on one switch, for as long as its context lasts.

    Parameters
    ----------
    folder : Path
        Gets the logs of the hosts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._hosts, self._stack = folder, 0, ExitStack()

    def __enter__(self) -> Network:
        self._switch = self._stack.enter_context(_Namespace())
        self._switch.ip("link add switch type bridge")
        self._switch.ip("link set switch up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def host(self, name: str) -> Host:
        """Return a new host, whose log is ``name.log``."""
        self._hosts += 1
        return self._stack.enter_context(Host(self._switch, self._hosts, self._folder / f"{name}.log"))

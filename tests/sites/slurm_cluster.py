"""A SLURM of this test's own: munged, slurmctld and some slurmd on this machine, in a private folder, on free ports."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ports import lasting_ports

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
PATHS = "/usr/sbin:/sbin"
"""Where Debian puts the daemons."""

CONFIGURATION = """
ClusterName=volumetool
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=3
ReturnToService=2
SlurmdTimeout=60
MaxArraySize=11
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
"""


def missing() -> list[str]:
    """Return the programs that are not installed: Debian has them in slurm-wlm and munge."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{PATHS}") is None]


class SlurmCluster:
    """A SLURM that runs.

    Parameters
    ----------
    folder : Path
        Its private folder.
    nodes : int
        How many slurmd it has.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:{PATHS}"}

    def ask(self, *command: str, stdin: str | None = None, folder: Path | None = None) -> str:
        """Return what a program of SLURM prints."""
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.environment, cwd=folder or self.folder, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def elements(self) -> dict[str, tuple[str, str]]:
        """Return state and node of each job that waits or runs, by ``array_part`` or its number."""
        rows = (line.split() for line in self.ask("squeue", "--noheader", "-a", "-r", "-o", "%i %T %N").splitlines())
        return {row[0]: (row[1], row[2] if len(row) > 2 else "") for row in rows}

    def logs(self) -> str:
        """Return the ends of the daemons' logs, for the message of a failed test."""
        return "".join(f"\n{file.name}:\n{file.read_text()[-1500:]}" for file in self.folder.glob("*.log"))


@contextmanager
def slurm_cluster(nodes: int) -> Iterator[SlurmCluster]:
    """Run a SLURM of so many nodes for as long as the context lasts; all its jobs end with it."""
    with ExitStack() as stack:
        # A path of its own, not pytest's: that of a socket has at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)
        cluster = SlurmCluster(folder, nodes)
        _configure(cluster)
        munge = {name: folder / f"munge.{name}" for name in ("socket", "pid-file", "seed-file")}
        places = [f"--key-file={folder / 'munge' / 'key'}", *(f"--{option}={place}" for option, place in munge.items())]
        stack.enter_context(_daemon(cluster, "munged", "--foreground", "--force", *places))
        _until(munge["socket"].exists, cluster)
        stack.enter_context(_daemon(cluster, "slurmctld", "-D"))
        for node in cluster.nodes:
            stack.enter_context(_daemon(cluster, "slurmd", "-D", "-N", node))
        _until(lambda: _answers(cluster), cluster)
        try:
            yield cluster
        finally:
            cluster.ask("scancel", "--user", getpass.getuser())
            _until(lambda: not cluster.elements(), cluster)


def _configure(cluster: SlurmCluster) -> None:
    folder = cluster.folder
    (folder / "munge").mkdir(mode=0o700)
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o600)
    (folder / "state").mkdir()
    ports, host = lasting_ports(1 + len(cluster.nodes)), socket.gethostname().partition(".")[0]
    text = CONFIGURATION.format(host=host, user=getpass.getuser(), folder=folder, ports=ports)
    for node, port in zip(cluster.nodes, ports[1:], strict=True):
        (folder / f"spool-{node}").mkdir()
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2048\n"
    text += f"PartitionName=all Nodes={','.join(cluster.nodes)} Default=YES MaxTime=INFINITE State=UP\n"
    (folder / "slurm.conf").write_text(text)


@contextmanager
def _daemon(cluster: SlurmCluster, *command: str) -> Iterator[None]:
    with (
        (cluster.folder / f"{command[0]}.out").open("a") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=cluster.environment) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


def _answers(cluster: SlurmCluster) -> bool:
    done = subprocess.run(
        ["sinfo", "-h", "-t", "idle", "-o", "%D"], capture_output=True, text=True, env=cluster.environment, check=False
    )
    return done.stdout.strip() == str(len(cluster.nodes))


def _until(happened: object, cluster: SlurmCluster, seconds: float = 180) -> None:
    assert callable(happened)
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, cluster.logs()
        time.sleep(0.1)

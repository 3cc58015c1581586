"""A SLURM cluster of one node, this machine, in a folder: real daemons of the system's packages."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from waiting import wait_until

DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
NODE = "node"
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
MailProg=/bin/true
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Daemons that this machine has not; SLURM's must start as root."""
    return [name for name in DAEMONS if shutil.which(name, path=PATH) is None]


@contextmanager
def one_node(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """The environment of commands that talk to a new cluster; it ends with the block.

    `folder` must be new and its path short, since it holds a socket. Needs root.
    """
    folder.mkdir()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    controller_port, node_port = _free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(
            folder=folder,
            node=NODE,
            host=socket.gethostname(),
            cpus=cpus,
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    of_munge = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "seed"}
    options = [f"--{name}={path}" for name, path in of_munge.items()]
    files = [f"--{name}-file={folder / name}" for name in ("pid", "log")]
    with ExitStack() as running:
        # --force: folders of tests lie below one that others may write to.
        running.enter_context(_daemon(["munged", "-F", "--force", *options, *files], environment))
        wait_until((folder / "munge.socket").exists)
        for name, words in (("slurmctld", ()), ("slurmd", ("-N", NODE))):
            log = folder / f"{name}.log"
            command = [name, "-D", "-f", str(config), "-L", str(log), *words]
            running.enter_context(_daemon(command, environment))
        wait_until(lambda: "idle" in output(["sinfo", "-h", "-o", "%T"], environment))
        yield environment


def queue(environment: dict[str, str]) -> dict[str, str]:
    """The state of every job that waits or runs, by its id as in 12_0."""
    lines = output(["squeue", "-h", "-r", "-o", "%i %T"], environment).splitlines()
    return dict(line.split() for line in lines)


@contextmanager
def _daemon(command: Sequence[str], environment: dict[str, str]) -> Iterator[None]:
    path = shutil.which(command[0], path=PATH)
    assert path is not None
    process = subprocess.Popen(
        [path, *command[1:]],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def output(command: Sequence[str], environment: dict[str, str]) -> str:
    """What a command of SLURM prints."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

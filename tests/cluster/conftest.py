"""A Slurm of the tests' own, started once a session where its packages are installed and we are root."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("cluster.sh")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")


def free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on; another session beside this one gets others."""
    for first in range(20000 + (os.getpid() * 131) % 12000, 32700, count):  # below the range of outgoing connections
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for one in held:
                one.close()
    raise RuntimeError("no free ports")


@contextmanager
def running(root: Path, nodes: int) -> Iterator[Path]:
    """A cluster below `root` while the block runs; SLURM_CONF names it. Always stopped at the end."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if lacking or os.geteuid() != 0:
        pytest.skip(f"no Slurm here: {', '.join(lacking) or 'not root'}")
    before = os.environ.get("SLURM_CONF")
    # it reads until this process is gone, however it ends: no daemon outlives a killed test run
    end = f"cat > /dev/null; {shlex.join([str(SCRIPT), 'stop', str(root)])}"
    watcher = subprocess.Popen(["sh", "-c", end], stdin=subprocess.PIPE, start_new_session=True)
    try:
        started = subprocess.run(
            [SCRIPT, "start", root, str(nodes), str(free_ports(nodes + 1))], capture_output=True, text=True, timeout=120
        )
        assert started.returncode == 0, started.stderr
        os.environ["SLURM_CONF"] = str(root / "etc" / "slurm.conf")
        yield root
    finally:
        watcher.communicate(timeout=120)
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster of four nodes."""
    with running(tmp_path_factory.mktemp("slurm"), 4) as root:
        yield root

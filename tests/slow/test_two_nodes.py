"""A table on a Ray cluster of two nodes: cells run on both, share one store, and a stage of two cells is made once."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from llmbole.pipeline.store import Store
from llmbole.results import load_all

pytestmark = pytest.mark.slow

SECONDS = 240
STORE_BYTES = 80_000_000  # Ray's least is 75 MiB
SEEDS = "1,2,3,4,5,6"
# Nothing of another Ray on this machine is met: all ports are free ones, and Ray's files lie in a folder of the test.
ANY_PORTS = ("--min-worker-port=0", "--max-worker-port=0")


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def variables(token: str) -> dict[str, str]:
    """The environment of the cluster and of whoever joins it: a token of its own."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }


def start_node(token: str, *words: str) -> subprocess.Popen[bytes]:
    """A node with one CPU; it runs until `stop_node`."""
    common = ("--block", "--num-cpus=1", "--num-gpus=0", f"--object-store-memory={STORE_BYTES}", *ANY_PORTS)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--node-ip-address=127.0.0.1", *common]
    return subprocess.Popen(
        [*command, *words],
        env=variables(token),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )


def stop_node(node: subprocess.Popen[bytes]) -> None:
    """End a node and all processes that it started."""
    started = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
    node.terminate()
    _, left = psutil.wait_procs(started, timeout=20)
    for process in left:
        process.kill()
    node.kill()
    node.wait()


def alive(address: str, token: str) -> int:
    """Nodes that a cluster has, told by a process of its own; 0 while it has not started."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); print(len(ray.nodes()))"
    command = [sys.executable, "-c", code, address]
    done = subprocess.run(command, env=variables(token), capture_output=True, text=True, timeout=SECONDS)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else 0


@pytest.fixture
def cluster() -> Iterator[tuple[str, str]]:
    """Address and token of two nodes on this machine."""
    port, token = free_port(), secrets.token_hex(32)
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets need a short path
        head = ("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false")
        nodes = [start_node(token, *head, f"--ray-client-server-port={free_port()}")]
        try:
            wait_for(1, address, token, nodes)
            nodes.append(start_node(token, f"--address={address}"))
            wait_for(2, address, token, nodes)
            yield address, token
        finally:
            for node in reversed(nodes):
                stop_node(node)


def wait_for(number: int, address: str, token: str, nodes: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + SECONDS
    while alive(address, token) < number:
        assert nodes[-1].poll() is None, f"node {number} ended"
        assert time.monotonic() < until, f"there are no {number} nodes after {SECONDS} s"


def test_cells_run_on_both_nodes_and_share_one_store(cluster, films, tmp_path):
    address, token = cluster
    command = [sys.executable, "-W", "ignore", "-m", "llmbole", "table", "example/conventional", "--quiet"]
    command += [
        f"--dataset={films}",
        f"--seeds={SEEDS}",
        "--set=backbone.epochs=3",
        f"--ray-address={address}",
    ]
    command += [f"--store={tmp_path / 'store'}", f"--leaderboard={tmp_path / 'leaderboard'}"]
    done = subprocess.run(command, env=variables(token), capture_output=True, text=True, timeout=3 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 cells ran, 0 were on record, 0 failed" in done.stdout

    logs = sorted((tmp_path / "tables").rglob("*.log"))
    found = [re.search(r"Ray's node (\w+)", log.read_text(encoding="utf-8")) for log in logs]
    nodes = Counter(match[1] for match in found if match)
    assert len(logs) == 12 and nodes.total() == 12
    assert len(nodes) == 2, f"all cells ran on one node: {nodes}"

    assert len(load_all(tmp_path / "leaderboard" / "results")) == 12
    stages = Counter(artifact.stage for artifact in Store(tmp_path / "store").artifacts())
    assert stages == {"data": 1, "split": 1, "backbone": 12, "backbone_scores": 12}
    made = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    for shared in ("data", "split"):  # made by the command, taken by every cell on either node
        assert sum(bool(re.search(rf" {shared} +\w+  cached", line)) for line in made) == 12

    again = subprocess.run(command, env=variables(token), capture_output=True, text=True, timeout=SECONDS)
    assert again.returncode == 0 and "0 cells ran, 12 were on record, 0 failed" in again.stdout

"""The service under load: requests per second, latencies, errors and memory, for a backbone alone and for A-LLMRec.

    python benchmarks/serve.py [--requests 1000] [--clients 8] [--store FOLDER]

Both are trained on ml-100k, shortly, for speed does not depend on how well; the store keeps them. Each service is a
process of its own, asked over loopback by threads of this one, which keep their connections; users come in turn.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
MEBIBYTE = 2**20
USERS = 943
SHORT = {
    "SASRec": ["--backbone.epochs=2"],
    "ALLMRec": ["--backbone.epochs=2", "--align.epochs=1", "--align.positions=1", "--project.positions=1"],
}


class Load:
    """Clients that ask one service, and what they measured.

    Args:
        port: Where it listens.
        requests: In all.
        clients: Threads.
    """

    def __init__(self, port: int, requests: int, clients: int) -> None:
        self.port, self.errors = port, 0
        self.seconds: list[float] = []
        self._numbers, self._lock = iter(range(requests)), threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def run(self) -> float:
        """Ask; the seconds that it took."""
        begin = time.perf_counter()
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        return time.perf_counter() - begin

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                connection.close()
                return
            body = json.dumps({"user": str(1 + number % USERS), "k": 10})
            begin = time.perf_counter()
            connection.request("POST", "/recommend", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            good = len(json.loads(answer.read()).get("items", ())) == 10
            with self._lock:
                self.seconds.append(time.perf_counter() - begin)
                self.errors += answer.status != 200 or not good


def measure(model: str, requests: int, clients: int, store: str) -> None:
    """Start a service, ask it, and print what came out."""
    words = [sys.executable, str(ROOT / "run_benchmark.py"), "serve", "--quiet", "--train", "--port=0"]
    words += [f"--model={model}", "--dataset=ml-100k", f"--store={store}", "--threads=1"]
    words += SHORT[model]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as service:
        try:
            assert service.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", service.stdout.readline())
            if found is None:
                sys.exit(f"the service of {model} did not start")
            Load(int(found[1]), clients * 2, clients).run()  # what is loaded or kept on first use
            process = psutil.Process(service.pid)
            before = process.memory_info().rss
            load = Load(int(found[1]), requests, clients)
            seconds = load.run()
            after = process.memory_info().rss
        finally:
            service.terminate()
    cuts = statistics.quantiles(load.seconds, n=100)
    middle, slowest = cuts[49] * 1e3, cuts[98] * 1e3
    print(
        f"{model:<10} {requests / seconds:8.1f} requests/s   p50 {middle:8.1f} ms   p99 {slowest:8.1f} ms   "
        f"{load.errors} errors   memory {before / MEBIBYTE:.0f} -> {after / MEBIBYTE:.0f} MiB"
    )


def main() -> None:
    """Measure both services."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--store", default=".llmbole/store")
    parsed = parser.parse_args()
    for model in SHORT:
        measure(model, parsed.requests, parsed.clients, parsed.store)


if __name__ == "__main__":
    main()

"""What a sweep costs beside the work of its trials: 12 trials over a setting of A-LLMRec's last training.

All trials stand on the same stages before it, which must run once (counted in the manifests of the store). Printed is

    (seconds of the sweep x CPUs) / (seconds of the shared stages + seconds of the trials' own stages)

where the seconds of stages are what their manifests state: with several CPUs both sides count processor time of all of
them, so what is over 1 is Ray's start, imports, waiting for shared stages, and idle CPUs at the end. At most 1.25.

    python benchmarks/sweep_cost.py --cpus 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BAR = 1.25
TRIALS = 12
RATES = [round(1e-3 * 1.5**number, 6) for number in range(TRIALS)]
OWN = ("projection", "scores")


def sweep(folder: Path, cpus: int, positions: int) -> float:
    """Run the sweep from nothing; its wall seconds."""
    words = [
        f"--store={folder / 'store'}",
        f"--leaderboard={folder / 'leaderboard'}",
        "--backbone.epochs=5",
        f"--project.positions={positions}",
        "--sweep.align.alpha=null",
        "--sweep.align.beta=null",
        f"--sweep.project.learning_rate={json.dumps(RATES)}",
        "--cpus-per-trial=1",
        "--progress=false",
        f"--max-concurrent={cpus}",
    ]
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "run_benchmark.py"),
        "sweep",
        "--model=ALLMRec",
        "--dataset=ml-100k",
        "--quiet",
    ]
    began = time.perf_counter()
    subprocess.run([*command, *words], check=True, cwd=ROOT)
    return time.perf_counter() - began


def main() -> int:
    """Measure, print, and say by the exit status whether the bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--positions", type=int, default=10, help="training positions per user of the last stage; its length"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        wall = sweep(Path(place), arguments.cpus, arguments.positions)
        paths = (Path(place) / "store" / "artifacts").glob("*/manifest.json")
        manifests = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    counts = Counter(manifest["stage"] for manifest in manifests)
    shared = sum(entry["cost"]["seconds"] for entry in manifests if entry["stage"] not in OWN)
    own = sum(entry["cost"]["seconds"] for entry in manifests if entry["stage"] in OWN)
    once = all(count == (TRIALS if stage in OWN else 1) for stage, count in counts.items())
    ratio = wall * arguments.cpus / (shared + own)
    print(f"stages made: {', '.join(f'{stage} {count}' for stage, count in sorted(counts.items()))}")
    print(f"shared stages {shared:.1f} s, {TRIALS} trials' own stages {own:.1f} s")
    print(f"sweep {wall:.1f} s on {arguments.cpus} CPUs: {ratio:.3f} (at most {BAR})")
    return 0 if once and ratio <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""RecBole's sequence augmentation and leave-one-out beside this project's, on all of ml-100k: tensors and seconds.

python benchmarks/sequential_dataset.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmbole.config import Config
from llmbole.data import source
from llmbole.data.dataset import make_dataset
from recbole.data.dataset import SequentialDataset

SETTINGS = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["HIT"],
    "topk": [1],
    "valid_metric": "HIT@1",
}


def timed(make: Callable[[], Any], repeats: int) -> tuple[list[Any], float]:
    """The parts of a freshly read dataset, and the least seconds that `build` took."""
    seconds = []
    for _ in range(repeats):
        dataset = make()
        start = time.perf_counter()
        parts = dataset.build()
        seconds.append(time.perf_counter() - start)
    return parts, min(seconds)


def main() -> None:
    """Print both times, the ratio, and whether the tensors are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        source.prepare(source.card("ml-100k"), None, Path(folder))
        config = Config("SASRec", "ml-100k", Path(folder), SETTINGS, device="cpu", seed=1)
        theirs, slow = timed(lambda: SequentialDataset(config), repeats)
        ours, fast = timed(lambda: make_dataset(config, "recbole_time"), repeats)
    equal = all(
        torch.equal(left.inter_feat[field], right.inter_feat[field])
        for left, right in zip(ours, theirs, strict=True)
        for field in right.inter_feat
    )
    rows = sum(len(part) for part in ours)
    print(f"ml-100k, {rows:,} sequences of length 50, build() in seconds, the best of {repeats}")
    print(
        f"RecBole {slow:.2f}   llmbole {fast:.2f}   {slow / fast:.1f} times faster   equal tensors: {equal}"
    )


if __name__ == "__main__":
    main()

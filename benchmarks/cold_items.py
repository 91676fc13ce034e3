"""HIT@1 and NDCG@5 of users whose test item had few training interactions, for the runs of a leaderboard.

    python run_benchmark.py --model=ALLMRec --dataset=ml-100k --seed=S
    python run_benchmark.py --model=ALLMRec --dataset=ml-100k --seed=S --inference.text_branch=all
    python benchmarks/cold_items.py [--method ALLMRec] [--limits 5 10 20]

The values are those of users in the records, the split is the store's. A row is a method with its settings, a mean over
its seeds. With `inference.text_branch=all` A-LLMRec embeds all items by their text, by default only those that training
never saw.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmbole import results
from llmbole.data.split import Split
from llmbole.pipeline.store import Store
from llmbole.record import Record

logger = logging.getLogger("cold_items")

METRICS = ("HIT@1", "NDCG@5")


def training_counts(store: Store, record: Record) -> dict[str, int]:
    """Training interactions of each user's test item, by raw user id."""
    artifact = store.get(record.artifacts["split"])
    if artifact is None:
        raise SystemExit(f"{store.folder} lacks the split of record {record.id[:12]}; give the run's --store")
    split = Split.load(artifact.folder)
    test, counts = split.phase("test"), split.train_counts[1]
    return {
        str(split.user_tokens[user]): int(counts[target])
        for user, target in zip(test.users, test.targets, strict=True)
    }


def values(file: Path, counts: Mapping[str, int], limit: int) -> tuple[int, list[float]]:
    """Number of users whose test item had fewer interactions than the limit, and the means of their metrics."""
    users, columns = results.read_per_user(file)
    taken = np.array([counts[user] < limit for user in users])
    return int(taken.sum()), [float(np.mean(np.array(columns[name], dtype=float)[taken])) for name in METRICS]


def main() -> None:
    """Print a row for each method with its settings and each limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="ALLMRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--limits", type=int, nargs="+", default=[5, 10, 20], help="training interactions")
    parser.add_argument("--store", type=Path, default=Path(".llmbole/store"))
    parser.add_argument("--leaderboard", type=Path, default=Path("leaderboard"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = options.leaderboard / "results" / "loo_rank20" / options.dataset
    rows: dict[str, list[tuple[Record, Path]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = results.load(path)
        if record.method == options.method and record.per_user is not None:
            rows[record.label or "default"].append((record, path.parent / record.per_user.file))
    store = Store(options.store)
    for limit in options.limits:
        for label, runs in sorted(rows.items()):
            found = []
            for record, file in runs:
                found.append(values(file, training_counts(store, record), limit))
            means = np.mean([metrics for _, metrics in found], axis=0)
            shown = ", ".join(f"{name} {mean:.4f}" for name, mean in zip(METRICS, means, strict=True))
            logger.info(
                "below %3d: %3d users, %d seeds, %s: %s", limit, found[0][0], len(found), shown, label
            )


if __name__ == "__main__":
    main()

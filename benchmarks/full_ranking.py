"""Full-ranking evaluation of LightGCN beside RecBole's own: seconds, and metrics to 4 decimals.

python benchmarks/full_ranking.py [--rows 1075000 --users 6040 --items 3706 --repeats 3]

Both evaluate the same untrained model, its graph propagated beforehand, on the same generated data under `loo_full`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from generated import write_interactions

from llmbole.config import Config
from llmbole.data import cards, splits
from llmbole.data.protocol import protocol
from llmbole.model.session import open_split, recbole_settings
from llmbole.trainer.trainer import Trainer
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer as RecBoleTrainer


def seconds(trainer: Any, loader: Any, repeats: int) -> tuple[float, dict[str, float]]:  # noqa: ANN401 - either side's
    """The shortest of some evaluations, and their result."""
    times, result = [], {}
    for _ in range(repeats):
        start = time.perf_counter()
        result = trainer.evaluate(loader, load_best_model=False)
        times.append(time.perf_counter() - start)
    return min(times), dict(result)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_075_000)
    parser.add_argument("--users", type=int, default=6_040)
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rules = protocol("loo_full")
    with tempfile.TemporaryDirectory() as folder:
        data, split = Path(folder, "data"), Path(folder, "split")
        data.mkdir()
        split.mkdir()
        write_interactions(data, "generated", options.rows, options.users, options.items)
        (data / "ml-100k.inter").symlink_to(data / "generated.inter")
        splits.freeze(rules, cards.card("ml-100k"), data, split)
        settings = recbole_settings(rules)
        config = Config("LightGCN", "ml-100k", data, settings, device="cpu", seed=1)
        session = open_split(config, splits.load(split), rules)
        torch.manual_seed(1)
        model = config.model_class(config, session.parts[0]).eval()
        with torch.no_grad():
            model.restore_user_e, model.restore_item_e = model()
        ours = Trainer(config, model, workspace=Path(folder, "work"))
        own_seconds, own = seconds(ours, session.loader("test"), options.repeats)
        stock_config = Config("LightGCN", "ml-100k", data, settings, device="cpu", seed=1)
        _, _, stock_loader = data_preparation(stock_config, create_dataset(stock_config))
        stock_seconds, stock = seconds(RecBoleTrainer(stock_config, model), stock_loader, options.repeats)
    out = sys.stdout.write
    out(
        f"this project {own_seconds:.2f} s, RecBole {stock_seconds:.2f} s, ratio {own_seconds / stock_seconds:.2f}\n"
    )
    differing = [name for name in stock if round(own[name], 4) != round(stock[name], 4)]
    out(f"{len(stock) - len(differing)} of {len(stock)} metrics equal to 4 decimals {differing or ''}\n")


if __name__ == "__main__":
    main()

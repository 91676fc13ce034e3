"""Backbones trained by this project's path and by stock RecBole with the same seed: the same full-ranking metrics.

Stock means RecBole's own Config, datasets, loaders, Trainer and evaluator, in a process that imports nothing of this
project but `llmbole.compat`. This project's path is its Config, dataset, split, loaders, Trainer and evaluator under
the protocol `loo_full`. Both train on all of ml-100k.

    python benchmarks/recbole_parity.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "LightGCN": {"epochs": 5, "train_batch_size": 4096},
    "SASRec": {
        "epochs": 3,
        "MAX_ITEM_LIST_LENGTH": 20,
        "hidden_size": 32,
        "inner_size": 64,
        "loss_type": "CE",
    },
}
RANKING = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["Hit", "NDCG", "MRR"],
    "topk": [3, 5, 10],
    "valid_metric": "NDCG@10",
}

STOCK = """
import json, sys
from llmbole import compat
compat.apply()
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import init_seed

model, settings = sys.argv[1], json.loads(sys.argv[2])
sys.argv = sys.argv[:1]
if settings.get("loss_type") == "CE":
    settings["train_neg_sample_args"] = None
config = Config(model=model, dataset="ml-100k", config_dict=settings)
init_seed(config["seed"], config["reproducibility"])
train, valid, test = data_preparation(config, create_dataset(config))
init_seed(config["seed"], config["reproducibility"])
trainer = Trainer(config, config.model_class(config, train._dataset).to(config["device"]))
trainer.fit(train, valid, show_progress=False)
best = torch.load(trainer.saved_model_file, weights_only=False)  # RecBole's own loading fails with torch >= 2.6
trainer.model.load_state_dict(best["state_dict"])
trainer.model.load_other_parameter(best["other_parameter"])
result = {
    "valid": trainer.evaluate(valid, load_best_model=False),
    "test": trainer.evaluate(test, load_best_model=False),
}
print("RESULT", json.dumps(result, default=float))
"""


def stock(model: str, settings: Mapping[str, Any], seed: int, workspace: Path) -> dict[str, dict[str, float]]:
    """Validation and test metrics of stock RecBole, rounded by RecBole."""
    own = {
        **RANKING,
        **settings,
        "seed": seed,
        "checkpoint_dir": str(workspace),
        "show_progress": False,
        "gpu_id": "",
    }
    root = Path(__file__).resolve().parents[1]
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r})\n{STOCK}",
        model,
        json.dumps(own),
    ]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"stock RecBole failed with {model}:\n{done.stderr[-3000:]}")
    result: dict[str, dict[str, float]] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def own(model: str, settings: Mapping[str, Any], seed: int, workspace: Path) -> dict[str, dict[str, float]]:
    """Validation and test metrics of this project's path, rounded as RecBole rounds."""
    from llmbole.config import Config
    from llmbole.data import source
    from llmbole.data.hold_out import freeze
    from llmbole.data.protocol import protocol
    from llmbole.data.split import Split
    from llmbole.model import cf
    from llmbole.model.session import open_split
    from llmbole.trainer.trainer import Trainer

    card, rules = source.card("ml-100k"), protocol("loo_full")
    folders = {name: workspace / name for name in ("data", "split", "backbone")}
    for folder in folders.values():
        folder.mkdir()
    source.prepare(card, None, folders["data"])
    freeze(rules, card, folders["data"], folders["split"])
    config = Config(model, "ml-100k", folders["data"], {**RANKING, **settings}, device="cpu", seed=seed)
    session = open_split(config, Split.load(folders["split"]), rules)
    cf.train_backbone(session, "per_prefix", folders["backbone"], workspace / "work")
    trainer = Trainer(
        config, cf.load_backbone(session, folders["backbone"]).model, workspace=workspace / "work"
    )
    return {
        phase: {name: round(value, 4) for name, value in trainer.evaluate(session.loader(phase)).items()}
        for phase in ("valid", "test")
    }


def compare(model: str, settings: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of both paths, stock first."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        return stock(model, settings, seed, Path(first)), own(model, settings, seed, Path(second))


def main() -> int:
    """Compare the models and print what is equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=2020)
    arguments = parser.parse_args()
    different = False
    for model in arguments.models:
        start = time.perf_counter()
        theirs, ours = compare(model, SETTINGS[model], arguments.seed)
        print(f"{model} {SETTINGS[model]}, seed {arguments.seed} ({time.perf_counter() - start:.0f} s)")
        for phase in theirs:
            for name, value in theirs[phase].items():
                same = "equal" if value == ours[phase][name] else "DIFFERENT"
                different |= value != ours[phase][name]
                print(f"  {phase:5} {name:8} stock {value:.4f}  llmbole {ours[phase][name]:.4f}  {same}")
    return int(different)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    raise SystemExit(main())

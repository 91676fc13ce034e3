"""Training a causal model on all positions of a sequence in one pass, beside RecBole's one padded row per position.

Part 1 trains both ways on all of ml-100k with the same model class, seed, optimizer, positions per batch, validation
candidates (`loo_rank20`) and early stopping, and compares the best validation metric and the seconds. Histories have
20 items there by default, so that the slow way ends in less than an hour. Part 2 measures the seconds of an epoch at
RecBole's default length of 50; the slow way's are extrapolated from some of its steps.

    python benchmarks/all_positions.py --models SASRec
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmbole.config import Config
from llmbole.data import source
from llmbole.data.hold_out import freeze
from llmbole.data.loader import train_loader
from llmbole.data.protocol import protocol
from llmbole.data.split import Split
from llmbole.model import cf
from llmbole.model.session import Session, open_split, recbole_settings
from llmbole.trainer.all_positions import AllPositionsLoader, causal_model, loss_function
from llmbole.trainer.trainer import Trainer

RULES = protocol("loo_rank20")
MODES = ("per_prefix", "all_positions")


def prepare(folder: Path) -> tuple[Path, Path]:
    """Prepared data and frozen split of ml-100k, in folders of their own."""
    data, split = folder / "data", folder / "split"
    data.mkdir()
    split.mkdir()
    card = source.card("ml-100k")
    source.prepare(card, None, data)
    freeze(RULES, card, data, split)
    return data, split


def open_session(model: str, data: Path, split: Path, settings: Mapping[str, Any], seed: int) -> Session:
    """A model's settings and data."""
    ranking = {**recbole_settings(RULES), "valid_metric": "NDCG@20"}
    config = Config(
        model, "ml-100k", data, {**ranking, "loss_type": "CE", **settings}, device="cpu", seed=seed
    )
    return open_split(config, Split.load(split), RULES)


def train(session: Session, mode: str, folder: Path) -> dict[str, Any]:
    """Train until early stopping; wall and processor seconds, and what was reached."""
    folder.mkdir()
    wall, processor = time.perf_counter(), time.process_time()

    def report(epochs: int) -> None:
        print(
            f"    {mode}: {epochs} more epoch, {time.perf_counter() - wall:.0f} s",
            file=sys.stderr,
            flush=True,
        )

    summary = cf.train_backbone(session, mode, folder, folder / "work", report)
    return {**summary, "wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def epoch_seconds(session: Session, mode: str, steps: int, folder: Path) -> tuple[float, int, int]:
    """Processor seconds of one epoch's training steps, measured on some of them; steps measured, steps in all."""
    config = session.config
    if mode == "all_positions":
        assert isinstance(session.split, Split)
        sequences = [session.split.train_items(user) for user in range(session.split.n_users)]
        loader: Any = AllPositionsLoader(config, session.dataset, sequences)
        model = causal_model(config["model"]).model_class(config, session.parts[0])
        trainer = Trainer(config, model, workspace=folder, loss_function=loss_function(config, model))
    else:
        loader = train_loader(config, session.parts[0])
        trainer = Trainer(config, config.model_class(config, session.parts[0]), workspace=folder)
    measured = min(steps, len(loader))
    batches = [batch for batch, _ in zip(loader, range(measured), strict=False)]
    start = time.process_time()
    trainer._train_epoch(batches, 0)
    return (time.process_time() - start) * len(loader) / measured, measured, len(loader)


def show_trainings(model: str, data: Path, split: Path, arguments: argparse.Namespace) -> None:
    """Part 1 for one model."""
    settings = {
        "MAX_ITEM_LIST_LENGTH": arguments.length,
        "learning_rate": arguments.learning_rate,
        "epochs": arguments.epochs,
        "stopping_step": arguments.patience,
    }
    print(f"{model}, {settings}, seed {arguments.seed}", flush=True)
    results = {}
    for mode in MODES:
        session = open_session(model, data, split, settings, arguments.seed)
        with tempfile.TemporaryDirectory() as folder:
            results[mode] = train(session, mode, Path(folder) / mode)
        found = results[mode]
        valid = "  ".join(f"{name} {found['valid'][name]:.4f}" for name in ("ndcg@20", "hit@1", "hit@5"))
        print(
            f"  {mode:13} best validation {valid} in epoch {found['epoch']} of {found['epochs']}, "
            f"{found['wall']:.0f} s wall, {found['processor']:.0f} s processor",
            flush=True,
        )
    slow, fast = (results[mode] for mode in MODES)
    print(
        f"  all_positions: NDCG@20 {fast['valid']['ndcg@20'] - slow['valid']['ndcg@20']:+.4f}, "
        f"{slow['processor'] / fast['processor']:.1f} times less processor time, "
        f"{slow['wall'] / fast['wall']:.1f} times less wall time"
    )


def show_epochs(model: str, data: Path, split: Path, arguments: argparse.Namespace) -> None:
    """Part 2 for one model."""
    session = open_session(model, data, split, {"MAX_ITEM_LIST_LENGTH": 50}, arguments.seed)
    seconds = {}
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            seconds[mode], measured, steps = epoch_seconds(session, mode, arguments.steps, Path(folder))
        print(
            f"  epoch at length 50, {mode:13} {seconds[mode]:7.1f} s processor ({measured} of {steps} steps measured)"
        )
    print(
        f"  {seconds['per_prefix'] / seconds['all_positions']:.1f} times less processor time per epoch",
        flush=True,
    )


def main() -> None:
    """Run both parts for the models asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["SASRec", "GRU4Rec", "NextItNet"])
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=0.003)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="steps measured in part 2")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--parts", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, split = prepare(Path(folder))
        for model in arguments.models:
            if 1 in arguments.parts:
                show_trainings(model, data, split, arguments)
            if 2 in arguments.parts:
                show_epochs(model, data, split, arguments)


if __name__ == "__main__":
    main()

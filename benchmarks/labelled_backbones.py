"""Training steps of SASRec and DIN on labelled rows beside RecBole's own way of computing them, in one process.

    python benchmarks/labelled_backbones.py [--threads 1] [--steps 5]

Rows are training rows of ml-100k under `unified_ctr`, with the settings and batches of a run. The plain models have the
same weights: SASRec as RecBole has it, with all positions of the last layer and GELU in steps; DIN with features of
items embedded, and its attention computed, at each place of each history.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from llmbole.config import Config
from llmbole.data import cards, protocol, source, splits
from llmbole.model import labels
from llmbole.model.session import Session, open_split, recbole_settings
from llmbole.settings import load_yaml, properties_folder
from recbole.model.sequential_recommender import SASRec


def open_session(folder: Path, name: str) -> Session:
    """A backbone's settings and data; `folder` holds prepared data and the split."""
    rules = protocol.protocol("unified_ctr")
    own = load_yaml(properties_folder() / "model" / f"{name}.yaml")
    task = own.pop("by_task")["pairs"]
    own.pop("sweep")
    settings = {**recbole_settings(rules), **own, **task}
    config = Config(name, "ml-100k", folder, settings, device="cpu", seed=1)
    return open_split(config, splits.load(folder / "split"), rules)


def plain_sasrec(model: Any, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:  # noqa: ANN401 - a RecBole model
    """RecBole's forward pass. Shape `[B, D]`."""
    output: Tensor = SASRec.forward(model, item_seq, item_seq_len.clamp(min=1))
    return output


def plain_din(model: Any, user: Tensor, item_seq: Tensor, item_seq_len: Tensor, next_items: Tensor) -> Tensor:  # noqa: ANN401
    """DIN's logits with RecBole's embedding and attention of every place. Shape `[B]`."""
    sparse, dense = model.embedding_layer(user, torch.cat([item_seq, next_items[:, None]], dim=1))

    def flat(kind: str) -> Tensor:
        fields = [part[kind] for part in (sparse, dense) if part[kind] is not None]
        return torch.cat(fields, dim=-2).flatten(start_dim=-2)

    items = flat("item")  # [B, L + 1, F * E]
    history, target = items[:, :-1], items[:, -1]
    pooled = model.attention(target, history, item_seq_len).squeeze(1)
    hidden = model.dnn_mlp_layers(torch.cat([pooled, target, pooled * target, flat("user")], dim=1))
    logits: Tensor = model.dnn_predict_layers(hidden).squeeze(1)
    return logits


def both(session: Session, name: str) -> tuple[Any, Any]:
    """The plain model and this project's, with the same weights."""
    own_class = labels.for_labels(session.config.model_class, "pairs")
    plain_class = type(
        own_class.__name__, (own_class,), {"forward": plain_sasrec if name == "SASRec" else plain_din}
    )
    plain, own = (made(session.config, session.parts[0]) for made in (plain_class, own_class))
    plain.load_state_dict(own.state_dict())
    if name == "SASRec":
        for layer in plain.trm_encoder.layer:
            layer.feed_forward.intermediate_act_fn = layer.feed_forward.gelu
    return plain, own


def seconds(model: Any, batches: list[Any]) -> float:  # noqa: ANN401 - a RecBole model
    """Of a training step: the fastest of some, after one to warm up."""
    optimizer = torch.optim.Adam(model.parameters())
    model.train()
    times = []
    for batch in batches:
        begin = time.perf_counter()
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        card = cards.card("ml-100k")
        source.prepare(card, None, folder)
        (folder / "split").mkdir()
        splits.freeze(protocol.protocol("unified_ctr"), card, folder, folder / "split")
        for name in ("SASRec", "DIN"):
            session = open_session(folder, name)
            plain, own = both(session, name)
            size = int(session.config["train_batch_size"])
            order = torch.randperm(len(session.parts[0]))[: size * (options.steps + 1)]
            batches = [session.parts[0][rows] for rows in order.split(size)]
            with torch.no_grad():
                outputs = [model.eval().predict(batches[0]) for model in (plain, own)]
            print(f"{name}, batches of {size}, {options.threads} thread(s)")
            print(f"  largest difference of the probabilities: {(outputs[0] - outputs[1]).abs().max():.1e}")
            times = [seconds(model, batches) for model in (plain, own)]
            print(
                f"  plain {times[0]:.2f} s a step, llmbole {times[1]:.2f} s: {times[0] / times[1]:.1f} x",
                flush=True,
            )


if __name__ == "__main__":
    main()

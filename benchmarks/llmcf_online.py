"""LLM-CF's online part beside its backbone: milliseconds of a training step and of scoring, and where they go.

    python benchmarks/llmcf_online.py [--backbone DeepFM] [--examples 4] [--steps 30] [--threads 1]

Rows are ml-100k's under loo_ctr, examples a hundredth of the training rows, found by the library's search. Vectors of
texts are random, as wide as a text encoder's: what they say costs no time. Both models take the same batches in turns;
medians are compared. All that is offline is done before: a step looks examples and vectors up, and a count of searches
and encodings over all steps says so.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmbole.config import Config
from llmbole.data import cards, protocol, source, splits
from llmbole.data.numbered import ROW, NumberedRows, as_tensors
from llmbole.data.pairs import PairSplit
from llmbole.data.text import ItemText
from llmbole.llm import encode, nearest
from llmbole.model import examples, extra_feature
from llmbole.model.examples import ExampleSettings
from llmbole.model.in_context import Examples, InContext, InContextSettings, ItemTables, label_table
from llmbole.model.llmcf import LLMCF
from llmbole.model.session import Session, open_split, recbole_settings
from llmbole.settings import build, load_yaml, properties_folder

logger = logging.getLogger("llmcf_online")

TEXT_WIDTH = 384
SHARE = 0.01


def open_session(folder: Path, backbone: str) -> Session:
    """The backbone's settings and data."""
    card, rules = cards.card("ml-100k"), protocol.protocol("loo_ctr")
    source.prepare(card, None, folder)
    (folder / "split").mkdir()
    splits.freeze(rules, card, folder, folder / "split")
    own = load_yaml(properties_folder() / "model" / f"{backbone}.yaml")["by_task"]["pairs"]
    config = Config(backbone, "ml-100k", folder, {**recbole_settings(rules), **own}, device="cpu", seed=1)
    return open_split(config, splits.load(folder / "split"), rules)


def assemble(session: Session, folder: Path, rows: NumberedRows, asked: np.ndarray, count: int) -> LLMCF:
    """LLM-CF over the rows that are asked for."""
    defaults, random = load_yaml(properties_folder() / "model" / "LLMCF.yaml"), np.random.default_rng(0)
    text = random.normal(size=(rows.split.n_items, TEXT_WIDTH)).astype(np.float32)
    train = rows.numbers("train")
    chosen = np.sort(random.choice(train, round(SHARE * len(train)), replace=False))
    search = build(ExampleSettings, {**defaults["examples"], "count": count}, "examples")
    shown = examples.retrieve(rows, chosen, text, search, 1, asked=asked)
    settings = build(InContextSettings, defaults["in_context"], "in_context")
    past = rows.histories(chosen, settings.history)
    users, items, histories, labels = as_tensors(
        rows.users[chosen], rows.items[chosen], past, rows.labels[chosen]
    )
    reasoning = torch.from_numpy(random.normal(size=(len(chosen), TEXT_WIDTH)).astype(np.float32))
    words = ItemText.load(folder, rows.split.item_tokens).categories
    tables = ItemTables(torch.from_numpy(text), (label_table(words),))
    in_context = InContext(
        rows.split.n_users, tables, Examples(users, items, histories, labels, reasoning), settings
    )
    return LLMCF(extra_feature.make(session, settings.width), in_context, rows, shown)


def timed(function: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    begin = time.perf_counter()
    function()
    return (time.perf_counter() - begin) * 1000


def train_step(model: Any, optimizer: torch.optim.Optimizer, batch: Any) -> None:  # noqa: ANN401 - RecBole's
    """One step as the trainer takes it."""
    optimizer.zero_grad()
    model.calculate_loss(batch).backward()
    optimizer.step()


def parts(model: LLMCF, batch: Any) -> dict[str, Callable[[], object]]:  # noqa: ANN401 - RecBole's Interaction
    """The parts of a step, each by itself, forward and backward."""
    numbers = batch[ROW].numpy()
    columns = model.look_up(numbers)

    def module() -> None:
        feature, reconstruction = model.in_context(*columns)
        (feature.sum() + reconstruction).backward()

    def backbone() -> None:
        batch[extra_feature.EXTRA] = torch.zeros(len(batch), 1, model.in_context.settings.width)
        model.conventional.calculate_loss(batch).backward()

    return {"looking up": lambda: model.look_up(numbers), "in-context module": module, "backbone": backbone}


def report(name: str, base: list[float], own: list[float], rows: int) -> None:
    """Medians of both and their ratio."""
    ours, theirs = float(np.median(own)), float(np.median(base))
    logger.info(
        "%-10s %5d rows: backbone %8.2f ms (%6.1f us a row), LLM-CF %8.2f ms (%6.1f us a row), %.2f x",
        name,
        rows,
        theirs,
        theirs * 1000 / rows,
        ours,
        ours * 1000 / rows,
        ours / theirs,
    )


def measure(session: Session, folder: Path, steps: int, count: int) -> None:
    """Train and score both, side by side."""
    assert isinstance(session.split, PairSplit)
    rows = NumberedRows(session.split)
    loaders = session.numbered_loaders(rows)
    batches = [batch for batch, _ in zip(loaders["train"], range(steps), strict=False)]
    scored = [batch[0] for batch, _ in zip(loaders["test"], range(steps), strict=False)]
    asked = np.unique(np.concatenate([batch[ROW].numpy() for batch in [*batches, *scored]]))
    torch.manual_seed(0)
    model = assemble(session, folder, rows, asked, count)
    plain: Any = session.config.model_class(session.config, session.parts[0])
    sizes = [sum(each.numel() for each in found.parameters()) for found in (plain, model)]
    logger.info("%d and %d parameters, %d examples a row", *sizes, count)
    calls = {"searches": 0, "encodings": 0}
    watch(calls)
    optimizers = [torch.optim.Adam(found.parameters()) for found in (plain, model)]
    base, own = [], []
    for batch in batches:
        base.append(timed(partial(train_step, plain, optimizers[0], batch)))
        own.append(timed(partial(train_step, model, optimizers[1], batch)))
    report("training", base[1:], own[1:], len(batches[0]))  # the first one warms up
    found = [{name: timed(part) for name, part in parts(model, batch).items()} for batch in batches]
    for name in found[0]:
        logger.info("  %-18s %8.2f ms", name, np.median([each[name] for each in found]))
    plain.eval(), model.eval()
    with torch.inference_mode():
        base = [timed(partial(plain.predict, batch)) for batch in scored]
        own = [timed(partial(model.predict, batch)) for batch in scored]
    report("scoring", base, own, len(scored[0]))
    logger.info("in all steps: %(searches)d searches, %(encodings)d encodings", calls)


def watch(calls: dict[str, int]) -> None:
    """Count what may only be done offline."""

    def counting(name: str, honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - of any function
            calls[name] += 1
            return honest(*arguments, **keywords)

        return call

    nearest.EarlierNeighbours.search = counting("searches", nearest.EarlierNeighbours.search)  # type: ignore[method-assign]
    encode.encode_texts = counting("encodings", encode.encode_texts)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="DeepFM")
    parser.add_argument("--examples", type=int, default=4, help="K, even")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(Path(folder), arguments.backbone)
        measure(session, Path(folder), arguments.steps, arguments.examples)


if __name__ == "__main__":
    main()

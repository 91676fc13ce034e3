"""Sessions: a conventional model's settings and data under a protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from llmbole import registry
from llmbole.config import Config
from llmbole.data import leak, splits
from llmbole.data.arrays import open_parts, refuse_sealed
from llmbole.data.dataset import make_dataset
from llmbole.data.loader import FrozenCandidateLoader, evaluation_loader, rows_of, train_loader
from llmbole.data.numbered import NumberedRows, loaders, number_parts
from llmbole.data.pairs import PARTS, PairSplit
from llmbole.data.protocol import Protocol, protocol
from llmbole.data.split import Split
from llmbole.data.split_dataset import ItemColumns, PairLoader, make_split_dataset, reads_all_rows
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from llmbole.settings import SettingsError
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import ModelType

SCORES_PER_BATCH = 4_000_000
"""Scores of a batch of a full ranking: 16 MB; RecBole's own batches hold one user from 4,096 items on."""
ONE_NEGATIVE = {
    "distribution": "uniform",
    "sample_num": 1,
    "alpha": 1.0,
    "dynamic": False,
    "candidate_num": 0,
}
"""Training of models that predict labels where a ranking has positives only: one random item for each."""


def _learns_only_labels(model: str | type) -> bool:
    return registry.learns_only_labels(model if isinstance(model, str) else model.__name__)


def no_leaks(problems: Sequence[str]) -> None:
    """Stop a run that leaks: a ValueError with every problem."""
    if problems:
        raise ValueError("the run leaks:\n" + "\n".join(problems))


@dataclass(frozen=True)
class Session:
    """A model's settings and data, split as the protocol says.

    Attributes:
        config: RecBole's settings.
        dataset: All interactions.
        parts: RecBole's training, validation and, if it is not sealed, test data sets.
        split: The frozen split, whose ids are RecBole's.
        protocol: What is ranked.
    """

    config: Config
    dataset: Any
    parts: tuple[Any, ...]
    split: Split | PairSplit
    protocol: Protocol

    def loader(self, phase: str) -> Any:  # noqa: ANN401 - RecBole's or this project's loader
        """The evaluation loader of `valid` or `test`; only the one asked for is built."""
        part = self.part(phase)
        if isinstance(self.split, PairSplit):
            return PairLoader(self.config, part, training=False)
        return evaluation_loader(self.config, self.dataset, part, self.split.phase(phase), self.protocol)

    def part(self, phase: str) -> Any:  # noqa: ANN401 - a RecBole dataset
        """The data set of `valid` or `test`; a sealed test is a DataError."""
        refuse_sealed(phase)
        return self.parts[1 if phase == "valid" else 2]

    def held_out(self, phase: str) -> Interaction:
        """A row for each user of a phase, in its order, with history and target.

        Args:
            phase: `valid` or `test`.

        Returns:
            The rows. Shape `[U]`.

        Raises:
            ValueError: A history shows the target or anything later.
        """
        part, held = self.part(phase), self.ranking_split.phase(phase)
        rows: Interaction = part[rows_of(part, held)]
        shown = rows[self.config["ITEM_ID_FIELD"] + self.config["LIST_SUFFIX"]]
        no_leaks(leak.check_histories(held, shown.numpy()))
        return rows

    def offering(self, items: np.ndarray, phase: str) -> Any:  # noqa: ANN401 - this project's loader
        """The users of a phase with lists of items to rank, whether or not their targets are among them.

        Args:
            items: A list for each user of the phase, in the order of the split. Shape `[U, C]`.
            phase: `valid` or `test`.

        Returns:
            A loader as `loader` gives under frozen candidates.
        """
        offered = dataclasses.replace(self.ranking_split.phase(phase), candidates=items)
        return FrozenCandidateLoader(self.config, self.part(phase), offered)

    def train_loader(self) -> Any:  # noqa: ANN401 - RecBole's or this project's loader
        """The training loader of models that learn row by row."""
        if isinstance(self.split, PairSplit):
            return PairLoader(self.config, self.parts[0], training=True)
        return train_loader(self.config, self.parts[0])

    def labelled(self, part: str, places: Tensor) -> Interaction:
        """Labelled rows as the model reads them, with the features that it loads.

        Args:
            part: `train`, `valid` or `test`.
            places: Which rows of the part. Shape `[B]`.

        Returns:
            The rows.
        """
        dataset = self.parts[PARTS.index(part)]
        rows: Interaction = construct_transform(self.config)(dataset, dataset[places])
        return rows

    def numbered_loaders(self, rows: NumberedRows) -> dict[str, Any]:
        """A loader of each open part by name, whose batches hold `row_number`; only that of training shuffles.

        Args:
            rows: The numbers: of the split, or of a ranking's as `labelled` gives it.

        Returns:
            Part name to loader.
        """
        if isinstance(self.split, PairSplit):
            return dict(loaders(self.config, self.parts, rows))
        number_parts(self.parts, rows)
        return {name: self.train_loader() if name == "train" else self.loader(name) for name in rows.firsts}

    def check_training(self) -> None:
        """Refuse to train on rows that hold a held-out interaction; labelled rows were checked with their split.

        Raises:
            ValueError: There is such a row; the message names the first.
        """
        if isinstance(self.split, Split):
            rows = self.parts[0].inter_feat
            users, items = (rows[self.config[field]].numpy() for field in ("USER_ID_FIELD", "ITEM_ID_FIELD"))
            no_leaks(leak.check_training(self.split, users, items))

    @property
    def ranking_split(self) -> Split:
        """The split, where users have targets to rank; under other tasks it is a SettingsError."""
        if isinstance(self.split, PairSplit):
            raise SettingsError(f"{self.protocol.name} labels pairs; there is nothing to rank")
        return self.split


def open_session(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    model: str | type,
    settings: Mapping[str, Any] | None = None,
    seed: int | None = None,
    item_columns: ItemColumns | None = None,
) -> Session:
    """Build a model's RecBole data under the run's protocol.

    Args:
        run: The stage; it must declare `protocol`, `dataset.name` and `seed`, unless it gives another seed.
        data: Prepared data.
        split: Frozen split.
        model: Name of a RecBole model, or a model class.
        settings: RecBole settings of the model.
        seed: The seed, if it is not the run's.
        item_columns: More features of items than the data set's, for labelled rows.

    Returns:
        The session.
    """
    rules = protocol(run["protocol"]["name"])
    sampled = (
        {"train_neg_sample_args": ONE_NEGATIVE}
        if rules.task == "ranking" and _learns_only_labels(model)
        else {}
    )
    config = Config(
        model,
        run["dataset.name"],
        data.folder,
        {**recbole_settings(rules), **sampled, **(settings or {})},
        device=run.resources.get("device", "auto"),
        seed=run.seed if seed is None else seed,
    )
    return open_split(config, splits.load(split.folder), rules, item_columns)


def open_split(
    config: Config, split: Split | PairSplit, rules: Protocol, item_columns: ItemColumns | None = None
) -> Session:
    """A model's data, whose rows are a split's.

    Args:
        config: RecBole's settings of the model.
        split: The frozen split.
        rules: The protocol it follows.
        item_columns: More features of items than the data set's.

    Returns:
        The session.
    """
    if rules.task == "ranking" and not rules.frozen and "eval_batch_size" not in config.external_config_dict:
        users = max(1, SCORES_PER_BATCH // split.n_items)
        sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        # RecBole counts users of sequential models, and scores of others.
        config["eval_batch_size"] = users if sequential else users * split.n_items
    if isinstance(split, Split) and reads_all_rows(config):
        dataset = make_dataset(
            config, rules.order, split if rules.scenario or rules.split != "leave_one_out" else None
        )
    else:
        dataset = make_split_dataset(config, split, item_columns)
    parts = dict(zip(("train", "valid", "test"), dataset.build(), strict=False))
    return Session(config, dataset, tuple(parts[name] for name in open_parts(tuple(parts))), split, rules)


def recbole_settings(rules: Protocol) -> dict[str, Any]:
    """A protocol in RecBole's words.

    For context-aware models RecBole has settings of its own, and more for ml-100k, that label rows by rating and draw
    no negatives; the protocol decides instead.
    """
    parts = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    metrics = [{"HIT": "Hit"}.get(metric, metric) for metric in rules.metrics]
    if rules.task != "ranking":
        return {
            "eval_args": {**parts, "mode": "labeled"},
            "metrics": metrics,
            "valid_metric": rules.selection,
            "train_neg_sample_args": None,
            "threshold": None,
        }
    return {
        "threshold": None,
        "eval_args": {**parts, "mode": "full"},
        # ItemCoverage makes RecBole keep the lists.
        "metrics": [*metrics, "ItemCoverage"] if rules.catalogue else metrics,
        "topk": list(rules.topk),
        "valid_metric": rules.selection.replace("HIT", "Hit"),
    }

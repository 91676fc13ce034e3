"""RecBole datasets whose rows lie in a split's arrays; histories are gathered batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.config import Config
from llmbole.data.arrays import open_parts
from llmbole.data.dataset import TimeOrdered, own_dataset_class, scaled_fields
from llmbole.data.histories import newest
from llmbole.data.interactions import time_keys
from llmbole.data.pairs import PARTS, PairSplit
from llmbole.data.split import PHASES, Split

compat.apply()

import pandas  # noqa: E402 - the patches come first

from recbole.data import dataset as recbole_datasets  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.data.transform import construct_transform  # noqa: E402
from recbole.utils import FeatureSource, FeatureType, ModelType  # noqa: E402

FLOATS = ("rating", "timestamp")
ItemColumns = Mapping[str, Sequence[str | None]]
"""Features of items by internal id; the padding item has none."""


@dataclass(frozen=True)
class Rows:
    """The rows of one part.

    Attributes:
        columns: Field to values. Shapes `[R]`.
        sequences: Field to the sequence that histories are cut from. Shapes `[N]`.
        starts: Where each row's history begins in it. Shape `[R]`.
        ends: Where it ends, not included. Shape `[R]`.
    """

    columns: Mapping[str, np.ndarray]
    sequences: Mapping[str, np.ndarray]
    starts: np.ndarray
    ends: np.ndarray


class SplitDataset(TimeOrdered, recbole_datasets.Dataset, ABC):
    """A RecBole dataset whose rows are a split's; RecBole reads the features of users and items only.

    RecBole numbers ids by first appearance. It is given each id once, in the split's order, instead of all
    interactions: so its ids are the split's, and opening a large data set takes as long as reading its features.

    Attributes:
        split: The frozen split.
        item_columns: More features of items than the data set's: name to token by internal id, `None` for none.
        rows: The rows of this part; `None` before `build`.
    """

    split: Any
    item_columns: ItemColumns = {}
    rows: Rows | None = None
    history_length = 0

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        users, items = self.split.user_tokens[1:], self.split.item_tokens[1:]
        size = max(len(users), len(items))
        fields = {self.uid_field: users, self.iid_field: items}
        self.inter_feat = pandas.DataFrame(
            {field: np.resize(tokens, size).astype(object) for field, tokens in fields.items()}
        )
        for field in fields:
            self.set_field_property(field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _load_user_or_item_feat(
        self, token: str, dataset_path: str, source: FeatureSource, field_name: str
    ) -> pandas.DataFrame | None:
        features = super()._load_user_or_item_feat(token, dataset_path, source, field_name)
        if source is not FeatureSource.ITEM or not self.item_columns:
            return features
        taken = [] if features is None else sorted(set(features) & set(self.item_columns))
        if taken:
            raise ValueError(f"{dataset_path}/{token}.item has a column {taken[0]!r} already; rename it")
        more = pandas.DataFrame({self.iid_field: self.split.item_tokens[1:].astype(object)})
        for field, values in self.item_columns.items():
            more[field] = pandas.Series(values[1:], dtype=object)
            self.set_field_property(field, FeatureType.TOKEN, FeatureSource.ITEM, 1)
        return more if features is None else pandas.merge(features, more, on=self.iid_field, how="left")

    def build(self) -> list[Any]:
        """The training, validation and test parts; a sealed one is left out."""
        recbole_datasets.Dataset._change_feat_format(self)
        parts = self.part_rows()
        for field in parts[0].columns:
            if field not in (self.uid_field, self.iid_field):
                self.set_field_property(field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            self._describe_lists(parts[0].sequences)
        return [self._part(rows) for rows in parts]

    @abstractmethod
    def part_rows(self) -> list[Rows]:
        """Rows of training, validation and, if it is not sealed, test."""

    def _describe_lists(self, sequences: Mapping[str, np.ndarray]) -> None:
        """Name and describe the history's fields as RecBole's sequential datasets do."""
        self.history_length = self.config["MAX_ITEM_LIST_LENGTH"]
        self.item_list_length_field = self.config["ITEM_LIST_LENGTH_FIELD"]
        for field in sequences:
            kind = FeatureType.TOKEN_SEQ if field == self.iid_field else FeatureType.FLOAT_SEQ
            name = field + self.config["LIST_SUFFIX"]
            setattr(self, f"{field}_list_field", name)
            self.set_field_property(name, kind, FeatureSource.INTERACTION, self.history_length)
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _part(self, rows: Rows) -> Any:  # noqa: ANN401 - a dataset of the same class
        columns = {field: torch.from_numpy(np.array(values)) for field, values in rows.columns.items()}
        part = self.copy(Interaction(columns))
        part.rows = rows
        part._drop_unused_col()
        return part

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:  # noqa: ANN401 - what indexes a tensor
        taken = super().__getitem__(index, join)
        if self.history_length and self.rows is not None:
            taken.update(Interaction(self._histories(self.rows, np.asarray(index))))
        return taken

    def _histories(self, rows: Rows, index: np.ndarray) -> dict[str, Tensor]:
        lists, starts, ends = {}, rows.starts[index], rows.ends[index]
        for field, sequence in rows.sequences.items():
            values, lengths = newest(sequence, starts, ends, self.history_length)
            lists[field + self.config["LIST_SUFFIX"]] = torch.from_numpy(values)
        return {**lists, self.item_list_length_field: torch.from_numpy(lengths)}


class RankingDataset(SplitDataset):
    """Training interactions and targets of a ranking, row by row as RecBole's own datasets have them."""

    split: Split

    def part_rows(self) -> list[Rows]:
        """Rows of training and of each open phase; sequential models learn from interactions with a history."""
        split = self.split
        sequential = self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        taken = split.offsets[:-1] + int(sequential)  # the first interaction without a row, of each user
        trained = np.flatnonzero(split.trained)
        trained = trained[trained >= taken[split.owners[trained]]]
        parts = [
            self._in_recbole_order(trained, taken),
            *(split.phase(name).positions for name in open_parts(PHASES)),
        ]
        floats = {field: self._scaled(field) for field in FLOATS if self._loads(field)}
        return [self._rows(np.asarray(positions), floats) for positions in parts]

    def _rows(self, positions: np.ndarray, floats: Mapping[str, np.ndarray]) -> Rows:
        split = self.split
        users = split.owners[positions]
        columns = {self.uid_field: users, self.iid_field: split.items[positions]}
        return Rows(
            columns={**columns, **{field: values[positions] for field, values in floats.items()}},
            sequences={self.iid_field: split.items, **floats},
            starts=split.offsets[users],
            ends=positions,
        )

    def _in_recbole_order(self, positions: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """User by user, who come in the order of their first row's time, as after RecBole's sorting and grouping."""
        split = self.split
        firsts = np.minimum(taken, len(split.items) - 1)
        rank = np.empty(split.n_users, dtype=np.int64)
        rank[np.lexsort((split.rows[firsts], split.time_keys[firsts]))] = np.arange(split.n_users)
        return positions[np.argsort(rank[split.owners[positions]], kind="stable")]

    def _loads(self, field: str) -> bool:
        columns = (self.config["load_col"] or {}).get("inter") or ()
        return columns == "*" or field in columns

    def _scaled(self, field: str) -> np.ndarray:
        """Ratings or times in single precision, scaled to [0, 1] where the config says so. Shape `[N]`."""
        values = np.asarray(getattr(self.split, f"{field}s"), dtype=np.float64)
        scaled = field in scaled_fields(self.config, FLOATS)
        return time_keys(values, "recbole_time") if scaled else values.astype(np.float32)


class PairDataset(SplitDataset):
    """Labelled rows: user, item and label."""

    split: PairSplit

    def part_rows(self) -> list[Rows]:
        """Rows of each open part."""
        return [self._rows(name) for name in open_parts(PARTS)]

    def _rows(self, name: str) -> Rows:
        pairs = self.split.part(name)
        starts, ends = self.split.history_span(pairs.positions)
        return Rows(
            columns={
                self.uid_field: pairs.users,
                self.iid_field: pairs.items,
                self.label_field: pairs.labels,
            },
            sequences={self.iid_field: self.split.history_items},
            starts=starts,
            ends=ends,
        )


class PairLoader:
    """Batches of labelled rows, for RecBole's training or, as `(interaction, None, None, None)`, its evaluation.

    Args:
        config: Settings.
        dataset: A built part.
        training: Rows are shuffled, in batches of `train_batch_size`; else they come in order, `eval_batch_size` each.
    """

    def __init__(self, config: Config, dataset: PairDataset, *, training: bool) -> None:
        self.config, self._dataset, self.dataset = config, dataset, dataset
        self.shuffle = training
        self.batch_size: int = config["train_batch_size"] if training else config["eval_batch_size"]
        self.generator = torch.Generator().manual_seed(config["seed"])
        self._transform = construct_transform(config)

    def __len__(self) -> int:
        return -(-len(self._dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        for rows in self._order().split(self.batch_size):
            interaction = self.take(rows)
            yield interaction if self.shuffle else (interaction, None, None, None)

    def take(self, rows: Tensor) -> Interaction:
        """Rows by number, as the model reads them: `[B]` numbers to an Interaction of B rows."""
        taken: Interaction = self._transform(self._dataset, self._dataset[rows])
        return taken

    def _order(self) -> Tensor:
        size = len(self._dataset)
        return torch.randperm(size, generator=self.generator) if self.shuffle else torch.arange(size)


def make_split_dataset(
    config: Config, split: Split | PairSplit, item_columns: ItemColumns | None = None
) -> SplitDataset:
    """The dataset of a model, whose rows are a split's.

    Args:
        config: RecBole's settings for the model.
        split: The frozen split.
        item_columns: More features of items, see `SplitDataset`.

    Returns:
        The dataset; `build()` gives its parts.
    """
    base = PairDataset if isinstance(split, PairSplit) else RankingDataset
    dataset_class = type(
        base.__name__, (base,), {"split": split, "order": split.order, "item_columns": item_columns or {}}
    )
    made: SplitDataset = dataset_class(config)
    return made


def reads_all_rows(config: Config) -> bool:
    """Whether a model needs a dataset that reads the interactions' file.

    Those are models with a dataset class of their own, and settings that make features of ratings or times.

    Args:
        config: RecBole's settings for the model.

    Returns:
        True if `make_split_dataset` would not do.
    """
    columns = (config["load_col"] or {}).get("inter") or ()
    known = {config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], *FLOATS}
    others = columns != "*" and bool(set(columns) - known)
    numerical = set(config["numerical_features"] or ()) & set(FLOATS)
    return own_dataset_class(config) is not None or others or bool(numerical)

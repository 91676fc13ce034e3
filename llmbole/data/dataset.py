"""RecBole datasets with exact time order, one split rule for general and sequential models, and fast sequences."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llmbole import compat
from llmbole.config import Config
from llmbole.data.arrays import open_parts
from llmbole.data.convert.report import DataError
from llmbole.data.split import PHASES, Split

compat.apply()

from recbole.data import dataset as recbole_datasets  # noqa: E402 - the patches come first
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

ORDERS = ("time", "recbole_time")


class TimeOrdered:
    """What every dataset of this project does unlike RecBole's; stands before a RecBole dataset class.

    RecBole sorts by timestamps in single precision: on ml-100k scaled ones coarsen to 1 s, raw ones to 64 s, and 9
    and 403 held-out items are then not the latest. Under the order `time` rows are sorted by the exact values first.

    Attributes:
        order: The protocol's order.
        split: The frozen split whose parts `build` gives; `None` where RecBole's leave-one-out gives the same.
    """

    order = "time"
    split: Any = None
    # Rows that augmentation took from each user: a sequence of n interactions becomes n - 1 rows.
    rows_taken = 0

    def _change_feat_format(self: Any) -> None:
        if self.order == "time" and self.time_field in self.inter_feat:
            self.inter_feat.sort_values(self.time_field, kind="stable", inplace=True, ignore_index=True)
        elif self.order == "recbole_time" and self.time_field not in scaled_fields(
            self.config, [self.time_field]
        ):
            raise ValueError(
                f"the order recbole_time needs {self.time_field} scaled; set normalize_all: true"
            )
        super()._change_feat_format()  # type: ignore[misc]

    def __getitem__(self: Any, index: Any, join: bool = True) -> Interaction:  # noqa: ANN401 - what indexes a tensor
        rows = _take(self.inter_feat, index)
        return self.join(rows) if join else rows

    def join(self: Any, df: Interaction) -> Interaction:
        """Join user and item features to rows, in place.

        Args:
            df: Rows with user or item ids.

        Returns:
            The same rows with features.
        """
        for features, field in ((self.user_feat, self.uid_field), (self.item_feat, self.iid_field)):
            if features is not None and field in df:
                df.update(_take(features, df[field]))
        return df

    def leave_one_out(self: Any, group_by: str, leave_one_mode: str) -> list[Any]:
        """Hold out the last two interactions of each user, in RecBole's row order.

        Counts interactions, not rows: for users with two or three interactions RecBole's sequential datasets hold out
        other items than its general ones, here both hold out what the split does.

        Args:
            group_by: Field of the users.
            leave_one_mode: Which parts to hold out; other than `valid_and_test` is left to RecBole.

        Returns:
            Training, validation and test datasets.
        """
        if self.split is not None:
            self._drop_unused_col()
            return [self.copy(_take(self.inter_feat, part)) for part in self._parts_of(self.split)]
        if leave_one_mode != "valid_and_test":
            return list(super().leave_one_out(group_by, leave_one_mode))  # type: ignore[misc]
        users = self.inter_feat[group_by].numpy()
        _, first, inverse = np.unique(users, return_index=True, return_inverse=True)
        appearance = np.argsort(np.argsort(first))[inverse]  # 0 for rows of the user who comes first, 1, ...
        order = np.argsort(appearance, kind="stable")
        group = appearance[order]
        counts = np.bincount(group)
        from_end = np.cumsum(counts)[group] - 1 - np.arange(len(order))
        held = np.minimum(2, counts + self.rows_taken - 1)[group]
        parts = [
            order[from_end >= held],
            order[(from_end == 1) & (held == 2)],
            order[(from_end == 0) & (held >= 1)],
        ]
        self._drop_unused_col()
        return [self.copy(_take(self.inter_feat, part)) for part in parts]

    def _parts_of(self: Any, split: Split) -> list[np.ndarray]:
        """Rows of the training interactions and of the targets of each open phase."""
        users = self.inter_feat[self.uid_field].numpy()
        order = np.argsort(users, kind="stable")  # time order within users stays
        sorted_users = users[order]
        starts = np.searchsorted(sorted_users, sorted_users)  # first row of the user, [rows]
        positions = np.empty(len(users), dtype=np.int64)
        places = np.arange(len(users)) - starts + self.rows_taken
        positions[order] = split.offsets[sorted_users] + places
        training = np.flatnonzero(positions < split.train_ends[users])
        return [
            training,
            *(np.flatnonzero(np.isin(positions, split.phase(name).positions)) for name in open_parts(PHASES)),
        ]


class Dataset(TimeOrdered, recbole_datasets.Dataset):
    """RecBole's dataset of general and context-aware models."""


class SequentialDataset(TimeOrdered, recbole_datasets.SequentialDataset):
    """RecBole's dataset of sequential models; histories are gathered at once instead of row by row."""

    rows_taken = 1
    inter_feat: Any

    def data_augmentation(self) -> None:
        """Make one row per interaction but the first of each user, with the interactions before it as padded lists.

        The tensors are RecBole's. For each field but the user's, `<field>_list` has shape `[rows, L, ...]`.
        """
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field], ascending=True)
        longest = self.config["MAX_ITEM_LIST_LENGTH"]
        users = self.inter_feat[self.uid_field]  # [N]
        places = torch.arange(len(users))
        starts = torch.cat([torch.ones(1, dtype=torch.bool), users[1:] != users[:-1]])[: len(users)]
        place_in_sequence = (
            places - torch.cummax(torch.where(starts, places, 0), 0).values if len(users) else places
        )
        targets = torch.nonzero(place_in_sequence).flatten()  # [rows]
        lengths = place_in_sequence[targets].clamp(max=longest)
        columns = torch.arange(longest)
        outside = columns >= lengths[:, None]  # [rows, L]
        sources = ((targets - lengths)[:, None] + columns).clamp(max=max(len(users) - 1, 0))  # [rows, L]
        new_data = _take(self.inter_feat, targets)
        new_data.update(Interaction({self.item_list_length_field: lengths}))
        for field in self.inter_feat:
            if field != self.uid_field:
                name, values = getattr(self, f"{field}_list_field"), self.inter_feat[field]
                hidden = outside.reshape(*outside.shape, *[1] * (values.dim() - 1))
                new_data.update(Interaction({name: values[sources].masked_fill_(hidden, 0)}))
        self.inter_feat = new_data


def _take(rows: Interaction, index: Any) -> Interaction:  # noqa: ANN401 - whatever indexes a tensor
    """Rows at an index, without RecBole's way over a Python list."""
    if isinstance(index, np.ndarray):
        index = torch.from_numpy(index)
    return Interaction({field: values[index] for field, values in rows.interaction.items()})


def scaled_fields(config: Config, fields: Sequence[str]) -> list[str]:
    """Those of some fields of numbers that a config has scaled to [0, 1]."""
    return list(fields) if config["normalize_all"] else list(config["normalize_field"] or [])


def make_dataset(config: Config, order: str = "time", split: Split | None = None) -> Any:  # noqa: ANN401 - RecBole's
    """The dataset that a model needs, read from the prepared data; one that needs a knowledge graph is a DataError.

    Args:
        config: RecBole's settings for a model.
        order: The protocol's order.
        split: The split whose parts are wanted, where they are not RecBole's leave-one-out.

    Returns:
        A RecBole dataset, not yet built; `build()` gives its training, validation and test parts.

    Raises:
        ValueError: There is no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; known: {', '.join(ORDERS)}")
    dataset_class = type(_base(config).__name__, (_class(_base(config)),), {"order": order, "split": split})
    return dataset_class(config)


def own_dataset_class(config: Config) -> type | None:
    """The dataset class that RecBole has for a model alone, if there is one."""
    found: type | None = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    return found


def _base(config: Config) -> type:
    own = own_dataset_class(config)
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    base = own or (recbole_datasets.SequentialDataset if sequential else recbole_datasets.Dataset)
    knowledge = importlib.import_module("recbole.data.dataset.kg_dataset").KnowledgeBasedDataset
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE or issubclass(base, knowledge):
        raise DataError(
            f"{config['model']} needs a knowledge graph, and no data set here has one; choose another model"
        )
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        base = recbole_datasets.DecisionTreeDataset
    return base


def _class(base: type) -> type:
    known = {recbole_datasets.Dataset: Dataset, recbole_datasets.SequentialDataset: SequentialDataset}
    if base in known:
        return known[base]
    taken = 1 if issubclass(base, recbole_datasets.SequentialDataset) else 0
    return type(base.__name__, (TimeOrdered, base), {"rows_taken": taken})


def assert_same_ids(dataset: Any, split: Split) -> None:  # noqa: ANN401 - a RecBole dataset
    """Make sure that a dataset numbers users and items as the split does.

    Args:
        dataset: A RecBole dataset.
        split: The frozen split.

    Raises:
        DataError: The numbering differs; the message says where first.
    """
    sides = (("user", dataset.uid_field, split.user_tokens), ("item", dataset.iid_field, split.item_tokens))
    for what, field, expected in sides:
        found = np.asarray(dataset.field2id_token[field]).astype(str)
        shared = min(len(found), len(expected))
        differs = np.flatnonzero(found[:shared] != expected[:shared])
        if len(differs) or len(found) != len(expected):
            place = int(differs[0]) if len(differs) else shared
            here, there = (
                str(tokens[place]) if place < len(tokens) else "none" for tokens in (found, expected)
            )
            raise DataError(
                f"{what} ids of the dataset and of the split differ: {len(found)} and {len(expected)} in all, "
                f"id {place} is {here!r} and {there!r}; both must come from the same files, without RecBole's filters"
            )

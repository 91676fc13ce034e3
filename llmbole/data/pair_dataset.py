"""RecBole datasets and loaders of labelled rows that lie in a split's arrays; histories are gathered batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.config import Config
from llmbole.data.dataset import TimeOrdered
from llmbole.data.pairs import PARTS, Pairs, PairSplit

compat.apply()

import pandas  # noqa: E402 - the patches come first

from recbole.data import dataset as recbole_datasets  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.data.transform import construct_transform  # noqa: E402
from recbole.utils import FeatureSource, FeatureType, ModelType  # noqa: E402


class PairDataset(TimeOrdered, recbole_datasets.Dataset):
    """A RecBole dataset whose rows are a split's; RecBole reads the features of users and items only.

    RecBole numbers ids by first appearance. It is given each id once, in the split's order, instead of all
    interactions: so its ids are the split's, and opening a large data set takes as long as reading its features.

    Attributes:
        split: The frozen split.
        pairs: The rows of this part; `None` before `build`.
    """

    split: PairSplit
    pairs: Pairs | None = None
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

    def build(self) -> list[Any]:
        """The training, validation and test parts."""
        recbole_datasets.Dataset._change_feat_format(self)
        self.set_field_property(self.label_field, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
        if self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
            self._list_fields()
        return [self._part(self.split.part(name)) for name in PARTS]

    def _list_fields(self) -> None:
        """Name and describe the history's fields as RecBole's sequential datasets do."""
        self.history_length = self.config["MAX_ITEM_LIST_LENGTH"]
        self.item_id_list_field = self.iid_field + self.config["LIST_SUFFIX"]
        self.item_list_length_field = self.config["ITEM_LIST_LENGTH_FIELD"]
        self.set_field_property(
            self.item_id_list_field, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, self.history_length
        )
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)

    def _part(self, pairs: Pairs) -> Any:  # noqa: ANN401 - a dataset of the same class
        part = self.copy(
            Interaction(
                {
                    self.uid_field: torch.from_numpy(pairs.users),
                    self.iid_field: torch.from_numpy(np.array(pairs.items)),
                    self.label_field: torch.from_numpy(np.array(pairs.labels)),
                }
            )
        )
        part.pairs = pairs
        return part

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:  # noqa: ANN401 - what indexes a tensor
        rows = super().__getitem__(index, join)
        if self.history_length and self.pairs is not None:
            items, lengths = self.pairs.histories(np.asarray(index), self.history_length)
            rows.update(
                Interaction(
                    {
                        self.item_id_list_field: torch.from_numpy(items),
                        self.item_list_length_field: torch.from_numpy(lengths),
                    }
                )
            )
        return rows


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
            interaction = self._transform(self._dataset, self._dataset[rows])
            yield interaction if self.shuffle else (interaction, None, None, None)

    def _order(self) -> Tensor:
        size = len(self._dataset)
        return torch.randperm(size, generator=self.generator) if self.shuffle else torch.arange(size)


def make_pair_dataset(config: Config, split: PairSplit) -> PairDataset:
    """The dataset of a model under a protocol of labelled rows.

    Args:
        config: RecBole's settings for the model.
        split: The frozen split.

    Returns:
        The dataset; `build()` gives its parts.
    """
    dataset_class = type("PairDataset", (PairDataset,), {"split": split})
    return dataset_class(config)

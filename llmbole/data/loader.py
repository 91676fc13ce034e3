"""Loaders: RecBole's for training and full rankings, and one for frozen candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.config import Config
from llmbole.data.convert.report import DataError
from llmbole.data.dataset import assert_same_ids
from llmbole.data.protocol import Protocol
from llmbole.data.split import Phase

compat.apply()

from recbole.data.dataloader import FullSortEvalDataLoader  # noqa: E402 - the patches come first
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.data.transform import construct_transform  # noqa: E402
from recbole.data.utils import get_dataloader  # noqa: E402
from recbole.sampler import RepeatableSampler, Sampler  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

CANDIDATE_LIST = "candidate_list"


class FrozenCandidateLoader:
    """Users with their frozen candidates, as RecBole's evaluation wants them: whole users per batch, in frozen order.

    Iterating gives `(interaction, row_idx, positive_u, positive_i)`. The interaction has one row per user and
    candidate, `B * C` rows: the user's row of the dataset with the candidate as its item, features joined, transformed
    as the config says, a label that is 1 for the target, and the user's whole list as `candidate_list [B * C, C]`.

    Args:
        config: Settings with `eval_batch_size`, in rows; a batch holds `eval_batch_size // C` users, at least one.
        dataset: The built dataset of the phase, with one row per user of the phase.
        phase: Targets and candidates.
        field: Name of the field with the whole list.

    Raises:
        DataError: The phase has no candidates, or the dataset's rows are not the phase's.
    """

    def __init__(self, config: Config, dataset: Any, phase: Phase, field: str = CANDIDATE_LIST) -> None:  # noqa: ANN401
        if phase.candidates is None:
            raise DataError(
                f"{phase.split.protocol} has no candidates, it ranks all items; use evaluation_loader"
            )
        self.config = config
        self.phase = phase
        self._dataset = dataset
        self._field = field
        self._label = config["LABEL_FIELD"]
        self._rows = rows_of(dataset, phase)  # [U]
        self._candidates = torch.from_numpy(np.array(phase.candidates))  # [U, C]
        self._targets = torch.from_numpy(np.array(phase.targets))  # [U]
        self._users_per_batch = max(config["eval_batch_size"] // self._candidates.shape[1], 1)
        self._transform = construct_transform(config)

    def __len__(self) -> int:
        return -(-len(self._rows) // self._users_per_batch)

    def __iter__(self) -> Iterator[tuple[Interaction, Tensor, Tensor, Tensor]]:
        for start in range(0, len(self._rows), self._users_per_batch):
            yield self._batch(slice(start, start + self._users_per_batch))

    def _batch(self, users: slice) -> tuple[Interaction, Tensor, Tensor, Tensor]:
        candidates, targets = self._candidates[users], self._targets[users]  # [B, C], [B]
        count = candidates.shape[1]
        of_users = self._transform(self._dataset, self._dataset[self._rows[users]])
        interaction = of_users.repeat_interleave(count)
        interaction[self._dataset.iid_field] = candidates.flatten()
        interaction = self._dataset.join(interaction)
        interaction[self._label] = (candidates == targets[:, None]).flatten().float()
        interaction[self._field] = candidates.repeat_interleave(count, dim=0)  # [B * C, C]
        row_of_user = torch.arange(len(targets))
        return interaction, row_of_user.repeat_interleave(count), row_of_user, targets


def rows_of(dataset: Any, phase: Phase) -> Tensor:  # noqa: ANN401 - a RecBole dataset
    """The row of a built dataset that holds each user's target.

    Args:
        dataset: The built dataset of the phase.
        phase: Users and targets.

    Returns:
        Row numbers in the order of the phase's users. Shape `[U]`.

    Raises:
        DataError: Users or targets differ; the message names the first user.
    """
    users, items = (dataset.inter_feat[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    order = np.argsort(users, kind="stable")
    same_users = np.array_equal(users[order], phase.users)
    if not same_users or not np.array_equal(items[order], phase.targets):
        if same_users:
            wrong = int(phase.users[int(np.argmax(items[order] != phase.targets))])
            what = f"{int((items[order] != phase.targets).sum())} users have another target, the first is"
        else:
            wrong = (
                int(np.setxor1d(users, phase.users)[0])
                if len(np.setxor1d(users, phase.users))
                else int(users[0])
            )
            what = f"{len(users)} rows for {len(phase)} users, the first that differs is"
        raise DataError(
            f"the {phase.name} rows of the dataset are not the split's: {what} user "
            f"{str(phase.split.user_tokens[wrong])!r}; make the dataset with order={phase.split.order!r}, "
            "eval_args split LS: valid_and_test, order TO, and no filters"
        )
    return torch.from_numpy(order)


def train_loader(config: Config, built_train_dataset: Any) -> Any:  # noqa: ANN401 - RecBole datasets and loaders
    """RecBole's training loader, with negatives outside the user's training items.

    Popularity-based negatives count training interactions only.

    Args:
        config: RecBole's settings for the model.
        built_train_dataset: The training part of a built dataset.

    Returns:
        A RecBole data loader.
    """
    arguments = config["train_neg_sample_args"]
    sampler = None
    if arguments["distribution"] != "none":
        sampler_class = RepeatableSampler if config["repeatable"] else Sampler
        sampler = sampler_class(["train"], built_train_dataset, arguments["distribution"], arguments["alpha"])
        sampler = sampler.set_phase("train")
    return get_dataloader(config, "train")(config, built_train_dataset, sampler, shuffle=config["shuffle"])


def evaluation_loader(
    config: Config,
    dataset: Any,  # noqa: ANN401 - a RecBole dataset
    built_dataset: Any,  # noqa: ANN401 - a RecBole dataset
    phase: Phase,
    protocol: Protocol,
) -> Any:  # noqa: ANN401 - RecBole's or this project's loader
    """The loader of one phase: frozen candidates, or RecBole's full ranking.

    Ids, users or targets that differ between dataset and split are a DataError.

    Args:
        config: RecBole's settings for the model.
        dataset: The whole dataset, whose ids are checked against the split's.
        built_dataset: The phase's part of it.
        phase: Users, targets and candidates.
        protocol: Says what is ranked.

    Returns:
        An evaluation loader for RecBole's Trainer.
    """
    assert_same_ids(dataset, phase.split)
    if protocol.frozen:
        return FrozenCandidateLoader(config, built_dataset, phase)
    rows_of(built_dataset, phase)
    excluded = protocol.candidates is not None and protocol.candidates.known == "excluded"
    if excluded and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        return UnseenItemsLoader(config, built_dataset, phase)
    return FullSortEvalDataLoader(config, built_dataset, _Known(phase), shuffle=False)


class UnseenItemsLoader(FullSortEvalDataLoader):
    """RecBole's full ranking for sequential models, but items of the history are not ranked, the target aside.

    Args:
        config: RecBole's settings for the model.
        dataset: The phase's part of the dataset.
        phase: Users, histories and targets.
    """

    def __init__(self, config: Config, dataset: Any, phase: Phase) -> None:  # noqa: ANN401 - a RecBole dataset
        self._phase = phase
        self._row_of = {int(user): row for row, user in enumerate(phase.users)}
        super().__init__(config, dataset, None, shuffle=False)

    def collate_fn(self, index: Any) -> tuple[Interaction, tuple[Tensor, Tensor], Tensor, Tensor]:  # noqa: ANN401
        """A batch, with the places of the items that are not ranked."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        known = []
        for user, target in zip(
            interaction[self._dataset.uid_field].tolist(), positive_i.tolist(), strict=True
        ):
            history = torch.from_numpy(np.unique(self._phase.history(self._row_of[user])))
            known.append(history[history != target])
        rows = torch.repeat_interleave(torch.tensor([len(items) for items in known]))
        return interaction, (rows, torch.cat(known)), positive_u, positive_i


class _Known:
    """What RecBole's full ranking asks of a sampler: the items each user is known to have, the target included.

    Args:
        phase: Users, histories and targets.

    Attributes:
        used_ids: A set per internal user id, empty for users outside the phase. Shape `[n_users]`.
    """

    def __init__(self, phase: Phase) -> None:
        self.used_ids = np.array([set() for _ in range(phase.split.n_users)], dtype=object)
        for row, (user, target) in enumerate(zip(phase.users, phase.targets, strict=True)):
            self.used_ids[user] = {*phase.history(row).tolist(), int(target)}

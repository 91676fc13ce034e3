"""Training causal sequential models on every position of a sequence in one pass, as their papers do.

RecBole trains a sequential model on one padded copy of the history per position. A causal model's output at position
t depends on the items up to t alone, so one pass over a sequence gives the outputs of all its prefixes: Kang and
McAuley, Self-Attentive Sequential Recommendation (ICDM 2018, section III-E); Hidasi et al., Session-based
Recommendations with Recurrent Neural Networks (ICLR 2016, section 3.1); Yuan et al., A Simple Convolutional Generative
Network for Next Item Recommendation (WSDM 2019, section 3.4).

The models are RecBole's classes with RecBole's parameters. Only NextItNet is evaluated differently: RecBole reads its
output behind the padding of a right-padded history, so that a short history has a gap before the prediction. Here it
is read at the last item, for training and for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.config import Config
from llmbole.recommender.cl4srec import CL4SRec
from llmbole.settings import SettingsError
from llmbole.trainer.sampled_softmax import sampled_cross_entropy
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import GRU4Rec, SASRec
from recbole.model.sequential_recommender import NextItNet as RecBoleNextItNet


@contextmanager
def _without_gathering(model: nn.Module) -> Iterator[None]:
    """Let `forward` return the outputs of all positions instead of gathering the last one's."""
    vars(model)["gather_indexes"] = lambda output, index: output  # hides the class's method
    try:
        yield
    finally:
        del vars(model)["gather_indexes"]


def _outputs_before_gathering(model: nn.Module, items: Tensor) -> Tensor:
    with _without_gathering(model):
        outputs: Tensor = model(items, items.new_ones(len(items)))  # [B, L, D]
    return outputs


def _convolution_outputs(model: Any, items: Tensor) -> Tensor:  # noqa: ANN401 - RecBole's NextItNet
    outputs: Tensor = model.final_layer(model.residual_blocks(model.item_embedding(items)))  # [B, L, D]
    return outputs


def _convolution_penalty(model: Any, interaction: Interaction) -> Tensor:  # noqa: ANN401 - RecBole's NextItNet
    weights = [model.item_embedding.weight, model.final_layer.weight]
    penalty: Tensor = model.reg_weight * model.reg_loss(weights) + model.reg_loss_rb()
    return penalty


class NextItNet(RecBoleNextItNet):
    """RecBole's NextItNet, read at the last item of a right-padded history instead of behind the padding."""

    def forward(self, item_seq: Tensor) -> Tensor:
        """Sequence outputs `[B, D]` of histories `[B, L]`."""
        last = (item_seq != 0).sum(dim=1) - 1  # [B]
        outputs: Tensor = self.gather_indexes(_convolution_outputs(self, item_seq), last)
        return outputs


@dataclass(frozen=True)
class CausalModel:
    """How one model is trained on all positions.

    Attributes:
        model_class: Class to make the model of; its parameters are those of RecBole's class of the same name.
        outputs: Gives the outputs of all positions: model, items `[B, L]` -> `[B, L, D]`.
        penalty: What the model adds to the loss of a batch: model, batch -> scalar.
        items: Gives the item vectors that outputs are compared with, `[n_items, D]`.
    """

    model_class: type[nn.Module]
    outputs: Callable[[Any, Tensor], Tensor]
    penalty: Callable[[Any, Interaction], Tensor] | None = None
    items: Callable[[Any], Tensor] = lambda model: model.item_embedding.weight


CAUSAL = {
    "CL4SRec": CausalModel(
        CL4SRec, _outputs_before_gathering, CL4SRec.contrastive_penalty, CL4SRec.item_vectors
    ),
    "GRU4Rec": CausalModel(GRU4Rec, _outputs_before_gathering),
    "NextItNet": CausalModel(NextItNet, _convolution_outputs, _convolution_penalty),
    "SASRec": CausalModel(SASRec, _outputs_before_gathering),
}


def causal_model(name: str) -> CausalModel:
    """How the model of a name is trained on all positions.

    Args:
        name: RecBole's name of the model.

    Returns:
        Its entry of `CAUSAL`.

    Raises:
        SettingsError: Its output at a position depends on later items, or it is not known here.
    """
    if name not in CAUSAL:
        raise SettingsError(
            f"{name} can't be trained on all positions in one pass: only models whose output at a position depends on "
            f"no later item can ({', '.join(CAUSAL)}); set training to per_prefix"
        )
    return CAUSAL[name]


def loss_function(config: Config, model: nn.Module) -> Callable[[Interaction], Tensor]:
    """The loss over all positions of a batch of `AllPositionsLoader`, averaged over positions that have a target.

    Args:
        config: Settings; `model`, `loss_type` (CE over all items, or BPR with one negative per position) and
            `sampled_negatives` (CE over that many drawn items).
        model: The model.

    Returns:
        A function from Interaction to a scalar.
    """
    return partial(_loss, causal_model(config["model"]), config, model)


def _loss(causal: CausalModel, config: Config, model: Any, interaction: Interaction) -> Tensor:  # noqa: ANN401 - RecBole's
    targets = interaction[model.POS_ITEM_ID]  # [B, L]
    trained = targets != 0  # [B, L]
    outputs = causal.outputs(model, interaction[model.ITEM_SEQ])[trained]  # [P, D]
    if config["loss_type"] == "BPR":
        positive = (outputs * model.item_embedding(targets[trained])).sum(dim=1)  # [P]
        negative = (outputs * model.item_embedding(interaction[model.NEG_ITEM_ID][trained])).sum(dim=1)  # [P]
        loss: Tensor = model.loss_fct(positive, negative)
    elif config["sampled_negatives"]:
        items = causal.items(model)
        loss = sampled_cross_entropy(outputs, targets[trained], items, config["sampled_negatives"])
    else:
        loss = model.loss_fct(outputs @ causal.items(model).T, targets[trained])  # logits [P, n_items]
    return loss if causal.penalty is None else loss + causal.penalty(model, interaction)


def training_sequences(augmented: Any) -> list[np.ndarray]:  # noqa: ANN401 - RecBole's SequentialDataset
    """Each user's training items in order, from RecBole's training dataset of one row per prefix.

    Args:
        augmented: A built training dataset; the rows of a user follow each other in time order.

    Returns:
        One array per user that has rows.
    """
    rows = augmented.inter_feat
    users = rows[augmented.uid_field].numpy()  # [rows]
    targets = rows[augmented.iid_field].numpy()  # [rows]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    first_items = rows[augmented.item_id_list_field].numpy()[starts, 0]
    parts = np.split(targets, starts[1:])
    return [np.concatenate([[first], part]) for first, part in zip(first_items, parts, strict=True)]


class AllPositionsLoader:
    """Batches of windows of training sequences, every position of which is a training sample.

    A sequence of n items has n - 1 positions with a next item. They are cut into windows of at most
    `MAX_ITEM_LIST_LENGTH` positions; each epoch cuts each sequence at a random place, so that a position is trained
    once per epoch, with another part of its history each time. Windows are shuffled.

    `sequence_batch_size` windows make a batch. Without that setting it is `train_batch_size / MAX_ITEM_LIST_LENGTH`:
    a batch then has about as many positions as RecBole's `train_batch_size` rows, which are one position each.

    Args:
        config: Settings.
        dataset: The dataset RecBole's trainer asks for item counts.
        sequences: Each user's training items in time order, internal ids; users with one item have no position.

    Raises:
        ValueError: No sequence has two items.
    """

    shuffle = True

    def __init__(self, config: Config, dataset: Any, sequences: Sequence[np.ndarray]) -> None:  # noqa: ANN401 - RecBole's
        self.config, self._dataset, self.dataset = config, dataset, dataset
        self.max_length: int = config["MAX_ITEM_LIST_LENGTH"]
        default = max(1, round(config["train_batch_size"] / self.max_length))
        self.batch_size: int = config["sequence_batch_size"] or default
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.n_items: int = dataset.num(config["ITEM_ID_FIELD"])
        self._sequences = [np.asarray(sequence) for sequence in sequences if len(sequence) > 1]
        if not self._sequences:
            raise ValueError("no training sequence has two items, so there is no next item to learn")
        self._items = torch.from_numpy(np.concatenate(self._sequences).astype(np.int64))  # [N]
        self._counts = torch.tensor(
            [len(sequence) - 1 for sequence in self._sequences]
        )  # positions per user, [U]
        self._starts = torch.cumsum(self._counts + 1, dim=0) - self._counts - 1  # [U]
        self._windows = -(-self._counts // self.max_length)  # windows per user, [U]

    def __len__(self) -> int:
        return -(-int(self._windows.sum()) // self.batch_size)

    def __iter__(self) -> Iterator[Interaction]:
        starts, lengths = self._cut()
        order = torch.randperm(len(starts), generator=self.generator)
        for rows in order.split(self.batch_size):
            yield self._batch(starts[rows], lengths[rows])

    def _cut(self) -> tuple[Tensor, Tensor]:
        """Place of the first item and number of positions of each window of an epoch. Shapes `[windows]`."""
        slack = self._windows * self.max_length - self._counts  # [U]
        shift = (torch.rand(len(slack), generator=self.generator) * (slack + 1)).long()  # [U], 0 to slack
        shift = torch.where(self._windows == 1, 0, shift)
        users = torch.repeat_interleave(self._windows)  # [windows]
        number = (
            torch.arange(len(users)) - (torch.cumsum(self._windows, dim=0) - self._windows)[users]
        )  # 0, 1, ...
        begin = (number * self.max_length - shift[users]).clamp(min=0)
        end = torch.minimum((number + 1) * self.max_length - shift[users], self._counts[users])
        return self._starts[users] + begin, end - begin

    def _batch(self, starts: Tensor, lengths: Tensor) -> Interaction:
        columns = torch.arange(self.max_length)  # [L]
        inside = columns < lengths[:, None]  # [B, L]
        places = torch.where(inside, starts[:, None] + columns, 0)  # [B, L]
        item_field, length_field = self.config["ITEM_ID_FIELD"], self.config["ITEM_LIST_LENGTH_FIELD"]
        targets = torch.where(inside, self._items[places + 1], 0)
        fields = {
            item_field + self.config["LIST_SUFFIX"]: torch.where(inside, self._items[places], 0),
            length_field: lengths,
            item_field: targets,
        }
        if self.config["loss_type"] == "BPR":
            fields[self.config["NEG_PREFIX"] + item_field] = self._negatives(targets)
        return Interaction(fields)

    def _negatives(self, targets: Tensor) -> Tensor:
        """A uniform random item per position that is not its target, as RecBole draws for sequential models."""
        drawn = torch.randint(1, self.n_items - 1, targets.shape, generator=self.generator)
        return drawn + (drawn >= targets).long() * (targets > 0).long()

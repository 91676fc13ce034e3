"""The next item among drawn ones: cross-entropy over a target and negatives that a batch shares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmbole import registry
from llmbole.settings import SettingsError, close_name

if TYPE_CHECKING:
    from llmbole.config import Config
    from recbole.data.interaction import Interaction

LEARNERS = ("GRU4Rec", "SASRec", "SRGNN")
"""Models whose `forward(items, lengths)` is a user's vector, compared with the rows of `item_embedding`."""


def sampled_cross_entropy(vectors: Tensor, targets: Tensor, items: Tensor, count: int) -> Tensor:
    """-log of exp(v_t u) / (exp(v_t u) + the sum of exp(v_n u) over drawn items n), averaged over rows.

    Items are drawn uniformly, once for all rows. The correction for importance (Covington et al., 2016, section 3.1) is
    a constant under a uniform draw, and left out; a drawn item that is a row's target does not count for it.

    Args:
        vectors: Of users, u. Shape `[B, D]`.
        targets: Shape `[B]`.
        items: Vectors of all items, v, the padding item's first. Shape `[n_items, D]`.
        count: Items drawn.

    Returns:
        A scalar.
    """
    drawn = torch.randint(1, len(items), (count,), device=targets.device)  # [N]
    positive = (vectors * items[targets]).sum(dim=1, keepdim=True)  # [B, 1]
    negative = vectors @ items[drawn].T  # [B, N]
    negative = negative.masked_fill(drawn[None] == targets[:, None], -torch.inf)
    return (torch.cat([positive, negative], dim=1).logsumexp(dim=1) - positive[:, 0]).mean()


def check(config: Config, task: str) -> None:
    """Refuse `sampled_negatives` where nothing would read it.

    Args:
        config: Settings of a model.
        task: The protocol's task.

    Raises:
        SettingsError: The model or the protocol has no such loss, or the number is negative.
    """
    count, name = config["sampled_negatives"], config["model"]
    if not count:
        return
    own = "sampled_negatives" in registry.own_defaults(name)
    if task != "ranking":
        raise SettingsError(f"sampled_negatives = {count}: labels have no softmax over items; leave it out")
    if count < 0:
        raise SettingsError(f"sampled_negatives = {count}: must be at least 0, which takes all items")
    if name not in LEARNERS and not own:
        raise SettingsError(
            f"{name} has no softmax over sampled_negatives; {close_name(name, (*LEARNERS, 'YoutubeDNN'))}"
        )
    if not own and config["loss_type"] != "CE":
        raise SettingsError(
            f"sampled_negatives = {count}: they replace the sum of loss_type CE, and loss_type is {config['loss_type']}"
        )


def loss_function(config: Config, model: nn.Module) -> Callable[[Interaction], Tensor] | None:
    """The loss of rows of histories and next items, one row per prefix of a sequence.

    Args:
        config: Settings that `check` let pass.
        model: The model.

    Returns:
        A function from Interaction to a scalar; `None` where the model's own loss is the one to learn by.
    """
    if not config["sampled_negatives"] or config["model"] not in LEARNERS:
        return None
    return partial(_loss, model, config["sampled_negatives"])


def _loss(model: Any, count: int, interaction: Interaction) -> Tensor:  # noqa: ANN401 - a RecBole model
    vectors = model(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])  # [B, D]
    return sampled_cross_entropy(vectors, interaction[model.POS_ITEM_ID], model.item_embedding.weight, count)

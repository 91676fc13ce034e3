"""Xie et al., Contrastive Learning for Sequential Recommendation, ICDE 2022 (CL4SRec)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmbole import compat
from llmbole.settings import SettingsError

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first
from recbole.model.sequential_recommender import SASRec  # noqa: E402

if TYPE_CHECKING:
    from llmbole.config import Config

SHARES = ("crop_share", "mask_share", "reorder_share")


class CL4SRec(SASRec):
    """SASRec that also learns to tell two views of one history from views of the other histories of the batch.

    L = L_main + lambda L_cl. A view is the history cropped, masked or reordered; which of the three is drawn for each
    view of each history. `[mask]` is an embedding after the items'.

    Trained on all positions of a history, the views are of histories, as in the paper; trained as RecBole trains
    SASRec, on one row per prefix, they are of prefixes. L_main is the cross-entropy over all items or RecBole's BPR
    loss, where the paper has one sampled negative.

    Args:
        config: Settings; SASRec's, `contrastive_weight` (lambda), `temperature`, `crop_share`, `mask_share` and
            `reorder_share` (eta, gamma and beta).
        dataset: A RecBole dataset.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        self.contrastive_weight: float = config["contrastive_weight"]
        self.temperature: float = config["temperature"]
        wrong = [
            f"{name} = {config[name]}: a share is in (0, 1]" for name in SHARES if not 0 < config[name] <= 1
        ]
        if wrong:
            raise SettingsError("\n".join(wrong))
        self.shares = [float(config[name]) for name in SHARES]
        self.item_embedding = nn.Embedding(self.n_items + 1, self.hidden_size, padding_idx=0)
        self.item_embedding.apply(self._init_weights)

    def item_vectors(self) -> Tensor:
        """Embeddings of the items, without that of `[mask]`. Shape `[n_items, D]`."""
        return self.item_embedding.weight[: self.n_items]

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The loss of the next item and the contrastive loss."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        output, targets = self.forward(item_seq, lengths), interaction[self.POS_ITEM_ID]  # [B, D], [B]
        if self.loss_type == "BPR":
            pairs = self.item_embedding(torch.stack([targets, interaction[self.NEG_ITEM_ID]]))  # [2, B, D]
            main: Tensor = self.loss_fct(*(output * pairs).sum(dim=2))
        else:
            main = self.loss_fct(output @ self.item_vectors().T, targets)
        return main + self.contrastive_penalty(interaction)

    def contrastive_penalty(self, interaction: Interaction) -> Tensor:
        """lambda L_cl of a batch of histories."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        one, other = (self.forward(*self.view(item_seq, lengths)) for _ in range(2))  # [B, D]
        return self.contrastive_weight * contrastive_loss(one, other, self.temperature)

    def view(self, item_seq: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """A random view of each history: items `[B, L]` and lengths `[B]`."""
        eta, gamma, beta = self.shares
        cropped, shorter = crop(item_seq, lengths, eta)
        masked = mask(item_seq, lengths, gamma, self.n_items)
        views = torch.stack([cropped, masked, reorder(item_seq, lengths, beta)])  # [3, B, L]
        kind = torch.randint(3, lengths.shape, device=lengths.device)  # [B]
        return views[kind, torch.arange(len(kind), device=kind.device)], torch.where(
            kind == 0, shorter, lengths
        )

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items. Shape `[B, n_items]`."""
        output: Tensor = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return output @ self.item_vectors().T


def crop(item_seq: Tensor, lengths: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A random stretch of each history, floor(share * length) items long, at least one.

    Args:
        item_seq: Histories, padded with 0 on the right. Shape `[B, L]`.
        lengths: Their lengths. Shape `[B]`.
        share: The part that stays.

    Returns:
        Histories, padded as before, and their lengths.
    """
    kept = (lengths * share).long().clamp(min=1)  # [B]
    starts = _uniform(lengths - kept + 1)  # [B]
    columns = torch.arange(item_seq.shape[1], device=item_seq.device)  # [L]
    places = (starts[:, None] + columns).clamp(max=item_seq.shape[1] - 1)  # [B, L]
    return item_seq.gather(1, places) * (columns < kept[:, None]), kept


def mask(item_seq: Tensor, lengths: Tensor, share: float, token: int) -> Tensor:
    """Histories in which floor(share * length) random items are replaced by a token.

    Args:
        item_seq: Histories, padded with 0 on the right. Shape `[B, L]`.
        lengths: Their lengths. Shape `[B]`.
        share: The part that is masked.
        token: Id of `[mask]`.

    Returns:
        Shape `[B, L]`.
    """
    outside = torch.arange(item_seq.shape[1], device=item_seq.device) >= lengths[:, None]  # [B, L]
    noise = torch.rand(item_seq.shape, device=item_seq.device).masked_fill(outside, 2.0)
    ranks = noise.argsort(dim=1).argsort(dim=1)  # [B, L]
    return item_seq.masked_fill(ranks < (lengths * share).long()[:, None], token)


def reorder(item_seq: Tensor, lengths: Tensor, share: float) -> Tensor:
    """Histories in which a random stretch, floor(share * length) items long, is shuffled.

    Args:
        item_seq: Histories, padded with 0 on the right. Shape `[B, L]`.
        lengths: Their lengths. Shape `[B]`.
        share: The part that is shuffled.

    Returns:
        Shape `[B, L]`.
    """
    count = (lengths * share).long()  # [B]
    starts = _uniform(lengths - count + 1)[:, None]  # [B, 1]
    columns = torch.arange(item_seq.shape[1], device=item_seq.device)  # [L]
    inside = (columns >= starts) & (columns < starts + count[:, None])  # [B, L]
    noise = torch.rand(item_seq.shape, device=item_seq.device) * count[:, None]
    order = torch.where(inside, starts + noise, columns.float()).argsort(dim=1, stable=True)
    return item_seq.gather(1, order)


def contrastive_loss(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """-log of the share of exp(s(u, u') / t) among u's similarities to the 2 B - 1 other views, averaged.

    Args:
        one: A view of each history. Shape `[B, D]`.
        other: Another one. Shape `[B, D]`.
        temperature: t; s is the inner product.

    Returns:
        A scalar.
    """
    views = torch.cat([one, other])  # [2 B, D]
    similarities = views @ views.T / temperature
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partners = torch.arange(len(views), device=views.device).roll(len(one))
    return nn.functional.cross_entropy(similarities.masked_fill(itself, -torch.inf), partners)


def _uniform(sizes: Tensor) -> Tensor:
    """A random number below each size. Shape `[B]`."""
    return (torch.rand(sizes.shape, device=sizes.device) * sizes).long().clamp(max=sizes - 1)

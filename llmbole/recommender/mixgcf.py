"""Huang et al., MixGCF: An Improved Training Method for Graph Neural Network-based Recommender Systems, KDD 2021."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llmbole import compat
from llmbole.data.candidates import UnknownItems
from llmbole.settings import SettingsError

compat.apply()

from recbole.data.interaction import Interaction  # noqa: E402 - the patches come first
from recbole.model.general_recommender import LightGCN  # noqa: E402

if TYPE_CHECKING:
    from llmbole.config import Config


class MixGCF(LightGCN):
    """LightGCN trained with negatives that are mixed from many items, a part of each layer from the hardest one.

    RecBole's one negative of a row is the first of a pool of `n_negs`; the others are uniform over the items that the
    user has no training interaction with. All are drawn from the process's random state, which a run seeds and
    checkpoints keep.

    Args:
        config: Settings; LightGCN's and `n_negs`.
        dataset: The training part of a RecBole dataset.
    """

    def __init__(self, config: Config, dataset: Any) -> None:  # noqa: ANN401 - a RecBole dataset
        super().__init__(config, dataset)
        self.n_negs: int = config["n_negs"]
        if self.n_negs < 1:
            raise SettingsError(f"n_negs = {self.n_negs}: at least one negative is mixed")
        users, items = (dataset.inter_feat[field].numpy() for field in (self.USER_ID, self.ITEM_ID))
        self.unknown = UnknownItems(users, items, self.n_users, self.n_items)
        full = int((self.unknown.sizes < 1).sum())
        if full:
            raise SettingsError(
                f"MixGCF draws items that a user does not know, but {full} users know every item; leave them out"
            )

    def layers(self) -> Tensor:
        """Embeddings of all users and items after 0, 1, ..., L propagations. Shape `[n_users + n_items, L + 1, D]`."""
        found = [self.get_ego_embeddings()]
        for _ in range(self.n_layers):
            found.append(torch.sparse.mm(self.norm_adj_matrix, found[-1]))
        return torch.stack(found, dim=1)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """BPR loss against mixed negatives, and LightGCN's L2 penalty on the layers before propagation."""
        self.restore_user_e = self.restore_item_e = None
        users, items = torch.split(self.layers(), [self.n_users, self.n_items])
        user, positive = users[interaction[self.USER_ID]], items[interaction[self.ITEM_ID]]  # [B, L + 1, D]
        pool = items[self._pool(interaction)]  # [B, N, L + 1, D]
        share = torch.rand(*positive.shape[:2], 1, device=positive.device)  # [B, L + 1, 1]
        negative = mixed(user.mean(dim=1), positive, pool, share)  # [B, L + 1, D]
        difference = (user.mean(dim=1) * (positive - negative).mean(dim=1)).sum(dim=1)  # [B]
        loss: Tensor = -torch.nn.functional.logsigmoid(difference).mean()
        penalty = self.reg_loss(user[:, 0], positive[:, 0], negative[:, 0], require_pow=self.require_pow)
        return loss + self.reg_weight * penalty.squeeze()

    def _pool(self, interaction: Interaction) -> Tensor:
        first = interaction[self.NEG_ITEM_ID][:, None]  # [B, 1]
        users = interaction[self.USER_ID].cpu().numpy()[:, None]  # [B, 1]
        chance = torch.rand(len(users), self.n_negs - 1, dtype=torch.float64).numpy()
        others = torch.from_numpy(
            self.unknown.items(users, (chance * self.unknown.sizes[users]).astype(np.int64))
        )
        return torch.cat([first, others.to(first.device)], dim=1)  # [B, N]


def mixed(user: Tensor, positive: Tensor, pool: Tensor, share: Tensor) -> Tensor:
    """A negative for each row, put together layer by layer.

    Positive mixing: e'_m = a e_+ + (1 - a) e_m at each layer, with a uniform in (0, 1). Hop mixing: each layer comes
    from the item of the pool whose e' has the largest inner product with the user's pooled embedding, the paper's
    query for models that pool layers by sum or mean.

    Args:
        user: Pooled embeddings of users. Shape `[B, D]`.
        positive: Positive items by layer. Shape `[B, L + 1, D]`.
        pool: Negative items by layer. Shape `[B, N, L + 1, D]`.
        share: The share a of the positive. Shape `[B, L + 1, 1]`.

    Returns:
        Shape `[B, L + 1, D]`.
    """
    candidates = share[:, None] * positive[:, None] + (1 - share[:, None]) * pool  # [B, N, L + 1, D]
    scores = torch.einsum("bd,bnld->bnl", user, candidates)  # [B, N, L + 1]
    hardest = scores.argmax(dim=1)[:, None, :, None].expand(-1, 1, -1, candidates.shape[-1])
    return candidates.gather(1, hardest).squeeze(1)

"""The user who is most like another one by a conventional recommender's embeddings, and what may be shown of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from llmbole.data.sequences import Sequences
from llmbole.model.cf import Backbone
from llmbole.model.vectors import VECTORS
from llmbole.settings import SettingsError
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import ContextRecommender

QUERIES_PER_BLOCK = 512
Allowed = Callable[[np.ndarray], np.ndarray]


def user_table(backbone: Backbone, sequences: Sequences) -> Tensor:
    """Vectors of all users from their training interactions, the padding user's first.

    Args:
        backbone: The trained recommender; a context-aware one gives the embeddings of user ids.
        sequences: The interactions.

    Returns:
        Shape `[n_users, D]`, on the CPU.

    Raises:
        SettingsError: The model has no user vectors.
    """
    config, everyone = backbone.session.config, np.arange(sequences.n_users)
    if config["model"] not in VECTORS:
        return _id_embeddings(backbone, sequences.n_users)
    length = int(config["MAX_ITEM_LIST_LENGTH"] or 1)
    found = []
    for users in np.array_split(everyone, -(-len(everyone) // QUERIES_PER_BLOCK)):
        histories = sequences.items_at(sequences.training(users, length))
        rows = {
            "user_id": users,
            "item_id_list": histories,
            "item_length": np.maximum((histories > 0).sum(axis=1), 1),
        }
        columns = {name: torch.from_numpy(np.asarray(column, np.int64)) for name, column in rows.items()}
        found.append(backbone.user_vectors(Interaction(columns)).cpu())
    return torch.cat(found)


def _id_embeddings(backbone: Backbone, n_users: int) -> Tensor:
    model, name = backbone.model, backbone.session.config["model"]
    if not isinstance(model, ContextRecommender):
        raise SettingsError(
            f"{name} has no user vectors, by which users are similar; set augment.prompt: false, or take another"
        )
    first = int(
        model.token_field_offsets[model.token_field_names.index(backbone.session.config["USER_ID_FIELD"])]
    )
    weight: Tensor = model.token_embedding_table.embedding.weight
    return weight[first : first + n_users].detach().cpu()


@torch.no_grad()
def most_similar(
    vectors: Tensor, queries: np.ndarray, allowed: Allowed, block: int = QUERIES_PER_BLOCK
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3: the user v with the largest cosine e_u e_v / (|e_u| |e_v|), exactly; of equal ones the first.

    Args:
        vectors: Of all users. Shape `[N, D]`.
        queries: Users to find a similar one for. Shape `[Q]`.
        allowed: For places of queries `[b]`, which users may be found, `[b, N]`.
        block: Queries of one matrix product.

    Returns:
        Users, -1 where none is allowed, and their cosines, 0 there. Shapes `[Q]`.
    """
    units = functional.normalize(vectors.double(), dim=1)  # [N, D]
    found, cosines = np.full(len(queries), -1, dtype=np.int64), np.zeros(len(queries))
    for start in range(0, len(queries), block):
        places = np.arange(start, min(start + block, len(queries)))
        mask = torch.from_numpy(allowed(places))  # [b, N]
        scores = (units[torch.from_numpy(queries[places])] @ units.T).masked_fill(~mask, -torch.inf)
        best = scores.max(dim=1)
        some = mask.any(dim=1).numpy()
        found[places[some]] = best.indices.numpy()[some]
        cosines[places[some]] = best.values.numpy()[some]
    return found, cosines


def similar_before(
    vectors: Tensor, sequences: Sequences, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar other user who has a training interaction that is not later than a held-out one.

    Args:
        vectors: Of all users. Shape `[n_users, D]`.
        sequences: The interactions.
        positions: Places of the held-out interactions. Shape `[R]`.

    Returns:
        Users, -1 where there is none, and cosines. Shapes `[R]`.
    """
    users, times = sequences.users[positions], sequences.times[positions]
    some = sequences.train_counts > 0  # [n_users]
    first = np.where(
        some, sequences.times[np.minimum(sequences.offsets[:-1], len(sequences.times) - 1)], np.inf
    )

    def allowed(rows: np.ndarray) -> np.ndarray:
        mask: np.ndarray = (first[None] <= times[rows][:, None]) & some[None]  # [b, n_users]
        mask[np.arange(len(rows)), users[rows]] = False
        return mask

    return most_similar(vectors, users, allowed)


def shown_places(similar: np.ndarray, sequences: Sequences, positions: np.ndarray, length: int) -> np.ndarray:
    """What is shown of similar users: their newest training interactions up to the time of a held-out one.

    Args:
        similar: The similar user of each row, -1 for none. Shape `[R]`.
        sequences: The interactions.
        positions: Places of the held-out interactions. Shape `[R]`.
        length: How many are shown at most.

    Returns:
        Places, oldest first, -1 behind the last. Shape `[R, length]`.
    """
    known = similar >= 0
    places = sequences.training(np.maximum(similar, 0), length, sequences.times[positions])
    return np.where(known[:, None], places, -1)

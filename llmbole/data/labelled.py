"""A ranking's interactions as labelled rows, for what is learned or retrieved row by row beside it."""

from __future__ import annotations

import numpy as np

from llmbole.data import arrays
from llmbole.data.negatives import NegativeSampler
from llmbole.data.pairs import PairSplit
from llmbole.data.split import PHASES, Split

SEED = 20250602
"""Of the negatives: the same for every model and every run, as in the protocol loo_ctr."""


def labelled(split: Split) -> PairSplit:
    """The split of a ranking as labelled rows; its task stays `ranking`.

    Training has a row of label 1 for each training interaction, in the order of the split, and behind them one of label
    0 for each: a uniform random item that its user has no training interaction with. Held-out items may be drawn, as
    nobody knows them yet. Validation and test have a row of label 1 for each target. A history is all that the user
    did before, and times are those that the protocol orders by.

    Args:
        split: The frozen split.

    Returns:
        The rows. A sealed test is left out.
    """
    positions = np.flatnonzero(split.trained)  # [T]
    users, items = split.owners[positions], split.items[positions]
    sampler = NegativeSampler(users, items, split.n_train_items)
    drawn = sampler.sample(np.random.default_rng(SEED), users, 1)[:, 0]  # [T]
    parts = {
        "train": {
            "items": np.concatenate([items, drawn]),
            "labels": np.repeat(np.array([1, 0], dtype=np.float32), len(positions)),
            "positions": np.tile(positions, 2),
        }
    }
    for name in arrays.open_parts(PHASES):
        phase = split.phase(name)
        labels = np.ones(len(phase), dtype=np.float32)
        parts[name] = {"items": phase.targets, "labels": labels, "positions": phase.positions}
    return PairSplit(
        dataset=split.dataset,
        protocol=split.protocol,
        version=split.version,
        order=split.order,
        task="ranking",
        hash=split.hash,
        item_tokens=split.item_tokens,
        user_tokens=split.user_tokens,
        users=split.owners,
        items=split.items,
        timestamps=split.time_keys,
        ratings=split.ratings,
        offsets=split.offsets,
        history_items=split.items,
        history_places=np.arange(len(split.items)),
        history_offsets=split.offsets,
        parts=parts,
    )

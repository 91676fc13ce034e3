"""A recommender over a small catalogue whose scores are plain numbers, so that the service is tested by itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from llmbole.inference.people import People
from llmbole.inference.recommender import Recommender


class Numbers:
    """Scores that grow with the item's id; for a history it counts how often it was asked."""

    shortlist = None
    retriever = None
    history_alone = None

    def __init__(self):
        self.batches = []
        self.broken = False

    def score(self, contexts, items):
        self.batches.append(len(contexts))
        if self.broken:
            raise RuntimeError("a secret of the machine")
        return items.astype(float) + np.array([[context.user / 100] for context in contexts])


@pytest.fixture
def recommender():
    """Users ann, ben and cé with two items each, of nine items i1 to i9."""
    made = Recommender.__new__(Recommender)
    settings = {"dataset": {"name": "small"}, "protocol": {"name": "loo_rank20"}}
    made.finished = SimpleNamespace(model="Numbers", settings=settings, record=None)
    made.split = SimpleNamespace(
        user_tokens=np.array(["[PAD]", "ann", "ben", "cé"]),
        item_tokens=np.array(["[PAD]", *(f"i{place}" for place in range(1, 10))]),
        items=np.array([9, 8, 1, 2, 3, 4]),
        ratings=np.ones(6),
        offsets=np.array([0, 0, 2, 4, 6]),
        n_items=10,
        n_users=4,
    )
    made.people = People(made.split)
    made._raw = made.split.item_tokens.tolist()
    made._titles = ["", *(f"Title {place}" for place in range(1, 10))]
    made.items = {raw: place for place, raw in enumerate(made._raw) if place}
    made._catalogue, made._given, made.shortlist = np.arange(1, 10), False, None
    made.scorer = Numbers()
    return made

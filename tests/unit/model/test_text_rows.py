"""Training rows without vectors: newest histories, the next item among negatives, a fresh draw each epoch."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from llmbole.data import protocol, splits
from llmbole.model import training


def test_rows_show_what_came_before_and_offer_the_next_item_among_negatives(card, prepared, tmp_path):
    splits.freeze(protocol.protocol("loo_rank20"), card, prepared, tmp_path)
    split, artifact = splits.load(tmp_path), SimpleNamespace(folder=tmp_path)
    settings = SimpleNamespace(positions=2, batch_size=7)
    rows = training.text_rows(artifact, settings, 3, history=4, negatives=5)
    epochs = [
        {
            (user, item): (history[:length], offered)
            for batch in rows
            for user, item, history, length, offered in zip(
                *(batch[name].tolist() for name in ("user", "item", "history", "length", "candidates")),
                strict=True,
            )
        }
        for _ in range(2)
    ]
    assert rows.rows == len(epochs[0]) == 2 * 30
    for (user, item), (history, offered) in epochs[0].items():
        sequence = split.train_items(user).tolist()
        place = sequence.index(item)
        assert place >= len(sequence) - 2
        assert history == sequence[max(0, place - 4) : place]
        assert len(offered) == len(set(offered)) == 6
        assert set(offered) & set(sequence) == {item}
    assert epochs[0].keys() == epochs[1].keys() and epochs[0] != epochs[1]
    one, other = (
        next(iter(training.text_rows(artifact, settings, 3, history=4, negatives=5))) for _ in range(2)
    )
    assert torch.equal(one["candidates"], other["candidates"])  # of the same seed

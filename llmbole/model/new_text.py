"""Text of items that the data set does not have, its vectors, and which items share a text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.llm.encode import TrainableEncoder
from llmbole.model import stages
from llmbole.model.scorer import NewItems
from llmbole.pipeline.run import StageRun

TEXTS_PER_BATCH = 64
MISSING = {"description": "no description"}
"""What stands in the texts of the data set's own items, see `stages.item_texts`."""


def new_texts(new: NewItems, template: str) -> list[str]:
    """Texts of new items, written as `stages.item_texts` writes those of the data set."""
    return new.text.format(template, missing=MISSING)[1:]


def text_columns(known: Sequence[Hashable], new: Sequence[Hashable]) -> np.ndarray:
    """The item whose score is each one's: a new item has that of the first item of the same text.

    Two items of one text would else differ by the rounding of their places in a batch.

    Args:
        known: What is read of each item of the data set, that of the padding item first.
        new: What is read of each new item.

    Returns:
        Shape `[n_items + new]`.
    """
    first: dict[Hashable, int] = {}
    for place, text in enumerate((*known[1:], *new), start=1):
        first.setdefault(text, place)
    return np.array([*range(len(known)), *(first[text] for text in new)])


@torch.no_grad()
def new_text_vectors(run: StageRun, new: NewItems, template: str, tuned: nn.Module | None = None) -> Tensor:
    """Vectors of new items' texts, the very same ones for equal texts.

    Args:
        run: The stage; it must declare `text_encoder`.
        new: The items.
        template: Text of an item.
        tuned: A trained `TrainableEncoder`, if the run's encoder learned; `None` takes the encoder as it comes.

    Returns:
        Shape `[n, D]`.
    """
    texts = new_texts(new, template)
    distinct = list(dict.fromkeys(texts))
    reader = TrainableEncoder(stages.encoder_spec(run), distinct, stages.device(run)).eval()
    if tuned is not None:
        reader.load_state_dict(tuned.state_dict())
    chunks = torch.arange(len(distinct)).split(TEXTS_PER_BATCH)
    vectors = torch.cat([reader(chunk) for chunk in chunks])  # [m, D]
    place = {text: row for row, text in enumerate(distinct)}
    return vectors[[place[text] for text in texts]]

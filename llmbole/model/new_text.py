"""Text vectors of items that the data set does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmbole.llm.encode import TrainableEncoder
from llmbole.model import stages
from llmbole.model.scorer import NewItems
from llmbole.pipeline.run import StageRun

TEXTS_PER_BATCH = 64
MISSING = {"description": "no description"}
"""What stands in the texts of the data set's own items, see `stages.item_texts`."""


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
    texts = new.text.format(template, missing=MISSING)[1:]
    distinct = list(dict.fromkeys(texts))
    reader = TrainableEncoder(stages.encoder_spec(run), distinct, stages.device(run)).eval()
    if tuned is not None:
        reader.load_state_dict(tuned.state_dict())
    chunks = torch.arange(len(distinct)).split(TEXTS_PER_BATCH)
    vectors = torch.cat([reader(chunk) for chunk in chunks])  # [m, D]
    place = {text: row for row, text in enumerate(distinct)}
    return vectors[[place[text] for text in texts]]

"""Greedy generation from input embeddings, in batches that stop as soon as every answer is complete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.score import align


@torch.inference_mode()
def greedy(
    lm: LanguageModel,
    embeddings: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    *,
    repetition_penalty: float = 1.0,
    quotes: int | None = 2,
) -> list[str]:
    """Continue each prompt with its most probable tokens.

    A row ends at the end token, or with the token that brings the given number of quotation marks (the closing one of
    a quoted title). All rows are generated together; the loop ends when the last one has ended.

    Args:
        lm: the language model.
        embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        mask: 1 at tokens and soft positions, padding on either side, `[B, T]`.
        max_new_tokens: longest answer. The longest candidate plus a margin is enough for a title.
        repetition_penalty: divides the logits of tokens that the answer already has (A-LLMRec's code uses 1.5); 1 is
            none.
        quotes: stop after this many quotation marks: 2 plus those inside the longest title; None never stops early.

    Returns:
        Texts of the answers, without special tokens.

    Raises:
        ValueError: prompt and answer together are longer than the model takes.
    """
    embeddings, mask = align(embeddings, mask, "left")
    longest = embeddings.shape[1] + max_new_tokens
    if lm.max_length is not None and longest > lm.max_length:
        raise ValueError(
            f"prompt and answer take up to {longest} positions, but {type(lm.model).__name__} takes {lm.max_length}: "
            "encode prompts with a smaller max_tokens or lower max_new_tokens"
        )
    ends = _end_ids(lm)
    counts = torch.zeros(lm.output_weight.shape[0], dtype=torch.long)  # [V]
    for index, count in lm.tokens.quotes.items():
        counts[index] = count
    stop = _Stop(counts.to(embeddings.device), quotes)
    # The library's own setting takes a row's left padding for prompt tokens among the generated ones.
    penalties = LogitsProcessorList()
    if repetition_penalty != 1:
        penalties.append(RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
    model: Any = lm.model  # transformers types `generate` as a tensor
    ids = model.generate(
        inputs_embeds=embeddings,
        attention_mask=mask.long(),
        generation_config=_greedy_settings(lm, max_new_tokens, ends),
        logits_processor=penalties,
        stopping_criteria=StoppingCriteriaList([stop]),
    )  # [B, A]: with input embeddings only new tokens come back
    finished = stop.finished(ids) | torch.isin(ids, torch.tensor(ends, device=ids.device))  # [B, A]
    before = finished.long().cumsum(1) - finished.long()  # [B, A] ends before this token
    return [lm.tokens.decode(row[kept].tolist()) for row, kept in zip(ids, before == 0, strict=True)]


def _greedy_settings(lm: LanguageModel, max_new_tokens: int, ends: list[int]) -> GenerationConfig:
    """Settings of greedy decoding, whatever the model was published with."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=lm.tokens.pad_id,
        eos_token_id=ends or None,
    )


class _Stop(StoppingCriteria):
    """True for rows that hold the given number of quotation marks."""

    def __init__(self, counts: Tensor, quotes: int | None) -> None:
        self.counts = counts
        self.quotes = quotes

    def finished(self, ids: Tensor) -> Tensor:
        """Whether the row has ended at or before each token, `[B, A]`."""
        if self.quotes is None:
            return torch.zeros_like(ids, dtype=torch.bool)
        return self.counts[ids].cumsum(1) >= self.quotes

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - the library's signature
        return self.finished(input_ids)[:, -1]


def _end_ids(lm: LanguageModel) -> list[int]:
    """Ids that end an answer: the tokenizer's end token and those the model was published with."""
    published = lm.model.generation_config.eos_token_id if lm.model.generation_config is not None else None
    published = [] if published is None else [published] if isinstance(published, int) else list(published)
    return sorted({*published, *([] if lm.tokens.eos_id is None else [lm.tokens.eos_id])})

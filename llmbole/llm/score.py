"""Scores of answers under a language model: training loss, and log-likelihood of candidates under a shared prefix."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from llmbole.llm import packing
from llmbole.llm.backbone import LanguageModel

_LOGITS_PER_CHUNK = 1 << 25  # 128 MiB of float32


@dataclass
class AnswerLoss:
    """Token cross-entropy of a batch of answers.

    Attributes:
        loss: the loss to differentiate, a scalar.
        tokens: number of answer tokens.
        tokens_processed: number of tokens and soft positions the model read, padding not counted.
    """

    loss: Tensor
    tokens: int
    tokens_processed: int


def align(embeddings: Tensor, mask: Tensor, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Move all padding to one side and cut columns that are padding in every row.

    Args:
        embeddings: input embeddings, `[B, T, H]`.
        mask: 1 at tokens, 0 at padding anywhere, `[B, T]`.
        side: where the padding goes.

    Returns:
        Embeddings and boolean mask, `[B, T', H]` and `[B, T']`, with the tokens of each row in their order.

    Raises:
        ValueError: a row has no token.
    """
    mask = mask.to(embeddings.device).bool()
    if not bool(mask.any(1).all()):
        raise ValueError(f"prompts {(~mask.any(1)).nonzero()[:, 0].tolist()} of the batch are empty")
    width = int(mask.sum(1).max())
    kept = slice(mask.shape[1] - width, None) if side == "left" else slice(0, width)
    ascending = mask[:, :-1] <= mask[:, 1:] if side == "left" else mask[:, :-1] >= mask[:, 1:]
    if bool(ascending.all()):
        return embeddings[:, kept], mask[:, kept]
    order = torch.argsort((mask if side == "left" else ~mask).to(torch.uint8), dim=1, stable=True)[
        :, kept
    ]  # [B, T']
    return embeddings.gather(1, order[..., None].expand(-1, -1, embeddings.shape[-1])), mask.gather(1, order)


def answer_loss(
    lm: LanguageModel,
    prefix_embeddings: Tensor,
    prefix_mask: Tensor,
    answers: Sequence[Sequence[int]],
    *,
    reduction: str = "mean",
) -> AnswerLoss:
    """Cross-entropy of answer tokens that follow a prompt of embeddings.

    Logits are computed at answer positions only. The side of the prompt's padding does not matter.

    Args:
        lm: the language model.
        prefix_embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        prefix_mask: 1 at tokens and soft positions, `[B, T]`.
        answers: token ids of each row's answer, at least one each.
        reduction: `mean` over all answer tokens of the batch, or `sum`.

    Returns:
        The loss and token counts.

    Raises:
        ValueError: an answer is empty, the numbers of rows differ, or a sequence is longer than the model takes.
    """
    if len(answers) != prefix_embeddings.shape[0] or not all(answers):
        raise ValueError(
            f"{prefix_embeddings.shape[0]} prompts need as many answers of at least one token each"
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, not {reduction!r}")
    mask = prefix_mask.to(prefix_embeddings.device).bool()
    lengths = torch.tensor([len(answer) for answer in answers])
    _check_length(lm, mask, lengths)
    targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(a) for a in answers], batch_first=True).to(
        mask.device
    )
    places = torch.arange(targets.shape[1], device=mask.device)  # [A]
    is_target = places < lengths.to(mask.device)[:, None]  # [B, A]
    # The last token of the longest answer is predicted and never read.
    inputs = torch.cat([prefix_embeddings, lm.embed(targets[:, :-1]).to(prefix_embeddings.dtype)], 1)
    inputs, _ = align(inputs, torch.cat([mask, is_target[:, :-1]], 1), "right")  # [B, L, H]
    hidden = lm.hidden(inputs)  # [B, L, H]
    columns = (mask.sum(1, keepdim=True) - 1 + places)[is_target]  # [n]
    rows = is_target.nonzero()[:, 0]  # [n]
    logits = lm.head(hidden[rows.to(hidden.device), columns.to(hidden.device)])  # [n, V]
    loss = functional.cross_entropy(logits, targets[is_target].to(logits.device), reduction=reduction)
    return AnswerLoss(loss, int(lengths.sum()), int(mask.sum() + (lengths - 1).sum()))


@torch.inference_mode()
def candidate_log_likelihood(
    lm: LanguageModel,
    prefix_embeddings: Tensor,
    prefix_mask: Tensor,
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    normalize: bool = True,
    token_budget: int = 8192,
) -> Tensor:
    """Log-likelihood of each row's candidates after the row's prompt.

    The prompt is run once and its keys and values are kept: all candidates of a row follow it in one sequence, each
    at the positions it would have alone, and an attention mask lets a candidate see the prompt and itself only. A row
    whose candidates do not fit the budget together is split, and its prompt is run once for each part.

    Args:
        lm: the language model.
        prefix_embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        prefix_mask: 1 at tokens and soft positions, `[B, T]`.
        candidates: for each row the token ids of its candidates, the same number `C` in every row.
        normalize: mean over a candidate's tokens; False gives the sum.
        token_budget: positions of a group of rows, whose keys and values are held at once, padding included.

    Returns:
        Log-likelihoods, `[B, C]`, float32, on the CPU.

    Raises:
        ValueError: the rows have different numbers of candidates, a candidate is empty, or a sequence is longer than
            the model takes.
    """
    rows, count = len(candidates), len(candidates[0]) if candidates else 0
    if rows != prefix_embeddings.shape[0] or any(len(row) != count or not all(row) for row in candidates):
        raise ValueError(
            f"{prefix_embeddings.shape[0]} prompts need as many rows of candidates, each with the same number of "
            "candidates of at least one token"
        )
    embeddings, mask = align(prefix_embeddings, prefix_mask, "right")
    prefix_lengths = mask.sum(1).cpu().numpy()  # [B]
    lengths = np.array([[len(candidate) for candidate in row] for row in candidates])  # [B, C]
    _check_length(lm, mask, torch.from_numpy(lengths.max(1)))
    result = torch.zeros(rows, count)
    for units in packing.batches(prefix_lengths, lengths, token_budget):
        parts = [candidates[row][start:stop] for row, start, stop in units]
        selected = [row for row, _, _ in units]
        width = int(prefix_lengths[selected].max())
        scores = _score_packed(lm, embeddings[selected, :width], mask[selected, :width].sum(1), parts)
        for (row, start, stop), values in zip(units, scores, strict=True):
            result[row, start:stop] = values
    return result / torch.from_numpy(lengths) if normalize else result


def _score_packed(
    lm: LanguageModel, embeddings: Tensor, lengths: Tensor, candidates: Sequence[Sequence[Sequence[int]]]
) -> list[Tensor]:
    """Log-likelihood of each row's candidates, `[C]` a row, for prompts padded right."""
    packed = packing.pack(candidates)
    cache = DynamicCache()
    hidden = lm.hidden(embeddings, cache=cache)  # [n, T, H]
    ends = hidden[torch.arange(len(hidden), device=hidden.device), lengths.to(hidden.device) - 1]  # [n, H]
    first = torch.from_numpy(packed.source < 0).to(hidden.device)  # [m]
    owner, row, source, target = (
        torch.from_numpy(part).to(hidden.device)
        for part in (packed.owner, packed.row, packed.source, packed.target)
    )
    total = sum(map(len, candidates))
    sums = torch.zeros(total, device=hidden.device)  # [sum of C]
    sums += token_log_probabilities(lm, ends, target[first], row[first])
    if not first.all():
        segment = torch.from_numpy(packed.segment).to(lengths.device)  # [n, P]
        seen = torch.arange(embeddings.shape[1], device=lengths.device) < lengths[:, None]  # [n, T]
        inputs = lm.embed(torch.from_numpy(packed.inputs)).to(embeddings.dtype)  # [n, P, H]
        positions = lengths[:, None] + torch.from_numpy(packed.offset).to(lengths.device)  # [n, P]
        hidden = lm.hidden(
            inputs, packing.block_mask(seen, segment, inputs.dtype), positions, cache
        )  # [n, P, H]
        states = hidden[row[~first], source[~first]]  # [m, H]
        sums.index_add_(0, owner[~first], token_log_probabilities(lm, states, target[~first]))
    return list(sums.cpu().split([len(row) for row in candidates]))


def token_log_probabilities(
    lm: LanguageModel, hidden: Tensor, targets: Tensor, states: Tensor | None = None
) -> Tensor:
    """Log-probabilities of target tokens, computed in chunks of bounded memory.

    Args:
        lm: the language model, for its head.
        hidden: hidden states, `[s, H]`.
        targets: token ids, `[m]`.
        states: the state that predicts each target, ascending, `[m]`; None if each state predicts one, in order.

    Returns:
        Log-probabilities, `[m]`, float32.
    """
    size = max(1, _LOGITS_PER_CHUNK // lm.output_weight.shape[0])
    chunks = []
    for start in range(0, len(hidden), size):
        logits = lm.head(hidden[start : start + size])  # [s', V]
        if states is None:
            ids = targets[start : start + size].to(logits.device)
            chunks.append(-functional.cross_entropy(logits, ids, reduction="none"))
        else:
            mine = (states >= start) & (states < start + size)
            rows, ids = (states[mine] - start).to(logits.device), targets[mine].to(logits.device)
            chunks.append(logits.log_softmax(1)[rows, ids])
    return torch.cat(chunks).to(hidden.device)


def position_limit(lm: LanguageModel) -> int | None:
    """The longest sequence that can be scored exactly; None if the model's configuration names no limit."""
    window = getattr(lm.model.config, "sliding_window", None)
    if getattr(lm.model.config, "use_sliding_window", window is not None) and window is not None:
        return min(window, lm.max_length or window)
    return lm.max_length


def _check_length(lm: LanguageModel, mask: Tensor, answer_lengths: Tensor) -> None:
    longest = int((mask.sum(1).cpu() + answer_lengths - 1).max())
    limit = position_limit(lm)
    if limit is not None and longest > limit:
        raise ValueError(
            f"prompt and answer take {longest} positions, but {type(lm.model).__name__} takes {limit}: encode prompts "
            "with a smaller max_tokens"
        )


def title_match(text: str, titles: Sequence[str]) -> int | None:
    """Which one of the candidates an answer names.

    Case, white space and the form of quotation marks do not matter. The rules, in this order:

    1. An answer in which more than one candidate is mentioned, anywhere, names none. A title inside a longer
       candidate's title that is mentioned there is not a mention of its own, nor is a title inside a longer word.
    2. The answer's title is the text between its first quotation mark and a later one (titles may contain quotation
       marks; the longest that is a candidate counts); to the end, if there is no later one; or, without any
       quotation mark, its first line that is not empty. If it equals a candidate, that candidate is named.
    3. Otherwise the candidate mentioned in that text (up to the second quotation mark) is named.
    4. Two candidates with the same title can't be told apart: neither is named.

    Args:
        text: a generated answer, of any number of lines, possibly empty.
        titles: titles of the candidates.

    Returns:
        Index of the candidate, or None.
    """
    names = [plain_title(title) for title in titles]
    mentions = set(mentioned(plain_title(text), set(names) - {""}))
    if len(mentions) > 1:
        return None
    plain = text.translate(QUOTES)
    quotes = [match.start() for match in re.finditer('"', plain)]
    if quotes:
        ends = quotes[1:] or [len(plain)]
        spans = [plain_title(plain[quotes[0] + 1 : end]) for end in ends]
    else:
        spans = [plain_title(next((line for line in plain.splitlines() if line.strip()), ""))]
    exact = [span for span in spans if span and span in names]
    named = set(exact[-1:]) or set(mentioned(spans[0], mentions))
    indices = [index for index, name in enumerate(names) if name in named]
    return indices[0] if len(indices) == 1 else None


QUOTES = str.maketrans({mark: '"' for mark in "\u201c\u201d\u201e\u201f\u00ab\u00bb\uff02"})
"""Quotation marks of any form to the plain one."""


def plain_title(text: str) -> str:
    """A text without what does not matter in a title: case, white space, the form of quotation marks."""
    return " ".join(unicodedata.normalize("NFC", text.translate(QUOTES)).casefold().split())


def mentioned(text: str, names: set[str]) -> list[str]:
    """Names that occur in a text as whole words, outside any longer name that occurs there, by first occurrence.

    Args:
        text: as `plain_title` gives it.
        names: the same, not empty.

    Returns:
        Each name once.
    """
    places = sorted(
        (match.start(), match.end(), name)
        for name in names
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    )
    found = [
        name
        for start, end, name in places
        if not any(a <= start and end <= b and b - a > end - start for a, b, _ in places)
    ]
    return list(dict.fromkeys(found))

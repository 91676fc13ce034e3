"""Answers of one word, yes or no: their token ids, and their logits at the one position that predicts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbole.llm import shared_prefix
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded, collate
from llmbole.llm.score import align, position_limit
from llmbole.llm.shared_prefix import Vectors as Vectors
from llmbole.llm.splice import splice
from llmbole.llm.tokens import TextTokenizer

Kind = Literal["difference", "yes"]
Position = Literal["last", "mean"]
CPU_BUDGET = 1024  # positions whose activations stay in a processor's cache
GPU_BUDGET = 16384
_OPENING = "\"'([{<\u201c\u2018\u00ab"


@dataclass(frozen=True)
class AnswerIds:
    """Token ids of the two answers.

    Attributes:
        yes: of the first word.
        no: of the second.
    """

    yes: int
    no: int


def answer_ids(
    tokens: TextTokenizer,
    prompt_end: str,
    words: tuple[str, str] = ("Yes", "No"),
    *,
    first_token: bool = False,
) -> AnswerIds:
    """Token ids of the two answers as they follow a prompt.

    The answer has a space in front (" Yes", sentencepiece's "▁Yes") unless the prompt ends in white space or in an
    opening quotation mark or bracket, or is empty.

    Args:
        tokens: the tokenizer.
        prompt_end: the prompt's text, or its end.
        words: the answers for yes and for no.
        first_token: take the first token of an answer of several; they must differ.

    Returns:
        The ids.

    Raises:
        ValueError: an answer is several tokens and `first_token` is off, or both have the same id.
    """
    bare = not prompt_end or prompt_end[-1].isspace() or prompt_end[-1] in _OPENING
    texts = [word if bare else f" {word}" for word in words]
    ids = tokens.ids_many(texts)
    pieces = {
        text: tokens.tokenizer.convert_ids_to_tokens(list(each))
        for text, each in zip(texts, ids, strict=True)
    }
    different = bool(ids[0]) and bool(ids[1]) and ids[0][0] != ids[1][0]
    if any(len(each) != 1 for each in ids) and not (first_token and different):
        advice = (
            "set answer.first_token: true to compare their first tokens, or answer with other words"
            if different
            else "their first tokens do not tell them apart: answer with other words"
        )
        raise ValueError(
            f"after a prompt that ends in {prompt_end[-12:]!r} the answers are not single tokens: {pieces}; {advice}"
        )
    if not different:
        raise ValueError(f"the two answers are the same token: {pieces}; answer with other words")
    return AnswerIds(ids[0][0], ids[1][0])


def yes_no_logits(lm: LanguageModel, embeddings: Tensor, mask: Tensor, ids: AnswerIds) -> Tensor:
    """Logits of yes and no behind each prompt; the head sees one position a prompt.

    Args:
        lm: the language model.
        embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        mask: 1 at tokens and soft positions, padding on either side, `[B, T]`.
        ids: of the answers.

    Returns:
        Logits of yes and of no, `[B, 2]`, float32.
    """
    embeddings, mask = align(embeddings, mask, "right")  # [B, T', H]
    _check_length(lm, embeddings.shape[1])
    return _at_ends(lm, lm.hidden(embeddings), mask.sum(1) - 1, (ids.yes, ids.no))


def yes_no_states(
    lm: LanguageModel,
    embeddings: Tensor,
    mask: Tensor,
    ids: AnswerIds,
    layers: Sequence[int],
    position: Position,
) -> tuple[Tensor, list[Tensor]]:
    """Logits as `yes_no_logits` gives them, and the hidden states of layers, in one pass.

    Args:
        lm: the language model.
        embeddings: prompts with their soft vectors spliced in, `[B, T, H]`.
        mask: 1 at tokens and soft positions, padding on either side, `[B, T]`.
        ids: of the answers.
        layers: numbers of layers, 1 for the first, 0 for the input embeddings, negative ones from the end.
        position: the state at the prompt's `last` token, or the `mean` over its tokens.

    Returns:
        Logits of yes and of no, `[B, 2]`, and a state per layer, `[B, H]`, float32.
    """
    embeddings, mask = align(embeddings, mask, "right")  # [B, T', H]
    _check_length(lm, embeddings.shape[1])
    hidden = lm.layers(embeddings)
    ends = mask.sum(1) - 1
    logits = _at_ends(lm, hidden[-1], ends, (ids.yes, ids.no))
    return logits, [_pooled(hidden[layer], mask, ends, position) for layer in layers]


def check_layers(lm: LanguageModel, layers: Sequence[int]) -> None:
    """Refuse numbers of layers that a language model lacks: a ValueError that names the first."""
    count = int(lm.model.config.get_text_config().num_hidden_layers)
    wrong = [layer for layer in layers if not -count <= layer <= count]
    if wrong:
        raise ValueError(
            f"llm_layers: {wrong[0]} is no layer of {type(lm.model).__name__}, which has {count}; 1 is the first, "
            "-1 the last, 0 are the input embeddings"
        )


def _pooled(hidden: Tensor, mask: Tensor, ends: Tensor, position: Position) -> Tensor:
    """One state a row, `[B, H]`, of states `[B, T, H]`."""
    mask, ends = mask.to(hidden.device), ends.to(hidden.device)
    if position == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), ends].float()
    return (hidden.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def answer_logits(logits: Tensor, kind: Kind) -> Tensor:
    """The logit of a like, `[B]`: logit(yes) - logit(no), whose sigmoid is the softmax over both, or logit(yes) alone.

    Args:
        logits: of yes and of no, `[B, 2]`.
        kind: `difference`, or `yes` as in CoLLM's code.

    Returns:
        Logits, `[B]`.
    """
    return logits[:, 0] - logits[:, 1] if kind == "difference" else logits[:, 0]


def probabilities(logits: Tensor, kind: Kind) -> Tensor:
    """Sigmoid of `answer_logits` in double precision, so that confident rows do not become equal. Shape `[B]`."""
    return answer_logits(logits.double(), kind).sigmoid()


def embed(
    lm: LanguageModel, prompts: Sequence[Encoded], vectors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Input embeddings of prompts, padded on the right, with vectors at their soft positions.

    Args:
        lm: the language model.
        prompts: encoded prompts.
        vectors: for each soft slot its vectors, prompt by prompt, `[n, H]`.

    Returns:
        Embeddings and mask, `[B, T, H]` and `[B, T]`.
    """
    batch = collate(prompts, lm.tokens.pad_id, "right").to(lm.device)
    embeddings = lm.embed(batch.ids)  # [B, T, H]
    if vectors:
        rows, columns = (torch.cat([batch.soft[name][axis] for name in vectors]) for axis in (0, 1))
        embeddings = splice(embeddings, rows, columns, torch.cat(list(vectors.values())))
    return embeddings, batch.mask


def score(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    ids: AnswerIds,
    vectors: Vectors | None = None,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits of yes and no for any number of prompts, `[N, 2]`; see `score_answers`."""
    answers = (ids.yes, ids.no)
    return score_answers(lm, prompts, answers, vectors, token_budget=token_budget, progress=progress)


@torch.inference_mode()
def score_answers(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    answers: Sequence[int],
    vectors: Vectors | None = None,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits of answers of one token for any number of prompts.

    What prompts begin with alike is run once; see `shared_prefix`. Prompts of similar length are run together, so that
    little is padding.

    Args:
        lm: the language model.
        prompts: encoded prompts of one template.
        answers: token ids of the answers.
        vectors: gives, for places of prompts in their order, each soft slot's vectors, `[n, H]`.
        token_budget: positions of one forward pass, padding included; None takes what suits the device.
        progress: told how many prompts are done.

    Returns:
        Logits in the order of the prompts, `[N, A]`, float32, on the CPU.
    """
    result = torch.zeros(len(prompts), len(answers))
    if not prompts:
        return result
    _check_length(lm, max(len(prompt.ids) for prompt in prompts))
    budget = token_budget or (CPU_BUDGET if lm.device.type == "cpu" else GPU_BUDGET)
    for places, states in shared_prefix.last_states(lm, prompts, vectors, budget):
        result[places] = _answers(lm, states, answers).cpu()
        if progress is not None:
            progress(len(places))
    return result


def _at_ends(lm: LanguageModel, hidden: Tensor, ends: Tensor, answers: Sequence[int]) -> Tensor:
    """Logits of the answers at one place of each row, `[B, A]`."""
    states = hidden[torch.arange(len(hidden), device=hidden.device), ends.to(hidden.device)]  # [B, H]
    return _answers(lm, states, answers)


def _answers(lm: LanguageModel, states: Tensor, answers: Sequence[int]) -> Tensor:
    """Logits of the answers of states `[B, H]`, `[B, A]`."""
    head: Any = lm.model.get_output_embeddings()
    answers = list(answers)
    if type(head) is not nn.Linear:
        return lm.head(states)[:, answers]
    # Rows of the head in single precision: logits rounded to bfloat16 would make many rows equal.
    bias = None if head.bias is None else head.bias[answers].float()
    return functional.linear(states.to(head.weight.device).float(), head.weight[answers].float(), bias)


def _check_length(lm: LanguageModel, longest: int) -> None:
    limit = position_limit(lm)
    if limit is not None and longest > limit:
        raise ValueError(
            f"a prompt takes {longest} positions, but {type(lm.model).__name__} takes {limit}: encode prompts with a "
            "smaller max_tokens"
        )

"""Scores under a shared prefix equal those of plain forward passes; losses touch answer positions only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.score import align, answer_loss, candidate_log_likelihood, title_match


def prompts(lm: LanguageModel, lengths: list[int], side: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random embeddings of different lengths, padded with garbage that must not matter."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    embeddings = torch.randn(len(lengths), width, lm.hidden_size, generator=generator)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    rows = [torch.randn(length, lm.hidden_size, generator=generator) for length in lengths]
    for index, row in enumerate(rows):
        place = slice(width - len(row), None) if side == "left" else slice(0, len(row))
        embeddings[index, place] = row
        mask[index, place] = 1
    return embeddings, mask


def plain_score(lm: LanguageModel, prefix: Tensor, candidate: list[int]) -> Tensor:
    """Sum of log-probabilities by one full forward pass of the whole model, without padding."""
    embeddings = torch.cat([prefix, lm.embed(torch.tensor(candidate))])[None]
    logits = lm.model(inputs_embeds=embeddings).logits[0, len(prefix) - 1 : -1]
    return logits.log_softmax(-1)[torch.arange(len(candidate)), torch.tensor(candidate)].sum()


CANDIDATES = [
    [[5, 6, 7], [9], [5, 6, 7], [8] * 30, [10, 11]],
    [[20, 21, 22, 23, 24], [25, 26], [30], [31], [20, 21, 22, 23, 25]],
    [[40], [41], [42], [43], [44]],
]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("token_budget", [16384, 60, 1])
def test_equals_plain_forward_passes(lm: LanguageModel, side: str, token_budget: int) -> None:
    lengths = [12, 3, 7]
    embeddings, mask = prompts(lm, lengths, side)
    expected = torch.zeros(3, 5)
    with torch.inference_mode():
        for row in range(3):
            prefix = embeddings[row][mask[row].bool()]
            expected[row] = torch.stack([plain_score(lm, prefix, c) for c in CANDIDATES[row]])
    actual = candidate_log_likelihood(
        lm, embeddings, mask, CANDIDATES, normalize=False, token_budget=token_budget
    )
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    assert actual[0, 0] == pytest.approx(float(actual[0, 2]), abs=1e-4)  # the same candidate twice
    assert expected.std() > 1  # scores differ, so that equality says something
    means = candidate_log_likelihood(lm, embeddings, mask, CANDIDATES, token_budget=token_budget)
    counts = torch.tensor([[len(c) for c in row] for row in CANDIDATES])
    torch.testing.assert_close(means, expected / counts, atol=1e-4, rtol=0)


def test_single_token_candidates_need_no_packed_input(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [4, 6], "left")
    scores = candidate_log_likelihood(lm, embeddings, mask, [[[3], [4]], [[5], [3]]])
    with torch.inference_mode():
        expected = torch.stack([plain_score(lm, embeddings[1], c) for c in ([5], [3])])
    torch.testing.assert_close(scores[1], expected, atol=1e-4, rtol=0)


def test_no_more_forward_passes_than_batches(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [12, 3, 7], "left")
    calls = []
    hook = lm.model.base_model.register_forward_hook(lambda module, args, output: calls.append(1))
    candidate_log_likelihood(lm, embeddings, mask, CANDIDATES)
    hook.remove()
    assert len(calls) == 2  # the prompts, and all their candidates


def test_refuses_empty_and_uneven_candidates(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [4, 6], "left")
    for wrong in ([[[1], []], [[1], [2]]], [[[1]], [[1], [2]]], [[[1]]]):
        with pytest.raises(ValueError, match="same number of candidates"):
            candidate_log_likelihood(lm, embeddings, mask, wrong)


def test_refuses_what_is_longer_than_the_model_takes(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [250], "left")
    candidate_log_likelihood(lm, embeddings, mask, [[[1] * 7] * 40])  # packed length does not count
    with pytest.raises(ValueError, match="take 257 positions.* takes 256"):
        candidate_log_likelihood(lm, embeddings, mask, [[[1] * 8]])
    with pytest.raises(ValueError, match="smaller max_tokens"):
        answer_loss(lm, embeddings, mask, [[1] * 8])


def test_sliding_window_limits_the_length(build: Callable[..., Path]) -> None:
    spec = LLMSpec(name=str(build("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=0)))
    sliding = load(spec)
    embeddings, mask = prompts(sliding, [16], "left")
    with pytest.raises(ValueError, match="takes 16"):
        candidate_log_likelihood(sliding, embeddings, mask, [[[1, 2]]])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_answer_loss_equals_plain_forward_passes(lm: LanguageModel, side: str, reduction: str) -> None:
    embeddings, mask = prompts(lm, [12, 3, 7], side)
    answers = [[5, 6, 7], [9], [8, 8, 2, 3, 4, 1]]
    result = answer_loss(lm, embeddings, mask, answers, reduction=reduction)
    plain = -sum(plain_score(lm, embeddings[i][mask[i].bool()], answers[i]) for i in range(3))
    torch.testing.assert_close(result.loss, plain / (10 if reduction == "mean" else 1), atol=1e-4, rtol=1e-5)
    assert result.tokens == 10
    assert result.tokens_processed == 22 + 10 - 3


def test_answer_loss_reaches_soft_vectors_and_not_the_frozen_model(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [12, 3, 7], "left")
    embeddings.requires_grad_(True)
    answer_loss(lm, embeddings, mask, [[5, 6], [9], [8]]).loss.backward()
    assert embeddings.grad is not None
    assert bool((embeddings.grad[mask.bool()].abs().sum(-1) > 0).all())
    assert bool((embeddings.grad[~mask.bool()] == 0).all())
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_answer_loss_computes_logits_at_answer_positions_only(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [12, 3, 7], "left")
    shapes = []
    hook = lm.model.get_output_embeddings().register_forward_hook(
        lambda m, args, out: shapes.append(tuple(out.shape))
    )
    answer_loss(lm, embeddings, mask, [[5, 6], [9], [8]])
    hook.remove()
    assert shapes == [(4, lm.model.get_output_embeddings().weight.shape[0])]


def test_answer_loss_names_its_mistakes(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [4, 6], "left")
    with pytest.raises(ValueError, match="at least one token"):
        answer_loss(lm, embeddings, mask, [[1], []])
    with pytest.raises(ValueError, match="mean or sum"):
        answer_loss(lm, embeddings, mask, [[1], [2]], reduction="none")


def test_align_keeps_the_order_of_tokens() -> None:
    embeddings = torch.arange(10.0).view(2, 5, 1)
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0]])
    moved, moved_mask = align(embeddings, mask, "left")
    assert moved_mask.tolist() == [[False, True, True], [True, True, True]]
    assert moved[0, 1:, 0].tolist() == [0.0, 2.0]
    assert moved[1, :, 0].tolist() == [6.0, 7.0, 8.0]
    moved, moved_mask = align(embeddings, mask, "right")
    assert moved_mask.tolist() == [[True, True, False], [True, True, True]]
    assert moved[0, :2, 0].tolist() == [0.0, 2.0]
    assert torch.equal(align(moved, moved_mask, "right")[0], moved)


FILMS = [
    "Toy Story (1995)",
    "Heat",
    "Heat (1995)",
    "M",
    'Say "Cheese" Now',
    "Usual Suspects, The",
    "Toy Story",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Heat"', 1),
        ('"Heat (1995)"', 2),
        ('"Toy Story"', 6),
        ('"toy  STORY (1995)"', 0),
        ("\u201cToy Story\u201d", 6),
        ('"Toy Story (1995)', 0),  # cut off before the closing mark
        ('"Toy Sto', None),
        ('The recommendation is "Heat".', 1),
        ("Heat\nbecause it is good", 1),
        ("\n\n  Heat (1995)  \n", 2),
        ("I would take Usual Suspects, The next", 5),
        ('"I would take Usual Suspects, The"', 5),
        ('Watch this:\n"M"', 3),
        ('"Say "Cheese" Now"', 4),
        ('"Say "Cheese" Now" it is', 4),
        ('"Heat", "M"', None),  # several candidates
        ('"Heat"\n"M"', None),
        (",".join(f'"{film}"' for film in FILMS), None),  # the list of candidates copied
        ("Heat or M", None),
        ("wheat", None),  # not a word of its own
        ("Mmm", None),
        ('"Jaws"', None),
        ("", None),
        ("   \n ", None),
        ('""', None),
        ("Because\nHeat", None),  # not in the first line
        ('"Jaws" is better than Heat', None),  # mentioned outside the quotation
    ],
)
def test_title_match(text: str, expected: int | None) -> None:
    assert title_match(text, FILMS) == expected


def test_title_match_of_titles_that_are_alike() -> None:
    assert title_match('"Heat"', ["M", "Heat", "heat "]) is None
    assert title_match('"M"', ["M", "Heat", "heat "]) == 0
    assert title_match('""', ["", "Heat"]) is None
    assert title_match('"(.*"', ["(.*", "a"]) == 0


def test_an_empty_prompt_is_refused(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, [4, 6], "left")
    mask[0] = 0
    with pytest.raises(ValueError, match=r"prompts \[0\] of the batch are empty"):
        candidate_log_likelihood(lm, embeddings, mask, [[[1]], [[1]]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_equal_those_on_the_cpu(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        spec = LLMSpec(name=str(folder), precision="float32")
        cpu, gpu = load(spec), load(spec, "cuda")
        embeddings, mask = prompts(cpu, [12, 3, 7], "left")
        expected = candidate_log_likelihood(cpu, embeddings, mask, CANDIDATES)
        actual = candidate_log_likelihood(gpu, embeddings.to("cuda"), mask.to("cuda"), CANDIDATES)
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)
        loss = answer_loss(gpu, embeddings.to("cuda"), mask.to("cuda"), [[5, 6], [9], [8]]).loss
        torch.testing.assert_close(
            loss.cpu(), answer_loss(cpu, embeddings, mask, [[5, 6], [9], [8]]).loss, atol=1e-3, rtol=0
        )


def test_chunks_of_logits_change_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, mask = prompts(lm, [12, 3, 7], "left")
    expected = candidate_log_likelihood(lm, embeddings, mask, CANDIDATES)
    monkeypatch.setattr("llmbole.llm.score._LOGITS_PER_CHUNK", 2 * len(lm.tokenizer))
    torch.testing.assert_close(candidate_log_likelihood(lm, embeddings, mask, CANDIDATES), expected)

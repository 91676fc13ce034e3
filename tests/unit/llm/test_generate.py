"""Batched greedy generation gives what one-at-a-time generation gives, and stops as soon as it may."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.generate import Generation, greedy, greedy_stream
from llmbole.llm.identity import LLMSpec


def prompts(lm: LanguageModel, side: str) -> tuple[Tensor, Tensor]:
    lengths, width = [12, 3, 7, 1], 12
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(len(lengths), width, lm.hidden_size, generator=generator)
    columns = torch.arange(width)
    counts = torch.tensor(lengths)[:, None]
    mask = columns >= width - counts if side == "left" else columns < counts
    return embeddings, mask.long()


def slow(lm: LanguageModel, embeddings: Tensor, steps: int, penalty: float = 1.0) -> list[int]:
    """One prompt, without cache, padding or library."""
    ids: list[int] = []
    for _ in range(steps):
        inputs = torch.cat([embeddings, lm.embed(torch.tensor(ids, dtype=torch.long))])[None]
        logits = lm.model(inputs_embeds=inputs).logits[0, -1]
        for index in set(ids):
            logits[index] = logits[index] / penalty if logits[index] > 0 else logits[index] * penalty
        ids.append(int(logits.argmax()))
        if ids[-1] in (lm.tokens.eos_id, lm.model.generation_config.eos_token_id):
            break
    return ids


@pytest.mark.parametrize("penalty", [1.0, 1.5])
@pytest.mark.parametrize("side", ["left", "right"])
def test_equals_slow_generation_one_at_a_time(lm: LanguageModel, side: str, penalty: float) -> None:
    embeddings, mask = prompts(lm, side)
    texts = greedy(lm, embeddings, mask, 15, quotes=None, repetition_penalty=penalty)
    with torch.inference_mode():
        expected = [slow(lm, e[m.bool()], 15, penalty) for e, m in zip(embeddings, mask, strict=True)]
    assert texts == [lm.tokens.decode(ids) for ids in expected]
    assert len(set(texts)) > 1
    single = [
        greedy(lm, e[None], m[None], 15, quotes=None, repetition_penalty=penalty)[0]
        for e, m in zip(embeddings, mask, strict=True)
    ]
    assert texts == single


class Scripted:
    """Makes a model say given tokens: the head's logits are replaced."""

    def __init__(self, lm: LanguageModel, answers: list[list[int]]) -> None:
        self.answers, self.steps = answers, 0
        self.hook = lm.model.get_output_embeddings().register_forward_hook(self.replace)

    def replace(self, module: torch.nn.Module, args: object, logits: Tensor) -> Tensor:
        logits = torch.zeros_like(logits)
        for row, answer in enumerate(self.answers):
            logits[row, -1, answer[min(self.steps, len(answer) - 1)]] = 1
        self.steps += 1
        return logits


def test_stops_at_the_closing_quote_of_every_row(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, "left")
    said = ['"Heat (1995)" and more', 'The "M" x', '"Toy Story" "', 'no quote "']
    answers = [lm.tokens.ids(text) * 3 for text in said]
    script = Scripted(lm, answers)
    texts = greedy(lm, embeddings, mask, 60)
    script.hook.remove()
    # The closing mark's token may bring a space.
    assert [text.rstrip() for text in texts[:3]] == ['"Heat (1995)"', 'The "M"', '"Toy Story"']
    assert texts[3].count('"') == 2
    assert script.steps < 60


def test_quotes_inside_titles(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, "left")
    script = Scripted(lm, [lm.tokens.ids('"The "M" x"rest')] * 4)
    assert greedy(lm, embeddings, mask, 60, quotes=4) == ['"The "M" x"'] * 4  # and not after the second
    script.hook.remove()


def test_stops_at_the_end_token(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, "left")
    end = lm.tokens.eos_id
    assert end is not None
    answers = [
        [*lm.tokens.ids("Heat"), end, *lm.tokens.ids("more and")],
        [end],
        lm.tokens.ids("x") + [end],
        [end],
    ]
    script = Scripted(lm, answers)
    texts = greedy(lm, embeddings, mask, 60)
    script.hook.remove()
    assert [text.strip() for text in texts] == ["Heat", "", "x", ""]
    assert script.steps <= len(answers[0])


def test_published_sampling_settings_do_not_act(build: Callable[..., Path]) -> None:
    lm = load(LLMSpec(name=str(build("llama"))))
    embeddings, mask = prompts(lm, "left")
    expected = greedy(lm, embeddings, mask, 10, quotes=None)
    lm.model.generation_config.repetition_penalty = 5.0
    lm.model.generation_config.do_sample = True
    lm.model.generation_config.temperature = 9.0
    assert greedy(lm, embeddings, mask, 10, quotes=None) == expected


def test_refuses_what_the_model_can_not_hold(lm: LanguageModel) -> None:
    embeddings, mask = prompts(lm, "left")
    with pytest.raises(ValueError, match="up to 257 positions"):
        greedy(lm, embeddings, mask, 245)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 40])
def test_prompts_that_join_later_get_the_answers_they_get_alone(lm: LanguageModel, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(5)
    lengths = [int(length) for length in torch.randint(1, 13, (20,), generator=generator)]
    limits = [int(limit) for limit in torch.randint(1, 12, (20,), generator=generator)]
    embeddings = [torch.randn(length, lm.hidden_size, generator=generator) for length in lengths]

    def embed(places):
        batch = torch.nn.utils.rnn.pad_sequence([embeddings[place] for place in places], batch_first=True)
        begun.append(list(places))
        return batch, torch.arange(batch.shape[1]) < torch.tensor([lengths[place] for place in places])[
            :, None
        ]

    begun: list[list[int]] = []
    told: list[int] = []
    texts = greedy_stream(
        lm, embed, lengths, limits, batch_size=batch_size, quotes=None, progress=told.append
    )
    with torch.inference_mode():
        expected = [slow(lm, *each) for each in zip(embeddings, limits, strict=True)]
    assert texts == [lm.tokens.decode(ids) for ids in expected]
    assert sorted(place for places in begun for place in places) == list(range(20)) and sum(told) == 20
    assert max(map(len, begun)) <= batch_size and len(begun) > 1 or batch_size == 40


def test_answers_that_are_complete_leave_the_batch(lm: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(12, 3, lm.hidden_size, generator=generator)
    limits = [2] * 8 + [6] * 4
    answers = Generation(lm, limits, 9, quotes=None)
    widths: list[int] = []
    hook = lm.model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: widths.append(len(logits))
    )
    answers.join(range(12), embeddings, torch.ones(12, 3))
    while answers.open:
        answers.step()
    hook.remove()
    expected, held = [12], 12
    for said in range(1, max(map(len, answers.ids))):
        still = sum(len(ids) > said for ids in answers.ids)
        held = still if held >= 8 and still <= 0.75 * held else held
        expected.append(held)
    assert widths == expected and widths[-1] <= 4


def test_an_empty_stream_has_no_answers(lm: LanguageModel) -> None:
    assert greedy_stream(lm, lambda places: pytest.fail("asked"), [], [], batch_size=4) == []

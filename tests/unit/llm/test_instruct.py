"""Instruction tuning: files in both forms, and a loss that is the cross-entropy of the answer's tokens alone."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from llmbole.llm.instruct import (
    Instruction,
    Lesson,
    Smoothness,
    answer_loss,
    lessons,
    read,
    smooth_answer_loss,
    symmetric_divergence,
)

ALPACA = [
    {"instruction": "Name a colour.", "input": "", "output": "Red."},
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
]
LIMA = [{"conversations": ["Why is it so?", "Because.", "Really?"], "source": "test"}]


def test_both_forms_are_read_plain_lined_and_compressed(tmp_path):
    listed, lined, packed = (tmp_path / name for name in ("a.json", "b.jsonl", "c.json.gz"))
    listed.write_text(json.dumps(ALPACA), encoding="utf-8")
    lined.write_text("".join(json.dumps(row) + "\n" for row in LIMA), encoding="utf-8")
    packed.write_bytes(gzip.compress(json.dumps(ALPACA + LIMA).encode()))
    assert read(listed) == [Instruction("Name a colour.", "Red."), Instruction("Add.\n1 and 2", "3")]
    assert read(lined) == [Instruction("Why is it so?", "Because.")]
    assert read(packed) == read(listed) + read(lined)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{]", "neither a JSON list nor one JSON object a line"),
        (json.dumps([*ALPACA, {"question": "a"}]), "row 3: expected texts"),
        (json.dumps([{"instruction": "a", "output": " "}]), "row 1"),
        (json.dumps([{"conversations": ["only one"]}]), "row 1"),
    ],
)
def test_a_row_that_is_neither_is_named(tmp_path, content, message):
    path = tmp_path / "rows.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_lesson_is_the_prompt_the_answer_and_the_end(lm):
    begin = [] if lm.tokens.bos_id is None else [lm.tokens.bos_id]
    (lesson,) = lessons(lm, [Instruction("Watched Heat?", "Yes")], 100)
    prompt = [*begin, *lm.tokens.ids("Watched Heat?")]
    assert lesson == Lesson([*prompt, *lm.tokens.ids(" Yes"), lm.tokens.eos_id], len(prompt))
    (cut,) = lessons(lm, [Instruction("Watched Heat?", "Yes")], len(prompt) + 1)
    assert cut.ids == lesson.ids[: len(prompt) + 1]
    assert lessons(lm, [Instruction("Watched Heat?", "Yes")], len(prompt)) == []


def test_the_loss_is_that_of_answers_alone_whatever_is_padded(lm):
    rows = lessons(lm, [Instruction("Heat", "Yes"), Instruction("Star Wars is a", "film of 1977")], 100)
    loss, tokens = answer_loss(lm, rows)
    values = []
    for row in rows:
        logits = lm.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        values += [-logits[place - 1, row.ids[place]] for place in range(row.start, len(row.ids))]
    torch.testing.assert_close(loss, torch.stack(values).mean(), rtol=1e-4, atol=1e-5)
    assert tokens == sum(len(row.ids) for row in rows)


def test_noise_changes_the_loss_within_its_range(folders):
    from llmbole.llm.backbone import load
    from llmbole.llm.identity import LLMSpec

    lm = load(LLMSpec(name=str(folders["llama"]))).freeze()
    rows = lessons(lm, [Instruction("Heat", "Yes")], 100)
    seen, embed = [], lm.hidden
    lm.hidden = lambda embeddings, *others: seen.append(embeddings) or embed(embeddings, *others)
    plain, _ = answer_loss(lm, rows)
    noisy, _ = answer_loss(lm, rows, noise=5.0)
    assert plain != noisy
    length, width = seen[0].shape[1:]
    moved = (seen[1] - seen[0]).abs().max().item()
    assert 0.5 < moved / (5 / (length * width) ** 0.5) <= 1.0001


def test_the_divergence_is_that_by_hand():
    """p = (1/2, 1/2), q = (3/4, 1/4): KL(p | q) + KL(q | p) = (q - p) log(q / p) summed = 1/4 log 3."""
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    expected = torch.tensor(0.25 * 3.0).log() - torch.tensor(0.25).log()
    torch.testing.assert_close(symmetric_divergence(p + 3, q), 0.25 * expected)
    torch.testing.assert_close(symmetric_divergence(q, p), symmetric_divergence(p, q))
    assert symmetric_divergence(p, p) == 0


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_a_smooth_loss_adds_the_weighted_divergence(lm, noise):
    rows = lessons(lm, [Instruction("Heat", "Yes"), Instruction("Star Wars is a", "film of 1977")], 100)
    plain, tokens = answer_loss(lm, rows)
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(1)
        losses[weight], read_tokens = smooth_answer_loss(lm, rows, Smoothness(0.1, weight, noise))
        assert read_tokens == 2 * tokens
    torch.testing.assert_close(losses[0.0], plain)
    assert losses[1.0] > plain
    torch.testing.assert_close(losses[3.0] - plain, 3 * (losses[1.0] - plain), rtol=1e-3, atol=1e-5)
    still, _ = smooth_answer_loss(lm, rows, Smoothness(0.0, 5.0, noise))
    torch.testing.assert_close(still, plain)

"""What prompts begin with alike is run once, and each prompt's last state is the one that it has alone."""

from __future__ import annotations

import random

import pytest
import torch

from llmbole.llm import shared_prefix, yes_no
from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.prompt import Template
from llmbole.llm.shared_prefix import Group, Inputs

TEMPLATE = Template(
    '{bos}Liked: {history}. {user:soft} Likes "{title}"{item:soft}? Answer:',
    items={"history": '"{title}"'},
    separator=", ",
    drop_oldest="history",
)


@pytest.fixture
def rows(titles):
    """User, history and target: a history asked about often, two that grow, the same one of two users, one alone."""
    same = [(1, titles[:4], title) for title in titles[4:9]]
    growing = [(2, titles[3 : 3 + length], titles[0]) for length in range(5)]
    both = [(user, titles[5:8], titles[user]) for user in (3, 4, 3, 4)]
    return [*same, *growing, *both, (5, [titles[9]], titles[2])]


@pytest.fixture
def prompts(lm, rows):
    return TEMPLATE.encode_many(lm.tokens, [{"history": shown, "title": title} for _, shown, title in rows])


@pytest.fixture
def vectors(lm, rows, titles):
    """A vector for each user and for each item, in the model's own precision."""
    users, items = torch.randn(2, 10, lm.hidden_size, generator=torch.Generator().manual_seed(1)).to(
        lm.model.dtype
    )

    def given(places):
        own = [rows[place] for place in places]
        return {
            "user": users[[user for user, _, _ in own]],
            "item": items[[titles.index(title) for _, _, title in own]],
        }

    return given


@torch.inference_mode()
def alone(lm, prompts, vectors):
    """Each prompt by itself through the whole model."""
    found = []
    for place, prompt in enumerate(prompts):
        embeddings, _ = yes_no.embed(lm, [prompt], vectors([place]))
        found.append(lm.hidden(embeddings)[0, -1])
    return torch.stack(found)


@torch.inference_mode()
def together(lm, prompts, vectors, budget=100_000):
    found = torch.zeros(len(prompts), lm.hidden_size, dtype=lm.model.dtype)
    seen = []
    for places, states in shared_prefix.last_states(lm, prompts, vectors, budget):
        found[places] = states
        seen += places
    assert sorted(seen) == list(range(len(prompts)))  # each prompt once
    return found


class Passes:
    """Notes what a language model reads: rows, positions, and positions kept before."""

    def __init__(self, monkeypatch):
        self.shapes, hidden = [], LanguageModel.hidden

        def noting(lm, embeddings, mask=None, positions=None, cache=None):
            kept = 0 if cache is None else cache.get_seq_length()
            self.shapes.append((*embeddings.shape[:2], kept))
            return hidden(lm, embeddings, mask, positions, cache)

        monkeypatch.setattr(LanguageModel, "hidden", noting)


@pytest.mark.parametrize("least", [1, 16, 1000])
@pytest.mark.parametrize("budget", [1, 120, 100_000])
def test_states_are_those_of_prompts_alone(lm, prompts, vectors, monkeypatch, budget, least):
    monkeypatch.setattr(shared_prefix, "LEAST", least)
    found = together(lm, prompts, vectors, budget)
    torch.testing.assert_close(found, alone(lm, prompts, vectors), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("rows_taken", [[10], [0, 1], [10, 11], [5, 6, 10]])
def test_few_prompts_and_groups_of_one_are_scored_too(lm, prompts, vectors, rows_taken):
    few = [prompts[row] for row in rows_taken]

    def given(places):
        return vectors([rows_taken[place] for place in places])

    torch.testing.assert_close(together(lm, few, given), alone(lm, few, given), atol=2e-5, rtol=1e-5)


def test_in_bfloat16_rounding_alone_differs(rows, titles):
    lm = load(LLMSpec(precision="bfloat16")).freeze()
    plain = Template(
        '{bos}Liked: {history}. Likes "{title}"?', items={"history": '"{title}"'}, separator=", "
    )
    prompts = plain.encode_many(lm.tokens, [{"history": shown, "title": title} for _, shown, title in rows])
    exact = load(LLMSpec()).freeze()
    found, expected = (together(model, prompts, lambda places: {}).float() for model in (lm, exact))
    by_itself = alone(lm, prompts, lambda places: {}).float()
    assert (found - expected).abs().mean() < 1.5 * (by_itself - expected).abs().mean()


def test_a_history_is_run_once_for_all_its_targets(lm, prompts, vectors, monkeypatch):
    passes, same = Passes(monkeypatch), prompts[:5]
    together(lm, same, vectors)
    (_, head, _), (count, rest, kept) = passes.shapes
    assert head == kept > same[0].soft["user"][0]  # history and user's vector are what all five begin with
    assert (count, rest) == (5, max(len(prompt.ids) for prompt in same) - head)
    passes.shapes.clear()
    together(lm, [*same, prompts[-1]], vectors)
    (_, template, _), single, (_, more, _), (count, rest_again, kept) = passes.shapes
    assert template < single[1] and single[0] == 1 and single[2] == template
    assert (template + more, count, rest_again, kept) == (head, 5, rest, head)


def test_what_is_run_and_kept_in_a_pass_is_within_the_budget(lm, prompts, vectors, monkeypatch):
    passes = Passes(monkeypatch)
    longest = max(len(prompt.ids) for prompt in prompts)
    for budget in (longest, 3 * longest):
        passes.shapes.clear()
        together(lm, prompts, vectors, budget)
        assert max(rows * (width + kept) for rows, width, kept in passes.shapes) <= budget


def test_unequal_vectors_are_not_shared(lm, prompts, vectors):
    inputs = Inputs(lm, prompts, vectors)
    place = prompts[10].soft["user"][0]
    symbols = [inputs.symbols[row][place] for row in (10, 11, 12)]
    assert symbols[0] == symbols[2] != symbols[1]
    assert all(symbol < 0 for symbol in symbols)
    assert shared_prefix.common([inputs.symbols[row] for row in (10, 11)]) == place
    assert shared_prefix.common([inputs.symbols[row] for row in (10, 12)]) > place
    plain = Inputs(lm, prompts, None)
    assert plain.symbols == [prompt.ids for prompt in prompts]


def test_a_slot_with_too_few_vectors_is_an_error(lm, prompts, vectors):
    with pytest.raises(ValueError, match="'user' stands at 2 positions, but has 1 vectors"):
        Inputs(lm, prompts[:2], lambda places: {"user": torch.zeros(1, lm.hidden_size)})


def test_a_prompts_last_position_is_never_shared():
    assert shared_prefix.common([[1, 2, 3], [1, 2, 3]]) == 2
    assert shared_prefix.common([[1, 2], [1, 2, 3]]) == 1
    assert shared_prefix.common([[1, 2, 3], [1, 4], [1, 2, 5]]) == 1
    assert shared_prefix.common([[7]]) == 0


def test_groups_by_hand(monkeypatch):
    monkeypatch.setattr(shared_prefix, "LEAST", 2)
    symbols = [[0, 9, 9, 1], [0, 5, 6, 7, 1], [0, 9, 9, 2, 3], [0, 5, 6, 7, 2], [0, 5, 8, 1]]
    groups, single = shared_prefix.partition(symbols, 1)
    assert sorted(groups, key=lambda group: group.length) == [Group((0, 2), 3), Group((1, 3), 4)]
    assert single == [4]


def saved(symbols, parts, shared):
    return sum(
        (len(part) - 1) * (shared_prefix.common([symbols[row] for row in part]) - shared) for part in parts
    )


def splits(rows):
    """All ways to cut a list into runs."""
    for bits in range(2 ** (len(rows) - 1)):
        parts = [[rows[0]]]
        for place, row in enumerate(rows[1:]):
            parts.append([row]) if bits >> place & 1 else parts[-1].append(row)
        yield parts


@pytest.mark.parametrize("seed", range(5))
def test_groups_save_as_much_as_the_best_of_all_ways(monkeypatch, seed):
    monkeypatch.setattr(shared_prefix, "LEAST", 1)
    draw = random.Random(seed)
    symbols = [[0, *(draw.randrange(2) for _ in range(draw.randrange(2, 9)))] for _ in range(9)]
    shared = shared_prefix.common(symbols)
    groups, single = shared_prefix.partition(symbols, shared)
    found = saved(symbols, [group.places for group in groups], shared)
    assert sorted([*single, *(row for group in groups for row in group.places)]) == list(range(9))
    assert all(
        group.length == shared_prefix.common([symbols[row] for row in group.places]) for group in groups
    )
    order = sorted(range(9), key=symbols.__getitem__)
    assert found == max(saved(symbols, parts, shared) for parts in splits(order))

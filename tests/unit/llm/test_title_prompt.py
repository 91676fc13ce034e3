"""Prompts over lists of titles: what stands in them, scores as of each prompt alone, lists that end when complete."""

from __future__ import annotations

import math

import pytest
import torch

from llmbole.llm import title_prompt
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.title_prompt import ListWording, TitlePrompt, Titles

TITLES = ["", "Toy Story (1995)", 'The "Long" Night (1990)', "", "Heat (1995)"]
WORDING = {
    "listed": '"{title}"',
    "separator": ", ",
    "empty": "none yet",
    "untitled": "an unknown title",
    "title_tokens": 20,
    "rated": '"{title}": {rating}',
    "answered": "; ",
}
TEXT = "{bos}The user has {past} {history}. Rank: {candidates}. Answer: "


@pytest.fixture(scope="module")
def lm():
    return load(LLMSpec()).freeze()


@pytest.fixture(scope="module")
def prompt(lm):
    return TitlePrompt(
        lm, TEXT, ListWording(**WORDING), ("history", "candidates", "similar"), {"past": "seen"}
    )


@pytest.fixture(scope="module")
def titles(lm):
    return Titles(lm, ListWording(**WORDING), TITLES)


def rows(titles, *histories):
    return [
        {
            "history": [titles.listed[item] for item in history],
            "candidates": [titles.listed[item] for item in (1, 4)],
        }
        for history in histories
    ]


def test_titles_are_written_as_the_wording_says(lm, prompt, titles):
    encoded = prompt.encode(rows(titles, [2, 3], []), 10)
    assert [lm.tokens.decode(each.ids) for each in encoded] == [
        'The user has seen "The \'Long\' Night (1990)", "an unknown title". Rank: "Toy Story (1995)", "Heat (1995)". '
        "Answer: ",
        'The user has seen none yet. Rank: "Toy Story (1995)", "Heat (1995)". Answer: ',
    ]
    assert titles.rated(4, 3.0) == '"Heat (1995)": 3' and titles.rated(4, 3.5) == '"Heat (1995)": 3.5'
    assert titles.quoted([4, 1]) == '"Heat (1995)"; "Toy Story (1995)"'
    assert titles.answer_ids("5")[-1] == lm.tokens.eos_id


def test_a_prompt_too_long_loses_its_oldest_titles(lm, prompt, titles):
    long = prompt.encode(rows(titles, [4] * 400), 500)[0]
    assert long.dropped > 0 and len(long.ids) <= lm.max_length - 500
    assert lm.tokens.decode(long.ids).endswith('Rank: "Toy Story (1995)", "Heat (1995)". Answer: ')


def test_likelihoods_are_those_of_each_prompt_alone_and_of_the_plain_model(lm, prompt, titles):
    encoded = prompt.encode(rows(titles, [2, 3, 4], [], [1]), 10)
    answers = [[titles.answer_ids(titles.quoted([item])) for item in (1, 4)]] * 3
    together = title_prompt.log_likelihoods(lm, encoded, answers, batch_size=2)
    for place, each in enumerate(encoded):
        for number, answer in enumerate(answers[place]):
            with torch.inference_mode():
                logits = lm.model(torch.tensor([[*each.ids, *answer]])).logits[0].log_softmax(1)
            places = range(len(each.ids) - 1, len(each.ids) + len(answer) - 1)
            plain = sum(float(logits[at, token]) for at, token in zip(places, answer, strict=True))
            assert float(together[place, number]) == pytest.approx(plain, abs=1e-3)


def test_a_list_ends_with_its_last_title(lm, prompt, titles):
    encoded = prompt.encode(rows(titles, [2], [1, 2]), 200)
    told = []
    texts = title_prompt.generated_lists(lm, encoded, [60, 60], 1, batch_size=8, progress=told.append)
    assert sum(told) == 2
    assert all(text.count('"') <= 2 for text in texts)
    alone = [title_prompt.generated_lists(lm, [each], [60], 1, batch_size=1)[0] for each in encoded]
    assert texts == alone


def test_an_expected_value_is_the_mean_of_what_the_answers_say():
    logs = torch.tensor([[math.log(0.2), math.log(0.6)], [-700.0, -800.0]])
    assert title_prompt.expected_values(logs, [1.0, 5.0]) == pytest.approx([4.0, 1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rated": "{title}"}, "rated"), ({"answered": " "}, "answered"), ({"empty": ""}, "empty is empty")],
)
def test_wording_that_says_nothing_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ListWording(**{**WORDING, **changes})

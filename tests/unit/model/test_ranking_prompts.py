"""What stands in Llama4Rec's prompts and instructions, word by word, and Eq. 7 against the plain model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmbole.data.sequences import Sequences
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.pair_prompt import Answer
from llmbole.model.instruction_tuning import Instructed
from llmbole.model.instructions import Instructions
from llmbole.model.ranking_prompts import TASKS, AugmentSettings, PromptSettings, RankingPrompts, Shown
from llmbole.settings import SettingsError, build, load_yaml, properties_folder

TITLES = ["", "Toy Story (1995)", "GoldenEye (1995)", "Heat (1995)", "Casino (1995)"]
WORDS = {"item": "movie", "items": "movies", "verb": "watch", "past": "watched"}
OWN = load_yaml(properties_folder() / "model" / "Llama4Rec.yaml")


@pytest.fixture(scope="module")
def lm():
    return load(LLMSpec()).freeze()


@pytest.fixture(scope="module")
def prompts(lm):
    """Prompts over two users: 1 rated items 1, 2, 3 with 5, 3, 4, user 2 items 4 and 1 with 2 and 1."""
    items, ratings = np.array([1, 2, 3, 4, 1]), np.array([5.0, 3.0, 4.0, 2.0, 1.0])
    offsets, ends = np.array([0, 0, 3, 5]), np.array([0, 3, 5])
    sequences = Sequences(np.array([1, 1, 1, 2, 2]), items, ratings, np.arange(5.0), offsets, ends, 5)
    settings, answer = build(PromptSettings, OWN["prompt"], "prompt"), build(Answer, OWN["answer"], "answer")

    def over(augment):
        lines = build(AugmentSettings, {**OWN["augment"], "prompt": augment}, "augment")
        return RankingPrompts(lm, settings, answer, TITLES, WORDS, sequences, lines)

    return over


def text(lm, encoded):
    return [lm.tokens.decode(each.ids) for each in encoded]


SHOWN = Shown(
    history=np.array([[0, 1], [-1, -1]]),
    similar=np.array([[3, 4], [-1, -1]]),
    predicted=np.array([[4, 3], [3, 4]]),
    ratings=np.array([3.24, 5.0]),
)


def test_an_augmented_list_prompt_holds_the_similar_user_and_the_prediction(lm, prompts):
    told = text(lm, prompts(True).listwise(SHOWN, np.array([[3, 4], [4, 3]]), 2, 20))
    assert told[0] == (
        "Rank the candidate movies based on user historical interactions and make the top 2 recommendations. "
        'Interaction History: "Toy Story (1995)", "GoldenEye (1995)". Candidate Items: "Heat (1995)", "Casino (1995)". '
        'Similar User Interaction History: "Casino (1995)", "Toy Story (1995)". '
        'Conventional Model Prediction: "Casino (1995)", "Heat (1995)". The recommendation is '
    )
    assert "Similar User Interaction History: none yet." in told[1] and "History: none yet." in told[1]
    plain = text(lm, prompts(False).listwise(Shown(SHOWN.history), np.array([[3, 4], [4, 3]]), 2, 20))
    assert plain[0] == told[0].replace(told[0][told[0].index(" Similar") : told[0].index(" The rec")], "")


def test_a_rating_prompt_holds_ratings(lm, prompts):
    told = text(lm, prompts(True).rating(SHOWN, np.array([3, 4]), 2))
    assert told[0] == (
        "Predict the rating of a target movie based on the user's historical movie ratings. "
        'Rating History: "Toy Story (1995)": 5, "GoldenEye (1995)": 3. '
        'Similar User Rating History: "Casino (1995)": 2, "Toy Story (1995)": 1. Conventional Model Prediction: 3.2. '
        'Candidate Item: "Heat (1995)". The rating is '
    )


def test_the_other_prompts(lm, prompts):
    likes = text(lm, prompts(False).pointwise(Shown(SHOWN.history), np.array([3, 4])))
    assert likes[0].endswith('"GoldenEye (1995)". Target movie: "Heat (1995)". Answer:')
    pair = text(lm, prompts(True).pairwise(Shown(SHOWN.history), np.array([[3, 4], [4, 3]]), 9))
    assert pair[1].endswith('Candidate Items: "Casino (1995)", "Heat (1995)". The recommendation is ')


def test_a_slot_without_anything_to_say_is_an_error(prompts):
    with pytest.raises(ValueError, match="slot 'similar', but nothing is given"):
        prompts(True).listwise(Shown(SHOWN.history), np.array([[3, 4], [4, 3]]), 2, 20)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "prompt",
            {"listwise": "Rank {candidates} after {history}{augmentation}"},
            "listwise has no {count}",
        ),
        ("prompt", {"history": 0}, "history = 0"),
        ("augment", {"similar": "none"}, "similar has no {similar}"),
    ],
)
def test_texts_without_their_slots_are_refused(part, changes, message):
    kind = {"prompt": PromptSettings, "augment": AugmentSettings}[part]
    with pytest.raises(SettingsError, match=message):
        build(kind, {**OWN[part], **changes}, part)


@pytest.fixture(scope="module")
def instructed(lm, prompts):
    """One instruction of each task about user 1's third interaction, and a dislike."""
    rows = Instructions(
        task=np.array([0, 1, 2, 3, 1]),
        position=np.full(5, 2),
        offered=np.array([[4, 3, 1], [3, 0, 0], [4, 3, 0], [3, 0, 0], [4, 0, 0]]),
        answer=np.array([[3, 1], [0, 0], [3, 0], [0, 0], [0, 0]]),
        label=np.array([0.0, 1.0, 0.0, 4.0, 0.0]),
    )
    return Instructed(prompts(False), rows, torch.nn.Module())


def test_answers_are_what_the_rows_say(lm, instructed):
    encoded, answers = instructed.encoded(np.arange(5))
    assert [lm.tokens.decode(ids) for ids in answers] == [
        '"Heat (1995)"; "Toy Story (1995)"',
        " Yes",
        " No",
        '"Heat (1995)"',
        "4",
    ]
    assert all(ids[-1] == lm.tokens.eos_id for ids in answers)
    asked = text(lm, encoded)
    assert "top 2 recommendations" in asked[0] and '"Casino (1995)", "Heat (1995)", "Toy' in asked[0]
    assert all("GoldenEye" in each for each in asked) and TASKS[1] == "pointwise"


def test_the_loss_is_the_plain_cross_entropy_of_answer_tokens(lm, instructed):
    encoded, answers = instructed.encoded(np.arange(5))
    loss, tokens = instructed.loss(torch.arange(5))
    losses = []
    for prompt, answer in zip(encoded, answers, strict=True):
        logits = lm.model(torch.tensor([[*prompt.ids, *answer]])).logits[0]
        places = slice(len(prompt.ids) - 1, len(prompt.ids) + len(answer) - 1)
        losses.append(functional.cross_entropy(logits[places], torch.tensor(answer), reduction="none"))
    assert float(loss) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert tokens == sum(map(len, answers)) - 5 + sum(len(prompt.ids) for prompt in encoded)


def test_both_methods_share_what_is_tuned():
    other = load_yaml(properties_folder() / "model" / "IFT.yaml")
    for part in ("protocol", "llm", "prompt", "answer", "instructions", "tune", "lora", "rank"):
        assert OWN[part] == other[part]
    for part in ("prompt", "instructions", "tune", "rank"):
        assert OWN["by_llm"]["tiny"][part] == other["by_llm"]["tiny"][part]

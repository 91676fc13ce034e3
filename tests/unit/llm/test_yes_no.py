"""One-word answers: their ids under every tokenizer, and their logits at one position, in any batch."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from llmbole.llm import yes_no
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.prompt import Template
from llmbole.llm.tokens import TextTokenizer
from llmbole.llm.yes_no import AnswerIds

TEMPLATE = Template(
    '{bos}Liked: {history}. {user:soft} Likes "{title}"{item:soft}? Answer:',
    items={"history": '"{title}"'},
    separator=", ",
    drop_oldest="history",
)
FAMILIES = ("opt", "llama", "llama_legacy", "qwen2", "gpt2")
WORDS = {
    "opt": ("ĠYes", "ĠNo"),
    "qwen2": ("ĠYes", "ĠNo"),
    "gpt2": ("ĠYes", "ĠNo"),
    "llama": ("▁Yes", "▁No"),
    "llama_legacy": ("▁Yes", "▁No"),
}


def with_words(tokens_of, family, words):
    """The family's exact encoder, its vocabulary grown by pieces as a large tokenizer has them."""
    made = tokens_of(family).tokenizer
    state = json.loads(made.backend_tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    for word in words:
        left = word[0]
        vocabulary.setdefault(left, len(vocabulary))
        for letter in word[1:]:
            vocabulary.setdefault(letter, len(vocabulary))
            vocabulary.setdefault(left + letter, len(vocabulary))
            merges.append([left, letter])
            left += letter
    kept = {name: getattr(made, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    grown = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), **{k: v for k, v in kept.items() if v}
    )
    return TextTokenizer(grown)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_has_a_space_where_the_prompt_has_none(tokens_of, family):
    tokens = with_words(tokens_of, family, [*WORDS[family], "Yes", "No"])
    spaced = yes_no.answer_ids(tokens, "#Answer:")
    bare = yes_no.answer_ids(tokens, "Answer: ")
    name = tokens.tokenizer.convert_ids_to_tokens
    assert (name(spaced.yes), name(spaced.no)) == WORDS[family]
    assert (name(bare.yes), name(bare.no)) == ("Yes", "No")
    assert yes_no.answer_ids(tokens, 'answer "') == bare == yes_no.answer_ids(tokens, "### Response:\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_several_tokens_is_an_error_that_offers_its_first_token(tokens_of, family):
    tokens = tokens_of(family)
    with pytest.raises(ValueError, match="answer.first_token: true") as error:
        yes_no.answer_ids(tokens, "Answer: ", ("Yeah", "Nope"))
    assert "'Yeah': ['Y'" in str(error.value)
    found = yes_no.answer_ids(tokens, "Answer: ", ("Yeah", "Nope"), first_token=True)
    assert found == AnswerIds(tokens.ids("Yeah")[0], tokens.ids("Nope")[0])


def test_answers_that_begin_alike_have_no_first_token_to_compare(tokens_of):
    with pytest.raises(ValueError, match="do not tell them apart"):
        yes_no.answer_ids(tokens_of("opt"), "Answer: ", ("Nothing", "No"), first_token=True)
    with pytest.raises(ValueError, match="same token"):
        yes_no.answer_ids(tokens_of("opt"), "Answer: ", ("M", "M"))


def test_the_embedded_model_has_one_token_for_either_answer():
    tokens = load(LLMSpec()).tokens
    for end, words in (("#Answer:", (" Yes", " No")), ("Answer: ", ("Yes", "No"))):
        ids = yes_no.answer_ids(tokens, end)
        assert (tokens.tokenizer.decode([ids.yes]), tokens.tokenizer.decode([ids.no])) == words


@pytest.fixture
def prompts(lm, titles):
    rows = [
        {"history": titles[: count % 7], "title": titles[count % len(titles)]}
        for count in (3, 0, 6, 1, 5, 2, 4)
    ]
    return TEMPLATE.encode_many(lm.tokens, rows)


@pytest.fixture
def soft(lm, prompts):
    """Vectors of the user and item slots of each prompt."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(len(prompts), lm.hidden_size, generator=generator) for name in ("user", "item")}


IDS = AnswerIds(yes=40, no=41)


def plain(lm, prompt, soft, place):
    """Logits of one prompt by the whole model over the whole vocabulary."""
    embeddings = lm.embed(torch.tensor([prompt.ids])).clone()
    for name, vectors in soft.items():
        embeddings[0, prompt.soft[name][0]] = vectors[place]
    return lm.model(inputs_embeds=embeddings, use_cache=False).logits[0, -1, [IDS.yes, IDS.no]]


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_at_one_position_are_those_of_the_whole_model(lm, prompts, soft, side):
    embeddings, mask = yes_no.embed(lm, prompts, soft)
    if side == "left":
        embeddings, mask = yes_no.align(embeddings, mask, "left")
    found = yes_no.yes_no_logits(lm, embeddings, mask, IDS)
    expected = torch.stack([plain(lm, prompt, soft, place) for place, prompt in enumerate(prompts)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("budget", [1, 150, 100_000])
def test_scores_keep_their_order_in_any_batch_and_behind_a_kept_prefix(lm, prompts, soft, budget):
    expected = torch.stack([plain(lm, prompt, soft, place) for place, prompt in enumerate(prompts)])
    done = []

    def vectors(places):
        return {name: each[places] for name, each in soft.items()}

    found = yes_no.score(lm, prompts, IDS, vectors, token_budget=budget, progress=done.append)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert sum(done) == len(prompts)
    backwards = yes_no.score(
        lm, prompts[::-1], IDS, lambda places: vectors([len(prompts) - 1 - place for place in places])
    )
    torch.testing.assert_close(backwards.flip(0), found, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_rows_of_a_model_in_bfloat16_do_not_become_equal(titles):
    lm = load(LLMSpec(precision="bfloat16")).freeze()
    template = Template('{bos}Is "{title}" from {year}? Answer:')
    rows = [{"title": title, "year": str(year)} for title in titles for year in range(1960, 1990)]
    ids = yes_no.answer_ids(lm.tokens, "Answer:")
    logits = yes_no.score(lm, template.encode_many(lm.tokens, rows), ids)
    scores = yes_no.probabilities(logits, "difference")
    assert len(scores.unique()) > 0.9 * len(rows)


@torch.inference_mode()
def test_equal_prompts_have_equal_scores_and_no_prompt_has_none(lm):
    text = Template("Yes or no: {title}?").encode_many(lm.tokens, [{"title": "M"}] * 3)
    found = yes_no.score(lm, text, IDS)
    torch.testing.assert_close(found, plain(lm, text[0], {}, 0).expand(3, 2), atol=1e-5, rtol=1e-5)
    assert yes_no.score(lm, [], IDS).shape == (0, 2)


def test_probabilities_are_the_softmax_over_both_answers_once():
    logits = torch.tensor([[2.0, 1.0], [-3.0, 40.0], [60.0, 0.0], [61.0, 0.0]])
    expected = logits.double().softmax(1)[:, 0]
    torch.testing.assert_close(yes_no.probabilities(logits, "difference"), expected)
    assert yes_no.answer_logits(logits, "yes").tolist() == [2.0, -3.0, 60.0, 61.0]
    confident = yes_no.probabilities(torch.tensor([[25.0, 0.0], [26.0, 0.0]]), "difference")
    assert confident[0] < confident[1]


def test_a_prompt_longer_than_the_model_takes_is_an_error(lm):
    prompts = Template("{title}").encode_many(lm.tokens, [{"title": "a " * 600}], value_tokens=None)
    with pytest.raises(ValueError, match="smaller max_tokens"):
        yes_no.score(lm, prompts, IDS)

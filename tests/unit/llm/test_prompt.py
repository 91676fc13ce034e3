"""Prompts: exact text, one position for each vector, values that stay data, truncation that keeps the answer slot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from llmbole.llm.prompt import Encoded, Template, collate
from llmbole.llm.tokens import TextTokenizer

TEXT = (
    "{user:soft}{bos} is a user representation.This user has watched {history} in the previous. Recommend one next "
    "movie from the following set, {candidates}. The recommendation is "
)
ITEM = '"{title}"{item:soft}'
NASTY = [
    "a {history} b",
    "{user:soft} {} {{x}} } {",
    'He said "no"',
    "two\nlines\r\n\tand a tab",
    "</s> <s> <|endoftext|> <pad> <unk> [HistoryEmb] <tool_call> <|im_end|>",
    "",
    "  spaces  inside  and around  ",
    "Amélie – 東京 🎬",
    "%s %(title)s \\n \\x00",
]


def allmrec(**changes: object) -> Template:
    settings = {"items": {"history": ITEM, "candidates": ITEM}, "drop_oldest": "history", **changes}
    return Template(TEXT, **settings)  # type: ignore[arg-type]


def written(history: list[str], candidates: list[str]) -> str:
    def join(titles: list[str]) -> str:
        return ",".join(f'"{title}"' for title in titles)

    return (
        f" is a user representation.This user has watched {join(history)} in the previous. Recommend one next movie "
        f"from the following set, {join(candidates)}. The recommendation is "
    )


def decoded(tokens: TextTokenizer, encoded: Encoded) -> str:
    """Text of the ids without soft positions."""
    soft = {position for positions in encoded.soft.values() for position in positions}
    return tokens.decode(index for position, index in enumerate(encoded.ids) if position not in soft)


def same_text(actual: str, expected: str, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Llama's and unigram's decoders strip one space in front of the whole text."""
    strips = "Strip" in tokenizer.backend_tokenizer.to_str() or "Metaspace" in str(
        tokenizer.backend_tokenizer.decoder
    )
    return actual == (expected[1:] if strips and expected.startswith(" ") else expected)


def test_decoded_ids_are_the_text_for_every_tokenizer_family(
    tokenizer: PreTrainedTokenizerFast, titles: list[str]
) -> None:
    tokens = TextTokenizer(tokenizer)
    titles = [title for title in titles if title.isascii()]  # the unigram vocabulary has no other letters
    encoded = allmrec().encode(tokens, {"history": titles[:4], "candidates": titles[4:]})
    expected = written(titles[:4], titles[4:])
    assert same_text(decoded(tokens, encoded), expected, tokenizer), decoded(tokens, encoded)
    assert encoded.soft["user"] == [0]
    assert len(encoded.soft["history"]) == 4
    assert len(encoded.soft["candidates"]) == len(titles) - 4
    if tokens.bos_id is not None:
        assert encoded.ids[1] == tokens.bos_id
    # The text before each vector ends with its title.
    for title, position in zip(titles[:4], encoded.soft["history"], strict=True):
        before = [i for p, i in enumerate(encoded.ids[:position]) if p not in [0, *encoded.soft["history"]]]
        assert tokens.decode(before).endswith(f'"{title}"')


def test_values_stay_data(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = TextTokenizer(tokenizer)
    encoded = allmrec().encode(tokens, {"history": NASTY, "candidates": NASTY[::-1]}, value_tokens=None)
    assert [len(positions) for positions in encoded.soft.values()] == [1, len(NASTY), len(NASTY)]
    assert all(encoded.ids[position] == tokens.pad_id for p in encoded.soft.values() for position in p)
    soft = {position for positions in encoded.soft.values() for position in positions}
    added = set(tokenizer.get_added_vocab().values()) - {tokenizer.unk_token_id}
    controls = [i for position, i in enumerate(encoded.ids) if position not in soft and i in added]
    assert controls == ([] if tokens.bos_id is None else [tokens.bos_id])
    if not isinstance(
        tokenizer.backend_tokenizer.model, models.Unigram
    ):  # its vocabulary lacks some characters
        assert same_text(decoded(tokens, encoded), written(NASTY, NASTY[::-1]), tokenizer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=5)
)
def test_any_text_survives_byte_level_encoding(byte_tokens: TextTokenizer, values: list[str]) -> None:
    encoded = allmrec().encode(byte_tokens, {"history": values, "candidates": values}, value_tokens=None)
    assert decoded(byte_tokens, encoded) == written(values, values)
    assert len(encoded.soft["history"]) == len(values)


def test_pieces_join_without_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = TextTokenizer(tokenizer)
    pieces = ["This user", " has watched", " movie", "previous", " in", "."]
    joined = [index for piece in pieces for index in tokens.ids(piece)]
    assert tokens.decode(joined) == "This user has watched movieprevious in."


def test_ten_thousand_characters_are_cut_to_the_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = TextTokenizer(tokenizer)
    for text in ("Toy Story " * 1000, "x" * 10_000, "é" * 10_000, "🎬" * 3_000):
        for limit in (1, 7, 64):
            cut = tokens.shorten(text, limit)
            assert text.startswith(cut)
            assert len(tokens.ids(cut)) <= limit
    cut = tokens.shorten("Toy Story " * 1000, 64)
    assert len(tokens.ids(cut)) >= 60
    assert not cut.endswith(" ")
    encoded = allmrec().encode(
        tokens, {"history": ["Toy Story " * 1000], "candidates": ["Heat"]}, value_tokens=8
    )
    assert encoded.shortened == 1
    assert decoded(tokens, encoded).endswith('"Heat". The recommendation is ')


def test_oldest_items_go_first_and_the_end_stays(byte_tokens: TextTokenizer, titles: list[str]) -> None:
    tokens = byte_tokens
    template = allmrec()
    values = {"history": titles, "candidates": titles[:3]}
    whole = template.encode(tokens, values)
    for limit in range(
        len(whole.ids) - 1, len(template.encode(tokens, {**values, "history": []}).ids) - 1, -7
    ):
        encoded = template.encode(tokens, values, max_tokens=limit)
        kept = titles[encoded.dropped :]
        assert len(encoded.ids) <= limit
        assert len(encoded.soft["history"]) == len(kept)
        assert decoded(tokens, encoded) == written(kept, titles[:3])
        # One more item would not have fitted.
        more = template.encode(tokens, {**values, "history": titles[encoded.dropped - 1 :]})
        assert len(more.ids) > limit


def test_a_prompt_that_can_not_fit_is_an_error(byte_tokens: TextTokenizer, titles: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"prompt 1 takes \d+ tokens with all 10 items of 'history' left out, but only"
    ):
        allmrec().encode_many(
            byte_tokens,
            [{"history": [], "candidates": []}, {"history": titles, "candidates": titles * 3}],
            max_tokens=160,
        )


def test_items_with_several_values_and_plain_slots(byte_tokens: TextTokenizer) -> None:
    tokens = byte_tokens
    template = Template(
        "{greeting}: {history}{{end}}{eos}", items={"history": "{title} ({year}){item:soft}"}, separator="; "
    )
    assert template.slots == ("greeting", "history")
    rows = [{"title": "A", "year": "1"}, {"title": "B", "year": "2"}]
    encoded = template.encode(tokens, {"greeting": "Hi", "history": rows})
    assert decoded(tokens, encoded) == "Hi: A (1); B (2){end}"
    assert encoded.ids[-1] == tokens.eos_id


def test_template_without_soft_slots_is_one_piece_of_text(tokens_of: Callable[[str], TextTokenizer]) -> None:
    tokens = tokens_of("llama")
    template = Template("Watched {history}.", items={"history": '"{title}"'})
    assert template.encode(tokens, {"history": ["A", "B"]}).ids == tokens.ids('Watched "A","B".')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "{"}, "not a template"),
        ({"text": "{}"}, "is not a slot"),
        ({"text": "{a.b}"}, "is not a slot"),
        ({"text": "{a!r}"}, "is not a slot"),
        ({"text": "{a:hard}"}, "is not a slot"),
        ({"text": "{bos:soft}"}, "is not a slot"),
        ({"text": "{a}", "items": {"b": "{c}"}}, r"items name \['b'\]"),
        ({"text": "{a}", "items": {"a": "{b:soft}{c:soft}"}}, "more than one soft slot"),
        ({"text": "{a}", "drop_oldest": "a"}, "no list slot"),
    ],
)
def test_wrong_templates_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Template(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"prompt 0: missing \['a', 'b'\]"),
        ({"a": "x", "b": [], "c": ""}, r"unknown \['c'\]"),
        ({"a": ["x"], "b": []}, "'a' of prompt 0 must be a string"),
        ({"a": "x", "b": "y"}, "'b' of prompt 0 must be a sequence"),
        ({"a": "x", "b": [{"other": "y"}]}, "item 0 of 'b' must give a text"),
        ({"a": "x", "b": [{"title": None}]}, "takes a string, not NoneType"),
    ],
)
def test_wrong_values_are_named(byte_tokens: TextTokenizer, values: dict[str, object], message: str) -> None:
    template = Template("{a} {b}", items={"b": "{title}"})
    with pytest.raises(ValueError, match=message):
        template.encode(byte_tokens, values)


def test_missing_special_tokens(tokens_of: Callable[[str], TextTokenizer]) -> None:
    tokens = tokens_of("qwen2")  # has no bos
    assert Template("{bos}a").encode(tokens).ids == tokens.ids("a")
    tokens.eos_id = None
    with pytest.raises(ValueError, match="names no eos token"):
        Template("a{eos}").encode(tokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_collate_moves_soft_positions_with_the_padding(
    byte_tokens: TextTokenizer, titles: list[str], side: str
) -> None:
    tokens = byte_tokens
    rows = [
        {"history": titles[:2], "candidates": titles[:1]},
        {"history": titles[:5], "candidates": titles[:3]},
    ]
    prompts = allmrec().encode_many(tokens, rows)
    batch = collate(prompts, tokens.pad_id, side)  # type: ignore[arg-type]
    assert batch.mask.sum(1).tolist() == [len(prompt.ids) for prompt in prompts]
    edge = 0 if side == "left" else -1
    assert batch.mask[:, edge].tolist() == [0, 1]
    for row, prompt in enumerate(prompts):
        assert batch.ids[row][batch.mask[row].bool()].tolist() == prompt.ids
        shift = batch.ids.shape[1] - len(prompt.ids) if side == "left" else 0
        for name, positions in prompt.soft.items():
            rows_of_slot, columns = batch.soft[name]
            assert columns[rows_of_slot == row].tolist() == [position + shift for position in positions]
    assert batch.soft["history"][0].tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert torch.equal(batch.to("cpu").ids, batch.ids)


def test_collate_accepts_prompts_without_vectors(byte_tokens: TextTokenizer) -> None:
    tokens = byte_tokens
    batch = collate(allmrec().encode_many(tokens, [{"history": [], "candidates": []}] * 2), tokens.pad_id)
    assert batch.soft["history"][0].shape == (0,)
    assert batch.soft["user"][0].tolist() == [0, 1]

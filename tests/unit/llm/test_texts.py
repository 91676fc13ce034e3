"""Generated texts: each prompt is asked once whatever kills the process; a local model answers in its frame."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from llmbole.llm.backbone import load
from llmbole.llm.engine import Answer
from llmbole.llm.generate import greedy
from llmbole.llm.identity import LLMSpec
from llmbole.llm.local import LocalEngine
from llmbole.llm.texts import TextStore, batches, key_of, write

CHAT = "{% for message in messages %}<|im_end|>{{ message['role'] }}: {{ message['content'] | trim }}\n{% endfor %}bot:"


class Killed(BaseException):
    """The process is gone."""


class Counting:
    """An engine that counts what it is asked, and dies after some batches."""

    def __init__(self, batches_to_live=None, identity=None):
        self.identity, self.asked, self.left = identity or {"engine": "counting"}, [], batches_to_live
        self.tokens = 0

    def answers(self, prompts, batch_size):
        for places in batches([len(prompt) for prompt in prompts], batch_size):
            if self.left == 0:
                raise Killed
            self.left = None if self.left is None else self.left - 1
            self.asked += [prompts[place] for place in places]
            yield {place: self.reply(prompts[place]) for place in places}

    def reply(self, prompt):
        return {"silence": Answer("  "), "no": Answer("", refused=True)}.get(prompt, Answer(f" <{prompt}>\n"))


PROMPTS = ["one", "three", "one", "silence", "fourteen letters", "two", "three", "x"]


@pytest.mark.parametrize("lived", [0, 1, 2])
def test_a_killed_writing_goes_on_and_asks_nothing_twice(tmp_path, lived):
    path, first, second = tmp_path / "texts.jsonl", Counting(lived), Counting()
    with pytest.raises(Killed):
        write(first, PROMPTS, TextStore(path), 2)
    done = []
    found = write(second, PROMPTS, TextStore(path), 2, done.append)
    assert found.texts == [f"<{prompt}>" if prompt != "silence" else "" for prompt in PROMPTS]
    asked = first.asked + second.asked
    assert len(asked) == len(set(asked)) == len(set(PROMPTS)) == found.distinct
    assert (len(first.asked), found.asked, found.empty, sum(done)) == (2 * lived, 6 - 2 * lived, 1, 6)
    third = Counting()
    assert write(third, PROMPTS, TextStore(path), 2).texts == found.texts
    assert third.asked == []


def test_a_line_cut_short_is_asked_again(tmp_path, caplog):
    path = tmp_path / "texts.jsonl"
    write(Counting(), PROMPTS, TextStore(path), 3)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with caplog.at_level(logging.WARNING):
        store = TextStore(path)
    assert len(store) == 5 and "dropped a last line" in caplog.text
    engine = Counting()
    write(engine, PROMPTS, store, 3)
    assert len(engine.asked) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"key": "a", "text": "b"}\n{"key": 1\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"texts\.jsonl, line 2: .*delete the line"):
        TextStore(path)


def test_other_settings_are_other_answers(tmp_path):
    store, other = TextStore(tmp_path / "texts.jsonl"), Counting(identity={"engine": "counting", "beams": 2})
    write(Counting(), ["one"], store, 1)
    write(other, ["one"], store, 1)
    assert other.asked == ["one"]
    assert key_of({"a": 1, "b": 2}, "x") == key_of({"b": 2, "a": 1}, "x") != key_of({"a": 1, "b": 2}, "y")
    assert {json.loads(line)["key"] for line in store.path.read_text().splitlines()} == {
        key_of(engine.identity, "one") for engine in (Counting(), other)
    }


def engine(lm, **changes):
    return LocalEngine(lm, {"name": "small"}, **{"max_new_tokens": 6, "repetition_penalty": 1.0, **changes})


def test_a_local_model_continues_each_prompt_as_it_would_alone(lm, titles, tmp_path):
    asked = [f"Watched {title}." for title in titles]
    local = engine(lm)
    found = write(local, asked, TextStore(tmp_path / "texts.jsonl"), 4)
    begin = [] if lm.tokens.bos_id is None else [lm.tokens.bos_id]
    for prompt, text in zip(asked, found.texts, strict=True):
        ids = torch.tensor([[*begin, *lm.tokens.ids(prompt)]])
        alone = greedy(lm, lm.embed(ids), torch.ones_like(ids), 6, quotes=None)[0]
        assert text == alone.strip()
    assert local.tokens >= sum(len(lm.tokens.ids(prompt)) for prompt in asked)


def test_the_longest_prompts_come_first():
    assert batches([1, 6, 3], 2) == [[1, 2], [0]]
    assert batches([2, 2, 2], 2) == [[0, 1], [2]] and batches([], 2) == []


def test_refusals_are_kept_and_counted(tmp_path):
    path = tmp_path / "texts.jsonl"
    found = write(Counting(), ["one", "no", "silence"], TextStore(path), 2)
    assert (found.texts, found.empty, found.refused) == (["<one>", "", ""], 2, 1)
    again = Counting()
    assert write(again, ["no", "one", "silence"], TextStore(path), 2).refused == 1
    assert again.asked == [] and path.read_text().count("refused") == 1


def test_a_chat_model_is_asked_in_its_template_and_control_tokens_stay_text(folders):
    lm = load(LLMSpec(name=str(folders["qwen2"]))).freeze()
    lm.tokenizer.chat_template = CHAT
    local = engine(lm)
    end = lm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert local._before[0] == end and lm.tokens.decode(local._before) == "user: "
    assert lm.tokens.decode(local._after) == "\nbot:"
    assert end not in lm.tokens.ids("<|im_end|>")
    lm.tokenizer.chat_template = "nothing"
    with pytest.raises(ValueError, match="leaves out what the user says"):
        engine(lm)


def test_a_prompt_that_is_too_long_is_refused_before_any_is_answered(folders, tmp_path):
    local = engine(load(LLMSpec(name=str(folders["gpt2"]))).freeze())
    store = TextStore(tmp_path / "texts.jsonl")
    with pytest.raises(ValueError, match=r"takes 256: show fewer or shorter titles.*'word word"):
        write(local, ["short", "word " * 200], store, 1)
    assert not store.path.exists()

"""Answers of a server: what is asked again and when, what ends a run, budgets, and what a kill can lose."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import llmbole
from llmbole.llm.engine import Access, EngineError
from llmbole.llm.served import ServedEngine, check_address, retry_after
from llmbole.llm.texts import TextStore, key_of, write

PROMPTS = [f"prompt {number}" for number in range(12)]
SECRET = "sk-a-very-secret-key"
KILLS = 3


def engine(url, **access):
    quick = {"first_pause": 0.01, "longest_pause": 0.04, "concurrency": 4, **access}
    return ServedEngine("served", 16, Access(base_url=url, **quick))


def written(url, path, prompts=PROMPTS, **access):
    made = engine(url, **access)
    return made, write(made, prompts, TextStore(path), 1)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "texts.jsonl"


def test_each_prompt_is_asked_once_and_answers_stand_at_their_prompts(chat, path):
    chance = random.Random(1)
    with chat.server(lambda prompt, earlier: chance.uniform(0, 0.03)) as asked:
        made, found = written(asked.url, path)
        again, _ = written(asked.url, path)
    assert found.texts == [f"answer to {prompt}" for prompt in PROMPTS]
    assert sorted(asked.prompts) == sorted(PROMPTS) and 1 < asked.most <= 4
    assert (made.requests, made.tokens, again.requests) == (12, 120, 0)
    assert asked.bodies[0].items() >= {"model": "served", "temperature": 0, "max_tokens": 16}.items()
    assert asked.keys[0] == "Bearer none"


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {}, {"error": {"message": "slow down"}}),
        (500, {}, {"error": {"message": "oh"}}),
        (503, {}, {}),
        (408, {}, {}),
        "close",
        {"object": "chat.completion", "choices": []},
    ],
)
def test_what_passes_is_asked_again(chat, path, trouble):
    def behave(prompt, earlier):
        return trouble if earlier < 2 else chat.completion(f"answer to {prompt}")

    with chat.server(behave) as asked:
        made, found = written(asked.url, path, PROMPTS[:3])
    assert found.texts == [f"answer to {prompt}" for prompt in PROMPTS[:3]]
    assert len(asked.prompts) == made.requests == 9


def test_a_server_that_hangs_is_asked_again(chat, path):
    with chat.server(lambda prompt, earlier: 0.0 if earlier else 1.0) as asked:
        _, found = written(asked.url, path, PROMPTS[:2], timeout=0.2)
    assert found.texts == [f"answer to {prompt}" for prompt in PROMPTS[:2]] and len(asked.prompts) == 4


def test_all_requests_wait_as_long_as_the_server_asks(chat, path):
    def behave(prompt, earlier):
        first = prompt == PROMPTS[0] and not earlier
        return (429, {"retry-after": "0.4"}, {}) if first else chat.completion("x")

    with chat.server(behave) as asked:
        written(asked.url, path, concurrency=1)
    assert asked.times[1] - asked.times[0] >= 0.4
    assert asked.times[-1] - asked.times[1] < 2


def test_the_wait_is_read_in_all_its_forms():
    assert retry_after({"retry-after": "2.5"}) == 2.5 and retry_after({"retry-after-ms": "300"}) == 0.3
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50.0) == 10.0
    assert (
        retry_after({}) == retry_after({"retry-after": "soon"}) == retry_after({"retry-after": "-3"}) == 0.0
    )


def test_a_server_that_keeps_failing_ends_the_run_and_keeps_what_is_answered(chat, path):
    def behave(prompt, earlier):
        return (500, {}, {}) if prompt == PROMPTS[5] else chat.completion(prompt)

    with chat.server(behave) as asked:
        with pytest.raises(EngineError, match=r"failed 3 times for one prompt.*run the same command again"):
            written(asked.url, path, attempts=3, concurrency=2)
        kept = len(TextStore(path))
        assert asked.prompts.count(PROMPTS[5]) == 3 and kept == len(asked.answered) >= 5
    with chat.server(lambda prompt, earlier: chat.completion(prompt)) as asked:
        written(asked.url, path)
    assert len(asked.prompts) == 12 - kept


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {}, {"error": {"message": f"wrong key {SECRET}"}}), r"status 401.*is OPENAI_API_KEY right"),
        ((404, {}, {"error": {"message": "no model"}}), "status 404.*no model"),
        ((429, {}, {"error": {"message": "pay", "code": "insufficient_quota"}}), "status 429.*pay"),
        ((503, {"retry-after": "7200"}, {}), "asks for 7200 s of rest"),
    ],
)
def test_what_does_not_pass_ends_the_run_at_once_and_no_key_is_told(
    chat, path, reply, message, monkeypatch, caplog
):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with chat.server(lambda prompt, earlier: reply) as asked, caplog.at_level(logging.DEBUG, "llmbole"):
        with pytest.raises(EngineError, match=message) as error:
            written(asked.url, path, PROMPTS[:1])
    assert len(asked.prompts) == 1 and asked.keys == [f"Bearer {SECRET}"]
    assert SECRET not in str(error.value) + caplog.text and not path.exists()


def test_refusals_are_recorded_and_not_asked_again(chat, path):
    replies = {
        PROMPTS[0]: chat.completion(None, refusal="I will not"),
        PROMPTS[1]: chat.completion("cut", finish="content_filter"),
        PROMPTS[2]: (400, {}, {"error": {"message": "no", "code": "content_filter"}}),
        PROMPTS[3]: chat.completion(""),
    }
    with chat.server(lambda prompt, earlier: replies.get(prompt, chat.completion("yes"))) as asked:
        _, found = written(asked.url, path, PROMPTS[:5])
        written(asked.url, path, PROMPTS[:5])
    assert (found.texts, found.empty, found.refused) == (["", "", "", "", "yes"], 4, 3)
    assert len(asked.prompts) == 5


@pytest.mark.parametrize(
    ("budget", "asked_for"), [({"budget_requests": 5}, (5, 5)), ({"budget_tokens": 50}, (5, 8))]
)
def test_a_budget_ends_the_run_and_the_next_goes_on(chat, path, budget, asked_for):
    with chat.server(lambda prompt, earlier: chat.completion(prompt)) as asked:
        with pytest.raises(EngineError, match="the budget is spent.*run the same command again"):
            written(asked.url, path, **budget)
        first = len(asked.prompts)
        assert asked_for[0] <= first <= asked_for[1]
        assert len(TextStore(path)) == first
        written(asked.url, path, budget_requests=12)
        assert sorted(asked.prompts) == sorted(PROMPTS)


def test_a_budget_of_tokens_needs_a_server_that_counts(chat, path):
    with chat.server(lambda prompt, earlier: chat.completion("x", usage=False)) as asked:
        with pytest.raises(EngineError, match="set it to 0, and generate.budget_requests"):
            written(asked.url, path, budget_tokens=100)
        made, _ = written(asked.url, path)
    assert made.tokens == 0


def test_a_key_is_needed_for_openai_alone_and_addresses_are_checked(chat, monkeypatch):
    with pytest.raises(EngineError, match="set OPENAI_API_KEY, or generate.base_url"):
        engine(None)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert engine(None).base_url == "http://localhost:1/v1"
    for address, message in (("host:8000", "give http"), ("http://me:pw@host/v1", "holds a secret")):
        with pytest.raises(EngineError, match=message) as error:
            check_address(address)
        assert "pw" not in str(error.value)
    assert SECRET not in json.dumps(dict(engine("http://a/v1").identity))


CHILD = """
import sys
from llmbole.llm.engine import Access
from llmbole.llm.served import ServedEngine
from llmbole.llm.texts import TextStore, write
from pathlib import Path
url, path, count = sys.argv[1:]
prompts = [f"prompt {number}" for number in range(int(count))]
engine = ServedEngine("served", 16, Access(base_url=url, concurrency=4))
write(engine, prompts, TextStore(Path(path)), 1)
"""


def test_after_kills_no_stored_answer_was_asked_for_again(chat, path):
    """What a kill loses are the requests under way, at most `concurrency`; nothing that is on the disk is repeated."""
    count, chance, kills, before = 60, random.Random(2026), 0, []
    command = [sys.executable, "-c", CHILD]
    environment = {**os.environ, "PYTHONPATH": str(Path(llmbole.__file__).parents[1])}
    with chat.server(lambda prompt, earlier: 0.04) as asked:
        for _ in range(KILLS):
            process = subprocess.Popen([*command, asked.url, str(path), str(count)], env=environment)
            began = len(asked.prompts)
            while len(asked.prompts) == began and process.poll() is None:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.02, 0.12))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += process.returncode == -signal.SIGKILL
            before.append((len(asked.prompts), set(TextStore(path)._answers) if path.exists() else set()))
        subprocess.run([*command, asked.url, str(path), str(count)], env=environment, check=True)
    assert kills == KILLS and 0 < len(before[-1][1]) < count
    identity = ServedEngine("served", 16, Access(base_url=asked.url)).identity
    prompts = [f"prompt {number}" for number in range(count)]
    for place, stored in before:
        later = {key_of(identity, prompt) for prompt in asked.prompts[place:]}
        assert not later & stored
    assert set(asked.prompts) == set(prompts) and len(TextStore(path)) == count
    assert len(asked.prompts) <= count + kills * 4

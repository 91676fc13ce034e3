"""The service: what it answers, how it refuses what is malformed or too much, and that it lives on."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from fastapi.testclient import TestClient

from llmbole.serve.app import make_app
from llmbole.serve.limits import Bucket, Gate, Limits
from llmbole.serve.worker import Worker

JSON = {"content-type": "application/json"}


@pytest.fixture
def client(recommender):
    with TestClient(make_app(recommender), raise_server_exceptions=False) as opened:
        yield opened


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_users_histories_and_candidates_are_ranked(client):
    answer = client.post("/recommend", json={"user": "ann", "k": 2})
    assert answer.json() == {
        "items": [
            {"rank": 1, "item_id": "i7", "title": "Title 7", "score": 7.01},
            {"rank": 2, "item_id": "i6", "title": "Title 6", "score": 6.01},
        ]
    }
    assert ids(client.post("/recommend", json={"user": "ann", "k": 2, "exclude_seen": False})) == ["i9", "i8"]
    assert ids(client.post("/recommend", json={"history": ["i9", "i1"], "k": 3})) == ["i8", "i7", "i6"]
    among = {"user": "ben", "k": 9, "candidates": ["i1", "i5", "i3"]}
    assert ids(client.post("/recommend", json=among)) == ["i5", "i3"]  # ben has seen i1
    assert len(ids(client.post("/recommend", json={"user": "cé"}))) == 7
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/info").json() == {
        "model": "Numbers",
        "dataset": "small",
        "protocol": "loo_rank20",
        "record": None,
        "users": 3,
        "items": 9,
        "accepts_history": True,
    }


def post(body, headers=JSON):
    return {"content": body if isinstance(body, bytes | str) else json.dumps(body), "headers": headers}


MALFORMED = [
    (post({}), 422, "", "either user or history"),
    (post({"user": "ann", "history": ["i1"]}), 422, "", "either user or history"),
    (post({"user": None}), 422, "", "either user or history"),
    (post({"user": "nobody"}), 422, "user", "no user 'nobody'"),
    (post({"user": 5}), 422, "user", "valid string"),
    (post({"user": ""}), 422, "user", "at least 1 character"),
    (post({"user": "x" * 201}), 422, "user", "at most 200 characters"),
    (post({"user": ["ann"]}), 422, "user", "valid string"),
    (post({"user": "ann\u0000"}), 422, "user", "no user"),
    (post({"user": "\u202eann"}), 422, "user", "no user"),
    (post('{"user": "\\ud800"}'), 422, "user", "valid string"),
    (post({"history": "i1"}), 422, "history", "valid list"),
    (post({"history": []}), 422, "history", "at least 1 item"),
    (post({"history": ["i1"] * 1001}), 422, "history", "at most 1000 items"),
    (post({"history": ["i1", 2]}), 422, "history.1", "valid string"),
    (post({"history": ["i1", None]}), 422, "history.1", "valid string"),
    (post({"history": [{"id": "i1"}]}), 422, "history.0", "valid string"),
    (post({"history": ["i1", "i77"]}), 422, "history.1", "no item 'i77'"),
    (post({"user": "ann", "k": 0}), 422, "k", "greater than or equal to 1"),
    (post({"user": "ann", "k": -3}), 422, "k", "greater than or equal to 1"),
    (post({"user": "ann", "k": 1001}), 422, "k", "less than or equal to 1000"),
    (post({"user": "ann", "k": 2.5}), 422, "k", "valid integer"),
    (post({"user": "ann", "k": 2.0}), 422, "k", "valid integer"),
    (post({"user": "ann", "k": "2"}), 422, "k", "valid integer"),
    (post({"user": "ann", "k": True}), 422, "k", "valid integer"),
    (post({"user": "ann", "k": None}), 422, "k", "valid integer"),
    (post('{"user": "ann", "k": ' + "9" * 400 + "}"), 422, "k", "less than or equal to 1000"),
    (post('{"user": "ann", "k": NaN}'), 400, "", "NaN is no JSON"),
    (post('{"user": "ann", "k": -Infinity}'), 400, "", "-Infinity is no JSON"),
    (post({"user": "ann", "candidates": []}), 422, "candidates", "at least 1 item"),
    (post({"user": "ann", "candidates": ["i1", "i0"]}), 422, "candidates.1", "no item 'i0'"),
    (post({"user": "ann", "candidates": ["i1", "i1"]}), 422, "candidates", "stands twice"),
    (post({"user": "ann", "candidates": ["i1"] * 1001}), 422, "candidates", "at most 1000 items"),
    (post({"user": "ann", "exclude_seen": "no"}), 422, "exclude_seen", "valid boolean"),
    (post({"user": "ann", "exclude_seen": 0}), 422, "exclude_seen", "valid boolean"),
    (post({"user": "ann", "topk": 5}), 422, "topk", "not permitted"),
    (post('{"user": "ann", "user": "ben"}'), 400, "", "key 'user' stands twice"),
    (post('{"user": "ann"'), 400, "", "no JSON"),
    (post(""), 400, "", "no JSON"),
    (post("null"), 422, "", "valid dictionary"),
    (post('["ann"]'), 422, "", "valid dictionary"),
    (post('"ann"'), 422, "", "valid dictionary"),
    (post(b'{"user": "\xff"}'), 400, "", "no JSON"),
    (post('{"user": ' + "[" * 100_000 + "]" * 100_000 + "}"), 400, "", ""),
    (post('{"user": "ann"}', {"content-type": "text/plain"}), 415, "", "send application/json"),
    (post('{"user": "ann"}', {}), 415, "", "send application/json"),
    (
        post("user=ann", {"content-type": "application/x-www-form-urlencoded"}),
        415,
        "",
        "send application/json",
    ),
    (post({"user": "ann", "junk": "x" * 300_000}), 413, "", "larger than 262144 bytes"),
]


@pytest.mark.parametrize(
    ("request_of", "status", "field", "message"), MALFORMED, ids=[str(row) for row in range(len(MALFORMED))]
)
def test_a_malformed_request_is_told_what_is_wrong(client, recommender, request_of, status, field, message):
    answer = client.post("/recommend", **request_of)
    assert answer.status_code == status, answer.text
    problems = answer.json()["problems"]
    assert problems[0]["field"] == field and message in problems[0]["message"]
    assert "Traceback" not in answer.text and not recommender.scorer.batches
    assert ids(client.post("/recommend", json={"user": "ann", "k": 1})) == ["i7"]


def test_all_mistakes_of_a_request_are_told_at_once(client):
    answer = client.post("/recommend", json={"user": 1, "k": 0, "more": []})
    assert {problem["field"] for problem in answer.json()["problems"]} == {"user", "k", "more"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 405),
        ("PUT", "/recommend", 405),
        ("POST", "/health", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_other_methods_and_paths_are_refused(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status and answer.json()["problems"][0]["message"]


def test_a_body_that_does_not_say_its_size_is_bounded_too(client):
    def chunks():
        for _ in range(100):
            yield b"x" * 10_000

    assert client.post("/recommend", content=chunks(), headers=JSON).status_code == 413


def test_an_error_inside_is_told_without_its_content(client, recommender):
    recommender.scorer.broken = True
    answer = client.post("/recommend", json={"user": "ann"})
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["problems"][0]["message"] == "the service failed; its log says why"
    recommender.scorer.broken = False
    assert ids(client.post("/recommend", json={"user": "ann", "k": 1})) == ["i7"]


def test_a_model_that_needs_the_user_refuses_a_history(client, recommender):
    recommender.scorer.history_alone = "Numbers reads no history; give a user of the data set"
    answer = client.post("/recommend", json={"history": ["i1"]})
    assert answer.status_code == 422 and answer.json()["problems"][0]["field"] == "history"


def test_more_than_the_rate_gets_429_and_when_to_come_again(recommender):
    limits = Limits(rate=0.001, burst=2)
    with TestClient(make_app(recommender, limits)) as client:
        answers = [client.post("/recommend", json={"user": "ann"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 900 <= int(answers[2].headers["retry-after"]) <= 1000
        assert client.get("/health").status_code == 200


def test_a_bucket_fills_at_its_rate():
    now = [0.0]
    bucket = Bucket(2.0, 2, lambda: now[0])
    assert [bucket.wait(), bucket.wait(), bucket.wait()] == [0.0, 0.0, 0.5]
    now[0] = 0.5
    assert [bucket.wait(), bucket.wait()] == [0.0, 0.5]
    now[0] = 100.0
    assert [bucket.wait(), bucket.wait(), bucket.wait()] == [0.0, 0.0, 0.5]
    assert [Bucket(0.0, 1).wait() for _ in range(5)] == [0.0] * 5


def ask_gate(gate, body, slow=False):
    """One request through a gate: the status it is answered with."""
    sent = []

    async def receive():
        if slow:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/recommend", "headers": []}
    return gate(scope, receive, send), sent


def test_more_than_may_be_under_way_get_429_and_a_slow_body_408():
    release = asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def scenario():
        gate = Gate(app, Limits(in_flight=2, seconds=0.05))
        first, second = ask_gate(gate, b"{}"), ask_gate(gate, b"{}")
        tasks = [asyncio.ensure_future(first[0]), asyncio.ensure_future(second[0])]
        await asyncio.sleep(0.01)
        third = ask_gate(gate, b"{}")
        await third[0]
        assert third[1][0]["status"] == 429
        assert dict(third[1][0]["headers"])[b"retry-after"] == b"1"
        release.set()
        await asyncio.gather(*tasks)
        assert [first[1][0]["status"], second[1][0]["status"]] == [200, 200]
        slow = ask_gate(gate, b"{}", slow=True)
        await slow[0]
        assert slow[1][0]["status"] == 408
        again = ask_gate(gate, b"{}")
        await again[0]
        assert again[1][0]["status"] == 200

    asyncio.run(scenario())


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="in_flight = 0: must be at least 1\nrate = -1"):
        Limits(in_flight=0, rate=-1)


def test_requests_that_wait_together_are_scored_together(recommender):
    worker, plain, entered, release = (
        Worker(recommender),
        recommender.scorer.score,
        threading.Event(),
        threading.Event(),
    )

    def held(contexts, items):
        entered.set()
        release.wait(10)
        return plain(contexts, items)

    recommender.scorer.score = held
    worker.start()
    first = worker.ask(recommender.query("ann", k=1))
    assert entered.wait(10)
    others = [worker.ask(recommender.query(user, k=1)) for user in ("ann", "ben", "cé") * 3]
    release.set()
    assert first.result(10)[0].item_id == "i7"
    assert [future.result(10)[0].item_id for future in others] == ["i7", "i9", "i9"] * 3
    worker.stop()
    assert recommender.scorer.batches == [1, 9]


def test_one_query_that_fails_takes_no_other_with_it(recommender):
    plain = recommender.scorer.score

    def picky(contexts, items):
        if any(context.user == 2 for context in contexts):
            raise RuntimeError("not ben")
        return plain(contexts, items)

    recommender.scorer.score = picky
    worker = Worker(recommender)
    futures = [worker.ask(recommender.query(user, k=1)) for user in ("ann", "ben", "cé")]
    worker.start()
    assert futures[0].result(10) and futures[2].result(10)
    with pytest.raises(RuntimeError, match="not ben"):
        futures[1].result(10)
    worker.stop()

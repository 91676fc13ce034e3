"""Many workers write what one process writes."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole.llm import encode, workers
from llmbole.llm.backbone import load, parameter_count
from llmbole.llm.engine import EngineError
from llmbole.llm.identity import EncoderSpec, LLMSpec
from llmbole.llm.local import LocalEngine
from llmbole.llm.texts import TextStore, write
from llmbole.llm.workers import Workers, WorkersEngine, encode_by_workers

PROMPTS = [f"A user watched {'Heat and ' * number}Se7en. The user" for number in range(9)]


def test_two_workers_write_the_answers_of_one_process(tmp_path):
    own = LocalEngine(load(LLMSpec("tiny")).freeze(), {"name": "tiny"}, 6, 1.2)
    shared = WorkersEngine(LLMSpec("tiny"), {"name": "tiny"}, 6, 1.2, Workers())
    here, there = (tmp_path / name for name in ("here.jsonl", "there.jsonl"))
    expected = write(own, PROMPTS, TextStore(here), 2)
    assert write(shared, PROMPTS, TextStore(there), 2) == expected
    assert shared.tokens == own.tokens and dict(shared.identity) == dict(own.identity)
    assert sorted(here.read_bytes().splitlines()) == sorted(there.read_bytes().splitlines())
    again = WorkersEngine(LLMSpec("tiny"), {"name": "tiny"}, 6, 1.2, Workers(ray_address="nobody:1"))
    assert write(again, PROMPTS, TextStore(there), 2).asked == 0  # nothing is left, so Ray is not started


@pytest.mark.slow
def test_two_workers_encode_as_one_process(monkeypatch):
    monkeypatch.setattr(encode, "TEXTS_PER_SHARD", 4)
    spec = EncoderSpec(max_tokens=8)
    own = np.concatenate([encode.encode_texts(spec, part) for part in encode.shards(PROMPTS)])
    done = []
    found = encode_by_workers(spec, PROMPTS, Workers(), done.append)
    assert np.array_equal(found, own) and sum(done) == len(PROMPTS)


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(EngineError, match=r"workers = 3 with 2 CPUs each need 6, and Ray has 4"):
        workers._check_room(Workers(workers=3, cpus_per_worker=2.0), 0.0, {"CPU": 4.0})
    with pytest.raises(EngineError, match=r"need 2, and Ray has 1: lower .*gpus_per_worker"):
        workers._check_room(Workers(), 1.0, {"CPU": 4.0, "GPU": 1.0})


def test_within_a_sweep_they_are_refused(monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    engine = WorkersEngine(LLMSpec("tiny"), {}, 6, 1.0, Workers())
    with pytest.raises(EngineError, match="within a sweep or a table"):
        list(engine.answers(["one"], 1))


def test_parameters_are_counted_without_the_weights(folders):
    for folder in folders.values():
        spec = LLMSpec(str(folder))
        assert parameter_count(spec) == load(spec).parameters_total

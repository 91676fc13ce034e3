"""What a sweep's trials see: validation scores of every method, and nothing of the test."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from llmbole import registry
from llmbole.data import arrays, splits
from llmbole.data.convert.report import DataError
from llmbole.pipeline.run import execute, plan
from llmbole.pipeline.stage import stages_of
from llmbole.pipeline.store import Store
from llmbole.resolve import resolve

PROMPT = {"project.epochs": 1, "project.positions": 1}
FEW = {"steps": 2, "check_every": 1, "rows": 60, "valid_rows": 80, "batch_size": 8}
TEXT = {"prompt.history": 2, **{f"tune.{name}": value for name, value in FEW.items()}}
HYBRID = {**TEXT, **{f"hybrid.{name}": value for name, value in FEW.items()}}
TAUGHT = {"teacher.rows": 100, **TEXT, "protocol": "loo_ctr"}
REASONED = {
    "protocol": "loo_ctr",
    "reasoning.share": 0.005,
    "reasoning.max_new_tokens": 3,
    "reasoning.listed.history": 2,
    "in_context.hidden": 8,
    "in_context.history": 4,
    "examples.history": 4,
    "text_encoder.max_tokens": 6,
}
TOLD = {
    "protocol": "loo_ctr",
    "knowledge.user": "Taste: {history}",
    "knowledge.item": "About {target}",
    "knowledge.max_new_tokens": 2,
    "knowledge.listed.history": 2,
    "knowledge.batch_size": 256,
    "text_encoder.max_tokens": 4,
    "adaptor.hidden": 8,
    "adaptor.width": 4,
}
RANKED = {
    "instructions.per_task": 20,
    "instructions.positives": 2,
    "instructions.candidates": 4,
    "tune.steps": 2,
    "tune.check_every": 1,
    "tune.valid_rows": 8,
    "tune.batch_size": 4,
    "prompt.history": 2,
    "augment.history": 2,
    "augment.predicted": 2,
    "rank.length": 4,
    "rank.named": 2,
}
CASES = {
    "BPR": {},
    "DIN": {},
    "MLPLLM": PROMPT,
    "CoLLM": {**HYBRID, "ensemble": True},
    "KD": TAUGHT,
    "LLMCF": REASONED,
    "KAR": TOLD,
    "Llama4Rec": RANKED,
}


@pytest.fixture
def validate(run, raw_slice, shared):
    """Validation scores of a method after a plain run of it, in a process that may not see the test."""

    def score(model, settings, on_validation=None):
        plain = run(model, settings)
        own = {"raw": str(raw_slice), "store": str(shared / "store"), "progress": False}
        epochs = {"backbone.epochs": 2} if plain.record.backbone or not registry.is_method(model) else {}
        resolved = resolve(model, "ml-slice", {**own, **epochs, **settings})
        store = Store(shared / "store")
        method = resolved.method
        with arrays.sealed_test():
            steps = plan(method, resolved.settings, store, method.goals[-1:], "valid")
            made = execute(steps, resolved.settings, store, resolved.options, on_validation)
        return plain, made[method.goals[-1]], made

    return score


@pytest.mark.parametrize("model", CASES)
def test_validation_is_scored_without_the_test(validate, model, monkeypatch):
    poison(monkeypatch)
    plain, scores, _ = validate(model, CASES[model])
    assert set(scores.summary["metrics"]) == set(plain.record.metrics) - {"RelaImpr"}  # of the test alone
    assert scores.key != plain.artifacts[scores.stage].key
    assert scores.summary["metrics"] != plain.record.metrics
    assert scores.summary["groups"] == {}


def poison(monkeypatch):
    """In a process that may not see the test its arrays are not there, and what it holds out is no item any more."""
    load = arrays.load

    def poisoned(folder, names):
        stored = load(folder, names)
        if arrays.is_sealed():
            assert not [name for name in stored if name.startswith("test_")]
            stored["items"] = np.array(stored["items"])
            stored["items"][np.load(folder / "test_positions.npy")] = 10**9
        return stored

    monkeypatch.setattr(arrays, "load", poisoned)


def test_a_conventional_models_scores_are_those_of_its_best_epoch(validate):
    heard = []
    _, scores, made = validate("BPR", {"seed": 77}, lambda *said: heard.append(said))
    assert heard == []  # the plain run trained the backbone
    best = made["backbone"].summary["valid"]
    assert scores.summary["metrics"]["HIT@1"] == pytest.approx(best["hit@1"], abs=1e-12)


def test_a_sealed_process_can_not_ask_for_the_test(run):
    folder = run("BPR").artifacts["split"].folder
    assert len(splits.load(folder).phase("test")) == 40
    with arrays.sealed_test():
        opened = splits.load(folder)
        assert len(opened.phase("valid")) == 40
        with pytest.raises(DataError, match="sealed"):
            opened.phase("test")
    assert len(splits.load(folder).phase("test")) == 40


@pytest.mark.parametrize("model", [form for name in registry.method_names() for form in registry.forms(name)])
def test_what_every_method_is_scored_by_has_a_phase(model):
    method = registry.method(model)
    stages = stages_of(method)
    assert stages[method.goals[-1]].phased, (
        "a sweep scores validation users: declare the stage with phased=True and score those of run.phase"
    )
    assert method.validates is None or method.validates in stages
    for stage in stages.values():
        assert stage.phased or "run.phase" not in inspect.getsource(stage.function)

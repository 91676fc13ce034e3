"""Short real runs of KD on ml-100k rows: the teacher is TALLRec's, scores its rows once, and is not there to serve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmbole import registry
from llmbole.llm import backbone as language_models
from llmbole.model import training
from llmbole.results import load
from llmbole.settings import SettingsError

TUNE = {"tune.steps": 2, "tune.check_every": 1, "tune.rows": 40, "tune.valid_rows": 40, "prompt.history": 2}
SHORT = {**TUNE, "teacher.rows": 300, "backbone.epochs": 1}


@pytest.fixture
def distil(run):
    """A short run: `distil({"distil.weight": 0.5})`."""

    def go(settings=None, model="KD", **more):
        return run(model, {**SHORT, **(settings or {})}, protocol="loo_ctr", **more)

    return go


def scores(result, stage="scores"):
    return np.load(result.artifacts[stage].folder / "rows.npz")["scores"]


def test_a_run_ends_in_a_record_and_its_teacher_is_tallrec(distil, run):
    result = distil()
    record = load(result.path)
    assert set(record.backbone_metrics) == {"AUC", "LogLoss"} and record.llm.name == "tiny"
    assert record.cost["teacher"].llm_tokens > 0 and record.cost["student"].llm_tokens is None
    tallrec = run("TALLRec", TUNE, protocol="loo_ctr")
    assert record.artifacts["lora"] == tallrec.record.artifacts["lora"]
    taught = training.load_tensors(result.artifacts["teacher"], "teacher")
    assert len(taught["rows"]) == len(set(taught["rows"].tolist())) == 300
    assert int(taught["rows"].max()) < result.artifacts["split"].summary["train_rows"]


def test_a_weight_of_zero_is_the_backbone_by_itself(distil):
    alone = distil({"distil.weight": 0.0})
    np.testing.assert_allclose(scores(alone), scores(alone, "backbone_scores"), rtol=1e-5)
    assert not np.allclose(scores(distil({"distil.weight": 5.0})), scores(alone), rtol=1e-4)


def test_the_student_is_trained_without_a_language_model(distil, monkeypatch):
    distil()

    def refuse(*arguments, **keywords):
        raise AssertionError("a language model is loaded")

    monkeypatch.setattr(language_models, "load", refuse)
    assert distil({"distil.temperature": 2.0}).artifacts["student"].summary["epochs"] == 1


class Student(torch.nn.Module):
    device = torch.device("cpu")

    def calculate_loss(self, interaction):
        return torch.tensor(2.0)

    def predict(self, interaction):
        return torch.tensor([0.5, 0.8, 0.25])


def test_the_loss_is_that_of_labels_and_of_known_probabilities():
    method = registry.method("KD")
    settings = __import__("sys").modules[method.__module__].DistilSettings(0.1, 2.0)
    model = method(Student(), torch.tensor([0.0, float("nan"), 4.0, -2.0]), settings)
    batch = {"row_number": torch.tensor([2, 1, 3])}
    wanted = torch.tensor([2.0, -1.0]).sigmoid()  # logits 4 and -2 at temperature 2
    soft = functional.binary_cross_entropy(torch.tensor([0.5, 0.25]), wanted)
    torch.testing.assert_close(model.calculate_loss(batch), 2.0 + 0.1 * soft)
    assert model.calculate_loss({"row_number": torch.tensor([1, 1, 1])}).item() == 2.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distil.weight": -0.1, "distil.temperature": 0.0}, r"(?s)weight = -0.1.*temperature = 0.0"),
        ({"teacher.rows": -1}, "rows = -1"),
        ({"backbone": "GRU4Rec"}, "GRU4Rec learns to rank"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(distil, settings, message):
    with pytest.raises(SettingsError, match=message):
        distil(settings)

"""Checkpoints, resuming, stopping and progress of the trainer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from llmbole.settings import SettingsError
from llmbole.trainer.checkpoint import CheckpointError
from llmbole.trainer.choice import trainer_class
from llmbole.trainer.trainer import BEST, RESUME, Trainer
from recbole.model.abstract_recommender import AbstractRecommender

ROOT = Path(__file__).parents[3]
SMALL = {
    "BPR": {"embedding_size": 8, "train_batch_size": 256},
    "SASRec": {
        "hidden_size": 8,
        "inner_size": 16,
        "n_layers": 1,
        "MAX_ITEM_LIST_LENGTH": 8,
        "train_batch_size": 256,
        "loss_type": "CE",
    },
    "SGL": {"embedding_size": 8, "n_layers": 1, "train_batch_size": 512},
    "MultiVAE": {"mlp_hidden_size": [8], "latent_dimension": 4, "train_batch_size": 16},
    "RecVAE": {"hidden_dimension": 8, "latent_dimension": 4, "train_batch_size": 16, "n_enc_epochs": 1},
}


class Killed(Exception):
    """What a test raises in the middle of an epoch."""


def state(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def kill_at(batch):
    seen = 0

    def progress(batches):
        nonlocal seen
        seen += batches
        if seen >= batch:
            raise Killed

    return progress


@pytest.mark.parametrize("name", SMALL)
def test_a_killed_training_ends_as_an_undisturbed_one(built, name, tmp_path):
    epochs = {**SMALL[name], "epochs": 5}
    parts = built(name, **epochs)
    calm = trainer_class(parts.config)(
        parts.config, parts.model, workspace=tmp_path / "calm", snapshot_seconds=0
    )
    calm_result = calm.fit(parts.train, parts.valid)
    calm_end = state(calm)

    parts = built(name, **epochs)
    per_epoch = len(parts.train) * (2 if name == "RecVAE" else 1)
    again = tmp_path / "killed"
    killed = trainer_class(parts.config)(
        parts.config, parts.model, workspace=again, progress=kill_at(3 * per_epoch + 1), snapshot_seconds=0
    )
    with pytest.raises(Killed):
        killed.fit(parts.train, parts.valid)

    parts = built(name, **epochs)
    np.random.rand(5), torch.rand(5), random.random()  # a process of its own has other random states
    resumed = trainer_class(parts.config)(parts.config, parts.model, workspace=again, snapshot_seconds=0)
    assert resumed.resume()
    assert resumed.start_epoch == 3
    assert resumed.fit(parts.train, parts.valid) == calm_result
    assert_same(state(resumed), calm_end)
    assert resumed.train_loss_dict == calm.train_loss_dict
    assert calm.load_best() == resumed.load_best()
    assert_same(state(resumed), state(calm))


SCRIPT = """
import os, signal, sys
from pathlib import Path
from llmbole.config import Config
from llmbole.trainer.trainer import Trainer
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

folder, workspace, settings = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
config = Config("SASRec", "ml-100k", folder, settings, device="cpu", seed=1)
init_seed(1, True)
train, valid, _ = data_preparation(config, create_dataset(config))
init_seed(1, True)
left = [2 * len(train) + 1]
def progress(batches):
    left[0] -= batches
    if left[0] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer(config, config.model_class(config, train._dataset), workspace=workspace, progress=progress,
        snapshot_seconds=0).fit(train, valid)
"""


def test_a_sigkill_in_another_process_is_survived(built, movielens_slice, tmp_path):
    settings = {**SMALL["SASRec"], "epochs": 3}
    arguments = [str(movielens_slice), str(tmp_path), repr(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL

    parts = built("SASRec", **settings)
    resumed = Trainer(parts.config, parts.model, workspace=tmp_path)
    assert resumed.resume() and resumed.start_epoch == 2
    resumed.fit(parts.train, parts.valid)
    parts = built("SASRec", **settings)
    calm = Trainer(parts.config, parts.model, workspace=tmp_path / "calm")
    calm.fit(parts.train, parts.valid)
    assert_same(state(resumed), state(calm))


def test_without_a_snapshot_there_is_nothing_to_resume(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"], epochs=2)
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    assert not trainer.resume()
    trainer.fit(parts.train, parts.valid)
    assert not (tmp_path / RESUME).exists(), "snapshots are at least snapshot_seconds apart"
    assert sorted(file.name for file in tmp_path.iterdir()) == [BEST]


def test_a_snapshot_of_another_model_and_a_damaged_one_are_refused(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"], epochs=2)
    Trainer(parts.config, parts.model, workspace=tmp_path, snapshot_seconds=0).fit(parts.train)
    wider = built("BPR", **{**SMALL["BPR"], "embedding_size": 16})
    trainer = Trainer(wider.config, wider.model, workspace=tmp_path)
    with pytest.raises(
        CheckpointError, match="doesn't fit BPR: item_embedding.weight, user_embedding.weight differ"
    ):
        trainer.resume()
    (tmp_path / RESUME).write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint of this project"):
        trainer.resume()


def test_numbers_equal_stock_recbole(built, tmp_path):
    from recbole.trainer import Trainer as Stock

    settings = {**SMALL["BPR"], "epochs": 3, "weight_decay": 0.01, "metric_decimal_place": 4}
    stock = built("BPR", **settings)
    stock.config["checkpoint_dir"] = str(tmp_path)
    expected = Stock(stock.config, stock.model).fit(stock.train, stock.valid, saved=False)
    own = built("BPR", **settings)
    score, result = Trainer(own.config, own.model, workspace=tmp_path).fit(own.train, own.valid)
    assert {name: round(value, 4) for name, value in result.items()} == dict(expected[1])
    assert_same(dict(own.model.state_dict()), dict(stock.model.state_dict()))


def test_the_best_epoch_is_kept_and_training_stops_early(built, tmp_path, monkeypatch):
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.9])
    parts = built("BPR", **SMALL["BPR"], epochs=6, stopping_step=2, valid_metric="MRR@10")
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    states = []

    def evaluate(*_, **__):
        states.append(state(trainer))
        return {"mrr@10": next(scores)}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    trainer.fit(parts.train, parts.valid)
    assert len(states) == 5, "three scores below the best one stop it"
    assert trainer.load_best() == {"epoch": 1, "score": 0.5, "result": {"mrr@10": 0.5}}
    assert_same(state(trainer), states[1])


def test_without_validation_the_last_epoch_is_kept(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"], epochs=2)
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    trainer.fit(parts.train)
    end = state(trainer)
    with torch.no_grad():
        trainer.model.user_embedding.weight.zero_()
    assert trainer.load_best() == {"epoch": 1, "score": None, "result": None}
    assert_same(state(trainer), end)


def test_progress_counts_batches(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"], epochs=2)
    told = []
    Trainer(parts.config, parts.model, workspace=tmp_path, progress=told.append).fit(parts.train)
    assert told == [1] * (2 * len(parts.train))


class Frozen(AbstractRecommender):
    """A large frozen part and a small trained one, as a method with a language model has."""

    def __init__(self):
        super().__init__()
        self.large = torch.nn.Linear(3, 1).requires_grad_(False)
        self.small = torch.nn.Linear(1, 1)

    def calculate_loss(self, interaction):
        return self.small(self.large(torch.ones(1, 3))).square().sum()


def test_frozen_parameters_are_neither_trained_nor_stored(built, tmp_path):
    parts, model = built("BPR", **SMALL["BPR"], epochs=1), Frozen()
    before = model.large.weight.clone()
    trainer = Trainer(parts.config, model, workspace=tmp_path)
    trainer.fit(parts.train)
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [2]
    assert torch.equal(model.large.weight, before)
    with safe_open(tmp_path / BEST, framework="pt") as file:
        assert sorted(file.keys()) == ["model.small.bias", "model.small.weight"]
    assert trainer.load_best()["epoch"] == 0


def test_a_model_without_trainable_parameters_is_evaluated_but_not_trained(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"], epochs=1)
    parts.model.requires_grad_(False)
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    assert 0 <= trainer.evaluate(parts.test)["mrr@10"] <= 1
    with pytest.raises(SettingsError, match="BPR has no trainable parameters"):
        trainer.fit(parts.train)


def test_an_unknown_optimizer_is_refused(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"])
    parts.config["learner"] = "adamax"
    with pytest.raises(SettingsError, match="unknown optimizer learner = 'adamax'; did you mean 'adam"):
        Trainer(parts.config, parts.model, workspace=tmp_path)


def test_loading_the_best_model_that_was_never_written(built, tmp_path):
    parts = built("BPR", **SMALL["BPR"])
    trainer = Trainer(parts.config, parts.model, workspace=tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint; train the model first"):
        trainer.evaluate(parts.test, load_best_model=True)
    with pytest.raises(ValueError, match="use load_best"):
        trainer.evaluate(parts.test, model_file="model.pth")


def test_what_models_keep_beside_their_state_is_kept(built, tmp_path):
    for name, settings in (("EASE", {}), ("ItemKNN", {"k": 5}), ("Pop", {})):
        parts = built(name, **settings, epochs=1)
        trainer = trainer_class(parts.config)(parts.config, parts.model, workspace=tmp_path / name)
        trainer.fit(parts.train, parts.valid)
        expected = dict(trainer.evaluate(parts.test))
        fresh = built(name, **settings, epochs=1)
        for key in parts.model.other_parameter():
            setattr(fresh.model, key, None)
        other = trainer_class(fresh.config)(fresh.config, fresh.model, workspace=tmp_path / name)
        assert dict(other.evaluate(fresh.test, load_best_model=True)) == expected


def test_models_whose_trainer_cannot_be_combined_are_refused(built):
    class Config(dict):
        pass

    from recbole.utils import ModelType

    for name, why in (("S3Rec", "pre-trains in a run of its own"), ("NCL", "faiss on a GPU")):
        with pytest.raises(SettingsError, match=why):
            trainer_class(Config(model=name, MODEL_TYPE=ModelType.SEQUENTIAL))
    assert trainer_class(Config(model="BPR", MODEL_TYPE=ModelType.GENERAL)) is Trainer
    assert (
        trainer_class(Config(model="Pop", MODEL_TYPE=ModelType.TRADITIONAL)).__name__ == "TraditionalTrainer"
    )

"""The Config: what it refuses, and what it leaves alone."""

from __future__ import annotations

import os
import sys

import pytest
import torch
import yaml

from llmbole.config import Config, check_keys, known_keys, resolve_device
from llmbole.settings import SettingsError


def make(folder, model="SASRec", **settings):
    return Config(model, "ml-100k", folder, settings, device="cpu", seed=7)


def test_reads_data_where_it_is_told_even_for_recboles_own_example(movielens_slice):
    config = make(movielens_slice, "BPR")
    assert config["data_path"] == str(movielens_slice)
    assert config["dataset"] == "ml-100k" and config["seed"] == 7


def test_missing_interactions_are_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no ml-100k\.inter; prepare the data set"):
        make(tmp_path, "BPR")


def test_misspelt_keys_are_refused_all_at_once_with_the_close_names(movielens_slice):
    with pytest.raises(SettingsError) as refusal:
        make(movielens_slice, learnin_rate=0.1, n_layer=2)
    assert "unknown setting 'learnin_rate'; did you mean 'learning_rate'?" in str(refusal.value)
    assert "unknown setting 'n_layer'; did you mean 'n_layers'?" in str(refusal.value)


def test_keys_of_another_model_are_refused(movielens_slice):
    check_keys("LightGCN", ["reg_weight"])
    with pytest.raises(SettingsError, match="BPR: unknown setting 'n_layers'"):
        check_keys("BPR", ["n_layers"])


def test_keys_that_only_the_source_reads_are_known():
    assert "warm_up_step" in known_keys("NCL")
    assert "sequence_batch_size" in known_keys("SASRec")


def test_unknown_models_are_refused_with_the_close_name(movielens_slice):
    with pytest.raises(SettingsError, match="no model 'SASRek'; did you mean 'SASRec'"):
        make(movielens_slice, "SASRek")


def test_an_unknown_optimizer_is_refused(movielens_slice):
    with pytest.raises(SettingsError, match="learner = 'adamm'; did you mean 'adam"):
        make(movielens_slice, learner="adamm")


@pytest.mark.parametrize("key", ["gpu_id", "data_path", "checkpoint_dir", "seed", "save_dataset"])
def test_keys_that_are_decided_elsewhere_are_refused(movielens_slice, key):
    with pytest.raises(SettingsError, match=f"setting '{key}' can't be set here"):
        make(movielens_slice, **{key: "x"})


def test_the_command_line_and_the_environment_are_not_touched(movielens_slice, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--learning_rate=5"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "marker")
    config = make(movielens_slice)
    assert config["learning_rate"] == 0.001
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "marker"


def test_strings_are_not_evaluated_and_settings_are_not_changed(movielens_slice):
    settings = {
        "wandb_project": "__import__('os').getcwd()",
        "train_neg_sample_args": {"distribution": "uniform"},
    }
    config = Config("BPR", "ml-100k", movielens_slice, settings, device="cpu", seed=1)
    assert config["wandb_project"] == "__import__('os').getcwd()"
    assert settings["train_neg_sample_args"] == {"distribution": "uniform"}


def test_numbers_in_recboles_files_are_numbers_and_yaml_is_left_alone(movielens_slice):
    before = dict(yaml.FullLoader.yaml_implicit_resolvers)
    assert make(movielens_slice)["layer_norm_eps"] == 1e-12
    assert make(movielens_slice, "NextItNet")["reg_weight"] == 1e-5
    assert yaml.FullLoader.yaml_implicit_resolvers == before


def test_cross_entropy_models_sample_no_negatives(movielens_slice):
    assert make(movielens_slice)["train_neg_sample_args"]["distribution"] == "none"
    assert make(movielens_slice, loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    with pytest.raises(SettingsError, match="loss_type CE scores all items"):
        make(movielens_slice, train_neg_sample_args={"distribution": "uniform"})


def test_one_config_does_not_leak_into_the_next(movielens_slice):
    from recbole.utils import dataset_arguments

    before = list(dataset_arguments)
    make(movielens_slice, "DeepFM")
    assert dataset_arguments == before


def test_context_aware_models_load_the_features_and_labels_of_ml_100k(built):
    parts = built("DeepFM")
    assert {"age", "gender", "occupation", "release_year", "class"} <= set(parts.dataset.field2type)
    assert set(parts.dataset.inter_feat["label"].tolist()) == {0.0, 1.0}


def test_columns_can_be_chosen(movielens_slice):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "user": ["user_id", "age"]}
    assert make(movielens_slice, "DeepFM", load_col=columns)["load_col"] == columns


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(SettingsError, match=r"'cuda:1' is not there \(0 CUDA devices\)"):
        resolve_device("cuda:1")
    with pytest.raises(SettingsError, match="'gpu' is no torch device"):
        resolve_device("gpu")

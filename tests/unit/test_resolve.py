"""From names and overrides to the settings of a run, refused before any work when wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmbole import registry
from llmbole.llm import tiny
from llmbole.resolve import resolve
from llmbole.settings import SettingsError


def test_identities_stand_in_the_settings():
    settings = resolve("ALLMRec", "ml-100k").settings
    assert len(settings["llm"]["revision"]) == len(settings["text_encoder"]["revision"]) == 64
    assert settings["protocol"]["name"] == "loo_rank20"
    assert settings["dataset"]["fingerprint"]


def test_what_changes_no_number_stands_in_the_options(tmp_path):
    one = resolve("ALLMRec", "ml-100k", {"store": str(tmp_path), "device": "cpu", "threads": 1})
    other = resolve("ALLMRec", "ml-100k")
    assert one.settings == other.settings
    assert one.options["store"] == str(tmp_path)
    assert one.label == other.label == ""


def test_a_label_names_what_differs_from_the_defaults():
    resolved = resolve("ALLMRec", "ml-100k", {"align.matching": False, "seed": 7, "backbone": "GRU4Rec"})
    assert resolved.label == "align.matching=False"
    assert resolved.settings["backbone"]["name"] == "GRU4Rec"


def test_a_backbone_brings_what_fits_the_task_of_the_protocol():
    ranked = resolve("BPR", "ml-100k").settings["backbone"]
    assert ranked == {"name": "BPR", "training": "auto"}
    labelled = resolve("BPR", "ml-100k", {"protocol": "unified_ctr", "stopping_step": 5})
    assert labelled.settings["backbone"]["embedding_size"] == 256
    assert labelled.settings["backbone"]["stopping_step"] == 5
    assert labelled.label == "backbone.stopping_step=5"
    rated = resolve("BPR", "ml-100k", {"protocol": "loo_rating"}).settings["backbone"]
    assert rated == ranked


def test_a_method_brings_what_fits_the_task_over_its_backbones(tmp_path):
    own = {"store": str(tmp_path), "backbone": "SASRec"}
    ranked = resolve("LLMCF", "ml-100k", {**own, "protocol": "loo_full"}).settings
    assert ranked["backbone"]["training"] == "per_prefix" and ranked["backbone"]["n_heads"] == 1
    assert (ranked["backbone"]["sampled_negatives"], ranked["in_context"]["width"]) == (128, 64)
    given = {**own, "protocol": "loo_full", "backbone.sampled_negatives": 0}
    assert resolve("LLMCF", "ml-100k", given).settings["backbone"]["sampled_negatives"] == 0
    labels = resolve("LLMCF", "ml-100k", {"store": str(tmp_path)}).settings
    assert "sampled_negatives" not in labels["backbone"] and labels["in_context"]["width"] == 32


@pytest.mark.parametrize(
    ("model", "dataset", "settings", "close"),
    [
        ("ALLMRek", "ml-100k", {}, "ALLMRec"),
        ("ALLMRec", "ml-100", {}, "ml-100k"),
        ("ALLMRec", "ml-100k", {"align.alhpa": 1}, "alpha"),
        ("ALLMRec", "ml-100k", {"protocol": "loo_rank2"}, "loo_rank20"),
        ("ALLMRec", "ml-100k", {"backbone": "SASREC"}, "SASRec"),
        ("LightGCN", "ml-100k", {"n_layer": 3}, "n_layers"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_close_one(model, dataset, settings, close):
    with pytest.raises(SettingsError, match=close):
        resolve(model, dataset, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"align.epochs": 0}, "epochs = 0"),
        ({"align.positions": 30}, "positions = 30"),
        ({"scoring": "guess"}, "guess"),
        (
            {"align": {"matching": False, "reconstruction": False, "recommendation": False}},
            "every loss is off",
        ),
        ({"llm.precision": "float8"}, "float8"),
    ],
)
def test_a_value_that_no_run_can_use_is_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        resolve("ALLMRec", "ml-100k", settings)


def test_settings_that_fit_an_llm_go_with_its_name(tmp_path):
    folder = copied(tmp_path)
    assert resolve("ALLMRec", "ml-100k").settings["align"]["encoder"] == "frozen"
    assert resolve("ALLMRec", "ml-100k", {"llm": str(folder)}).settings["align"]["encoder"] == "tuned"
    assert resolve("ALLMRec", "ml-100k", {"align.encoder": "tuned"}).settings["align"]["encoder"] == "tuned"


def copied(path: Path) -> Path:
    """The embedded LLM in a folder of the user's."""
    return Path(shutil.copytree(tiny.FOLDER, path / "mine" / "my-llm"))


def test_a_folder_s_place_is_no_part_of_a_run(tmp_path):
    here, there = copied(tmp_path / "here"), copied(tmp_path / "there")
    one, other = (resolve("LLMOnly", "ml-100k", {"llm": str(folder)}) for folder in (here, there))
    assert one.settings == other.settings
    assert one.settings["llm"]["name"] == "./my-llm"
    assert str(tmp_path) not in str(one.settings)
    assert one.options["llm_folder"] == str(here)
    embedded = resolve("LLMOnly", "ml-100k")
    assert embedded.options["llm_folder"] is None
    assert embedded.settings["llm"]["revision"] == one.settings["llm"]["revision"]


def test_a_form_is_registered_beside_its_method(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    pairs, lists = (type(name, (), {}) for name in ("Pairs", "Lists"))
    registry.register_model("TwoForms")(pairs)
    registry.register_model("TwoForms", task="ranking")(lists)
    assert registry.forms("TwoForms") == ["TwoForms", "TwoForms.ranking"]
    assert "TwoForms" in registry.method_names() and "TwoForms.ranking" not in registry.method_names()
    found = [registry.form("TwoForms", task) for task in ("ranking", "pairs", None)]
    assert [registry.method(form) for form in found] == [lists, pairs, pairs]
    assert registry.form("SASRec", "ranking") == "SASRec" and registry.forms("SASRec") == []
    with pytest.raises(ValueError, match=r"'TwoForms.ranking' is taken by .*Lists; choose another"):
        registry.register_model("TwoForms", task="ranking")(pairs)

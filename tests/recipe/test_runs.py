"""Short real runs of every method on ml-100k rows: whole pipelines, their records, and what a variant changes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from llmbole.data import source, splits
from llmbole.llm import backbone as language_models
from llmbole.llm.identity import LLMSpec
from llmbole.pipeline.store import Store
from llmbole.results import load, read_per_user
from llmbole.settings import SettingsError
from llmbole.verify import verify

SHORT = {
    "ALLMRec": {"align.epochs": 2, "align.positions": 1, "project.epochs": 1, "project.positions": 1},
    "MLPLLM": {"project.epochs": 1, "project.positions": 1},
    "LLMOnly": {},
    "LightGCN": {},
    "SASRec": {},
    "DeepFM": {},
    "DIN": {},
}
REPORTED = {"HIT@1", "HIT@5", "NDCG@5", "MRR@20"}


@pytest.mark.parametrize("model", SHORT)
def test_a_method_runs_from_raw_files_to_a_sealed_record(run, model):
    result = run(model, SHORT[model])
    record = load(result.path)
    assert set(record.metrics) == REPORTED
    assert all(0 <= value <= 1 for value in record.metrics.values())
    assert record.metrics["HIT@1"] <= record.metrics["HIT@5"]
    assert record.dataset.counts["users"] == 40
    users, values = read_per_user(result.path.with_name(record.per_user.file))
    assert len(users) == 40 and set(values) == REPORTED
    assert not verify(result.path.parents[2])
    assert model in result.table and "HIT@1" in result.table
    if model in ("ALLMRec", "MLPLLM"):
        assert set(record.backbone_metrics) == REPORTED
        assert record.cost["projection"].llm_tokens > 0
        assert record.llm.name == "tiny" and len(record.llm.revision) == 64


def test_a_second_run_finds_everything_and_adds_no_record(run):
    first = run("MLPLLM", SHORT["MLPLLM"])
    second = run("MLPLLM", SHORT["MLPLLM"])
    assert not second.appended
    assert second.path == first.path


def test_numbers_that_are_computed_again_get_a_record_of_their_own(run, tmp_path):
    first = run("MLPLLM", SHORT["MLPLLM"])
    again = run("MLPLLM", {**SHORT["MLPLLM"], "store": str(tmp_path / "store")})
    assert again.appended and again.path.parent == first.path.parent and again.path != first.path
    assert again.metrics == first.metrics and again.record.artifacts == first.record.artifacts
    assert again.record.cost["projection"].cached_from is None


def test_the_backbone_is_trained_once_for_all_methods(run):
    keys = {run(model, SHORT[model]).artifacts["backbone"].key for model in ("ALLMRec", "MLPLLM", "SASRec")}
    assert len(keys) == 1


def test_the_same_seed_gives_the_same_numbers_with_another_store(run, tmp_path):
    one = run("ALLMRec", SHORT["ALLMRec"])
    other = run("ALLMRec", SHORT["ALLMRec"], folder=tmp_path)
    assert one.metrics == other.metrics
    assert one.record.artifacts == other.record.artifacts
    scores = (one.artifacts["scores"], other.artifacts["scores"])
    assert scores[0].manifest["files"] == scores[1].manifest["files"]


def test_another_seed_gives_other_numbers(run):
    one, other = (run("SASRec", {"seed": seed}) for seed in (1, 2))
    assert (
        one.record.artifacts["split"] == other.record.artifacts["split"]
    )  # candidates have the protocol's seed
    assert one.metrics != other.metrics


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("align.encoder", "tuned"),
        ("align.matching", False),
        ("align.reconstruction", False),
        ("align.recommendation", False),
        ("align.positions", 0),
        ("project.user", False),
        ("project.item", "text"),
        ("project.item", "none"),
        ("project.item", "random"),
    ],
)
def test_every_variant_of_allmrec_runs_and_differs(run, setting, value):
    result = run("ALLMRec", {**SHORT["ALLMRec"], setting: value})
    assert f"{setting}={value}" in result.record.label
    stage = "alignment" if setting.startswith("align") else "projection"
    plain = run("ALLMRec", SHORT["ALLMRec"])
    assert result.artifacts[stage].key != plain.artifacts[stage].key


def test_generated_answers_are_scored_by_title_and_counted(run):
    result = run("LLMOnly", {"scoring": "generation"})
    assert set(result.metrics) == {"HIT@1"}
    assert result.record.scoring == "generation"
    assert 0 <= result.record.extra["valid_answers"] <= 1
    answers = (result.artifacts["scores"].folder / "answers.txt").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 40


def test_training_leaves_the_language_model_as_it_was(run):
    before = language_models.load(LLMSpec("tiny")).checksum()
    run("MLPLLM", {**SHORT["MLPLLM"], "seed": 5})
    assert language_models.load(LLMSpec("tiny")).checksum() == before


def test_a_kill_between_stages_and_a_lost_artifact_give_the_same_scores(run, shared):
    result = run("ALLMRec", SHORT["ALLMRec"])
    store = Store(shared / "store")
    for name in ("projection", "scores"):
        folder = result.artifacts[name].folder
        (folder / "manifest.json").write_text("{")  # as good as gone
        assert store.get(result.artifacts[name].key) is None
    again = run("ALLMRec", SHORT["ALLMRec"])
    assert again.metrics == result.metrics
    remade = json.loads((again.artifacts["projection"].folder / "manifest.json").read_text(encoding="utf-8"))
    assert remade["files"] == result.artifacts["projection"].manifest["files"]


def test_the_slice_has_its_own_fingerprint(run, raw_slice):
    result = run("LLMOnly")
    assert result.record.dataset.fingerprint == source.fingerprint(source.card("ml-slice"), raw_slice)


@pytest.mark.parametrize(
    ("model", "protocol", "metrics"),
    [
        ("DeepFM", "unified_ctr", {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}),
        ("DIN", "temporal_ratio", {"AUC", "LogLoss", "ACC"}),
        ("NeuMF", "loo_ctr", {"AUC", "LogLoss"}),
        ("DCNV2", "loo_rating", {"RMSE", "MAE"}),
        ("NFM", "loo_rating", {"RMSE", "MAE"}),
        ("FiBiNET", "loo_rating", {"RMSE", "MAE"}),
        ("FiBiNET", "loo_ctr", {"AUC", "LogLoss"}),
        ("BPR", "unified_ctr", {"AUC", "UAUC", "LogLoss", "ACC", "ECE"}),
        ("LightGCN", "loo_ctr", {"AUC", "LogLoss"}),
        ("SASRec", "temporal_ratio", {"AUC", "LogLoss", "ACC"}),
    ],
)
def test_models_of_labels_run_under_protocols_of_labels(run, model, protocol, metrics):
    result = run(model, protocol=protocol)
    assert set(result.metrics) == metrics
    assert result.record.validation_metrics.keys() == metrics
    groups = result.record.group_metrics
    assert {"warm", "cold", "popularity_1_of_4", "history_4_of_4"} <= groups.keys()
    assert groups["warm"]["count"] + groups["cold"]["count"] == result.record.extra["rows"]
    rows = np.load(result.artifacts["backbone_scores"].folder / "rows.npz")
    assert len(rows["scores"]) == result.record.extra["rows"]
    if "RMSE" in metrics:
        error = rows["scores"] - rows["labels"]
        assert result.metrics["RMSE"] == pytest.approx(float(np.sqrt((error**2).mean())))
        assert result.metrics["RMSE"] < 1.5  # an output around the mean rating, not a probability
    else:
        assert result.metrics["LogLoss"] < 1


@pytest.mark.parametrize("model", ["LightGCN", "SASRec", "CL4SRec", "FiBiNET", "MixGCF", "YoutubeDNN"])
def test_models_of_rankings_run_under_the_unified_protocol(run, model):
    result = run(model, protocol="unified_rank")
    assert {"HIT@10", "NDCG@10", "MRR@20"} <= result.metrics.keys()
    assert 0 < result.record.extra["Coverage@10"] <= 1
    assert 0 <= result.record.extra["Gini@10"] <= 1
    assert result.record.extra["AveragePopularity@10"] > 0


def test_a_model_that_ranks_is_refused_under_labels_before_any_work(run, tmp_path):
    with pytest.raises(SettingsError, match="SGL learns to rank items, but loo_ctr asks for labels"):
        run("SGL", protocol="loo_ctr", folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_groups_of_a_ranking_average_to_the_metric(run):
    record = run("SASRec").record
    groups = record.group_metrics
    bins = [groups[f"history_{number}_of_4"] for number in range(1, 5)]
    total = sum(each["count"] for each in bins)
    assert total == record.extra["users"]
    mean = sum(each["count"] * each.get("HIT@1", 0.0) for each in bins) / total
    assert mean == pytest.approx(record.metrics["HIT@1"])


def test_a_scenario_is_a_protocol_of_its_own_with_groups_of_new_users(run):
    result = run("SASRec", protocol="loo_rank20@few_shot-20")
    assert result.record.protocol.name == "loo_rank20@few_shot-20"
    groups = result.record.group_metrics
    assert groups["training_users"]["count"] == 20
    assert groups["new_users"]["count"] == 20
    assert "loo_rank20@few_shot-20" in str(result.path)


def test_methods_that_rank_few_items_re_rank_one_retrievers_list(run):
    ours, other = (
        run("ALLMRec", SHORT["ALLMRec"], protocol="unified_rank"),
        run("LLMOnly", protocol="unified_rank"),
    )
    assert ours.record.artifacts["retrieved"] == other.record.artifacts["retrieved"]
    lists = np.load(ours.artifacts["retrieved"].folder / "lists.npz")
    assert (np.sort(lists["best"], axis=1) == np.sort(lists["shown"], axis=1)).all()
    assert (lists["best"] != lists["shown"]).any()
    recall = ours.record.extra["recall@20"]
    split = splits.load(ours.artifacts["split"].folder)
    phase = split.phase("test")
    found = [target in row for target, row in zip(phase.targets, lists["best"], strict=True)]
    assert recall == pytest.approx(sum(found) / len(found))
    for result in (ours, other):
        assert result.metrics["HIT@10"] <= recall
    for row, best in enumerate(lists["best"]):
        assert not set(best) & set(phase.history(row)) - {phase.targets[row]}
    frozen = run("LLMOnly")
    assert "retrieved" not in frozen.record.artifacts


def test_a_tuned_text_encoder_needs_no_vectors_of_the_encoder_as_it_comes(run):
    tuned = run("ALLMRec", {**SHORT["ALLMRec"], "align.encoder": "tuned"})
    assert "text" not in tuned.record.artifacts
    assert "text" in run("ALLMRec", SHORT["ALLMRec"]).record.artifacts


def test_a_run_with_a_leak_fails(run, monkeypatch, tmp_path):
    """Training that would see held-out interactions, and prompts that would show the target."""
    from llmbole.data import split_dataset

    stock = split_dataset.RankingDataset._in_recbole_order
    with monkeypatch.context() as patched:
        patched.setattr(
            split_dataset.RankingDataset,
            "_in_recbole_order",
            lambda self, positions, taken: np.append(
                stock(self, positions, taken), self.split.phase("test").positions
            ),
        )
        with pytest.raises(ValueError, match="(?s)the run leaks:.*training rows hold 40 interactions"):
            run("LightGCN", folder=tmp_path / "train")
    spans = split_dataset.RankingDataset._rows

    def one_more(self, positions, floats):
        rows = spans(self, positions, floats)
        return dataclasses.replace(rows, ends=rows.ends + 1)

    with monkeypatch.context() as patched:
        patched.setattr(split_dataset.RankingDataset, "_rows", one_more)
        with pytest.raises(
            ValueError, match="(?s)the run leaks:.*40 histories show an item that is not of the past"
        ):
            run("LLMOnly", folder=tmp_path / "prompt")

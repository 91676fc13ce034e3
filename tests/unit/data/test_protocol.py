"""Protocol cards."""

from __future__ import annotations

import dataclasses

import pytest

from llmbole.data import protocol as protocols
from llmbole.settings import SettingsError


def test_every_protocol_is_sound():
    assert protocols.names() == [
        "loo_ctr",
        "loo_full",
        "loo_rank20",
        "loo_rating",
        "temporal_collm",
        "temporal_ratio",
        "unified_ctr",
        "unified_rank",
    ]
    for name in protocols.names():
        assert protocols.protocol(name).version == 1
    ranked = protocols.protocol("loo_rank20")
    assert (ranked.version, ranked.candidates.count, ranked.selection, ranked.topk) == (
        1,
        20,
        "HIT@1",
        (1, 5, 20),
    )
    assert protocols.protocol("loo_full").candidates.count is None


def test_unknown_name_gets_the_close_one():
    with pytest.raises(SettingsError, match="unknown protocol 'loo_rank'; did you mean 'loo_rank20'"):
        protocols.protocol("loo_rank")


def test_unknown_key_is_named_with_the_file(tmp_path, monkeypatch):
    (tmp_path / "protocol").mkdir()
    text = (protocols.properties_folder() / "protocol" / "loo_rank20.yaml").read_text()
    (tmp_path / "protocol" / "loo_rank20.yaml").write_text(text.replace("  negatives: 19", "  negative: 19"))
    monkeypatch.setattr(protocols, "properties_folder", lambda: tmp_path)
    message = r"loo_rank20\.yaml: unknown key 'candidates\.negative'; did you mean 'negatives'"
    with pytest.raises(SettingsError, match=message):
        protocols.protocol("loo_rank20")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": (1, 50)}, "there are only 20 candidates"),
        ({"selection": "HIT@2"}, "selection = 'HIT@2'"),
        ({"version": 0}, "versions count from 1"),
        ({"metrics": ()}, "both are needed"),
    ],
)
def test_mistakes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(protocols.protocol("loo_rank20"), **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "frozen", "negatives": 0, "seed": 1}, "need at least 1"),
        ({"kind": "frozen", "negatives": 19}, "need a seed"),
        ({"kind": "full", "negatives": 19}, "a full ranking draws nothing"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        protocols.Candidates(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels.kind must be interaction or threshold"),
        ({"topk": (5,)}, "no cut-offs"),
        ({"candidates": protocols.Candidates("full")}, "candidates are for a ranking"),
        ({"split": "time_then_last", "ratios": (0.8, 0.1, 0.1)}, "is for a ranking"),
        ({"split": "time_ratio"}, "needed by the split time_ratio"),
        ({"split": "time_ratio", "ratios": (0.8, 0.1, 0.2)}, "sum to 1"),
        ({"history": "positives"}, "needs labels by threshold"),
        ({"selection": "HIT@1"}, "selection = 'HIT@1'"),
    ],
)
def test_mistakes_in_protocols_of_pairs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(protocols.protocol("loo_ctr"), **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "interaction"}, "need at least 1 negative"),
        ({"kind": "interaction", "negatives": 1}, "a seed of at least 0"),
        ({"kind": "rating", "negatives": 1, "seed": 1}, "not by rating"),
    ],
)
def test_labels_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        protocols.Labels(**arguments)


def test_metrics_get_the_names_of_the_protocol():
    found = {"auc": 0.5, "uauc": 0.6, "userndcg": 0.7, "other": 1}
    assert protocols.protocol("temporal_collm").public_names(found) == {
        "AUC": 0.5,
        "UAUC": 0.6,
        "UserNDCG": 0.7,
        "other": 1,
    }
    assert protocols.protocol("loo_rank20").public_names({"hit@1": 0.5}) == {"HIT@1": 0.5}

"""Every shipped experiment is strict, complete and resolves; a mistake in one is named."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
import yaml

from llmbole import experiment
from llmbole.cli import main
from llmbole.experiment import TableRow
from llmbole.resolve import resolve
from llmbole.settings import SettingsError, flatten

NAMES = experiment.names()
WHEEL = Path(importlib.util.find_spec("recbole").origin).parent / "dataset_example" / "ml-100k"


def test_their_number():
    assert len(NAMES) == 37
    papers = {name.partition("/")[0] for name in NAMES}
    assert papers == {"allmrec", "collm", "corella", "llama4rec", "llmcf", "unified", "example"}


def mixed_in(folder):
    """Settings that name a file of general instructions, which rows of mixed tuning are run with."""
    file = folder / "general.json"
    file.write_text('[{"instruction": "Name a colour.", "output": "Red."}]', encoding="utf-8")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"recgen.general.files": [str(file)], "recgen.general.sha256": [digest]}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_resolves_with_its_settings(name, tmp_path):
    found = experiment.load(name)
    for row in found.rows:
        if row.missing is not None:
            continue
        protocol = found.protocol_of(row)
        protocol = protocol.removesuffix(
            "@cross_domain"
        )  # it needs two sets, and RecBole's wheel carries one
        named = {"backbone": row.backbone} if row.backbone else {}
        general = mixed_in(tmp_path) if "mixed" in str(row.settings) else {}
        settings = {**named, **row.settings, **general, "protocol": protocol, "store": str(tmp_path)}
        resolved = resolve(str(row.model), "ml-100k", settings)
        flat = flatten(resolved.settings)
        assert all(flat[key] == value for key, value in flatten(row.settings).items()), row.name
        assert row.backbone is None or flat["backbone.name"] == row.backbone


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.partition("/")[0] not in ("unified", "example")]
)
def test_a_published_table_says_where_it_is_from_and_has_its_numbers(name):
    found = experiment.load(name)
    assert found.source and found.llm
    if "/figure" in name:  # bars and points without numbers
        assert not found.published
        return
    assert set(found.published) == set(found.datasets)
    for dataset in found.datasets:
        assert set(found.published[dataset]) == {row.name for row in found.rows}


@pytest.mark.parametrize(
    ("name", "cell", "value"),
    [
        ("allmrec/table1", ("Movies and TV", "A-LLMRec", "HIT@1"), 0.6237),
        ("allmrec/table2", ("Beauty", "SASRec", "HIT@1 warm_items"), 0.6312),
        ("allmrec/table4", ("Movies and TV", "A-LLMRec (SBERT), K=128", "HIT@1"), 0.2722),
        ("collm/table2", ("Amazon-Book", "DIN", "UAUC"), 0.6145),
        ("collm/table3", ("ML-1M", "Ensemble MF+TALLRec", "AUC"), 0.7239),
        ("corella/table1", ("ML-1M", "CoReLLa", "AUC"), None),
        ("llmcf/table3", ("Sports", "KD (DeepFM)", "RelaImpr"), 1.773),
        ("llama4rec/table5", ("ML-100K", "IFT", "RMSE"), 1.2792),
    ],
)
def test_some_cells_of_the_print(name, cell, value):
    found = experiment.load(name).value(*cell)
    assert found is not None and (value is None or found == value)


ROW = {"name": "BPR", "model": "BPR"}
GOOD = {
    "name": "p/t",
    "title": "t",
    "protocol": "loo_rank20",
    "metrics": ["HIT@1"],
    "datasets": {"A": "ml-100k"},
    "rows": [ROW],
}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """An experiment written to a folder of its own and loaded: `loaded(metrics=["HIT@2"])`."""
    monkeypatch.setattr(experiment, "folder", lambda: tmp_path)

    def load(**changes):
        file = tmp_path / "p" / "t.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
        return experiment.load("p/t")

    return load


def test_a_sound_one_is_loaded(loaded):
    found = loaded(published={"A": {"BPR": {"HIT@1": 0.5}}})
    assert found.value("A", "BPR", "HIT@1") == 0.5 and found.value("A", "BPR", "HIT@5") is None
    assert found.rows == (TableRow("BPR", "BPR"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": ["HIT@1"]}, "unknown key 'metric'; did you mean 'metrics'"),
        ({"name": "p/other"}, "it must be the file's, 'p/t'"),
        ({"protocol": "loo_rank2"}, "did you mean 'loo_rank20'"),
        ({"figure": {"x": "HIT@1", "y": "HIT@2"}}, "figure: 'HIT@2' is no metric of the table"),
        ({"metrics": ["HIT@2"]}, "'HIT@2' is not reported by loo_rank20; did you mean 'HIT@5'"),
        ({"metrics": ["HIT@1 cold_item"]}, "no group 'cold_item'; did you mean 'cold_items'"),
        ({"datasets": {"A": "ml-100"}}, "did you mean 'ml-100k'"),
        ({"rows": [{"name": "x", "model": "BRP"}]}, "did you mean 'BPR'"),
        ({"rows": [{"name": "x"}]}, "row 'x' has no model"),
        ({"rows": [ROW, ROW]}, "'BPR' stands twice"),
        ({"rows": [{**ROW, "settings": {"seed": 1}}]}, "seed: not among settings"),
        ({"rows": [{"name": "x", "model": "ALLMRec", "backbone": "SASrec"}]}, "did you mean 'SASRec'"),
        ({"published": {"B": {}}}, "'B' is no data set of the table"),
        ({"published": {"A": {"BRP": {}}}}, "no row has this name; did you mean 'BPR'"),
        ({"published": {"A": {"BPR": {"HIT@5": 1.0}}}}, "'HIT@5' is no metric of the table"),
        ({"published": {"A": {"BPR": {"HIT@1": "0,5"}}}}, "is no number"),
        ({"rows": []}, "rows: at least one"),
    ],
)
def test_a_mistake_is_named_with_its_file(loaded, changes, message):
    with pytest.raises(SettingsError) as error:
        loaded(**changes)
    assert message in str(error.value)
    assert all("t.yaml: " in line for line in str(error.value).splitlines())


def test_a_protocol_stands_in_if_it_reports_the_metrics(loaded):
    found = loaded()
    assert experiment.under(found, None) is experiment.under(found, "loo_rank20") is found
    scenario = experiment.under(found, "loo_rank20@few_shot-128")
    assert scenario.protocol_of(scenario.rows[0]) == "loo_rank20@few_shot-128"
    for rows, name, message in (
        ([ROW], "loo_rank2", "did you mean 'loo_rank20'"),
        ([ROW], "loo_ctr", "loo_ctr can't stand in for loo_rank20 in p/t: metric 'HIT@1' is not reported"),
        ([{**ROW, "protocol": "loo_rank20@cold_users-3"}], "loo_full", "protocols of their own: BPR"),
    ):
        with pytest.raises(SettingsError, match=message):
            experiment.under(loaded(rows=rows), name)


def test_a_missing_row_needs_no_registered_model(loaded):
    assert (
        loaded(rows=[{"name": "x", "model": "NotYet", "missing": "not built"}]).row("x").missing
        == "not built"
    )


def test_the_example_in_the_docs_is_sound(tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[3] / "docs" / "experiments.md").read_text(encoding="utf-8")
    block = text.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "mypaper").mkdir()
    (tmp_path / "mypaper" / "table2.yaml").write_text(block, encoding="utf-8")
    monkeypatch.setattr(experiment, "folder", lambda: tmp_path)
    assert experiment.load("mypaper/table2").value("Films", "SASRec", "HIT@1") == 0.5


def test_they_are_listed(capsys):
    assert main(["list", "experiments"]) == 0
    assert capsys.readouterr().out.split() == NAMES

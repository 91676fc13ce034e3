"""Settings over a table's rows: each row gets those that its model has."""

from __future__ import annotations

import logging

import pytest

from llmbole.defaults import has_setting, read_layers
from llmbole.grid.request import make_request, prepare
from llmbole.settings import SettingsError


@pytest.fixture
def ask(tmp_path):
    def make(name, **settings):
        folders = {"store": tmp_path / "store", "leaderboard": tmp_path / "leaderboard"}
        return make_request(name, dataset="ml-100k", seeds=[1], settings=settings, **folders)

    return make


def test_a_setting_goes_to_the_rows_that_have_it_and_the_others_are_named(ask, caplog):
    with caplog.at_level(logging.INFO, logger="llmbole"):
        request = ask("collm/table7", llm="tiny", **{"backbone.epochs": 2})
    cells = {cell.row: cell.settings for cell in request.cells}
    having = {
        key: {row for row, settings in cells.items() if key in settings} for key in ("llm", "backbone.epochs")
    }
    assert having == {"llm": {"TALLRec", "CoLLM-MF"}, "backbone.epochs": {"MF", "CoLLM-MF"}}
    assert "--set llm is no setting of MF: they run without it" in caplog.messages
    assert "--set backbone.epochs is no setting of TALLRec: they run without it" in caplog.messages
    assert request.settings == {"llm": "tiny", "backbone.epochs": 2}  # the page's, of the whole table


def test_a_protocol_that_stands_in_is_every_cells(tmp_path):
    folders = {"store": tmp_path / "store", "leaderboard": tmp_path / "leaderboard"}
    request = make_request("collm/table3", dataset="ml-100k", protocol="unified_ctr", **folders)
    assert {cell.settings["protocol"] for cell in request.cells} == {"unified_ctr"}
    assert request.protocol == request.experiment.protocol == "unified_ctr"
    assert {cell.resolve().settings["protocol"]["name"] for cell in request.cells} == {"unified_ctr"}
    same = make_request("collm/table3", dataset="ml-100k", protocol="temporal_collm", **folders)
    assert same.protocol is None


def test_a_setting_that_no_row_has_is_refused_by_name(ask):
    request = ask("collm/table7", **{"tune.step": 3})
    with pytest.raises(
        SettingsError, match=r"row 'TALLRec': settings: unknown setting 'tune.step'; did you mean"
    ):
        prepare(request)


@pytest.mark.parametrize(
    ("model", "key", "known"),
    [
        ("BPR", "epochs", True),  # as in RecBole
        ("BPR", "backbone.epochs", True),
        ("BPR", "backbone.n_layers", False),
        ("LightGCN", "backbone.n_layers", True),
        ("BPR", "llm", False),
        ("CoLLM", "llm", True),
        ("CoLLM", "llm.precision", True),
        ("CoLLM", "llm.name.x", False),
        ("CoLLM", "epochs", False),
        ("CoLLM", "backbone.epochs", True),
        ("TALLRec", "backbone.epochs", False),
        ("TALLRec", "tune.steps", True),
    ],
)
def test_what_a_model_can_be_set(model, key, known):
    assert has_setting(model, key, read_layers({"protocol": "unified_ctr"})) == known

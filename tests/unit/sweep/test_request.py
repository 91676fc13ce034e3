"""What a sweep is asked for is checked before any work, and the same request is the same sweep."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest

from llmbole.cli import main
from llmbole.cluster import check_address
from llmbole.settings import SettingsError
from llmbole.sweep.cluster import share
from llmbole.sweep.loggers import make_loggers
from llmbole.sweep.request import Resources, Search, make_request

RATES = {"sweep.learning_rate": [0.01, 0.1]}


@pytest.fixture
def ask(tmp_path):
    """A request on ml-100k: `ask("BPR", {"sweep.learning_rate": [0.1]}, trials=3)`."""

    def make(model="BPR", settings=None, *, resources=None, storage=None, loggers=(), files=(), **search):
        folders = {"store": str(tmp_path / "store"), "leaderboard": str(tmp_path / "leaderboard")}
        return make_request(
            model,
            "ml-100k",
            config_files=files,
            settings={**folders, **(RATES if settings is None else settings)},
            search=Search(**search),
            resources=resources or Resources(),
            loggers=loggers,
            storage=storage,
        )

    return make


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("BPR", {"sweep.learning_rat": [0.1]}, "sweep.learning_rat: .*did you mean 'learning_rate'"),
        ("BPR", {"learning_rat": 0.1, **RATES}, "did you mean 'learning_rate'"),
        ("ALLMRec", {"sweep.align.alpa": [0.1]}, "unknown setting 'align.alpa'; did you mean 'alpha'"),
        ("ALLMRec", {"sweep.align.alpha": [0.1, -1.0]}, "alpha = -1.0: must be a number of at least 0"),
        ("ALLMRec", {"sweep.align.alpha": ["much"]}, "is a str, expected a float"),
        ("ALLMRec", {"sweep.backbone": ["SASRek"]}, "did you mean 'SASRec'"),
        ("BPR", {"threads": 3, **RATES}, "--cpus-per-trial"),
        ("BPR", {"device": "cpu", **RATES}, "--gpus-per-trial"),
        ("LLMOnly", {}, "nothing to search"),
        ("BPR", {"sweep": 3}, "name a setting"),
    ],
)
def test_mistakes_are_refused_with_the_close_name(ask, tmp_path, model, settings, message):
    with pytest.raises(SettingsError, match=message):
        ask(model, settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"search": "optun"}, "did you mean 'optuna'"),
        ({"scheduler": "ash"}, "did you mean 'asha'"),
        ({"search": "random"}, "needs --trials=N"),
        ({"trials": 3}, "a grid has as many trials as combinations"),
        ({"search": "optuna", "trials": 0}, "at least 1"),
        ({"grace": 0, "reduction": 1}, "(?s)--grace=0.*--reduction=1"),
    ],
)
def test_a_search_that_can_not_be_is_refused(search, message):
    with pytest.raises(SettingsError, match=message):
        Search(**search)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"cpus": 0}, "must be above 0"),
        ({"gpus": -1}, "at least 0"),
        ({"concurrent": 0}, "at least 1"),
        ({"cpus": 1.5}, "whole above 1"),
    ],
)
def test_resources_that_can_not_be_are_refused(resources, message):
    with pytest.raises(SettingsError, match=message):
        Resources(**resources)


def test_trials_share_what_there_is():
    there = {"CPU": 8.0, "GPU": 2.0}
    taken = share(Resources(cpus=2), there)
    assert (taken.gpus, taken.concurrent, taken.device) == (1.0, 2, "auto")
    taken = share(Resources(cpus=2, gpus=0), there)
    assert (taken.gpus, taken.concurrent, taken.device) == (0, 4, "cpu")
    assert share(Resources(cpus=1, gpus=0.5), there).concurrent == 4
    assert share(Resources(cpus=0.1, gpus=0), {"CPU": 1.0}).concurrent == 10
    assert share(Resources(concurrent=3), {"CPU": 8.0}).concurrent == 3
    with pytest.raises(SettingsError, match="(?s)--cpus-per-trial=16: there are 8 CPUS.*--gpus-per-trial=4"):
        share(Resources(cpus=16, gpus=4), there)


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:1", "nobody answers"), ("head", "HOST:PORT"), ("ray://h:a", "HOST:PORT")],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, message):
    with pytest.raises(SettingsError, match=message):
        check_address(address)


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1, 1), (4, 4)])
def test_threads_are_the_cpus_of_a_trial(cpus, threads):
    assert Resources(cpus=cpus).threads == threads


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_says_what_to_install(ask, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == name else found(module))
    with pytest.raises(SettingsError, match=rf"pip install 'llmbole\[{name}\]'"):
        ask(loggers=["tensorboard", name])
    with pytest.raises(SettingsError, match="did you mean 'tensorboard'"):
        ask(loggers=["tensorbord"])


def test_mlflow_writes_a_database_in_the_folder_of_the_sweep_or_to_a_server(monkeypatch, tmp_path):
    monkeypatch.setattr("ray.air.integrations.mlflow.MLflowLoggerCallback", SimpleNamespace)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (made,) = make_loggers(["mlflow"], tmp_path, "0123456789abcdef0123")
    assert (
        made.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    )  # folders of files are refused by MLflow 3.17
    assert made.experiment_name == "llmbole-0123456789abcdef"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    (made,) = make_loggers(["mlflow"], tmp_path, "0123456789abcdef0123")
    assert made.tracking_uri == "http://127.0.0.1:5000"


def test_a_range_needs_another_search_than_a_grid(ask):
    settings = {"sweep.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    with pytest.raises(SettingsError, match="learning_rate is a range"):
        ask("BPR", settings)
    assert ask("BPR", settings, search="random", trials=2).space["learning_rate"].log


def test_asha_needs_a_stage_that_tells_its_scores(ask):
    with pytest.raises(SettingsError, match="no stage of ALLMRec tells its validation scores"):
        ask("ALLMRec", {}, scheduler="asha")
    assert ask("CoLLM", {}, scheduler="asha").search.scheduler_name == "asha grace=1 reduction=3"


def test_the_block_of_the_models_yaml_is_the_space(ask):
    assert ask("ALLMRec", {}).space.keys() == {"align.alpha", "align.beta"}
    assert "learning_rate" in ask("SASRec", {}).space


def test_a_config_file_may_hold_settings_and_a_space(ask, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 2\nsweep:\n  learning_rate: null\n  embedding_size: [8, 16]\n", encoding="utf-8")
    request = ask("BPR", {}, files=[file])
    assert set(request.space) == {"embedding_size"}
    assert request.resolve({"embedding_size": 8}).settings["backbone"]["epochs"] == 2
    assert request.resolve({"embedding_size": 8}).settings["backbone"]["embedding_size"] == 8


def test_the_same_request_is_the_same_sweep_wherever_and_with_whatever_it_runs(ask, tmp_path):
    one = ask()
    assert ask(resources=Resources(cpus=0.5, concurrent=1), loggers=["tensorboard"]).key == one.key
    elsewhere = ask(storage=tmp_path / "other")
    assert elsewhere.key == one.key and elsewhere.folder == tmp_path / "other" / one.key[:16]
    assert one.folder == tmp_path / "sweeps" / one.key[:16]
    keys = {
        one.key,
        ask("BPR", {"sweep.learning_rate": [0.01]}).key,
        ask("BPR", {**RATES, "epochs": 2}).key,
        ask("BPR", {**RATES, "seed": 1}).key,
        ask(search="random", trials=2).key,
        ask(search="random", trials=3).key,
        ask(scheduler="asha").key,
    }
    assert len(keys) == 7
    json.dumps(one.layers)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds=1"], "add --test"),
        (["--test", "--seeds=1,a"], "whole numbers"),
        (["--test", "--seeds=1,1"], "stands twice"),
        (["--search=optun"], "did you mean 'optuna'"),
    ],
)
def test_the_command_refuses_what_it_can_not_do(capsys, words, message):
    assert main(["sweep", "--model=BPR", "--dataset=ml-100k", *words]) == 2
    assert message in capsys.readouterr().err

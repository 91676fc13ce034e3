"""Stages: keys that change with what matters and with nothing else, graphs that are checked, plans that say why."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import logging
import textwrap
from pathlib import Path

import pytest

from llmbole.pipeline.run import execute, plan
from llmbole.pipeline.stage import SET, StageError, code_hash, stage, stages_of
from llmbole.pipeline.store import Store


class Pipeline:
    """Two stages, of which the second stands on the first."""

    @stage(makes="numbers", uses=("count", "seed"))
    def numbers(run):
        """Count up."""
        (run.folder / "numbers.txt").write_text(",".join(map(str, range(run["count"]))))
        run.count(llm_tokens=run["count"])
        return {"did": f"{run['count']} numbers"}

    @stage(makes="total", needs=("numbers",), uses=("scale.factor",))
    def total(run, numbers):
        """Add up."""
        total = sum(map(int, (numbers.folder / "numbers.txt").read_text().split(",")))
        (run.folder / "total.txt").write_text(str(total * run["scale.factor"]))
        return {}


SETTINGS = {"count": 4, "seed": 1, "scale": {"factor": 10, "unused": 1}}


def run(store, settings=SETTINGS):
    return execute(plan(Pipeline, settings, store, ["total"]), settings, store, {"progress": False})


def test_stages_run_once_and_are_found_again(tmp_path):
    store = Store(tmp_path)
    artifacts = run(store)
    assert (artifacts["total"].folder / "total.txt").read_text() == "60"
    assert artifacts["numbers"].cost["llm_tokens"] == 4
    assert artifacts["numbers"].cost["seconds"] >= 0 and artifacts["numbers"].cost["peak_memory_bytes"] > 0
    assert all(step.cached for step in plan(Pipeline, SETTINGS, store, ["total"]))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"count": 5}, {"numbers": "count differs", "total": "numbers will be made first"}),
        ({"scale": {"factor": 11, "unused": 1}}, {"total": "scale.factor differs"}),
        ({"scale": {"factor": 10, "unused": 2}}, {}),
    ],
)
def test_a_plan_says_what_will_run_and_why(tmp_path, change, expected):
    store = Store(tmp_path)
    run(store)
    reasons = {
        step.stage.makes: step.reason
        for step in plan(Pipeline, {**SETTINGS, **change}, store, ["total"])
        if not step.cached
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]


class Phased:
    """A stage that scores the users of a phase, and says how it goes."""

    numbers = Pipeline.numbers

    @stage(makes="scores", needs=("numbers",), phased=True)
    def score(run, numbers):
        run.validated(3, 0.5)
        return {"did": run.phase}

    @stage(makes="asks")
    def ask(run):
        return {"did": run.phase}


def test_a_phase_is_another_artifact_of_phased_stages_only(tmp_path):
    store, made, heard = Store(tmp_path), {}, []
    for phase in ("test", "valid"):
        steps = plan(Phased, SETTINGS, store, ["scores"], phase)
        made[phase] = execute(steps, SETTINGS, store, {"progress": False}, lambda *said: heard.append(said))
        assert made[phase]["scores"].summary["did"] == phase
    assert made["test"]["numbers"].key == made["valid"]["numbers"].key
    assert made["test"]["scores"].key != made["valid"]["scores"].key
    assert heard == [("scores", 3, 0.5)] * 2


def test_a_stage_without_a_phase_can_not_ask_for_it(tmp_path):
    steps = plan(Phased, SETTINGS, Store(tmp_path), ["asks"])
    with pytest.raises(StageError, match="declare it with phased=True"):
        execute(steps, SETTINGS, Store(tmp_path), {})


def test_a_run_that_was_ended_while_it_validated_keeps_its_workspace(tmp_path):
    class Training:
        @stage(makes="weights")
        def train(run):
            (run.workspace / "checkpoint.txt").write_text("epoch 1")
            run.validated(1, 0.1)

    def end(stage, step, score):
        raise SystemExit

    store = Store(tmp_path)
    steps = plan(Training, {}, store, ["weights"])
    with pytest.raises(SystemExit):
        execute(steps, {}, store, {}, end)
    assert store.find(steps[0].key) is None
    assert (store.workspace(steps[0].key) / "checkpoint.txt").read_text() == "epoch 1"


def test_a_plan_names_damage(tmp_path):
    store = Store(tmp_path)
    artifact = run(store)["numbers"]
    (artifact.folder / "numbers.txt").write_text("0")
    steps = {step.stage.makes: step for step in plan(Pipeline, SETTINGS, store, ["total"])}
    assert "differs from the hash" in steps["numbers"].reason
    assert steps["total"].cached  # it was made from the sound artifact, whose key is the same


def test_a_stage_reads_only_what_it_declared(tmp_path):
    class Greedy:
        @stage(makes="thing", uses=("count",))
        def thing(run):
            return {"value": run["seed"]}

    store = Store(tmp_path)
    with pytest.raises(StageError, match=r"reads setting 'seed' but declares only \['count'\]"):
        execute(plan(Greedy, SETTINGS, store, ["thing"]), SETTINGS, store, {"progress": False})


def test_graphs_that_cannot_run_are_refused():
    class Missing:
        @stage(makes="a", needs=("b",))
        def a(run, b):
            return {}

    class Circle:
        @stage(makes="a", needs=("b",))
        def a(run, b):
            return {}

        @stage(makes="b", needs=("a",))
        def b(run, a):
            return {}

    with pytest.raises(StageError, match="'a' needs 'b', which no stage makes"):
        stages_of(Missing)
    with pytest.raises(StageError, match="circle"):
        stages_of(Circle)
    with pytest.raises(StageError, match="make them the same"):
        stage(makes="a", needs=("b",))(lambda run: {})


class Conditional:
    @stage(makes="helped", uses=("seed",), when=("help.kind", "full"))
    def helped(run):
        return {"value": 1}

    @stage(makes="named", uses=("seed",), when=("help.name", SET))
    def named(run):
        return {"value": 10}

    @stage(makes="sum", needs=("helped", "named"), uses=("help",))
    def sum(run, helped, named):
        return {"value": sum(each.summary["value"] for each in (helped, named) if each is not None)}


@pytest.mark.parametrize(
    ("help", "made", "value"),
    [
        ({"kind": "full", "name": "x"}, ["helped", "named", "sum"], 11),
        ({"kind": "none", "name": "x"}, ["named", "sum"], 10),
        ({"kind": "none", "name": None}, ["sum"], 0),
    ],
)
def test_a_stage_runs_only_where_its_setting_says_so(tmp_path, help, made, value):
    settings, store = {"seed": 1, "help": help}, Store(tmp_path)
    steps = plan(Conditional, settings, store, ("sum",))
    assert [step.stage.makes for step in steps] == made
    found = execute(steps, settings, store, {})
    assert sorted(found) == sorted(made)
    assert found["sum"].summary["value"] == value
    assert set(found["sum"].manifest["needs"]) == set(made) - {"sum"}


def test_one_line_per_stage_says_what_from_what_and_how_long(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="llmbole")
    run(Store(tmp_path))
    run(Store(tmp_path))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert "4 numbers" in lines[0] and "its settings" in lines[0] and " s, " in lines[0]
    assert "from numbers" in lines[1]
    assert all("cached" in line for line in lines[2:])


def hash_of(tmp_path, body, name="module_of_stage"):
    file = tmp_path / f"{name}.py"
    file.write_text(textwrap.dedent(body))
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module
    spec.loader.exec_module(module)
    from llmbole.pipeline import stage as stage_module

    stage_module._module_names.cache_clear()
    try:
        return code_hash(module.work)
    finally:
        del sys.modules[name]


BASE = '''
LIMIT = 3
def helper(x):
    return x + LIMIT
def other():
    return 1
def work(run):
    """What it does."""
    return helper(1)
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"""What it does."""', '"""Another sentence."""', True),
        ("return helper(1)", "return helper(1)  # a remark", True),
        ("return 1", "return 2", True),  # a function the stage does not reach
        ("return x + LIMIT", "return x - LIMIT", False),
        ("LIMIT = 3", "LIMIT = 4", False),
        ("return helper(1)", "return helper(2)", False),
    ],
)
def test_the_code_hash_follows_what_the_stage_reaches(tmp_path, old, new, same):
    before, after = hash_of(tmp_path, BASE), hash_of(tmp_path, BASE.replace(old, new))
    assert (before == after) is same


def test_code_that_only_shows_results_is_in_no_key():
    """A changed table may not make anything be computed again."""
    from llmbole.model import stages
    from llmbole.pipeline.stage import _follow

    for each in (stages.train_backbone, stages.encode_text, stages.freeze_split):
        tree = ast.parse(textwrap.dedent(inspect.getsource(each.function)))
        modules: set[str] = set()
        _follow(tree, Path(stages.__file__), {}, modules, {"llmbole"})
        assert (
            "llmbole.data.splits" in modules
            or "llmbole.llm.encode" in modules
            or "llmbole.model.cf" in modules
        )
        assert not modules & {"llmbole", "llmbole.api", "llmbole.tables", "llmbole.render", "llmbole.results"}

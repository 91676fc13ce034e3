"""Short real runs of Llama4Rec and IFT on ml-100k rows: lists, ratings, what is shared, and what a weight means."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from llmbole import experiment, registry
from llmbole.api import plan
from llmbole.data import splits
from llmbole.data.sequences import Sequences
from llmbole.llm import backbone as language_models
from llmbole.llm import served
from llmbole.llm.engine import EngineError
from llmbole.llm.identity import LLMSpec
from llmbole.model import llm_ranking, stages, training, written
from llmbole.pipeline.run import execute
from llmbole.pipeline.run import plan as plan_stages
from llmbole.pipeline.store import Store
from llmbole.resolve import resolve
from llmbole.results import load, read_per_user
from llmbole.settings import SettingsError
from llmbole.verify import verify

SHORT = {
    "instructions.per_task": 20,
    "instructions.positives": 2,
    "instructions.candidates": 4,
    "tune.steps": 2,
    "tune.check_every": 1,
    "tune.valid_rows": 8,
    "tune.batch_size": 4,
    "prompt.history": 2,
    "augment.history": 2,
    "augment.predicted": 2,
    "rank.length": 4,
    "rank.named": 2,
}
GRID = experiment.load("llama4rec/figure4").rows  # before its data set gives way to the slice
DIRECT, SEQUENTIAL = ("BPR", "LightGCN", "MixGCF", "SGL"), ("SASRec", "BERT4Rec", "CL4SRec")
SMALL = {  # RecBole trains it on one padded copy of the history per position
    "BERT4Rec": {
        "backbone.MAX_ITEM_LIST_LENGTH": 5,
        "backbone.hidden_size": 8,
        "backbone.inner_size": 8,
        "backbone.n_layers": 1,
    }
}
RATED = ("DeepFM", "NFM", "DCN", "AFM", "xDeepFM", "AutoInt")
LLM_ONLY, BACKBONE_ONLY = (
    {"aggregate.alpha1": 1.0, "aggregate.alpha2": 1.0},
    {"aggregate.alpha1": 0.0},
)


@pytest.fixture
def ask(run):
    """A short run: `ask("IFT", protocol="loo_rating", backbone="DeepFM")`."""

    def short(model="Llama4Rec", settings=None, **more):
        return run(model, {**SHORT, **(settings or {})}, **more)

    return short


@pytest.fixture
def made(run, raw_slice, shared):
    """Artifacts of one short pipeline up to a goal: `made("lists", backbone="SGL")`."""

    def until(goal, **more):
        folders = {"raw": str(raw_slice), "store": str(shared / "store"), "progress": False}
        settings = {**SHORT, **folders, "backbone.epochs": 1, **more}
        resolved = resolve("Llama4Rec", "ml-slice", settings)
        store = Store(Path(resolved.options["store"]))
        steps = plan_stages(resolved.method, resolved.settings, store, (goal,))
        return execute(steps, resolved.settings, store, resolved.options)

    return until


def per_user(result):
    return read_per_user(result.path.with_name(result.record.per_user.file))


@pytest.mark.parametrize("backbone", ["LightGCN", "SASRec"])
def test_lists_are_ranked_anew_from_raw_files_to_a_sealed_record(ask, backbone):
    result = ask(backbone=backbone)
    record = load(result.path)
    assert {"HIT@3", "NDCG@5", "MRR@10"} <= record.metrics.keys()
    assert record.metrics.keys() == record.backbone_metrics.keys()
    assert record.metrics["HIT@10"] == record.backbone_metrics["HIT@10"]  # only the first 4 change places
    assert record.metrics["HIT@3"] <= record.extra["recall"]
    assert record.extra["way"] == "listwise" and "valid_NDCG@10_listwise" in record.extra
    assert record.scoring == "candidate_log_likelihood" and record.llm.parameters == 1_581_696
    assert record.cost["tuned"].llm_tokens > 0 and record.cost["listwise"].llm_tokens > 0
    assert record.cost["tuned"].trainable_parameters == 4 * 2 * 8 * (128 + 256)  # layers, projections, rank
    assert len(per_user(result)[0]) == record.extra["users"] == 40
    assert not verify(result.path.parents[2])


def test_ratings_are_mixed_from_raw_files_to_a_sealed_record(ask):
    more = {"protocol": "loo_rating", "backbone": "DeepFM"}
    mixed, alone = ask(**more), ask(settings=BACKBONE_ONLY, **more)
    record = load(mixed.path)
    assert record.extra["valid_RMSE"] > 0
    assert set(record.metrics) == {"RMSE", "MAE"} and record.scoring == "expected_rating"
    values, own = (np.load(each.artifacts["scores"].folder / "rows.npz")["scores"] for each in (mixed, alone))
    said = np.load(mixed.artifacts["predicted"].folder / "predicted.npz")["test_values"]
    assert ((said >= 1) & (said <= 5)).all()
    between = (values - own) / (said - own)
    assert (between > 0.2).all() and (between < 0.55).all()  # weights lie in [alpha1 * alpha2, alpha1]
    for name, value in alone.record.backbone_metrics.items():
        assert alone.metrics[name] == pytest.approx(value, abs=1e-6)
    assert ask("IFT", **more).metrics == ask(settings=LLM_ONLY | {"augment.prompt": False}, **more).metrics


@pytest.mark.parametrize("backbone", ["LightGCN", "SASRec"])
def test_weight_0_is_the_backbone_and_weight_1_is_the_llm(ask, backbone):
    none = ask(settings=BACKBONE_ONLY, backbone=backbone)
    assert none.metrics == none.record.backbone_metrics
    whole = ask(settings={**LLM_ONLY, "augment.prompt": False}, backbone=backbone)
    assert whole.metrics == ask("IFT", backbone=backbone).metrics
    assert per_user(whole) == per_user(ask("IFT", backbone=backbone))


def test_a_grid_over_the_weights_asks_no_llm(ask, monkeypatch):
    first = ask(backbone="LightGCN")
    monkeypatch.setattr(language_models, "load", lambda *_, **__: pytest.fail("an LLM is loaded"))
    for alpha in (0.1, 0.9):
        again = ask(settings={"aggregate.alpha1": alpha, "aggregate.alpha2": 0.3}, backbone="LightGCN")
        assert again.artifacts["scores"].key != first.artifacts["scores"].key
        assert again.artifacts["listwise"].key == first.artifacts["listwise"].key
        assert not again.record.cost["scores"].llm_tokens
    uniform = ask(settings={"aggregate.weight": "uniform"}, backbone="LightGCN")
    assert uniform.record.label.startswith("aggregate.weight=uniform")


def test_the_grid_of_both_weights_shares_every_stage_but_the_last(run, raw_slice, shared):
    folders = {"raw": str(raw_slice), "store": str(shared / "store")}
    rows = [row for row in GRID if row.model == "Llama4Rec"]
    weights = {(row.settings["aggregate.alpha1"], row.settings["aggregate.alpha2"]) for row in rows}
    assert len(rows) == len(weights) == 25
    keys: dict[str, set[str]] = {}
    for row in rows:
        for step in plan(row.model, "ml-slice", settings={**folders, **row.settings}, backbone=row.backbone):
            keys.setdefault(step.stage.makes, set()).add(step.key)
    assert {name: len(found) for name, found in keys.items()} == {
        name: 25 if name == "scores" else 1 for name in keys
    }
    assert {"tuned", "augmentation", "augmented_backbone", "listwise", "scores"} <= keys.keys()


def test_one_tuned_llm_serves_all_backbones_and_ift(run, raw_slice, shared):
    folders = {"raw": str(raw_slice), "store": str(shared / "store")}
    keys = set()
    for model, backbone in [("Llama4Rec", name) for name in DIRECT + SEQUENTIAL] + [("IFT", "SASRec")]:
        steps = plan(model, "ml-slice", settings={**SHORT, **folders}, backbone=backbone)
        keys.add(next(step.key for step in steps if step.stage.makes == "tuned"))
    assert len(keys) == 1


@pytest.mark.parametrize("backbone", DIRECT + SEQUENTIAL)
def test_every_backbone_gives_lists_and_similar_users(made, backbone):
    found = made("lists", backbone=backbone, **SMALL.get(backbone, {}))
    split = splits.load(found["split"].folder)
    sequences = Sequences.of(split)
    stored = np.load(found["lists"].folder / "lists.npz")
    for name in ("valid", "test"):
        phase, items = split.phase(name), stored[f"{name}_items"]
        assert items.shape == (40, 10) and (items > 0).all()
        assert (np.diff(stored[f"{name}_scores"], axis=1) <= 0).all()
        if backbone in DIRECT:
            assert all(not set(row) & set(phase.history(user)) for user, row in enumerate(items))
        similar, times = stored[f"{name}_similar"], sequences.times
        known = similar >= 0
        assert known.sum() > 20 and (similar != phase.users).all()
        begins = times[sequences.offsets[similar[known]]]
        assert (begins <= times[phase.positions[known]]).all()


@pytest.mark.parametrize("backbone", RATED)
def test_every_backbone_of_ratings_gives_them(made, backbone):
    found = made("ratings", backbone=backbone, protocol="loo_rating")
    stored = np.load(found["ratings"].folder / "ratings.npz")
    assert stored["test_values"].shape == stored["test_similar"].shape == (40,)
    assert (np.abs(stored["test_values"] - 3.5) < 2.5).all()


def test_generated_rankings_are_read_and_their_faults_stand_in_the_record(ask):
    result = ask(settings={"rank.listwise": "generation"}, backbone="LightGCN")
    extra = result.record.extra
    assert result.record.scoring == "generation"
    faults = {name for name in extra if name.startswith("listwise_")}
    assert faults == {
        f"listwise_{fault}" for fault in ("foreign", "repeated", "missing", "renumbered", "rambling")
    }
    assert all(0 <= extra[fault] <= 1 for fault in faults)
    positions = np.load(result.artifacts["listwise"].folder / "listwise.npz")["test_positions"]
    assert positions.min() == 1 and positions.max() <= 5


def test_the_better_way_is_chosen_on_validation_users(ask):
    record = ask(settings={"rank.pointwise": True}, backbone="LightGCN").record
    reached = {way: record.extra[f"valid_NDCG@10_{way}"] for way in ("listwise", "pointwise")}
    assert reached[record.extra["way"]] == max(reached.values())
    only = ask(settings={"rank.pointwise": True, "rank.listwise": None}, backbone="LightGCN").record
    assert only.extra["way"] == "pointwise" and only.scoring == "answer_probability"


def test_items_stay_in_their_chunk(ask):
    result = ask(settings={**LLM_ONLY, "rank.chunk": 2}, backbone="LightGCN")
    positions = np.load(result.artifacts["listwise"].folder / "listwise.npz")["test_positions"]
    assert (np.sort(positions[:, :2], axis=1) == [1, 2]).all()
    assert (np.sort(positions[:, 2:], axis=1) == [3, 4]).all()


def test_all_parameters_can_be_tuned_and_none(ask):
    full = ask(settings={"tune.updates": "full"}, backbone="LightGCN")
    assert full.record.cost["tuned"].trainable_parameters == 1_581_696
    weights = training.load_tensors(full.artifacts["tuned"], training.WEIGHTS)
    assert len(weights) > 20
    none = ask(settings={"tune.updates": "none"}, backbone="LightGCN")
    scores = [
        np.load(each.artifacts["listwise"].folder / "listwise.npz")["test_scores"] for each in (full, none)
    ]
    assert not np.allclose(*scores)
    assert language_models.load(LLMSpec("tiny")).checksum()


@pytest.mark.parametrize("backbone", RATED)
def test_attributes_that_the_llm_fills_in_are_features_of_every_backbone_of_ratings(made, backbone):
    settings = {"protocol": "loo_rating", "attributes.max_new_tokens": 4}
    plain = made("ratings", backbone=backbone, **settings)
    more = made("ratings", backbone=backbone, **settings, **{"attributes.fill": True})
    assert plain["backbone"].key == more["backbone"].key and plain["ratings"].key != more["ratings"].key
    values = [np.load(each["ratings"].folder / "ratings.npz")["test_values"] for each in (plain, more)]
    assert values[0].shape == values[1].shape and not np.array_equal(*values)
    weights = [training.load_tensors(more[name], "backbone") for name in ("backbone", "attributed_backbone")]
    sizes = [each["model.token_embedding_table.embedding.weight"].shape for each in weights]
    distinct = more["attributes"].summary["distinct"]
    assert set(distinct) == {"generated_director", "generated_star"}  # genres and years are known
    assert sizes[1][0] - sizes[0][0] == sum(distinct.values()) + 2  # and one of each for what is unknown


def test_the_record_says_how_often_an_attribute_was_no_valid_one(ask):
    result = ask(
        settings={"attributes.fill": True, "attributes.max_new_tokens": 4},
        protocol="loo_rating",
        backbone="DeepFM",
    )
    entries = written.load_texts(result.artifacts["attributes"])
    split = splits.load(result.artifacts["split"].folder)
    for name in ("director", "star"):
        mine = [entry for entry in entries if entry["attribute"] == name]
        assert [entry["item"] for entry in mine] == split.item_tokens[1:].tolist()
        share = sum(entry["value"] is None for entry in mine) / len(mine)
        assert result.record.extra[f"attribute_invalid_{name}"] == pytest.approx(share)
    assert result.record.cost["attributes"].llm_tokens > 0
    assert result.record.backbone_metrics != result.metrics


def test_another_llm_judges_attributes_and_ranks_the_same_lists(ask):
    settings = {"check.attributes": 6, "check.rankings": 5, "check.max_new_tokens": 12, "rank.length": 10}
    settings |= {"rank.named": 10, "attributes.max_new_tokens": 4}
    result = ask(settings=settings, backbone="LightGCN")
    extra, made = result.record.extra, result.artifacts
    entries = written.load_texts(made["judged_attributes"])
    assert len(entries) == 6 and {entry["attribute"] for entry in entries} == {"genre"}
    assert extra["attribute_accuracy_genre"] == sum(entry["right"] for entry in entries) / 6
    assert 0 <= extra["attribute_invalid_genre"] <= 1 and 0 <= extra["attribute_judged_genre"] <= 1
    answers = written.load_texts(made["judged_lists"])
    stored = np.load(made["judged_lists"].folder / "judged_lists.npz")
    tasks = extra["judge_win"] + extra["judge_tie"] + extra["judge_loss"]
    assert len(answers) == len(stored["rows"]) == tasks > 0 and 0 < extra["judge_sign_p"] <= 1
    assert all("Candidate Items" in answer["prompt"] for answer in answers)
    lists = np.load(made["lists"].folder / "lists.npz")["test_items"]
    targets = splits.load(made["split"].folder).phase("test").targets
    assert all(targets[row] in lists[row] for row in stored["rows"])
    assert made["judged_lists"].manifest["cost"]["llm_tokens"] > 0


SERVED = {
    "check.attributes": 8,
    "check.rankings": 40,
    "rank.length": 40,  # so that many lists hold their target
    "rank.chunk": 40,
    "attributes.max_new_tokens": 4,
    "generate.engine": "openai",
    "generate.served_model": "big",
}


def listed(prompt):
    """Titles that a prompt of the judge offers, in its order."""
    return re.findall(r'"([^"]*)"', prompt.partition("Candidate Items: ")[2].partition(". Similar User")[0])


def served_judge(chat, said):
    """A server that ranks lists from their end and finds values right, but refuses some, and says nothing of others."""
    lists, values = itertools.count(), itertools.count()

    def behave(prompt, earlier):
        ranks = "Candidate Items" in prompt
        kind = next(lists) % 3 if ranks else next(values) % 3 % 2
        ranking = "; ".join(f'"{title}"' for title in listed(prompt)[:-3:-1])
        said[prompt] = [ranking if ranks else "Yes.", None, ""][kind]
        return chat.completion(said[prompt], refusal="no" if kind == 1 else None)

    return behave


def test_a_server_judges_and_ranks_and_its_refusals_are_counted(ask, chat):
    said = {}
    with chat.server(served_judge(chat, said)) as asked:
        result = ask(settings={**SERVED, "generate.base_url": asked.url}, backbone="LightGCN")
    record, made = result.record, result.artifacts
    entries = [each for each in written.load_texts(made["judged_attributes"]) if each["value"] is not None]
    answers = written.load_texts(made["judged_lists"])
    assert len(asked.answered) == len(set(asked.prompts)) == len(answers) + len(entries)
    assert all((each["text"] or None) == (said[each["prompt"]] or None) for each in answers)
    for name, text in (("refused", None), ("empty", "")):
        share = np.mean([said[each["prompt"]] == text for each in answers])
        assert record.extra[f"judge_{name}"] == pytest.approx(share) and share > 0
    shares = {
        "judged": np.mean([not each["refused"] for each in entries]) * len(entries) / 8,
        "verdicts_refused": np.mean([each["refused"] for each in entries]),
    }
    for name, share in shares.items():
        assert record.extra[f"attribute_{name}_genre"] == pytest.approx(share) and share > 0
    assert record.llm.name == "tiny" and record.llm.parameters == 1_581_696  # whose scores they are
    assert record.config["generate"] == {"served_model": "big"} and "127.0.0.1" not in result.path.read_text()
    assert record.cost["judged_lists"].llm_tokens == 10 * len(answers)
    assert all(body["model"] == "big" and body["temperature"] == 0 for body in asked.bodies)
    again = ask(settings={**SERVED, "generate.base_url": "http://127.0.0.1:9/v1"}, backbone="LightGCN")
    assert again.record.artifacts == record.artifacts


def test_wins_ties_and_losses_against_a_server_are_those_of_the_targets_places(ask, chat):
    with chat.server(served_judge(chat, {})) as asked:
        settings = {**SERVED, **BACKBONE_ONLY, "generate.base_url": asked.url}
        result = ask(settings=settings, backbone="LightGCN")
    made = result.artifacts
    phase = splits.load(made["split"].folder).phase("test")
    titles = stages.item_texts(made["data"], made["split"], "{title}")
    lists = np.load(made["lists"].folder / "lists.npz")["test_items"]
    stored = np.load(made["judged_lists"].folder / "judged_lists.npz")
    able = np.flatnonzero((lists == phase.targets[:, None]).any(axis=1))
    found = {"win": 0, "tie": 0, "loss": 0}
    for row, answer in zip(able, written.load_texts(made["judged_lists"]), strict=True):
        if answer["refused"]:
            assert row not in stored["rows"]
            continue
        mine = lists[row].tolist().index(phase.targets[row]) + 1
        theirs = listed(answer["prompt"])[::-1].index(titles[phase.targets[row]]) + 1
        theirs = theirs if answer["text"] and theirs <= 2 else 41
        found["win" if mine < theirs else "loss" if mine > theirs else "tie"] += 1
    assert {name: result.record.extra[f"judge_{name}"] for name in found} == found
    assert 0 < sum(found.values()) == len(stored["rows"]) < len(able)


def test_a_killed_judge_goes_on_and_its_server_is_asked_nothing_twice(ask, chat, monkeypatch):
    class Killed(BaseException):
        pass

    whole = served.ServedEngine.answers

    def dying(engine, prompts, batch_size):
        source = whole(engine, prompts, batch_size)
        yield next(source)
        yield next(source)
        raise Killed

    settings = {**SERVED, "check.max_new_tokens": 99, "generate.concurrency": 1}
    with chat.server(served_judge(chat, {})) as asked:
        settings["generate.base_url"] = asked.url
        monkeypatch.setattr(served.ServedEngine, "answers", dying)
        with pytest.raises(Killed):  # among verdicts
            ask(settings=settings, backbone="LightGCN")
        monkeypatch.setattr(served.ServedEngine, "answers", whole)
        settings["generate.budget_requests"] = 2
        with pytest.raises(EngineError, match=r"budget_requests = 2.*run the same command again"):
            ask(settings=settings, backbone="LightGCN")
        settings["generate.budget_requests"] = 0
        made = ask(settings=settings, backbone="LightGCN").artifacts
    entries = [each for each in written.load_texts(made["judged_attributes"]) if each["value"] is not None]
    assert (
        len(asked.prompts)
        == len(set(asked.prompts))
        == len(entries) + len(written.load_texts(made["judged_lists"]))
    )


@pytest.mark.parametrize("backbone", ["LightGCN", "SASRec"])
def test_a_backbone_learns_what_the_llm_prefers(made, backbone):
    plain, more = made("lists", backbone=backbone), made("lists", backbone=backbone, **{"data.augment": True})
    assert plain["backbone"].key == more["backbone"].key and plain["lists"].key != more["lists"].key
    assert not np.array_equal(
        *(np.load(each["lists"].folder / "lists.npz")["test_scores"] for each in (plain, more))
    )
    stored = np.load(more["augmentation"].folder / "augmentation.npz")
    sequences = Sequences.of(splits.load(more["split"].folder))
    assert len(stored["users"]) == len(stored["inserted"]) == 40
    for user, *items in zip(
        *(stored[name] for name in ("users", "preferred", "other", "inserted")), strict=True
    ):
        known = sequences.items[sequences.offsets[user] : sequences.train_ends[user]]
        assert not set(items) & set(known) and items[0] != items[1]


def test_one_augmentation_serves_all_backbones(made):
    keys = {
        made("augmentation", backbone=name, **{"data.augment": True})["augmentation"].key for name in DIRECT
    }
    assert len(keys) == 1


def test_a_similar_users_future_stops_the_run(ask, monkeypatch):
    def whole_training(similar, sequences, positions, length):
        return np.where((similar >= 0)[:, None], sequences.training(np.maximum(similar, 0), length), -1)

    monkeypatch.setattr(llm_ranking, "shown_places", whole_training)
    with pytest.raises(ValueError, match="(?s)the run leaks:.*targets are shown with something later"):
        ask(settings={"seed": 11}, backbone="LightGCN")


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("Llama4Rec", {"aggregate.alpha1": 2.0, "rank.length": 1}, r"(?s)rank: length = 1.*alpha1 = 2.0"),
        ("Llama4Rec", {"rank.listwise": None}, "the LLM ranks nothing"),
        ("Llama4Rec", {"rank.listwise": "guess"}, "none of 'likelihood', 'generation'"),
        ("Llama4Rec", {"backbone": "DeepFM"}, "DeepFM predicts labels"),
        ("Llama4Rec", {"backbone": "Pop"}, "Pop has no user and item vectors"),
        ("Llama4Rec", {"protocol": "loo_rating", "backbone": "SGL"}, "SGL learns to rank"),
        ("Llama4Rec", {"prompt.rating": "How many stars?"}, "rating has no {history}"),
        ("Llama4Rec", {"instructions.tasks": ["listwise", "sorting"]}, "none of 'listwise'"),
        ("Llama4Rec", {"data.augment": True, "backbone": "BERT4Rec"}, "BERT4Rec is not trained"),
        ("Llama4Rec", {"data.augment": True, "protocol": "loo_rating", "backbone": "NFM"}, "does not rank"),
        ("Llama4Rec", {"attributes.fill": True}, "loo_full has none; leave it out, and set data.augment"),
        ("Llama4Rec", {"attributes.text": "Who?"}, "must hold {attribute}, {examples}, {title}"),
        (
            "Llama4Rec",
            {
                "attributes.fill": True,
                "protocol": "loo_rating",
                "backbone": "NFM",
                "attributes.of": [{"item": "movie", "name": "year", "kind": "number", "source": "year"}],
            },
            "lacks one of a movie, as ml-slice calls its items.* those of a nothing",
        ),
        ("Llama4Rec", {"check.rankings": 0}, "rankings = 0: must be at least 1, or null"),
        ("Llama4Rec", {"check.rankings": 5, "generate.engine": "openai"}, "needs served_model"),
        (
            "Llama4Rec",
            {"generate.engine": "openai", "generate.served_model": "m"},
            "m: the server's model is the judge, and nothing is asked of it",
        ),
        (
            "Llama4Rec",
            {"check.rankings": 5, "check.repetition_penalty": 1.2, "generate.engine": "vllm"},
            r"check.repetition_penalty = 1.2.*set it to 1",
        ),
        (
            "Llama4Rec",
            {"attributes.repetition_penalty": 0.5},
            "repetition_penalty = 0.5: must be a number of",
        ),
        ("Llama4Rec", {"check.verdict": "Right?"}, "must hold {attribute}, {title}, {value} and {known}"),
        ("Llama4Rec", {"check.rankings": 5, "rank.length": 20}, "set rank.chunk to rank.length = 20 or more"),
        (
            "Llama4Rec",
            {"check.rankings": 5, "protocol": "loo_rating", "backbone": "NFM"},
            "loo_rating does not rank",
        ),
        ("IFT", {"augment.prompt": True}, "IFT"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(ask, model, settings, message):
    assert registry.is_method(model)
    with pytest.raises(SettingsError, match=message):
        ask(model, settings)

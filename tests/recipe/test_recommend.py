"""Recommendations from finished runs on real ml-100k rows: every kind of method, every format, what is left out."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pyarrow.parquet
import pytest
import torch

import llmbole
from llmbole import registry
from llmbole.cli import main
from llmbole.data.convert.report import DataError
from llmbole.data.numbered import load_rows
from llmbole.data.text import ItemText
from llmbole.model import training
from llmbole.model.scorer import Context, opener
from llmbole.results import read_per_user
from llmbole.settings import SettingsError

ALLMREC = {"align.epochs": 2, "align.positions": 1, "project.epochs": 1, "project.positions": 1}
TUNE = {"tune.steps": 2, "tune.check_every": 1, "tune.rows": 40, "tune.valid_rows": 40, "prompt.history": 2}
FEW = {"steps": 2, "check_every": 1, "rows": 64, "valid_rows": 80, "batch_size": 8}
REASONED = {
    **{"backbone.epochs": 1, "reasoning.share": 0.005, "reasoning.max_new_tokens": 3},
    **{"reasoning.listed.history": 2, "in_context.hidden": 8, "in_context.history": 4},
    **{"examples.history": 4, "text_encoder.max_tokens": 6},
}
RECGEN = {"recgen.rows": 24, "recgen.steps": 2, "recgen.batch_size": 4, "recgen.listed.history": 2}
RECGEN["recgen.variant"] = "lora"
PAIRS = {
    "TALLRec": TUNE,
    "CoLLM": {**TUNE, **{f"hybrid.{key}": value for key, value in FEW.items()}, "backbone.epochs": 1},
    "CoReLLa": {
        **{f"joint.{key}": value for key, value in FEW.items()},
        **{"stages.alone": False, "prompt.history": 2, "backbone.epochs": 1},
        **{"routing.share": 0.1, "routing.valid_rows": 20},
        **{"backbone.mlp_hidden_size": [16, 8], "backbone.embedding_size": 4},
    },
    "LLMCF": REASONED,
    "KAR": {
        **{"backbone.epochs": 1, "knowledge.user": "Taste: {history}", "knowledge.item": "About {target}"},
        **{"knowledge.max_new_tokens": 2, "knowledge.listed.history": 2, "knowledge.batch_size": 256},
        **{"text_encoder.max_tokens": 4, "adaptor.hidden": 8, "adaptor.width": 4},
    },
    "RecGen": RECGEN,
    "P5": {
        **{
            "tune.steps": 2,
            "tune.check_every": 1,
            "tune.rows": 60,
            "tune.valid_rows": 40,
            "tune.batch_size": 16,
        },
        **{"tune.warmup_steps": 0, "sizes.width": 16, "sizes.inner": 16, "sizes.layers": 1, "sizes.heads": 2},
    },
    "KD": {**TUNE, "teacher.rows": 300, "backbone.epochs": 1},
    "SASRec": {},
}
READERS = {
    "MoRec": {},
    "RecFormer": {"items.tokens": 24, "items.history": 3, "tune.epochs": 2, "tune.frozen_epochs": 1},
}
RANKERS = {
    **dict.fromkeys(("BPR", "SASRec", "DeepFM"), {}),
    "CTRL": {
        **{"sentences.rows": 65, "align.batch_size": 32, "align.epochs": 2},
        **{"align.learning_rate": 0.02, "backbone": "SASRec"},
    },
    **READERS,
}
CHOOSERS = {"LLMOnly": {"ask.history": 5}, "TALLRec": {"tune.positions": 1, "tune.candidates": 5}}
LISTS = {"ALLMRec": ALLMREC, "MLPLLM": {"project.epochs": 1, "project.positions": 1}}
NEW = "item_id,title,categories\nnew-1,Toy Wars (1998),Comedy\n50,whatever,\nnew-2,Toy Wars (1998),Comedy\n"


def seen(recommender, user):
    return set(recommender.people.seen(recommender.people.ids[user]).tolist())


@pytest.fixture
def opened(run, small_encoder):
    """A short run under `loo_rank20`, with a small encoder where text is read, and what opens it."""

    def open_(model, settings, protocol="loo_rank20", **more):
        folder = {"text_encoder": str(small_encoder("bert"))} if model in READERS else {}
        result = run(model, {**settings, **folder}, protocol=protocol)
        return result, result.recommender(**folder, **more)

    return open_


def as_tested(recommender):
    """The users of the test as they were when its items came next."""
    phase = recommender.split.phase("test")
    return phase, [Context(int(user), phase.history(row)) for row, user in enumerate(phase.users)]


def check_ranks(result, recommender, scores):
    """Each user's target stands where the run's evaluation has it, among the items `[U, C]` that were scored."""
    phase = recommender.split.phase("test")
    places = (phase.candidates == phase.targets[:, None]).argmax(1)[:, None]
    ranks = 1 + (scores > np.take_along_axis(scores, places, 1)).sum(1)
    users, values = read_per_user(result.path.with_name(result.record.per_user.file))
    expected = dict(zip(users, values["MRR@20"], strict=True))
    found = {
        str(recommender.split.user_tokens[user]): 1 / rank
        for user, rank in zip(phase.users, ranks, strict=True)
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("model", RANKERS)
def test_a_model_that_ranks_scores_as_its_evaluation_does(opened, model):
    result, recommender = opened(model, RANKERS[model])
    phase, contexts = as_tested(recommender)
    check_ranks(result, recommender, recommender.scorer.score(contexts, np.asarray(phase.candidates)))
    ranked = recommender("22", k=30)["22"]
    assert not {recommender.items[each.item_id] for each in ranked} & seen(recommender, "22")
    assert len({each.item_id for each in ranked}) == 30
    assert all(one.score >= other.score for one, other in zip(ranked, ranked[1:], strict=False))


def test_llmcf_ranks_all_items_by_the_examples_of_a_user_and_a_history(run, monkeypatch):
    short = {"backbone.hidden_size": 8, "backbone.inner_size": 8, "backbone.MAX_ITEM_LIST_LENGTH": 5}
    own = {**REASONED, **short, "backbone.train_batch_size": 512, "in_context.width": 8, "examples.count": 2}
    result = run("LLMCF", own, protocol="loo_full", backbone="SASRec")
    recommender = result.recommender()
    scorer, (phase, contexts) = recommender.scorer, as_tested(recommender)
    alone, together = recommender("1", k=10)["1"], recommender(["22", "1"], k=10)["1"]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], rel=1e-4)
    assert "who the user is" in scorer.history_alone
    method, rows = scorer._method, load_rows(result.artifacts["split"].folder)
    stored = training.load_tensors(result.artifacts["shown"], "shown")["shown"].numpy()
    examples = stored[rows.numbers("test")]
    assert (scorer._examples(method.rows) >= 0).any() and (examples >= 0).any()
    monkeypatch.setattr(scorer, "_examples", lambda rows: examples)  # today's are later ones than a test's
    every = np.tile(np.arange(1, recommender.split.n_items), (len(contexts), 1))
    found = scorer.score(contexts, every)
    method.rows, method.shown = rows, stored  # as its evaluation has them
    scored = 0
    for interaction, *_ in scorer.session.numbered_loaders(rows)["test"]:
        expected = method.full_sort_predict(interaction)[:, 1:].detach()
        places = np.searchsorted(phase.users, interaction["user_id"].numpy())
        np.testing.assert_allclose(found[places], expected.numpy(), rtol=1e-4, atol=1e-6)
        scored += len(places)
    assert scored == len(contexts) and np.array_equal(phase.users, np.unique(phase.users))


def test_all_scores_at_once_are_those_of_single_rows(run):
    for model, protocol in (("SASRec", "loo_rank20"), ("SASRec", "loo_ctr")):
        scorer = run(model, protocol=protocol).recommender().scorer
        contexts = [Context(user, np.arange(user, user + 5)) for user in (1, 2, 3)]
        items = np.tile(np.arange(1, 60), (3, 1))
        assert scorer._ranks_all
        every = scorer.score(contexts, items)
        scorer._ranks_all = False
        np.testing.assert_allclose(every, scorer.score(contexts, items), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", PAIRS)
def test_a_pair_method_scores_as_its_evaluation_does(run, model):
    result = run(model, PAIRS[model], protocol="loo_ctr")
    recommender = result.recommender()
    split, test = recommender.split, recommender.split.part("test")
    scores = result.artifacts["backbone_scores" if model == "SASRec" else "scores"]
    with np.load(scores.folder / "rows.npz") as stored:
        expected, items = stored["scores"], stored["items"]
    chosen = np.arange(0, len(test), max(1, len(test) // 24))
    contexts = []
    for row in chosen:
        start, end = (int(each[0]) for each in split.history_span(test.positions[row : row + 1]))
        places = split.history_places[start:end]
        contexts.append(Context(int(test.users[row]), split.history_items[start:end], split.ratings[places]))
    assert np.array_equal(items, test.items)
    scorer = recommender.scorer
    if model == "CoReLLa":  # its share is one of a user's items: ask each half apart
        llm = scorer.llm.score(contexts, test.items[chosen][:, None])[:, 0]
        crm = scorer.crm.score(contexts, test.items[chosen][:, None])[:, 0]
        near = np.isclose(llm, expected[chosen], rtol=1e-4) | np.isclose(crm, expected[chosen], rtol=1e-4)
        assert near.all()
    elif model == "LLMCF":  # today's examples are later ones than a test row's
        found = scorer.score(contexts, test.items[chosen][:, None])[:, 0]
        assert ((found > 0) & (found < 1)).all() and np.corrcoef(found, expected[chosen])[0, 1] > 0.5
    else:
        found = scorer.score(contexts, test.items[chosen][:, None])[:, 0]
        np.testing.assert_allclose(found, expected[chosen], rtol=1e-4)
    among = [str(raw) for raw in split.item_tokens[1:7]]
    query = recommender.query("1", k=6, items=among, with_seen=True)
    (ranked,) = recommender.rank([query])
    assert sorted(each.item_id for each in ranked) == sorted(among)


@pytest.mark.parametrize("model", ["ALLMRec", "MLPLLM"])
def test_a_list_method_ranks_what_its_backbone_chooses(run, model):
    recommender = run(model, LISTS[model]).recommender()
    assert recommender.scorer.shortlist == 20
    found = recommender(["1", "22"], k=50)
    for user, ranked in found.items():
        assert [each.rank for each in ranked] == list(range(1, 21))
        places = [recommender.items[each.item_id] for each in ranked]
        assert not set(places) & seen(recommender, user)
        context = recommender.people.context(recommender.people.ids[user])
        whole = np.arange(1, recommender.split.n_items)
        scores = recommender.scorer.retriever.score([context], whole[None])[0]
        left = [
            place for place in np.argsort(-scores, kind="stable") + 1 if place not in seen(recommender, user)
        ]
        assert set(places) == set(left[:20])
    several = [each.item_id for each in found["1"]][:7]
    given, turned = (
        recommender.rank([recommender.query("1", k=7, items=items)])[0] for items in (several, several[::-1])
    )
    assert given == turned and len(given) == 7


def test_items_that_training_never_saw_are_scored_by_their_text(run, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text(NEW, encoding="utf-8")
    result = run("ALLMRec", ALLMREC)
    recommender = result.recommender(items=file)
    for ranked in recommender(["1", "22", "5"], with_seen=True).values():
        score = {each.item_id: each.score for each in ranked}
        assert set(score) == {"new-1", "50", "new-2"} and np.isfinite(list(score.values())).all()
        assert score["new-1"] == score["new-2"]
        assert score["new-1"] != pytest.approx(score["50"], rel=1e-6)
        titles = {each.item_id: each.title for each in ranked}
        assert titles["new-1"] == "Toy Wars (1998)" and titles["50"] == "Star Wars"
    with pytest.raises(SettingsError, match=r"inference.text_branch = none leaves out"):
        run("ALLMRec", {**ALLMREC, "inference.text_branch": "none"}).recommender(items=file)
    with pytest.raises(DataError, match=r"new.csv: the data set has no item 'new-1', and BPR scores only"):
        run("BPR").recommender(items=file)


def copied(result, recommender, file):
    """A file with `copy`, an item of the very text of item 50, in front of item 50 and of those of `NEW`."""
    text = ItemText.load(result.artifacts["data"].folder, recommender.split.item_tokens)
    place = recommender.items["50"]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["item_id", "title", "description", "categories"])
        known = (text.title[place], text.description[place], "|".join(text.categories[place]))
        writer.writerow(["copy", *known])
        writer.writerows([name, title, "", kind] for name, title, kind in csv.reader(NEW.splitlines()[1:]))
    return file


@pytest.mark.parametrize(
    ("model", "settings", "protocol"),
    [
        ("MoRec", {}, "loo_rank20"),
        ("MoRec", {"items.encoder": "tuned", "items.blocks": 1, "backbone.epochs": 1}, "loo_rank20"),
        ("RecFormer", READERS["RecFormer"], "loo_rank20"),
        ("RecGen", RECGEN, "loo_ctr"),
        ("TALLRec", CHOOSERS["TALLRec"], "loo_rank20"),
    ],
)
def test_equal_texts_have_equal_scores(opened, tmp_path, model, settings, protocol):
    result, plain = opened(model, settings, protocol)
    file = copied(result, plain, tmp_path / "new.csv")
    _, recommender = opened(model, settings, protocol, items=file)
    for ranked in recommender(["1", "22", "5"], with_seen=True).values():
        score = {each.item_id: each.score for each in ranked}
        assert set(score) == {"copy", "50", "new-1", "new-2"} and np.isfinite(list(score.values())).all()
        tolerance = 1e-6 if model == "RecGen" else 0  # prompts, each with a place of its own in a batch
        assert score["copy"] == pytest.approx(score["50"], rel=tolerance, abs=0)
        assert score["new-1"] == pytest.approx(score["new-2"], rel=tolerance, abs=0)
        assert score["new-1"] != pytest.approx(score["50"], rel=1e-6)
    (given,) = plain.rank([plain.query("1", k=1, items=["50"], with_seen=True)])
    (known,) = recommender.rank([recommender.query("1", k=1, items=["50"], with_seen=True)])
    assert known[0].score == pytest.approx(given[0].score, rel=1e-6)


def test_a_new_item_is_read_as_the_data_sets_own_items_are(opened, tmp_path):
    result, plain = opened("RecFormer", READERS["RecFormer"])
    file, place = copied(result, plain, tmp_path / "new.csv"), plain.items["50"]
    _, recommender = opened("RecFormer", READERS["RecFormer"], items=file)
    model, copy = recommender.scorer.model, recommender.items["copy"]
    first = training.load_tensors(result.artifacts["encoder"], "weights")
    tuned = training.load_tensors(result.artifacts["tuned"], "weights")
    assert torch.equal(model.table[: plain.split.n_items], tuned["table"])
    assert torch.equal(model.encoder.places.weight, tuned["encoder.places.weight"])
    parts = {name.removeprefix("encoder."): part for name, part in first.items() if name != "table"}
    model.encoder.load_state_dict(parts)
    torch.testing.assert_close(model.table[copy], model._encode(torch.tensor([place]))[0].detach())
    for settings in ({}, {"items.encoder": "tuned", "items.blocks": 1, "backbone.epochs": 1}):
        _, recommender = opened("MoRec", settings, items=file)
        recommender("1", with_seen=True)
        table = recommender.scorer.model._table
        assert len(table) == plain.split.n_items + 3  # copy, new-1 and new-2
        torch.testing.assert_close(table[copy], table[place])
        assert not torch.allclose(table[copy + 1], table[place])


def test_a_new_item_with_a_known_items_text_gets_its_text_embedding(run, tmp_path):
    result = run("ALLMRec", ALLMREC)
    plain = result.recommender()
    file, place = copied(result, plain, tmp_path / "new.csv"), plain.items["50"]
    model = result.recommender(items=file).scorer.model
    stored = training.load_tensors(result.artifacts["alignment"], "items")["text"][place]
    assert len(model.items) == plain.split.n_items + 3
    np.testing.assert_allclose(
        model.items[-3].numpy(), model.standardized(stored).numpy(), rtol=1e-3, atol=1e-4
    )


def test_updates_of_an_llm_that_ranks_are_those_of_its_evaluation(opened):
    result, recommender = opened("TALLRec", CHOOSERS["TALLRec"])
    phase, contexts = as_tested(recommender)
    candidates = np.asarray(phase.candidates)
    check_ranks(
        result, recommender, recommender.scorer._batch(contexts, candidates)
    )  # in the evaluation's order
    _, untuned = opened("LLMOnly", CHOOSERS["LLMOnly"])
    scores = [each.scorer.score(contexts, candidates) for each in (recommender, untuned)]
    assert not np.allclose(*scores)


@pytest.mark.parametrize("model", CHOOSERS)
def test_an_llm_without_a_backbone_ranks_what_it_is_given(run, tmp_path, monkeypatch, model):
    result = run(model, CHOOSERS[model], protocol="loo_rank20")
    with pytest.raises(SettingsError, match=f"{model} ranks lists of items and has no backbone"):
        result.recommender()("1")
    with pytest.raises(SettingsError, match="no backbone that could choose 5"):
        result.recommender(shortlist=5)
    (tmp_path / "new.csv").write_text(NEW, encoding="utf-8")
    recommender = result.recommender(items=tmp_path / "new.csv")
    (ranked,) = recommender.rank([recommender.query_history(["50", "181"], k=3)])
    assert {each.item_id for each in ranked} == {"new-1", "new-2"}  # 50 is in the history
    assert ranked[0].score == ranked[1].score
    raw = [str(token) for token in recommender.split.item_tokens[1:1002]]
    with pytest.raises(SettingsError, match="ranks the items of a list in one prompt, and 1001 are too many"):
        recommender.rank([recommender.query("1", k=3, items=raw, with_seen=True)])
    monkeypatch.setattr(recommender.scorer.model.choice.lm, "max_length", 60)
    with pytest.raises(
        SettingsError, match="20 items are too many for one prompt of the LLM: prompt 0 takes"
    ):
        recommender.rank([recommender.query("1", k=3, items=raw[:20], with_seen=True)])


@pytest.fixture
def command(run, tmp_path, shared, raw_slice, capsys):
    """`llmbole recommend` of a BPR record on the slice."""
    result = run("BPR")

    def go(*words, record=result.record.id[:12], folder=shared):
        folders = [
            f"--store={folder / 'store'}",
            f"--leaderboard={shared / 'leaderboard'}",
            f"--raw={raw_slice}",
        ]
        status = main(["recommend", *([record] if record else []), "--quiet", *words, *folders])
        said = capsys.readouterr()
        return status, said.out + said.err

    return go


def read(file):
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    if file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as lines:
            kinds = {"rank": int, "score": float}
            return [
                {key: kinds.get(key, str)(value) for key, value in row.items()}
                for row in csv.DictReader(lines)
            ]
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_every_format_holds_the_same_rows_and_batches_change_nothing(command, run, tmp_path):
    found = {}
    for suffix, batch in ((".parquet", 64), (".csv", 7), (".json", 1), (".jsonl", 40)):
        file = tmp_path / f"top{suffix}"
        status, said = command(f"--output={file}", f"--batch={batch}", "--k=4")
        assert status == 0 and f"160 rows for 40 users in {file}" in said
        found[suffix] = read(file)
    recommender = run("BPR").recommender()
    expected = [
        {"user_id": user, **dataclasses.asdict(each)}
        for user, ranked in recommender(list(recommender.all_users()), k=4).items()
        for each in ranked
    ]
    for rows in found.values():
        assert [list(row) for row in rows] == [["user_id", "rank", "item_id", "title", "score"]] * 160
        for row, wanted in zip(rows, expected, strict=True):
            assert row == {**wanted, "score": pytest.approx(wanted["score"], rel=1e-5)}
    assert not list(tmp_path.glob(".*"))


def test_users_come_from_words_or_a_file_and_wrong_ones_are_named(command, tmp_path):
    file, users = tmp_path / "top.jsonl", tmp_path / "users.csv"
    assert command(f"--output={file}", "--user=3", "--user=7", "--k=1")[0] == 0
    assert [row["user_id"] for row in read(file)] == ["3", "7"]
    users.write_text("user_id\n7\n\n3\n", encoding="utf-8")
    assert command(f"--output={file}", f"--users={users}", "--k=1")[0] == 0
    assert [row["user_id"] for row in read(file)] == ["7", "3"]
    for text, problem in (
        ("user_id\n7\nnobody\n", "users.csv:3: the data set has no user 'nobody'"),
        ("user_id\n7,8\n", "users.csv:2: 2 cells, the header has 1"),
        ("user\n7\n", "users.csv lacks the column 'user_id'"),
        ("user_id,age\n7,1\n", "users.csv: unknown column 'age'"),
        ("user_id\n", "users.csv holds no users"),
    ):
        users.write_text(text, encoding="utf-8")
        status, said = command(f"--output={file}", f"--users={users}")
        assert status == 2 and problem in said
        assert [row["user_id"] for row in read(file)] == ["7", "3"]  # as it was


def test_wrong_requests_are_refused_before_any_work(command, tmp_path):
    file = tmp_path / "top.csv"
    for words, problem in (
        ([f"--output={tmp_path / 'top.txt'}"], "the suffix '.txt' names no format"),
        ([f"--output={file}", "--format=xml"], "unknown format 'xml'"),
        ([f"--output={tmp_path / 'none' / 'top.csv'}"], "there is no such folder"),
        ([f"--output={file}", "--k=0"], "--k=0: must be at least 1"),
        ([f"--output={file}", "--user=99999"], "the data set has no user '99999'"),
        (
            [f"--output={file}", "--align.alpha=1"],
            "a record has its settings, 'align.alpha' can't be another",
        ),
        ([f"--output={file}", "--shortlist=0"], "shortlist = 0: must be at least 1"),
    ):
        status, said = command(*words)
        assert status == 2 and problem in said
    assert not file.exists()
    status, said = command(f"--output={file}", record="0123456789ab")
    assert status == 2 and "0 records" in said


def test_nothing_is_trained_unless_asked_for(command, tmp_path):
    file = tmp_path / "top.csv"
    status, said = command(f"--output={file}", "--k=2", folder=tmp_path)
    assert status == 2 and "lacks data" in said and "llmbole reproduce" in said and "--train" in said
    assert not (tmp_path / "store" / "artifacts").exists() and not file.exists()
    named = ["--model=BPR", "--dataset=ml-slice", "--backbone.epochs=2"]
    status, said = command(f"--output={file}", *named, record=None, folder=tmp_path)
    assert status == 2 and "`llmbole run --model=BPR --dataset=ml-slice" in said
    assert command(f"--output={file}", "--k=2", *named, record=None)[0] == 0  # the shared store has them
    rows = read(file)
    assert command(f"--output={file}", "--k=2", "--train", folder=tmp_path)[0] == 0
    assert read(file) == rows


def test_a_broken_stream_leaves_the_file_as_it_was(run, tmp_path, monkeypatch):
    from llmbole.inference import output

    recommender = run("BPR").recommender()
    for name in ("top.parquet", "top.csv", "top.json", "top.jsonl"):
        file = tmp_path / name
        file.write_bytes(b"before")

        def broken():
            yield from recommender.stream(["1", "2"], 3)
            raise RuntimeError("no more")

        with pytest.raises(RuntimeError, match="no more"):
            output.write(file, output.output_format(file, None), broken())
        assert file.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "top.csv",
        "top.json",
        "top.jsonl",
        "top.parquet",
    ]


def test_seen_items_come_only_if_asked_for(run):
    recommender = run("BPR").recommender()
    everything = recommender("1", k=5000, with_seen=True)["1"]
    assert len(everything) == recommender.split.n_items - 1
    left = recommender("1", k=5000)["1"]
    assert {recommender.items[each.item_id] for each in everything} - {
        recommender.items[each.item_id] for each in left
    } == seen(recommender, "1")


def test_a_history_is_enough_for_models_that_read_nothing_else(run):
    sequential, general = run("SASRec").recommender(), run("BPR").recommender()
    history = [str(sequential.split.item_tokens[item]) for item in sequential.people.context(1).history]
    (by_history,) = sequential.rank([sequential.query_history(history, k=5)])
    user = str(sequential.split.user_tokens[1])
    assert [each.item_id for each in by_history] == [each.item_id for each in sequential(user, k=5)[user]]
    with pytest.raises(SettingsError, match="BPR reads no history"):
        general.query_history(history, k=5)
    with pytest.raises(DataError, match="no item 'nothing'"):
        sequential.query_history(["nothing"], k=5)


def test_the_python_interface_takes_an_id_a_result_or_settings(run, shared, raw_slice):
    result = run("BPR")
    folders = {"store": str(shared / "store"), "leaderboard": str(shared / "leaderboard")}
    by_id = llmbole.recommend(result.record.id[:12], "1", k=3, **folders)
    assert by_id == llmbole.recommend(result, ["1"], k=3) == result.recommender()("1", k=3)
    named = {"backbone.epochs": 2, "raw": str(raw_slice)}
    opened = llmbole.open_recommender(model="BPR", dataset="ml-slice", settings=named, **folders)
    assert opened("1", k=3) == by_id
    with pytest.raises(SettingsError, match="either a record, or the model"):
        llmbole.open_recommender()


def test_a_method_that_cannot_is_refused_with_the_reason():
    forms = [form for name in registry.method_names() for form in registry.forms(name)]
    assert {"CTRL", "CTRL.ranking", "TALLRec.ranking"} < set(forms)
    for form in forms:
        if form in ("Llama4Rec", "IFT"):
            with pytest.raises(SettingsError, match=f"{form} asks its LLM about lists"):
                opener(registry.method(form))
        else:
            assert opener(registry.method(form)).needs[:2] == ("data", "split")

"""Favourite genres asked for on ml-100k rows: the file of answers, what the record says of them, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from llmbole import experiment
from llmbole.data import splits
from llmbole.data.text import ItemText
from llmbole.llm.choice import TitleChoice
from llmbole.model.genres import problems
from llmbole.model.written import load_texts
from llmbole.resolve import resolve
from llmbole.results import load
from llmbole.settings import SettingsError
from llmbole.table_values import value_of
from llmbole.verify import verify

ASK = {"genres.ask": True}
SHORT = {
    "ALLMRec": {"align.epochs": 2, "align.positions": 1, "project.epochs": 1, "project.positions": 1},
    "LLMOnly": {},
    "TALLRec": {"tune.positions": 1, "tune.candidates": 5, "protocol": "loo_rank20"},
}


def genres_by_hand(result):
    """Genres of the held-out item of each user, by raw id."""
    split = splits.load(result.artifacts["split"].folder)
    kinds = ItemText.load(result.artifacts["data"].folder, split.item_tokens).categories
    phase = split.phase("test")
    pairs = zip(phase.users.tolist(), phase.targets.tolist(), strict=True)
    return {str(split.user_tokens[user]): {kind.lower() for kind in kinds[item]} for user, item in pairs}


@pytest.mark.parametrize("model", SHORT)
def test_every_users_answer_is_kept_and_measured_beside_chance(run, model):
    plain, result = (run(model, {**SHORT[model], **own}) for own in ({}, ASK))
    record = load(result.path)
    assert record.metrics == plain.metrics and not verify(result.path.parents[2])
    changed = {name for name, key in record.artifacts.items() if plain.record.artifacts.get(name) != key}
    assert changed == {"genres"} and not set(plain.record.extra) & set(experiment.OF_EXTRA)
    lines, truth = load_texts(result.artifacts["genres"]), genres_by_hand(result)
    assert {line["user"] for line in lines} == set(truth) and len(lines) == record.extra["genre_users"] == 40
    for line in lines:
        assert {genre.replace(" ", "-") for genre in line["genres"]} == truth[line["user"]]
        assert "watched" in line["prompt"] and "genre" in line["prompt"]
    hits = [bool(set(line["named"][:1]) & set(line["genres"])) for line in lines]
    assert record.extra["GenrePrecision@1"] == pytest.approx(np.mean(hits))
    assert record.extra["GenreValid"] == np.mean([bool(line["named"]) for line in lines]) > 0
    assert 0 < record.extra["GenreChance@1"] < record.extra["GenrePopular@1"] < 1
    assert record.cost["genres"].llm_tokens > 0
    assert value_of(record, "GenrePrecision@3") == record.extra["GenrePrecision@3"]
    assert value_of(plain.record, "GenrePrecision@3") is None


def test_vectors_of_the_user_and_of_the_history_are_in_the_prompt(run, monkeypatch):
    asked = []
    stock = TitleChoice.embed

    def watched(self, prompt, vectors):
        if not prompt.candidates.numel():
            asked.append({name: len(each) for name, each in vectors.items()})
            assert {name: len(places[0]) for name, places in prompt.batch.soft.items()} == asked[-1]
        return stock(self, prompt, vectors)

    monkeypatch.setattr(TitleChoice, "embed", watched)
    settings = {**SHORT["ALLMRec"], **ASK, "genres.users": 6, "genres.batch_size": 4}
    result = run("ALLMRec", settings)
    assert [each["user"] for each in asked] == [4, 2]
    assert [each["history"] for each in asked] == [4 * 5, 2 * 5]
    assert len(load_texts(result.artifacts["genres"])) == 6


@pytest.mark.parametrize("model", ["ALLMRec", "LLMOnly"])
def test_answers_do_not_depend_on_the_batch(run, model):
    whole, small = (run(model, {**SHORT[model], **ASK, "genres.batch_size": size}) for size in (32, 7))
    assert whole.artifacts["genres"].key != small.artifacts["genres"].key
    assert load_texts(whole.artifacts["genres"]) == load_texts(small.artifacts["genres"])


def test_an_open_question_gives_whole_answers(run):
    text = "This user has {past} {history} in the previous. The favorite genres are "
    result = run("LLMOnly", {**ASK, "genres.text": text, "genres.max_new_tokens": 3})
    assert all(
        line["prompt"].endswith("The favorite genres are ") for line in load_texts(result.artifacts["genres"])
    )
    short = {line["text"] for line in load_texts(result.artifacts["genres"])}
    assert short and max(map(len, short)) < 40


@pytest.mark.parametrize("model", SHORT)
def test_data_without_genres_are_refused_before_any_work(films, tmp_path, model):
    settings = {**SHORT[model], **ASK, "store": str(tmp_path / "store")}
    with pytest.raises(SettingsError, match="genres.ask = true: the items of own-films have no genres"):
        resolve(model, str(films), settings)
    found = resolve(model, str(films), {**settings, "genres.ask": False})
    assert not problems(found.settings)


def test_items_without_a_genre_among_the_held_out_are_refused(run):
    everything = ["Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"]
    everything += ["Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller"]
    everything += ["War", "Western", "unknown"]
    with pytest.raises(SettingsError, match="no held-out item of ml-slice has a category that is a genre"):
        run("LLMOnly", {**ASK, "genres.left_out": everything})

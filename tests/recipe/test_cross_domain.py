"""A-LLMRec trained on films and tested on songs it never saw: what the text branch does for them."""

from __future__ import annotations

import numpy as np
import pytest

import llmbole
from llmbole.data import cards as dataset_cards
from llmbole.data import splits
from llmbole.llm.choice import TitleChoice
from llmbole.model import training

SHORT = {
    "align.epochs": 2,
    "align.positions": 1,
    "project.epochs": 1,
    "project.positions": 1,
    "backbone.epochs": 2,
    "progress": False,
    "protocol": "loo_rank20@cross_domain",
}
SONGS = 40


@pytest.fixture(scope="session")
def songs(tmp_path_factory):
    """12 users, 4 of 40 songs each; songs 38 and 39 have the same text."""
    folder = tmp_path_factory.mktemp("own") / "songs"
    folder.mkdir()
    rows = [f"u{user},s{(4 * user + step) % SONGS},5,{step}" for user in range(12) for step in range(4)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    titles = [f"s{song},Song of the {min(song, 38)}th hill" for song in range(SONGS)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")
    return folder


@pytest.fixture
def run(raw_slice, cards, shared, songs, monkeypatch, tmp_path):
    monkeypatch.setattr(dataset_cards, "_folder", lambda: cards)
    (tmp_path / "ml-slice").symlink_to(raw_slice)
    places = {
        "store": str(shared / "store"),
        "leaderboard": str(shared / "leaderboard"),
        "raw": str(tmp_path),
    }

    def short(**settings):
        return llmbole.run("ALLMRec", f"ml-slice+{songs}", settings={**SHORT, **places, **settings})

    return short


def test_the_text_branch_speaks_for_a_set_that_was_never_seen(run):
    result, without = run(), run(**{"inference.text_branch": "none"})
    record = result.record
    assert record.dataset.name == "ml-slice+own-songs"
    assert record.dataset.counts["users"] == 52 and record.extra["users"] == 12
    assert (
        record.artifacts["projection"] == without.record.artifacts["projection"]
    )  # nothing is trained again
    assert record.artifacts["scores"] != without.record.artifacts["scores"]
    split = splits.load(result.artifacts["split"].folder)
    films = split.n_train_items
    embeddings = training.load_tensors(result.artifacts["alignment"], "items")
    shared_text = [films + place for place in (38, 39)]
    assert [split.item_tokens[item] for item in shared_text] == ["own-songs:s38", "own-songs:s39"]
    for name in ("text", "decoded"):
        assert np.array_equal(*embeddings[name][shared_text].numpy())
    assert not np.array_equal(*embeddings["joint"][shared_text].numpy())


def test_items_and_users_reach_the_prompt_by_text_alone(run, monkeypatch):
    """Vectors in the prompts: equal for songs of equal text, and those of seen films as they were."""
    seen = {}

    def log_likelihood(self, prompt, vectors):
        seen["items"] = (prompt.items, vectors)
        return stock(self, prompt, vectors)

    stock = TitleChoice.log_likelihood
    monkeypatch.setattr(TitleChoice, "log_likelihood", log_likelihood)
    vectors_of = {}
    for branch in ("unseen", "none", "all"):
        result = run(**{"inference.text_branch": branch, "seed": 3})
        slots, vectors = seen["items"]
        found = {}
        for slot, ids in slots.items():
            found |= dict(zip(ids.tolist(), vectors[slot].detach().numpy(), strict=True))
        vectors_of[branch] = found, vectors["user"].detach().numpy()
    films = splits.load(result.artifacts["split"].folder).n_train_items
    same = [films + 38, films + 39]
    text, none, whole = (vectors_of[branch][0] for branch in ("unseen", "none", "all"))
    assert set(same) <= text.keys() and min(text) >= films
    assert np.allclose(text[same[0]], text[same[1]], atol=1e-6)
    assert not np.allclose(none[same[0]], none[same[1]], atol=1e-4)
    assert all(
        np.allclose(text[item], whole[item], atol=1e-6) for item in text
    )  # here all tested items are unseen
    assert not np.allclose(
        vectors_of["unseen"][1], vectors_of["none"][1], atol=1e-4
    )  # histories are of songs too

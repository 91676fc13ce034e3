"""Several data sets as one: what is written, and what is trained on, tested and drawn across them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas
import pyarrow.parquet
import pytest

from llmbole.data import joined, leak, own, source, splits
from llmbole.data import protocol as protocols
from llmbole.data.convert.report import DataError
from llmbole.data.interactions import domains_of, item_ranges
from llmbole.data.text import ItemText
from llmbole.resolve import identified_dataset, resolve
from llmbole.settings import SettingsError

SONGS = {"item": "song", "items": "songs", "verb": "hear", "past": "heard"}


def own_set(folder, users, items, *, more="", per_user=4, card=""):
    """A folder of own data: user u has `per_user` items in turn, liking every other one."""
    folder.mkdir(parents=True)
    rows = [
        f"u{user},i{(per_user * user + step) % items},{5 - step % 2},{100 * step + user}"
        for user in range(users)
        for step in range(per_user)
    ]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    titles = [f'i{item},"{folder.name} ""{item}"""{more and ",x"}' for item in range(items)]
    (folder / "items.csv").write_text("\n".join([f"item_id,title{more}", *titles]) + "\n")
    if card:
        (folder / "dataset.yaml").write_text(card)
    return folder


@pytest.fixture
def two(tmp_path):
    """Films and songs: 30 users of 40 items, 10 users of 30 items; ids overlap."""
    films = own_set(tmp_path / "films", 30, 40, more=",brand", card="label: {positive_from: 5}\n")
    songs = own_set(
        tmp_path / "songs", 10, 30, card=f"label: {{positive_from: 5}}\nwords: {json.dumps(SONGS)}\n"
    )
    return f"{films}+{songs}", tmp_path


def prepared(name, folder):
    raws = [own.own_folder(each) for each in joined.names(name)]
    cards = [own.own_card(raw) for raw in raws]
    folder.mkdir()
    return joined.join(cards), joined.prepare(cards, raws, folder)


def test_rows_follow_each_other_under_ids_that_name_their_set(two):
    name, place = two
    card, summary = prepared(name, place / "out")
    assert (card.name, card.domains) == ("own-films+own-songs", ("own-films", "own-songs"))
    assert [summary[count] for count in ("users", "items", "interactions")] == [
        40,
        70,
        160,
    ]
    frame = pandas.read_csv(place / "out" / f"{card.name}.inter", sep="\t")
    assert len(frame) == 160
    assert frame["user_id:token"].iloc[[0, -1]].tolist() == ["own-films:u0", "own-songs:u9"]
    assert frame["item_id:token"].iloc[[0, -1]].tolist() == ["own-films:i0", "own-songs:i9"]
    text = ItemText.load(place / "out", ["[PAD]", "own-films:i3", "own-songs:i3"]).format("{title}")
    assert text == ["", 'films "3"', 'songs "3"']
    items = pyarrow.parquet.read_table(place / "out" / "items.parquet").to_pylist()
    assert len(items) == 70
    assert (
        joined.prepared_card(card.name, place / "out") == card
    )  # from what was prepared, without the raw folders


def test_what_the_sets_do_not_share_is_neutral_or_left_out(two):
    name, place = two
    films, songs = [own.own_card(own.own_folder(each)) for each in joined.names(name)]
    both = joined.join([films, songs])
    assert both.words == joined.NEUTRAL and both.label == films.label and both.windows is None
    assert joined.join([songs, dataclasses.replace(songs, name="other")]).words == songs.words
    assert joined.join([films, dataclasses.replace(songs, label=None)]).label is None
    assert joined.join([films]) is films
    with pytest.raises(SettingsError, match="a set stands in it twice"):
        joined.join([films, films])


def test_features_are_those_that_all_sets_have(tmp_path):
    own_set(tmp_path / "own", 3, 10)
    cards, raws = [own.own_card(tmp_path / "own"), source.card("ml-100k")], [tmp_path / "own"]
    raws.append(source.locate_raw(cards[1], None))
    (tmp_path / "out").mkdir()
    summary = joined.prepare(cards, raws, tmp_path / "out")
    assert summary["interactions"] == 100_012
    head = (
        (tmp_path / "out" / "own-own+ml-100k.item").read_text(encoding="utf-8").partition("\n")[0].split("\t")
    )
    assert head[0] == "item_id:token" and "movie_title:token_seq" not in head
    assert not (tmp_path / "out" / "own-own+ml-100k.user").exists()
    assert summary["expected"] is None


def test_the_whole_is_identified_by_its_parts_in_order(two):
    name, place = two
    options = {"raw": None, "store": str(place / "store"), "progress": False}
    settings, raws = identified_dataset(name, options)
    films, songs = joined.names(name)
    turned, _ = identified_dataset(f"{songs}+{films}", options)
    assert [own.own_folder(each) for each in joined.names(name)] == [*map(type(place), raws)]
    assert settings["domains"] == ("own-films", "own-songs")
    assert settings["fingerprint"] != turned["fingerprint"]
    with (place / "songs" / "items.csv").open("a") as file:
        file.write("i99,New\n")
    assert identified_dataset(name, options)[0]["fingerprint"] != settings["fingerprint"]


@pytest.fixture
def looked_for(monkeypatch):
    """Sets whose raw files a request looks for, with the folder it was given for them."""
    found = []

    def locate(card, raw, cache, progress):
        found.append((card.name, raw))
        if len(found) == 2:
            raise DataError("far enough")
        return raw

    monkeypatch.setattr(source, "locate_raw", locate)
    return found


def test_raw_files_of_named_sets_lie_in_folders_of_their_names(looked_for, tmp_path):
    options = {"raw": str(tmp_path), "store": str(tmp_path / "store"), "progress": False}
    (tmp_path / "bookcrossing").mkdir()
    with pytest.raises(DataError, match="far enough"):
        identified_dataset("bookcrossing+ml-1m", options)
    assert looked_for == [("bookcrossing", tmp_path / "bookcrossing"), ("ml-1m", None)]


def test_a_method_s_short_names_reach_joined_sets(looked_for, tmp_path):
    with pytest.raises(DataError, match="far enough"):
        resolve("ALLMRec", "movies+ml-100k", {"store": str(tmp_path)})
    assert looked_for == [("allmrec-movies", None), ("ml-100k", None)]


def split_of(name, place, protocol):
    out = place / f"prepared-{protocol}"
    card, _ = prepared(name, out)
    rules, folder = protocols.protocol(protocol), place / f"split-{protocol}"
    folder.mkdir()
    splits.freeze(rules, card, out, folder)
    found = splits.load(folder)
    assert leak.check(found, rules) == []
    return card, found


def test_across_domains_one_set_is_trained_on_and_the_other_tested(two):
    card, found = split_of(*two, "loo_rank20@cross_domain")
    ranges = item_ranges(found.item_tokens, card.domains)
    assert ranges == [(1, 41), (41, 71)]
    domains = domains_of(found.user_tokens, card.domains)
    test, valid = found.phase("test"), found.phase("valid")
    assert (domains[test.users] == 1).all() and len(test) == 10
    assert (domains[valid.users] == 0).all() and len(valid) == 30
    trained_users, trained_items = found.train_counts
    assert set(np.flatnonzero(trained_users)) == set(np.flatnonzero(domains == 0))
    assert not trained_items[41:].any() and found.n_train_items == 41
    assert ((test.candidates >= 41) & (test.candidates < 71)).all()
    assert ((valid.candidates >= 1) & (valid.candidates < 41)).all()
    assert [len(test.history(row)) for row in range(10)] == [3] * 10


def test_without_the_scenario_all_sets_are_trained_on_and_candidates_are_of_the_target_s_set(two):
    card, found = split_of(*two, "loo_rank20")
    test = found.phase("test")
    assert len(test) == 40 and found.n_train_items == found.n_items == 71
    of_item = domains_of(found.item_tokens, card.domains)
    assert (of_item[test.candidates] == of_item[test.targets][:, None]).all()


def test_rows_of_pairs_and_their_negatives_keep_to_their_sets(two):
    card, found = split_of(*two, "loo_ctr@cross_domain")
    of_user, of_item = (domains_of(tokens, card.domains) for tokens in (found.user_tokens, found.item_tokens))
    for name, domain in (("train", 0), ("valid", 0), ("test", 1)):
        part = found.part(name)
        assert (of_user[part.users] == domain).all() and (of_item[part.items] == domain).all()
        assert sorted(set(part.labels.tolist())) == [0, 1]


def test_draws_of_a_single_set_do_not_change_with_this(split):
    assert split.n_train_items == split.n_items
    assert item_ranges(split.item_tokens, ()) == [(1, 1683)]


@pytest.mark.parametrize(
    ("dataset", "protocol", "message"),
    [
        ("ml-100k", "loo_rank20@cross_domain", r"join them, such as --dataset=ml-1m\+beauty"),
        ("ml-100k+ml-1k", "loo_rank20", "unknown dataset 'ml-1k'; did you mean"),
        ("ml-100k+ml-100k", "loo_rank20", "a set stands in it twice"),
        ("ml-100k", "loo_rank20@cross_domain-3", "cross_domain takes no number"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(dataset, protocol, message, tmp_path):
    settings = {"protocol": protocol, "store": str(tmp_path)}
    with pytest.raises(SettingsError, match=message):
        resolve("SASRec", dataset, settings)


def test_a_ranking_of_all_items_has_no_candidates_of_one_set(two):
    with pytest.raises(DataError, match="cross_domain needs frozen candidates"):
        split_of(*two, "loo_full@cross_domain")

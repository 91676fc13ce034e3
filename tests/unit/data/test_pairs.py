"""Splits of labelled rows: by hand on a few interactions, against a slow plain version on ml-100k, and leaks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmbole.data import leak, pair_leak, splits
from llmbole.data import protocol as protocols
from llmbole.data.convert.report import DataError
from llmbole.data.pair_rows import PairRows
from llmbole.data.pairs import PARTS, PairSplit
from llmbole.data.source import Label, Windows

DAY = 86_400
ROWS = [  # user, item, rating, day; a's times are equal on day 3, and the rows are not in time order
    ("a", "x", 5, 1),
    ("b", "x", 2, 2),
    ("a", "z", 4, 3),
    ("a", "y", 1, 3),
    ("b", "y", 4, 5),
    ("a", "w", 4, 9),
    ("b", "w", 5, 4),
    ("c", "z", 3, 6),
    ("c", "v", 5, 10),
    ("a", "v", 2, 8),
    ("d", "u", 3, 0),
]
LIKE = Label(4.0)
WINDOWS = Windows(train=("1970-01-02", "1970-01-05"), held_out=("1970-01-05", "1970-01-12"))


@pytest.fixture
def freeze(small, tmp_path):
    """Freeze the rows under a protocol; changes are the protocol's."""
    made = small([f"{user}\t{item}\t{rating}\t{day * DAY}" for user, item, rating, day in ROWS])
    made.prepare()

    def split(name, windows=None, label=LIKE, **changes) -> PairSplit:
        card = dataclasses.replace(made.card, windows=windows, label=label)
        protocol = dataclasses.replace(protocols.protocol(name), **changes)
        folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        splits.freeze(protocol, card, made.folder, folder)
        found = splits.load(folder)
        assert isinstance(found, PairSplit)
        assert leak.check(found, protocol) == []
        return found

    return split


def rows(split, name):
    """A part as (user, item, label) with raw ids, and its histories as words."""
    part = split.part(name)
    tokens = split.item_tokens
    labelled = [
        (str(split.user_tokens[user]), str(tokens[item]), float(label))
        for user, item, label in zip(part.users, part.items, part.labels, strict=True)
    ]
    return labelled, ["".join(tokens[part.history(row)]) for row in range(len(part))]


def test_time_ratio_cuts_all_interactions_in_time_order(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    assert rows(split, "train") == (
        [
            ("d", "u", 0),
            ("a", "x", 1),
            ("b", "x", 0),
            ("a", "z", 1),
            ("a", "y", 0),
            ("b", "w", 1),
            ("b", "y", 1),
        ],
        ["", "", "", "x", "xz", "x", "xw"],
    )
    assert rows(split, "valid") == ([("c", "z", 0), ("a", "v", 0)], ["", "xzy"])
    assert rows(split, "test") == ([("a", "w", 1), ("c", "v", 1)], ["xzyv", "z"])


def test_windows_and_histories_of_likes(freeze):
    split = freeze("temporal_collm", windows=WINDOWS)
    assert rows(split, "train") == (
        [("a", "x", 1), ("b", "x", 0), ("a", "z", 1), ("a", "y", 0)],
        ["", "", "x", "xz"],
    )
    assert rows(split, "valid") == ([("b", "w", 1), ("b", "y", 1), ("c", "z", 0)], ["", "w", ""])
    assert rows(split, "test") == ([("a", "v", 0), ("a", "w", 1), ("c", "v", 1)], ["xz", "xz", ""])


def test_three_windows_and_what_lies_outside_them(freeze):
    windows = Windows(
        train=("1970-01-02", "1970-01-04"),
        valid=("1970-01-05", "1970-01-06"),
        test=("1970-01-09", "1970-01-10"),
    )
    split = freeze("temporal_collm", windows=windows)
    assert [rows(split, name)[0] for name in PARTS] == [
        [("a", "x", 1), ("b", "x", 0)],
        [("b", "w", 1)],
        [("a", "v", 0)],
    ]


def test_leave_one_out_with_a_negative_for_each_positive(freeze):
    split = freeze("loo_ctr")
    for name, positives in (
        ("train", [("d", "u"), ("a", "x"), ("b", "x"), ("a", "z"), ("a", "y"), ("c", "z")]),
        ("valid", [("b", "w"), ("a", "v")]),
        ("test", [("b", "y"), ("a", "w"), ("c", "v")]),
    ):
        found, histories = rows(split, name)
        assert [(user, item) for user, item, label in found[::2]] == positives
        assert [label for *_, label in found] == [1.0, 0.0] * len(positives)
        known = {(user, item) for user, item, *_ in ROWS}
        assert all((user, item) not in known for user, item, label in found if not label)
        assert histories[::2] == histories[1::2]
    assert rows(split, "test")[1][::2] == ["xw", "xzyv", "z"]


def test_ratings_are_labels(freeze):
    split = freeze("loo_rating")
    assert rows(split, "test")[0] == [("b", "y", 4), ("a", "w", 4), ("c", "v", 5)]


def test_histories_equal_a_plain_version(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    for name in PARTS:
        part = split.part(name)
        items, lengths = part.histories(np.arange(len(part)), 2)
        for row in range(len(part)):
            newest = part.history(row)[-2:]
            assert items[row].tolist() == [*newest, *[0] * (2 - len(newest))]
            assert lengths[row] == len(newest)


def test_real_rows_equal_a_plain_version(card, prepared, tmp_path):
    """ml-100k cut 8:1:1 by pandas, row by row."""
    import pandas

    protocol = protocols.protocol("temporal_ratio")
    splits.freeze(protocol, card, prepared, tmp_path)
    split = splits.load(tmp_path)
    frame = pandas.read_csv(prepared / "ml-100k.inter", sep="\t", dtype=str)
    frame = frame.sort_values("timestamp:float", key=lambda times: times.astype(float), kind="stable")
    expected = {"train": frame[:80_000], "valid": frame[80_000:90_000], "test": frame[90_000:]}
    for name, rows_of in expected.items():
        part = split.part(name)
        assert (split.user_tokens[part.users] == rows_of["user_id:token"].to_numpy(str)).all()
        assert (split.item_tokens[part.items] == rows_of["item_id:token"].to_numpy(str)).all()
        assert (part.labels == (rows_of["rating:float"].astype(float) >= 4)).all()
    assert leak.check(split, protocol) == []


def test_negatives_depend_on_the_seed_alone(freeze):
    first, again = freeze("loo_ctr"), freeze("loo_ctr")
    assert first.hash == again.hash
    other = freeze("loo_ctr", labels=protocols.Labels("interaction", 1, 7))
    assert other.hash != first.hash


def test_negatives_are_uniform_over_the_items_left(card, prepared, tmp_path):
    from scipy.stats import chisquare

    splits.freeze(protocols.protocol("loo_ctr"), card, prepared, tmp_path)
    split = splits.load(tmp_path)
    part = split.part("train")
    user = int(np.argmax(np.bincount(part.users[part.labels == 0])))
    drawn = part.items[(part.users == user) & (part.labels == 0)]
    own = split.items[split.offsets[user] : split.offsets[user + 1]]
    left = np.setdiff1d(np.arange(1, split.n_items), own)
    counts = np.bincount(np.searchsorted(left, drawn) * 10 // len(left), minlength=10)
    assert np.isin(drawn, left).all()
    assert chisquare(counts).pvalue > 1e-4


def test_what_a_data_set_lacks_is_said(freeze):
    with pytest.raises(DataError, match="set label.positive_from"):
        freeze("temporal_ratio", label=None)
    with pytest.raises(DataError, match="set windows"):
        freeze("temporal_collm")
    late = Windows(train=("1980-01-01", "1980-01-02"), held_out=("1980-01-02", "1980-01-03"))
    with pytest.raises(DataError, match="leaves no rows for train"):
        freeze("temporal_collm", windows=late)


def planted(split, **changes):
    """A split with other arrays, and the hash that fits them."""
    other = dataclasses.replace(split, **changes)
    return dataclasses.replace(other, hash=other.contents_hash())


def with_rows(split, name, **changes):
    parts = {part: dict(arrays) for part, arrays in split.parts.items()}
    parts[name] |= changes
    return planted(split, parts=parts)


def problems_of(split, name):
    return leak.check(split, protocols.protocol(name))


def test_a_test_row_in_training_is_found(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    train, test = split.parts["train"], split.parts["test"]
    leaky = with_rows(split, "train", **{name: np.append(train[name], test[name][:1]) for name in train})
    problems = "\n".join(problems_of(leaky, "temporal_ratio"))
    assert "1 interactions stand in train and in test, the first is of user 'a'" in problems
    assert "valid begins at" in problems


def test_a_history_that_reaches_its_row_is_found(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    leaky = planted(split, history_places=np.maximum(np.array(split.history_places) - 1, 0))
    assert any("histories begin with another user" in each for each in problems_of(leaky, "temporal_ratio"))
    later = dataclasses.replace(split)
    object.__setattr__(
        later, "history_span", lambda positions: (split.offsets[split.users[positions]], positions + 1)
    )
    part = dataclasses.replace(split.part("test"), split=later)
    assert pair_leak._history_problems(part)[0].startswith("2 histories reach the row itself or beyond")


def test_a_known_negative_is_found(freeze):
    split = freeze("loo_ctr")
    items = np.array(split.parts["test"]["items"])
    items[1] = items[0]
    assert problems_of(with_rows(split, "test", items=items), "loo_ctr") == [
        "test: 1 negatives are items that their user interacted with, the first is row 1, of user 'b'"
    ]


def test_a_held_out_row_before_a_training_row_is_found(freeze):
    split = freeze("loo_rating")
    parts = {name: dict(arrays) for name, arrays in split.parts.items()}
    for column in parts["test"]:
        train, test = np.array(parts["train"][column]), np.array(parts["test"][column])
        train[1], test[1] = test[1], train[1]
        parts["train"][column], parts["test"][column] = train, test
    problems = problems_of(planted(split, parts=parts), "loo_rating")
    assert (
        "test: 1 rows stand before a training row of their user, the first is row 1, of user 'a'" in problems
    )


def test_what_is_shown_with_a_row_must_be_of_the_past(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    part = split.part("test")
    own = part.positions
    earlier = np.array([0, 0])
    assert pair_leak.check_shown(part, np.array([0, 1]), earlier) == []
    problems = pair_leak.check_shown(part, np.array([0, 0]), np.array([own[0], own[1]]))
    assert problems == [
        "1 rows are shown themselves, the first is row 0, of user 'a'",
        "1 rows are shown with something later, the first is row 0, of user 'a'",
    ]


def test_a_changed_file_is_found(freeze):
    split = freeze("loo_rating")
    changed = dataclasses.replace(split, ratings=np.zeros_like(split.ratings))
    assert problems_of(changed, "loo_rating") == [
        "the split's arrays differ from its hash: a file was changed after it was frozen"
    ]


def shown(split, part, **settings):
    """Each row's item, the items that a prompt shows, and those that a conventional model reads, as words."""
    found = PairRows(split, part, **{"shown": 9, "length": 9, **settings})
    rows = found.interaction(np.arange(len(found)))
    tokens = split.item_tokens
    words = [
        ["".join(tokens[item] for item in row if item) for row in rows[name].tolist()]
        for name in ("shown", "item_id_list")
    ]
    return list(zip(tokens[rows["item_id"].numpy()].tolist(), *words, strict=True))


def test_prompts_show_likes_where_models_read_all(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    assert shown(split, "test", liked_from=4.0) == [("w", "xz", "xzyv"), ("v", "", "z")]
    assert shown(split, "test") == [("w", "xzyv", "xzyv"), ("v", "z", "z")]
    assert shown(split, "test", shown=2, length=3) == [("w", "yv", "zyv"), ("v", "z", "z")]
    assert shown(split, "test", liked_from=9.0) == [("w", "", "xzyv"), ("v", "", "z")]


def test_what_prompts_show_comes_with_its_ratings(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    found = {
        liked_from: PairRows(split, "test", shown=3, liked_from=liked_from).interaction([0])
        for liked_from in (None, 4.0)
    }
    assert found[None]["shown_ratings"].tolist() == [[4.0, 1.0, 2.0]]  # of z, y and v, the newest three
    assert found[4.0]["shown_ratings"].tolist() == [[5.0, 4.0, 0.0]]  # of x and z


def test_rows_taken_by_number_are_those_rows(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    everything = PairRows(split, "train", shown=2)
    some = everything.taking(np.array([1, 4]))
    assert len(some) == 2 and len(everything) == len(split.part("train"))
    assert np.array_equal(some.users, split.part("train").users[[1, 4]])
    for name, column in some.interaction([0, 1]).interaction.items():
        assert np.array_equal(column, everything.interaction([1, 4])[name]), name


def test_a_protocol_of_positives_shows_what_it_has(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2), history="positives")
    assert shown(split, "test") == shown(split, "test", liked_from=4.0) == [("w", "xz", "xz"), ("v", "", "")]


def test_rows_of_ml_100k_are_those_of_recboles_loader(prepared, card, tmp_path):
    from llmbole.config import Config
    from llmbole.data.split_dataset import PairLoader, make_split_dataset

    splits.freeze(protocols.protocol("unified_ctr"), card, prepared, tmp_path)
    split = splits.load(tmp_path)
    values = {"eval_args": {"split": {"LS": "valid_and_test"}, "mode": "labeled"}, "metrics": ["AUC"]}
    settings = {**values, "valid_metric": "AUC", "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 7}
    config = Config("DIN", "ml-100k", prepared, {**settings, "eval_batch_size": 10**6}, seed=1)
    loader = PairLoader(config, make_split_dataset(config, split).build()[2], training=False)
    ((expected, *_),) = list(loader)
    rows = PairRows(split, "test", shown=3, liked_from=4.0, length=7)
    found = rows.interaction(np.arange(len(rows)))
    for name in ("user_id", "item_id", "label", "item_id_list", "item_length"):
        assert np.array_equal(found[name], expected[name]), name
    pairs = split.part("test")
    for row in range(0, len(rows), 500):
        before = np.arange(split.offsets[pairs.users[row]], pairs.positions[row])
        liked = split.items[before[split.ratings[before] >= 4]][-3:]
        assert found["shown"][row][: len(liked)].tolist() == liked.tolist()
        assert not found["shown"][row][len(liked) :].any()


def test_a_sample_is_drawn_by_its_seed_and_keeps_the_order(freeze):
    split = freeze("temporal_ratio", ratios=(0.6, 0.2, 0.2))
    one, same, other = (PairRows(split, "train", shown=1, sample=3, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.places, same.places) and len(one) == 3
    assert not np.array_equal(one.places, other.places)
    assert (np.diff(one.places) > 0).all()
    assert np.array_equal(one.labels, split.part("train").labels[one.places])
    assert len(PairRows(split, "train", shown=1, sample=100)) == len(split.part("train"))

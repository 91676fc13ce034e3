"""KAR: experts against a slow plain version, what the LLM is shown, and what rows are told of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmbole.data.first_interactions import check_told, first_interactions, rows_told
from llmbole.data.numbered import NumberedRows
from llmbole.data.pairs import PairSplit
from llmbole.model.baseline import kar
from llmbole.model.baseline.kar import KAR
from llmbole.model.hybrid_experts import SIDES, Adaptor, AdaptorSettings
from llmbole.settings import SettingsError, build, load_yaml, properties_folder

SIZES = {"shared": 2, "specific": 3, "hidden": 7, "width": 4, "dropout": 0.5}


def adaptor(**changes):
    torch.manual_seed(0)
    return Adaptor(6, AdaptorSettings(**{**SIZES, **changes})).eval()


def mlp(first, second, vector):
    """One expert on one vector, number by number."""
    hidden = [max(0.0, float(w @ vector) + float(b)) for w, b in zip(first.weight, first.bias, strict=True)]
    return [
        sum(float(w) * h for w, h in zip(row, hidden, strict=True)) + float(b)
        for row, b in zip(second.weight, second.bias, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("side", SIDES)
def test_an_adapted_vector_is_the_experts_mean_by_the_sides_gate(side):
    model, vectors = adaptor(), torch.randn(3, 6)
    found = model(vectors, side)
    for vector, adapted in zip(vectors, found, strict=True):
        gate, scores = model.gates[side], []
        for weight, bias in zip(gate.weight, gate.bias, strict=True):
            scores.append(np.exp(float(weight @ vector) + float(bias)))
        experts = [*zip(model.shared.first, model.shared.second, strict=True)]
        experts += zip(model.specific[side].first, model.specific[side].second, strict=True)
        made = np.array([mlp(first, second, vector) for first, second in experts])  # [E, width]
        expected = (np.array(scores)[:, None] * made).sum(0) / sum(scores)
        np.testing.assert_allclose(adapted.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_users_and_items_share_some_experts_and_have_others_and_gates_of_their_own():
    model = adaptor()
    model(torch.randn(4, 6), "user").sum().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in touched} == {"shared", "specific", "gates"}
    assert not any("item" in name for name in touched)
    assert sum(name.startswith("shared") for name in touched) == 2 * 2 * 2  # experts, layers, weight and bias
    alone = adaptor(shared=0)
    assert alone(torch.randn(2, 6), "item").shape == (2, 4)


def test_a_batch_is_given_the_knowledge_of_its_rows_and_zeros_where_there_is_none():
    given = SimpleNamespace(device=torch.device("cpu"), predict=lambda batch: batch["extra_feature"])
    model, tables = adaptor(), {side: torch.randn(3, 6) for side in SIDES}
    places = {"user": np.array([0, 2, 1]), "item": np.array([1, 1, 0])}
    method = KAR(given, model, tables, places)
    with torch.no_grad():
        found = method.predict({"row_number": torch.tensor([1, 0, 2])})  # [3, 2, 4]
        torch.testing.assert_close(found[0, 0], model(tables["user"][[2]], "user")[0])
        torch.testing.assert_close(found[0, 1], model(tables["item"][[1]], "item")[0])
        torch.testing.assert_close(found[2, 0], model(tables["user"][[1]], "user")[0])
    assert not found[1, 0].any() and not found[2, 1].any() and found[1, 1].any()


def rows_of(times, train, test):
    """User 1 has interactions 0 to 5, user 2 has 6 and 7, user 3 has 8; item n + 1 is the n-th interaction's."""
    users = np.array([1] * 6 + [2] * 2 + [3])
    parts = {
        name: {
            "items": np.array(positions) + 1,
            "labels": np.ones(len(positions), dtype=np.float32),
            "positions": np.array(positions),
        }
        for name, positions in (("train", train), ("valid", [4]), ("test", test))
    }
    columns = dict.fromkeys(("dataset", "protocol", "order", "hash"), "x")
    offsets = np.array([0, 0, 6, 8, 9])
    split = PairSplit(
        **columns,
        version=1,
        task="pairs",
        item_tokens=np.array(["[PAD]", *"abcdefghi"]),
        user_tokens=np.array(["[PAD]", "u", "v", "w"]),
        users=users,
        items=np.arange(1, 10),
        timestamps=np.array(times, dtype=float),
        ratings=np.ones(9),
        offsets=offsets,
        history_items=np.arange(1, 10),
        history_places=np.arange(9),
        history_offsets=offsets,
        parts=parts,
    )
    return NumberedRows(split)


ROWS = SimpleNamespace(times=[1, 2, 3, 4, 5, 6, 1, 2, 1], train=[0, 0, 1, 2, 2, 3, 6, 7, 8], test=[5])


@pytest.fixture
def rows():
    return rows_of(**vars(ROWS))


@pytest.mark.parametrize(("most", "shown"), [(30, [0, 1]), (1, [0])])
def test_the_llm_is_shown_the_first_half_of_what_is_for_training(rows, most, shown):
    found = first_interactions(rows, most)
    assert {user: places.tolist() for user, places in found.items()} == {1: shown, 2: [6]}  # user 3 has one


def test_a_row_is_told_what_was_made_of_its_past_alone(rows):
    shown = first_interactions(rows, 30)
    told = rows_told(rows, shown)
    # places 0, 0 and 1 were shown; 2, 2 and 3 come later; 6 was shown and 7 was not; user 3 has nothing
    assert told[rows.numbers("train")].tolist() == [0, 0, 0, 1, 1, 1, 0, 2, 0]
    assert told[rows.numbers("valid")].tolist() == told[rows.numbers("test")].tolist() == [1]
    assert check_told(rows, told, shown.values()) == []


def test_whatever_is_not_of_the_past_is_named(rows):
    shown = first_interactions(rows, 30)
    told = rows_told(rows, shown)
    told[0] = 1
    problems = check_told(rows, told, shown.values())
    assert any(problem.startswith("train: 1 rows are shown themselves") for problem in problems)
    assert any("shown with something later" in problem for problem in problems)
    held = {**shown, 1: np.array([0, 5])}
    assert check_told(rows, np.zeros_like(told), held.values()) == [
        "the LLM was shown interactions that are held out"
    ]


def test_random_rows_are_told_nothing_of_their_future():
    random = np.random.default_rng(0)
    for _ in range(30):
        times = np.concatenate([np.sort(random.integers(0, 5, size)) for size in (6, 2, 1)])
        found = rows_of(times, [0, 1, 2, 3, 6, 7, 8], [5])
        shown = first_interactions(found, int(random.integers(1, 4)))
        told = rows_told(found, shown)
        assert check_told(found, told, shown.values()) == []
        for number in np.flatnonzero(told):
            places = list(shown.values())[told[number] - 1]
            assert (places < found.positions[number]).all()
            assert (found.split.users[places] == found.users[number]).all()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("adaptor", {"specific": 0, "dropout": 1.0}, r"(?s)specific = 0.*dropout = 1.0"),
        ("knowledge", {"user": "Who?"}, "lacks {history}"),
        ("knowledge", {"item": "{target} of {brand}"}, "has the slot 'brand'"),
        ("knowledge", {"listed.history": 0}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_be_are_refused(part, changes, message):
    own = load_yaml(properties_folder() / "model" / "KAR.yaml")[part]
    for key, value in changes.items():
        inner, _, last = key.rpartition(".")
        (own[inner] if inner else own)[last] = value
    with pytest.raises(SettingsError, match=message):
        build(kar.KAR.settings_class.parts[part], own, part)

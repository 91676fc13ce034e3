"""The in-context module: numbers worked out by hand, tokens that are not there, losses, ablations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llmbole.model.in_context import Examples, InContext, InContextSettings, ItemTables, label_table
from llmbole.settings import SettingsError, build

USERS, ITEMS, TEXT, LENGTH = 7, 9, 5, 3
SIZES = {"width": 8, "hidden": 6, "layers": 2, "heads": 2, "history": LENGTH}
PARTS = {"text": True, "reasoning": True, "pooling": "decoder", "reconstruction": 1.0, "added_weight": 0.1}


def made(examples=6, **changes):
    torch.manual_seed(0)
    settings = build(InContextSettings, {**SIZES, **PARTS, **changes}, "in_context")
    text = torch.randn(ITEMS, TEXT)
    categories = torch.randint(0, 4, (ITEMS, 2))
    categories[0] = 0  # the padding item has none
    tables = ItemTables(text, (categories,))
    found = Examples(
        torch.randint(1, USERS, (examples,)),
        torch.randint(1, ITEMS, (examples,)),
        torch.randint(0, ITEMS, (examples, LENGTH)),
        torch.arange(examples) % 2,
        torch.randn(examples, TEXT),
    )
    return InContext(USERS, tables, found, settings).eval()


def rows(size=4):
    random = torch.Generator().manual_seed(5)
    return (
        torch.randint(1, USERS, (size,), generator=random),
        torch.randint(1, ITEMS, (size,), generator=random),
        torch.randint(0, ITEMS, (size, LENGTH), generator=random),
    )


SHOWN = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1], [-1, -1, -1, -1], [3, 2, -1, -1]])


@pytest.mark.parametrize(("reasoning", "tokens"), [(True, 13), (False, 9)])
def test_four_examples_are_so_many_tokens(monkeypatch, reasoning, tokens):
    model, seen = made(reasoning=reasoning), []
    decode = model._decode
    monkeypatch.setattr(model, "_decode", lambda *own: seen.append(own[0].shape) or decode(*own))
    feature, _ = model(*rows(), SHOWN)
    assert seen == [(4, tokens, 8)] and feature.shape == (4, 8)


def test_a_row_token_is_the_mlp_of_its_fields():
    """User; item and history by id, category and text: seven fields, worked out one by one."""
    model, (users, items, histories) = made(), rows()
    tokens = model.rows(users, items, histories)
    table = model.rows
    for row in range(4):
        fields = [table.users.weight[users[row]]]
        for ids in ([items[row]], [item for item in histories[row] if item]):
            labels = [label for item in ids for label in table.labels_1[item] if label]
            names, categories = table.bags[0].weight, table.bags[1].weight
            zero = torch.zeros(8)
            fields.append(torch.stack([names[item] for item in ids]).mean(0) if len(ids) else zero)
            fields.append(torch.stack([categories[each] for each in labels]).mean(0) if labels else zero)
            mean = torch.stack([table.text[item] for item in ids]).mean(0) if len(ids) else torch.zeros(TEXT)
            fields.append(model.text_mapping(mean))
        torch.testing.assert_close(tokens[row], table.mlp(torch.cat(fields)))


def test_the_reconstruction_loss_is_one_minus_the_mean_cosine_of_each_row():
    model, own = made(), rows()
    _, loss = model(*own, SHOWN)
    expected = []
    for row, places in enumerate([[0, 1, 2, 3], [4, 5], [], [3, 2]]):
        tokens = []
        for place in places:
            example = (model.users[[place]], model.items[[place]], model.histories[[place]])
            tokens += [model.rows(*example)[0], model.text_mapping(model.reasoning[place])]
            tokens.append(model.decoder.embed_tokens(model.labels[place]))
        tokens.append(model.rows(*(column[[row]] for column in own))[0])
        hidden = model.decoder(inputs_embeds=torch.stack(tokens)[None]).last_hidden_state[0]
        cosines = [
            functional.cosine_similarity(model.head(hidden[3 * number]), model.reasoning[place], dim=0)
            for number, place in enumerate(places)
        ]
        if places:
            expected.append(1 - sum(cosines) / len(cosines))
    torch.testing.assert_close(loss, sum(expected) / 3)


def test_what_is_missing_leaves_no_trace():
    """A row among rows with more examples, or with its gaps elsewhere, has the feature that it has alone."""
    model, own = made(), rows()
    together, _ = model(*own, SHOWN)
    assert torch.isfinite(together).all()
    for row in range(4):
        places = SHOWN[row][SHOWN[row] >= 0][None]
        alone, _ = model(*(column[[row]] for column in own), places)
        torch.testing.assert_close(alone[0], together[row])
    moved = torch.tensor([[0, 1, 2, 3], [-1, 4, -1, 5], [-1, -1, -1, -1], [-1, -1, 3, 2]])
    torch.testing.assert_close(model(*own, moved)[0], together)


def test_examples_change_the_feature_and_padded_history_does_not():
    model, own = made(), rows()
    feature, _ = model(*own, SHOWN)
    other, _ = model(*own, torch.tensor([[0, 1, 2, 5], [4, 5, -1, -1], [-1] * 4, [3, 2, -1, -1]]))
    assert ((feature - other).abs().max(1).values > 1e-4).tolist() == [True, False, False, False]
    longer = torch.cat([own[2], torch.zeros(4, 2, dtype=torch.long)], 1)
    torch.testing.assert_close(model(own[0], own[1], longer, SHOWN)[0], feature)


def test_without_examples_the_feature_is_of_the_row_alone():
    model, own = made(), rows()
    feature, loss = model(*own, torch.zeros(4, 0, dtype=torch.long))
    alone = model.decoder(inputs_embeds=model.rows(*own)[:, None]).last_hidden_state[:, 0]
    torch.testing.assert_close(feature, alone)
    assert loss.item() == 0


def test_gradients_reach_all_that_is_trained_and_a_weight_of_zero_has_nothing_to_restore():
    model = made().train()
    feature, loss = model(*rows(), SHOWN)
    (feature.sum() + loss).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    none = made(reconstruction=0.0)
    assert none.head is None and none(*rows(), SHOWN)[1].item() == 0
    assert not any(name.startswith("head") for name in none.state_dict())


def test_scoring_restores_nothing_and_has_the_same_feature(monkeypatch):
    model, own = made(), rows()
    feature, _ = model(*own, SHOWN)
    monkeypatch.setattr(model.head, "forward", None)  # a call would fail
    alone, loss = model(*own, SHOWN, restore=False)
    torch.testing.assert_close(alone, feature)
    assert loss.item() == 0


def test_mean_pooling_is_the_mean_of_the_tokens_that_are_there():
    model, own = made(pooling="mean"), rows()
    feature, loss = model(*own, SHOWN)
    place = SHOWN[1][:2]
    tokens = [
        model.rows(model.users[place], model.items[place], model.histories[place]),
        model.text_mapping(model.reasoning[place]),
        model.decoder.embed_tokens(model.labels[place]),
        model.rows(*(column[[1]] for column in own)),
    ]
    torch.testing.assert_close(feature[1], torch.cat(tokens).mean(0))
    assert loss.item() == 0 and model.head is None


def test_without_text_rows_know_ids_and_labels_alone():
    model, own = made(text=False), rows()
    assert model.rows.text is None and model.rows.mlp[0].in_features == 5 * 8
    assert made().rows.mlp[0].in_features == 7 * 8
    assert model(*own, SHOWN)[1] > 0  # reasoning is still there


def test_labels_are_numbered_in_alphabetical_order():
    table = label_table([(), ("war", "drama"), ("drama",), ("",)])
    assert table.tolist() == [[0, 0], [2, 1], [1, 0], [0, 0]]
    assert label_table([(), ("",)]).tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10, "heads": 4}, r"multiple of 2 \* heads = 8"),
        ({"reconstruction": -1.0}, "reconstruction = -1.0"),
        ({"layers": 0, "history": 0}, r"(?s)layers = 0.*history = 0"),
        ({"pooling": "max"}, "none of 'decoder', 'mean'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        made(**changes)

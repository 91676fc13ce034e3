"""Sequences of items as words: tokens by hand, small encoders of two architectures, and what padding may not change."""

from __future__ import annotations

import pytest
import torch

from llmbole.llm.identity import EncoderSpec
from llmbole.llm.item_sequences import FIRST, KEY, VALUE, ItemSequences

ITEMS = [[], [("title", "heat"), ("year", "95")], [("title", "a b c d")], [("year", "1")]]


@pytest.fixture
def made(small_encoder):
    """`made("bert", pooling="mean")`: an encoder of `ITEMS` in evaluation mode."""

    def make(kind="bert", attribute_tokens=3, longest=(3, 16), pooling="first"):
        torch.manual_seed(1)
        spec = EncoderSpec(str(small_encoder(kind)))
        return ItemSequences(spec, ITEMS, attribute_tokens, longest, pooling).eval()

    return make


def test_tokens_types_and_places_by_hand(made):
    encoder = made()
    ids, types, places = encoder.flatten([2, 1, 0, 0])
    words = encoder.tokenizer.convert_ids_to_tokens(ids)
    assert words == ["[CLS]", "title", "a", "b", "c", "title", "heat", "year", "9", "##5"]  # d is cut
    assert types == [FIRST, KEY, VALUE, VALUE, VALUE, KEY, VALUE, KEY, VALUE, VALUE]
    assert places == [0, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert len(made(longest=(3, 4)).flatten([2, 1])[0]) == 4
    assert made(longest=(1, 16)).flatten([2, 1])[2] == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["bert", "longformer"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_sequence_does_not_depend_on_its_batch(made, kind, pooling):
    encoder = made(kind, pooling=pooling)
    with torch.no_grad():
        together = encoder([[3], [2, 1, 3], [1, 2]])
        alone = torch.cat([encoder([row]) for row in ([3], [2, 1, 3, 0], [1, 2])])
    assert together.shape == (3, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[1], encoder([[3, 1, 2]])[0], atol=1e-3)  # order matters


@pytest.mark.parametrize("kind", ["bert", "longformer"])
def test_what_is_added_to_words_is_learned_with_them(made, kind):
    encoder = made(kind)
    encoder([[2, 1], [3, 0]]).square().sum().backward()
    assert (encoder.types.weight.grad.abs().sum(1) > 0).all()
    assert (encoder.places.weight.grad.abs().sum(1) > 0).tolist() == [True, True, True, False]
    assert encoder.model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_without_additions_it_is_the_encoder_itself(made):
    encoder = made()
    for table in (encoder.types, encoder.places):
        torch.nn.init.zeros_(table.weight)
    ids = torch.tensor([encoder.flatten([1, 2])[0]])
    expected = encoder.model(input_ids=ids).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder([[1, 2]]), expected)


def test_more_tokens_than_the_encoder_reads_are_refused(made):
    assert made(longest=(3, 66)).longest == (3, 66)
    with pytest.raises(ValueError, match=r"67 tokens of a sequence: .* reads at most 66; lower it"):
        made(longest=(3, 67))
    with pytest.raises(ValueError, match="reads at most 65"):  # its positions begin behind the padding's
        made("longformer", longest=(3, 66))

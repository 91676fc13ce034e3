"""An encoder-decoder with whole-word embeddings: pieces of words, loss and first logits against a plain computation."""

from __future__ import annotations

import pytest
import torch

from llmbole.llm import identity, seq2seq
from llmbole.llm.identity import LLMSpec
from llmbole.llm.seq2seq import Sizes

SIZES = Sizes(width=16, inner=32, layers=1, heads=2, dropout=0.0)
TEXTS = ["Will user_1 like item_2 ?", "yes no", "5 4.5"]


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(1)
    made = seq2seq.load(LLMSpec("untrained"), SIZES, TEXTS).eval()
    torch.nn.init.normal_(made.whole_words.weight)
    return made


def pieces(lm, word):
    return lm.tokenizer.convert_ids_to_tokens(lm.word_ids(word))


def test_numbers_fall_into_pieces_of_two_digits_and_nothing_is_unknown(lm):
    assert pieces(lm, "user_12345") == ["user", "_", "12", "34", "5"]
    assert pieces(lm, "4.5") == ["4", ".", "5"]
    assert pieces(lm, "yes") == ["yes"] and pieces(lm, "maybe") == ["<unk>"]
    assert len({tuple(lm.word_ids(f"item_{number}")) for number in range(2000)}) == 2000


def test_all_tokens_of_a_word_have_its_number(lm):
    ids, words = lm.encode(["Will user_123 like item_4 ?", "yes"])
    assert words[0].tolist() == [1, 2, 2, 2, 2, 3, 4, 4, 4, 5, 6]
    assert words[1].tolist() == [1, 2] + [0] * 9
    assert (
        ids[0, -1] == ids[1, 1] == lm.tokenizer.eos_token_id
        and (ids[1, 2:] == lm.tokenizer.pad_token_id).all()
    )


@torch.no_grad()
def test_words_of_their_own_are_one_token_and_others_stay_pieces():
    own = [f"item_{number}" for number in range(1, 200)]
    lm = seq2seq.load(LLMSpec("untrained"), SIZES, TEXTS, words=own).eval()
    ids = [lm.word_ids(word) for word in own]
    assert all(len(each) == 1 for each in ids) and len({each[0] for each in ids}) == len(own)
    assert min(ids)[0] >= len(lm.tokenizer) and max(ids)[0] < len(lm.model.get_input_embeddings().weight)
    assert len(lm.word_ids("user_12")) == 3
    assert lm.loss(["Will user_12 like item_199 ?"], ["item_7"]).isfinite()


def plain(lm, text, answer):
    """Log-probabilities of an answer's tokens and end, one text by itself, token by token."""
    ids, words = lm.encode([text])
    given = lm.model.shared(ids) + lm.whole_words(words)
    wanted, begun, found = lm.encode([answer])[0][0].tolist(), [lm.tokenizer.pad_token_id], []
    for token in wanted:
        logits = lm.model(inputs_embeds=given, decoder_input_ids=torch.tensor([begun])).logits[0, -1]
        found.append(logits.log_softmax(0)[token])
        begun.append(token)
    return torch.stack(found)


@torch.no_grad()
def test_the_loss_is_the_mean_of_each_rows_mean_and_padding_changes_nothing(lm):
    texts, answers = ["Will user_12345 like item_2 ?", "like item_7"], ["item_123", "no"]
    rows = [-plain(lm, *row).mean() for row in zip(texts, answers, strict=True)]
    assert lm.loss(texts, answers) == pytest.approx(float(sum(rows) / 2), abs=1e-5)


@torch.no_grad()
def test_first_logits_compare_the_answers(lm):
    texts = ["Will user_12345 like item_2 ?", "like item_7"]
    found = lm.first_logits(texts, ("yes", "no"))
    for row, text in enumerate(texts):
        expected = plain(lm, text, "yes")[0] - plain(lm, text, "no")[0]
        assert float(found[row, 0] - found[row, 1]) == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
def test_whole_words_are_read(lm):
    before = lm.first_logits(["like item_7"], ("yes", "no"))
    kept = lm.whole_words.weight[2].clone()
    lm.whole_words.weight[2] += 1.0
    assert not torch.allclose(lm.first_logits(["like item_7"], ("yes", "no")), before)
    lm.whole_words.weight[2] = kept


@torch.no_grad()
def test_a_folder_is_loaded_and_begins_as_it_was_saved(lm, tmp_path):
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    spec = LLMSpec(str(tmp_path))
    loaded = seq2seq.load(spec, SIZES, []).eval()
    assert identity.revision(spec) != identity.revision(LLMSpec("untrained"))
    assert loaded.parameters_total == lm.parameters_total
    ids, _ = loaded.encode(["like item_7"])
    begun = torch.tensor([[loaded.tokenizer.pad_token_id]])
    own = loaded.model(input_ids=ids, decoder_input_ids=begun).logits[0, 0]
    yes, no = (loaded.word_ids(word)[0] for word in ("yes", "no"))
    torch.testing.assert_close(loaded.first_logits(["like item_7"], ("yes", "no"))[0], own[[yes, no]])


def test_what_does_not_fit_is_an_error(lm):
    with pytest.raises(ValueError, match=r"a text takes 601 tokens, but 512 fit: show a shorter history"):
        lm.encode(["like " * 600])
    with pytest.raises(ValueError, match="heads = 3: must divide width = 16"):
        Sizes(16, 32, 1, 3, 0.0)
    with pytest.raises(ValueError, match="all weights are trained here"):
        seq2seq.load(LLMSpec("untrained", device_map="auto"), SIZES, [])
    with pytest.raises(ValueError, match="'untrained' has no weights"):
        identity.folder(LLMSpec("untrained"))

"""The packaged text encoder: offline, equal to sentence-transformers' own encoding, and trainable."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from llmbole.llm.encode import TrainableEncoder, encode_texts, load_encoder
from llmbole.llm.identity import EncoderSpec, folder

TEXTS = [
    "Toy Story (1995), animation",
    "",
    "Heat (1995), crime and more " * 30,
    "Amélie",
    "Toy Story (1995), animation",
]


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    model = SentenceTransformer(str(folder(EncoderSpec())), device="cpu", local_files_only=True)
    return model.encode(TEXTS, show_progress_bar=False)


def test_equals_sentence_transformers_in_order_whatever_the_batches(reference: np.ndarray) -> None:
    done: list[int] = []
    embeddings = encode_texts(EncoderSpec(), TEXTS, batch_size=2, progress=done.append)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (5, 384)
    np.testing.assert_allclose(embeddings, reference, atol=1e-5)
    assert sum(done) == 5
    assert encode_texts(EncoderSpec(), []).shape == (0, 384)


def test_similar_texts_are_closer() -> None:
    toys, dolls, tax = encode_texts(
        EncoderSpec(), ["a film about toys", "a cartoon about dolls", "corporate tax law"]
    )
    assert float(toys @ dolls) > float(toys @ tax) + 0.2


def test_no_connection_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_encoder(EncoderSpec())


def test_trainable_encoder_gives_the_same_vectors_and_gradients(reference: np.ndarray) -> None:
    encoder = TrainableEncoder(EncoderSpec(), TEXTS).eval()
    indices = torch.tensor([3, 0, 4, 0, 2, 1])
    vectors = encoder(indices)
    np.testing.assert_allclose(vectors.detach().numpy(), reference[indices], atol=1e-5)
    vectors.square().sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.requires_grad and p.grad is not None]
    assert gradients
    (1 - (vectors.detach()[0] * encoder(torch.tensor([1]))[0]).sum()).backward()
    before = encoder(torch.tensor([1])).detach()
    torch.optim.SGD(encoder.parameters(), lr=0.1).step()
    assert not torch.allclose(encoder(torch.tensor([1])), before)


def test_a_text_that_occurs_twice_is_encoded_once() -> None:
    encoder = TrainableEncoder(EncoderSpec(), TEXTS).eval()
    rows: list[int] = []
    hook = encoder.model[0].register_forward_pre_hook(
        lambda module, args: rows.append(len(args[0]["input_ids"]))
    )
    assert encoder(torch.tensor([3, 3, 0, 3])).shape == (4, 384)
    hook.remove()
    assert rows == [2]


def test_weights_travel_by_state_dict_without_the_texts() -> None:
    first, second = TrainableEncoder(EncoderSpec(), TEXTS), TrainableEncoder(EncoderSpec(), TEXTS[:2])
    state = first.state_dict()
    assert all(name.startswith("model.") for name in state)
    second.load_state_dict({name: tensor + 0.01 for name, tensor in state.items()})


def test_shorter_limit_of_tokens() -> None:
    encoder = TrainableEncoder(EncoderSpec(max_tokens=8), TEXTS)
    assert int(encoder.lengths.max()) == 8
    assert int(TrainableEncoder(EncoderSpec(), TEXTS).lengths.max()) > 200

"""A small slice of real ml-100k, models on it built with RecBole's own loaders, and a server of OpenAI's protocol."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

USERS = 40
INTERACTIONS = 25


@pytest.fixture(autouse=True)
def quiet_logger():
    """Put the package's logger back after a test: the command line gives it a handler for the whole process."""
    root = logging.getLogger("llmbole")
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture(scope="session")
def movielens_slice(tmp_path_factory) -> Path:
    """RecBole's atomic files of the first 40 users of ml-100k, with the first 25 rows of each."""
    import pandas

    import recbole

    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    folder = tmp_path_factory.mktemp("movielens_slice")
    users = {str(number) for number in range(1, USERS + 1)}
    rows = pandas.read_csv(source / "ml-100k.inter", sep="\t", dtype=str)
    rows = rows[rows["user_id:token"].isin(users)].groupby("user_id:token", sort=False).head(INTERACTIONS)
    rows.to_csv(folder / "ml-100k.inter", sep="\t", index=False)
    people = pandas.read_csv(source / "ml-100k.user", sep="\t", dtype=str)
    people[people["user_id:token"].isin(users)].to_csv(folder / "ml-100k.user", sep="\t", index=False)
    (folder / "ml-100k.item").write_bytes((source / "ml-100k.item").read_bytes())
    return folder


@pytest.fixture(scope="session")
def built(movielens_slice):
    """Make a model's config, dataset, RecBole's loaders and the model: `built("BPR", seed=1, epochs=2)`."""

    def build(model: str, seed: int = 1, **settings) -> SimpleNamespace:
        from llmbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        config = Config(model, "ml-100k", movielens_slice, settings, device="cpu", seed=seed)
        init_seed(seed, True)
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        init_seed(seed, True)
        module = config.model_class(config, train._dataset)
        return SimpleNamespace(
            config=config, dataset=dataset, train=train, valid=valid, test=test, model=module
        )

    return build


@pytest.fixture(scope="session")
def films(movielens_slice, tmp_path_factory):
    """The slice of ml-100k as a folder of own data, which other processes find by its path; nobody writes there."""
    import pandas

    import llmbole

    rows = pandas.read_csv(movielens_slice / "ml-100k.inter", sep="\t", dtype=str)
    rows.columns = [name.partition(":")[0] for name in rows.columns]
    items = pandas.read_csv(movielens_slice / "ml-100k.item", sep="\t", dtype=str, quoting=3)
    items = items.rename(columns={"item_id:token": "item_id", "movie_title:token_seq": "title"})
    return llmbole.dataset_from_frames(
        rows.astype({"rating": float, "timestamp": float}),
        items[["item_id", "title"]],
        folder=tmp_path_factory.mktemp("own") / "films",
    )


Behave = Callable[[str, int], Any]


def completion(
    text: str | None, *, finish: str = "stop", refusal: str | None = None, usage: bool = True
) -> dict:
    """A reply with one answer, of 7 tokens read and 3 written."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    counted = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **({"usage": counted} if usage else {}),
    }


@dataclass
class Asked:
    """What a server was asked: prompts as they came and as they were answered, bodies, keys, most at the same time."""

    url: str
    prompts: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0


@contextmanager
def chat_server(behave: Behave) -> Iterator[Asked]:
    """Serve while the block runs.

    Args:
        behave: Given a prompt and how often it came before, a reply: a JSON object; a status, headers and an object;
            `"close"` hangs up; a number of seconds sleeps before a good answer.

    Yields:
        What was asked.
    """
    lock, now, seen = threading.Lock(), [0], {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                earlier = seen.get(prompt, 0)
                seen[prompt] = earlier + 1
                asked.prompts.append(prompt)
                asked.times.append(time.monotonic())
                asked.bodies.append(body)
                asked.keys.append(self.headers.get("authorization"))
                now[0] += 1
                asked.most = max(asked.most, now[0])
            try:
                self.reply(prompt, behave(prompt, earlier))
            finally:
                with lock:
                    now[0] -= 1

        def reply(self, prompt: str, said: Any) -> None:
            if said == "close":
                self.close_connection = True
                return
            if isinstance(said, float):
                time.sleep(said)
                said = completion(f"answer to {prompt}")
            status, headers, content = said if isinstance(said, tuple) else (200, {}, said)
            text = json.dumps(content).encode()
            try:
                self.send_response(status)
                for name, value in {
                    "content-type": "application/json",
                    "content-length": str(len(text)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)
            except OSError:  # whoever asked is gone
                self.close_connection = True
                return
            if status == 200:
                with lock:
                    asked.answered.append(prompt)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    asked = Asked(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def chat(monkeypatch) -> SimpleNamespace:
    """A server of OpenAI's protocol, `with chat.server(behave) as asked`, and its replies; no key is set."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(server=chat_server, completion=completion)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory):
    """A folder with a small text encoder made from its configuration: `small_encoder("longformer")`."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = _write_encoder(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def _write_encoder(kind: str, folder: Path) -> Path:
    import torch
    from transformers import AutoConfig, AutoModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join([*words, "title", "heat", "year"]) + "\n", encoding="utf-8")
    own = {"attention_window": 8} if kind == "longformer" else {}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(words) + 3,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=66,
        pad_token_id=0,
        **own,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder

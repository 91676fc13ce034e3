"""Generation and encoding by many workers of Ray Data, on one machine or a cluster: the batches of one process, shared.

Each worker holds the model and takes batches as it is free. Batches are those that one process makes, so answers and
vectors are the same, up to rounding on unlike machines. Ray is started when there is work, and only then.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmbole.cluster import ray_started
from llmbole.llm.backbone import load, load_tokens
from llmbole.llm.engine import Answer, EngineError
from llmbole.llm.identity import EncoderSpec, LLMSpec
from llmbole.llm.local import LocalEngine
from llmbole.llm.texts import batches

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
ADDRESS = "generate.ray_address"


@dataclass(frozen=True)
class Workers:
    """How many workers there are and what each has; nothing here changes a text or a vector.

    Attributes:
        workers: Number of them.
        cpus_per_worker: Also its threads.
        gpus_per_worker: Below 1 workers share one; `None` takes 1 if the cluster has any, else 0.
        ray_address: Of a running cluster, `HOST:PORT` or `auto`; `None` starts Ray on this machine.
    """

    workers: int = 2
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None
    ray_address: str | None = None


class WorkersEngine:
    """Greedy answers as `LocalEngine` gives them, by many workers.

    A model that is a folder must lie in the same place on every machine.

    Args:
        spec: The language model.
        model: What it is: name, revision and tuning, for the keys of answers.
        max_new_tokens: Longest answer.
        repetition_penalty: Divides the logits of tokens that the answer already has; 1 is none.
        workers: Who works.
    """

    def __init__(
        self,
        spec: LLMSpec,
        model: Mapping[str, Any],
        max_new_tokens: int,
        repetition_penalty: float,
        workers: Workers,
    ) -> None:
        self.spec, self.workers = spec, workers
        self.decoding = {"max_new_tokens": max_new_tokens, "repetition_penalty": repetition_penalty}
        self.tokens = 0
        self.identity: Mapping[str, Any] = {"engine": "local", "model": dict(model), **self.decoding}

    def answers(self, prompts: Sequence[str], batch_size: int) -> Iterator[Mapping[int, Answer]]:
        """Answers by their prompts' places, batch by batch, whichever is done first.

        Args:
            prompts: What is asked.
            batch_size: Prompts that a model reads together.

        Yields:
            A batch's answers.
        """
        if not prompts:
            return
        lengths = [len(ids) for ids in load_tokens(self.spec).ids_many(list(prompts))]
        places = batches(lengths, batch_size)
        rows = [
            {"batch": number, "texts": [prompts[each] for each in own]} for number, own in enumerate(places)
        ]
        arguments = {"spec": dataclasses.asdict(self.spec), "decoding": self.decoding}
        with _mapped(rows, _Answering, arguments, self.workers) as done:
            for row in done:
                self.tokens += int(row["tokens"])
                own = places[int(row["batch"])]
                yield {place: Answer(text) for place, text in zip(own, row["found"], strict=True)}


class _Answering:
    """A worker that answers batches of prompts."""

    def __init__(self, spec: Mapping[str, Any], decoding: Mapping[str, Any]) -> None:
        self.engine = LocalEngine(load(LLMSpec(**spec), _device()).freeze(), {}, **decoding)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        texts, before = [str(text) for text in batch["texts"][0]], self.engine.tokens
        self.engine.check(texts)
        found = self.engine.answer(texts)
        return {"batch": batch["batch"], "found": [found], "tokens": [self.engine.tokens - before]}


def encode_by_workers(
    spec: EncoderSpec,
    texts: Sequence[str],
    workers: Workers,
    progress: Any = None,  # noqa: ANN401 - a ticker
) -> np.ndarray:
    """Embeddings of texts as `encode_texts` gives them, by many workers.

    Args:
        spec: Which encoder.
        texts: The texts, possibly none.
        workers: Who works.
        progress: Called with the number of texts done since the last call.

    Returns:
        Embeddings in the order of the texts, `[n, D]`, float32.
    """
    from llmbole.llm.encode import encode_texts, shards

    if not texts:
        return encode_texts(spec, texts)
    parts: dict[int, np.ndarray] = {}
    rows = [{"batch": number, "texts": list(own)} for number, own in enumerate(shards(texts))]
    with _mapped(rows, _Encoding, {"spec": dataclasses.asdict(spec)}, workers) as done:
        for row in done:
            parts[int(row["batch"])] = np.asarray(row["found"], dtype=np.float32)
            if progress is not None:
                progress(len(parts[int(row["batch"])]))
    return np.concatenate([parts[number] for number in range(len(rows))])


class _Encoding:
    """A worker that encodes texts."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = EncoderSpec(**spec)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        from llmbole.llm.encode import encode_texts

        found = encode_texts(self.spec, [str(text) for text in batch["texts"][0]], _device())
        return {"batch": batch["batch"], "found": found[None]}


@contextmanager
def _mapped(
    rows: Sequence[Mapping[str, Any]], worker: type, arguments: Mapping[str, Any], workers: Workers
) -> Iterator[Iterator[dict[str, Any]]]:
    """What workers make of rows, row by row, whichever is done first."""
    variables = dict.fromkeys(THREADS, str(max(1, int(workers.cpus_per_worker))))
    import ray

    if ray.is_initialized():
        raise EngineError(
            "generate.engine = ray within a sweep or a table would wait for the CPUs that they hold: run the method "
            "once by itself, which makes the texts for all of them, or set generate.engine=local"
        )
    with ray_started(workers.ray_address, variables, ADDRESS) as there:
        from ray import data

        gpus = workers.gpus_per_worker
        gpus = (1.0 if there.get("GPU") else 0.0) if gpus is None else gpus
        _check_room(workers, gpus, there)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        mapped = data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
            worker,
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=min(workers.workers, len(rows))),
            fn_constructor_kwargs=dict(arguments),
            num_cpus=workers.cpus_per_worker,
            num_gpus=gpus,
        )
        yield iter(mapped.iter_rows())


def _check_room(workers: Workers, gpus: float, there: Mapping[str, float]) -> None:
    """Refuse more workers than there is room for: Ray would wait for it without an end."""
    for name, each in (("CPU", workers.cpus_per_worker), ("GPU", gpus)):
        found = there.get(name, 0.0)
        if each * workers.workers > found:
            raise EngineError(
                f"generate.workers = {workers.workers} with {each:g} {name}s each need {each * workers.workers:g}, and "
                f"Ray has {found:g}: lower generate.workers or generate.{name.lower()}s_per_worker"
            )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

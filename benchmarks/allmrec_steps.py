"""Training steps of A-LLMRec beside plain ones, and the share of stage 2 that is spent inside the LLM.

    python benchmarks/allmrec_steps.py [--llm tiny] [--threads 2] [--samples 64]

Data, split, backbone and vectors are ml-100k's, made in a store of their own (`--store` keeps it). The plain steps are
what the library replaces, with the same weights, losses and samples:

- stage 1 encodes the texts of every sample again, positive and negative items apart, one call per side;
- stage 2 encodes the texts of all listed items again, builds and runs one prompt at a time, pads nothing, takes
  logits at all positions, and puts soft vectors in one by one.

The last figures are shares of the seconds of whole stages as `run_benchmark.py` runs them.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmbole.llm.backbone import LanguageModel
from llmbole.llm.encode import load_encoder
from llmbole.model import stages, training
from llmbole.model.allmrec import Alignment, AlignSettings, ALLMRec, ProjectSettings
from llmbole.pipeline.run import StageRun, execute, plan
from llmbole.pipeline.store import Artifact, Store
from llmbole.resolve import resolve
from llmbole.settings import build

Step = Callable[[Any], None]


class PlainTexts(nn.Module):
    """Text vectors of item ids, encoded anew at every call."""

    def __init__(self, run: StageRun, texts: list[str], *, tuned: bool) -> None:
        super().__init__()
        self.model, self.texts, self.tuned = load_encoder(stages.encoder_spec(run)), texts, tuned
        self.dimension = int(self.model.get_embedding_dimension() or 0)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings `[n, D]`, both halves of a batch in calls of their own as positives and negatives are."""
        halves = ids.split(max(1, len(ids) // 2))
        with torch.set_grad_enabled(self.tuned):
            return torch.cat([self.encode([self.texts[item] for item in half.tolist()]) for half in halves])

    def encode(self, texts: list[str]) -> Tensor:
        return self.model(self.model.preprocess(texts))["sentence_embedding"]


def plain_loss(model: ALLMRec, alignment: Alignment, texts: PlainTexts, row: Any) -> Tensor:  # noqa: ANN401
    """Stage 2's loss of one sample, nothing batched and nothing kept."""
    lm, choice = model.choice.lm, model.choice
    history = [item for item in row["history"].tolist() if item][-model.history :]
    candidates = row["candidates"].tolist()
    with torch.no_grad():
        for item in (*history, *candidates):
            texts.encode([texts.texts[item]])
            alignment.encode_item(alignment.items[item])
    text = choice.template.encode(
        lm.tokens,
        {
            **choice.words,
            "history": [choice.titles[item] for item in history],
            "candidates": [choice.titles[item] for item in candidates],
        },
    )
    answer = choice.answers[int(row["item"])]
    ids = torch.tensor([[*text.ids, *answer]])
    inputs = lm.embed(ids).clone()  # [1, T, H]
    inputs[0, text.soft["user"][0]] = model.project_user(row["user_vector"])
    for slot, items in (("history", history), ("candidates", candidates)):
        for place, item in zip(text.soft[slot], items, strict=True):
            inputs[0, place] = model.project_item(model.items[item])
    logits = lm.model(inputs_embeds=inputs, use_cache=False).logits[0, :-1]  # [T - 1, V]
    start = len(text.ids) - 1
    return functional.cross_entropy(logits[start:], ids[0, start + 1 :])


def samples_per_second(name: str, step: Step, batches: list[Any], samples: int) -> float:
    """Rate of training steps after one to warm up."""
    step(batches[0])
    begin, seen = time.perf_counter(), 0
    while seen < samples:
        batch = batches[seen // len(batches[0]) % len(batches)]
        step(batch)
        seen += len(batch)
    rate = seen / (time.perf_counter() - begin)
    print(f"  {name:34} {rate:9.1f} samples/s", flush=True)
    return rate


def update(module: nn.Module, loss_of: Callable[[Any], Tensor]) -> Step:
    """A whole step: loss, gradients, Adam."""
    optimizer = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], lr=1e-4)

    def step(batch: Any) -> None:  # noqa: ANN401
        loss_of(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Share:
    """Seconds spent inside the LLM's forward and backward passes during a block."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm, self.inside, self.started = lm, 0.0, 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count calls of the LLM, and the time from a loss's backward until its inputs have gradients."""
        hidden, head, backward = self.lm.hidden, self.lm.head, Tensor.backward

        def timed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def call(*given: Any, **named: Any) -> Tensor:  # noqa: ANN401
                begin = time.perf_counter()
                result = function(*given, **named)
                self.inside += time.perf_counter() - begin
                return result

            return call

        def hooked(inputs: Tensor, *given: Any, **named: Any) -> Tensor:  # noqa: ANN401
            if inputs.requires_grad:
                inputs.register_hook(self.reached)
            return timed(hidden)(inputs, *given, **named)

        def started(loss: Tensor, *given: Any, **named: Any) -> None:  # noqa: ANN401
            self.started = time.perf_counter()
            backward(loss, *given, **named)

        self.lm.hidden, self.lm.head, Tensor.backward = hooked, timed(head), started  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            self.lm.hidden, self.lm.head, Tensor.backward = hidden, head, backward  # type: ignore[method-assign]

    def reached(self, gradient: Tensor) -> None:
        self.inside += time.perf_counter() - self.started


def total_loss(model: Alignment, batch: Any) -> Tensor:  # noqa: ANN401
    """The sum of the losses."""
    return torch.stack(model.calculate_loss(batch)).sum()


def stage_1(run: StageRun, artifacts: dict[str, Artifact], samples: int) -> None:
    """Bar (a), first half."""
    data, split, vectors, text = (artifacts[name] for name in ("data", "split", "vectors", "text"))
    settings = build(AlignSettings, {**run["align"], "batch_size": 32}, "align")
    batches = [
        batch
        for batch, _ in zip(training.rows(split, vectors, settings, 0, negatives=1), range(4), strict=False)
    ]
    items = training.load_tensors(vectors, "vectors")["items"]
    texts = stages.item_texts(data, split, settings.text)
    for tuned in (False, True):
        print(f"stage 1, {'tuned' if tuned else 'frozen'} text encoder, batch {settings.batch_size}")
        source = stages.text_vectors(run, data, split, None if tuned else text, settings.text)
        ours = Alignment(items, source, settings)
        plain = Alignment(items, PlainTexts(run, texts, tuned=tuned), settings)
        rates = [
            samples_per_second(name, update(model, functools.partial(total_loss, model)), batches, samples)
            for name, model in (("plain, texts encoded again", plain), ("llmbole", ours))
        ]
        print(f"  {rates[1] / rates[0]:.1f} x")


def stage_2(run: StageRun, artifacts: dict[str, Artifact], samples: int) -> None:
    """Bar (a), second half, and (c)."""
    data, split, vectors, aligned = (artifacts[name] for name in ("data", "split", "vectors", "alignment"))
    model = ALLMRec.assemble(run, data, split, vectors, aligned)
    settings = build(ProjectSettings, run["project"], "project")
    rows = training.rows(split, vectors, settings, 0, negatives=settings.candidates - 1)
    batches = [batch for batch, _ in zip(rows, range(2), strict=False)]
    align = build(AlignSettings, run["align"], "align")
    texts = PlainTexts(run, stages.item_texts(data, split, align.text), tuned=False)
    alignment = Alignment(training.load_tensors(vectors, "vectors")["items"], texts, align)
    print(f"stage 2, batch {settings.batch_size}; plain: batch 1")
    singles = [batches[0][place] for place in range(len(batches[0]))]
    step = update(model, lambda row: plain_loss(model, alignment, texts, row))
    with torch.no_grad():
        loss = model.calculate_loss(batches[0][torch.tensor([0])])
        difference = (loss - plain_loss(model, alignment, texts, singles[0])).abs()
    print(f"  difference of the losses on one sample: {difference:.1e}")
    plain = rate_of_singles(step, singles[: max(2, samples // 8)])
    ours = samples_per_second("llmbole", update(model, model.calculate_loss), batches, samples)
    print(f"  {ours / plain:.1f} x (at least 3)")

    share, begin = Share(model.choice.lm), time.perf_counter()
    with share.measured():
        training.fit(run, model, rows, data, settings)
    wall = time.perf_counter() - begin
    print(
        f"stage 2 training as run: {wall:.1f} s, inside the LLM {share.inside:.1f} s, "
        f"{share.inside / wall:.1%} (at least 85 %)"
    )


def rate_of_singles(step: Step, rows: list[Any]) -> float:
    """Rate of steps of one sample each."""
    step(rows[0])
    begin = time.perf_counter()
    for row in rows:
        step(row)
    rate = len(rows) / (time.perf_counter() - begin)
    print(f"  {'plain, one prompt at a time':34} {rate:9.1f} samples/s", flush=True)
    return rate


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="tiny", help="tiny, a local folder, or a hub id")
    parser.add_argument("--samples", type=int, default=64, help="samples of a measurement")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of stage 2 for the share")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--store", type=Path, help="store of artifacts; a temporary one by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "llm": arguments.llm,
            "project.epochs": arguments.epochs,
            "store": str(arguments.store or folder),
        }
        resolved = resolve("ALLMRec", "ml-100k", settings, ())
        store = Store(Path(resolved.options["store"]))
        wanted = ("text", "alignment")
        artifacts = execute(
            plan(resolved.method, resolved.settings, store, wanted),
            resolved.settings,
            store,
            resolved.options,
        )
        work = Path(folder)
        run = StageRun(
            "benchmark",
            work / "made",
            work / "work",
            resolved.settings,
            {**resolved.options, "progress": False},
        )
        run.folder.mkdir()
        run.workspace.mkdir()
        print(f"{arguments.llm}, {arguments.threads} threads")
        stage_1(run, artifacts, arguments.samples)
        stage_2(run, artifacts, arguments.samples)


if __name__ == "__main__":
    main()

"""Training of what a frozen language model is given (updates, mappings) by steps, chosen on validation data."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from llmbole.llm.processes import ALONE, Processes

Loss = Callable[[Tensor], tuple[Tensor, int]]
SNAPSHOT = "tune.safetensors"
SNAPSHOT_SECONDS = 20.0


class TuningError(RuntimeError):
    """A training that can't go on; the message says where it stopped and what to change."""


@dataclass(frozen=True)
class TuneSettings:
    """AdamW by steps.

    Attributes:
        learning_rate: the highest, after the warm-up.
        warmup_rate: the first.
        warmup_steps: steps from the first to the highest, in equal parts.
        least_rate: the last, which a half cosine ends in.
        weight_decay: not applied to biases and other one-dimensional parameters.
        batch_size: rows of one forward pass.
        accumulation: forward passes of one step.
        steps: at most.
        check_every: steps between two validations.
        patience: validations without a better score after which training ends.
        clip: largest norm of all gradients together; None leaves them as they are.
    """

    learning_rate: float
    warmup_rate: float
    warmup_steps: int
    least_rate: float
    weight_decay: float
    batch_size: int
    accumulation: int
    steps: int
    check_every: int
    patience: int
    clip: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        least = {
            "warmup_steps": 0,
            "batch_size": 1,
            "accumulation": 1,
            "steps": 1,
            "check_every": 1,
            "patience": 1,
        }
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        for name in ("learning_rate", "warmup_rate", "least_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                problems.append(f"{name} = {getattr(self, name)}: must be a number of at least 0")
        if self.clip is not None and not self.clip > 0:
            problems.append(f"clip = {self.clip}: must be above 0")
        if problems:
            raise ValueError("\n".join(problems))

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.warmup_rate + (self.learning_rate - self.warmup_rate) * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.least_rate + (self.learning_rate - self.least_rate) * (1 + math.cos(math.pi * done)) / 2


class Validate(Protocol):
    """What scores a module on validation data; higher is better."""

    def __call__(self) -> tuple[float, int]:
        """The score, and how many tokens were read for it."""


@dataclass
class Tuned:
    """How a training went, and where it stands.

    Attributes:
        step: steps done.
        score: the best validation score; None before the first validation.
        best_step: after how many steps it was reached.
        worse: validations since then.
        loss: mean loss of the steps since the last validation, or before it.
        tokens: read so far, validation included.
        scores: validation scores in order.
    """

    step: int = 0
    score: float | None = None
    best_step: int = 0
    worse: int = 0
    loss: float = math.nan
    tokens: int = 0
    scores: list[float] = field(default_factory=list)


def tune(
    module: nn.Module,
    loss: Loss,
    rows: int,
    settings: TuneSettings,
    *,
    seed: int,
    workspace: Path,
    validate: Validate | None = None,
    validated: Callable[[int, float], None] | None = None,
    progress: Callable[[int], None] | None = None,
    snapshot_seconds: float = SNAPSHOT_SECONDS,
    processes: Processes = ALONE,
) -> Tuned:
    """Train a module's parameters that require gradients; it ends with its state of the best validation score.

    Rows come in an order that depends on seed and epoch alone. With its snapshot a training that was killed ends as one
    that was not. Several processes take one's steps, up to rounding and dropout; the loss has to be a mean over rows.

    Args:
        module: holds what is trained; other parameters stay as they are.
        loss: mean loss of rows, and how many tokens were read for it: `[B]` indices to a scalar and a number.
        rows: number of training rows.
        settings: the optimiser and its schedule.
        seed: of the rows' order.
        workspace: folder for the snapshot.
        validate: scores the module in evaluation mode; without it the last state is kept.
        validated: told steps done and the score of each validation; it may raise to end the training here.
        progress: told finished steps.
        snapshot_seconds: least time between two snapshots.
        processes: that train together, from the same state and with the same arguments; the first writes the snapshots.

    Returns:
        How it went.

    Raises:
        TuningError: there is nothing to train or nothing to train on, a loss is not a number, or a snapshot is damaged.
    """
    _check(module, rows)
    report = progress or (lambda steps: None)
    optimizer = torch.optim.AdamW(groups(module, settings.weight_decay), lr=settings.rate(0))
    snapshot = workspace / SNAPSHOT
    tuned, best = _resume(snapshot, module, optimizer) if snapshot.exists() else (Tuned(), learned(module))
    report(tuned.step)
    written, losses = time.monotonic(), []
    while tuned.step < settings.steps and tuned.worse < settings.patience:
        module.train()
        losses.append(_step(module, loss, rows, settings, optimizer, tuned, seed, processes))
        report(1)
        if tuned.step % settings.check_every == 0 or tuned.step == settings.steps:
            tuned.loss, losses = sum(losses) / len(losses), []
            processes.share_statistics(module)
            if _is_better(module, tuned, validate, validated):
                tuned.best_step, best = tuned.step, learned(module)
            if processes.rank == 0 and time.monotonic() - written >= snapshot_seconds:
                _write(snapshot, module, best, optimizer, tuned)
                written = time.monotonic()
    module.eval()
    module.load_state_dict(best, strict=False)
    return tuned


def _check(module: nn.Module, rows: int) -> None:
    if not rows or not any(parameter.requires_grad for parameter in module.parameters()):
        raise TuningError(f"{rows} training rows and {type(module).__name__}: there is nothing to train")


def _step(
    module: nn.Module,
    loss: Loss,
    rows: int,
    settings: TuneSettings,
    optimizer: torch.optim.Optimizer,
    tuned: Tuned,
    seed: int,
    processes: Processes,
) -> float:
    """One step of the optimiser; its mean loss."""
    first = tuned.step * settings.accumulation
    batches = [
        rows_of(first + number, rows, settings.batch_size, seed) for number in range(settings.accumulation)
    ]
    size, total = sum(map(len, batches)), 0.0
    optimizer.zero_grad(set_to_none=True)
    processes.seed_step(seed, tuned.step)
    for number, batch in enumerate(batches):
        own = processes.part(batch)
        value, tokens = loss(own) if len(own) else (None, 0)
        mean, read = processes.sums(0.0 if value is None else value.item() * (len(own) / len(batch)), tokens)
        if not math.isfinite(mean):
            per_epoch = -(-rows // settings.batch_size)
            epoch, place = divmod(first + number, per_epoch)
            raise TuningError(
                f"the loss of {type(module).__name__} is {mean} in epoch {epoch + 1}, batch {place + 1} of {per_epoch} "
                f"(step {tuned.step + 1}): lower learning_rate ({settings.learning_rate}), or look for inputs that are "
                "not numbers"
            )
        if value is not None:
            (value * (len(own) / size)).backward()
        total += mean * len(batch) / size
        tuned.tokens += int(read)
    processes.add_gradients(module.parameters())
    if settings.clip is not None:
        nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
    for group in optimizer.param_groups:
        group["lr"] = settings.rate(tuned.step)
    optimizer.step()
    tuned.step += 1
    return total


def rows_of(batch: int, rows: int, batch_size: int, seed: int) -> Tensor:
    """Rows of a batch, counted from 0 over all epochs. Shape `[B]`; an epoch's last batch may be smaller."""
    epoch, place = divmod(batch, -(-rows // batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)[place * batch_size : (place + 1) * batch_size]


def groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that require gradients: matrices with weight decay, biases and other one-dimensional ones without."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    others = [parameter for parameter in trained if parameter.dim() < 2]
    return [
        {"params": each, "weight_decay": decay}
        for each, decay in ((matrices, weight_decay), (others, 0.0))
        if each
    ]


def learned(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state without its frozen parameters: what training can change."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {
        name: tensor.detach().clone() for name, tensor in module.state_dict().items() if name not in frozen
    }


def _is_better(
    module: nn.Module,
    tuned: Tuned,
    validate: Validate | None,
    validated: Callable[[int, float], None] | None,
) -> bool:
    """Whether the module's state is to be kept: it has the best score in evaluation mode, or nothing scores it."""
    module.eval()
    if validate is None:
        return True
    score, tokens = validate()
    tuned.tokens += tokens
    tuned.scores.append(score)
    better = tuned.score is None or score > tuned.score
    tuned.score = score if better else tuned.score
    tuned.worse = 0 if better else tuned.worse + 1
    if validated is not None:
        validated(tuned.step, score)
    return better


def _write(
    path: Path, module: nn.Module, best: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, tuned: Tuned
) -> None:
    """Everything a training goes on from, written aside and renamed."""
    tensors = {f"module.{name}": tensor for name, tensor in learned(module).items()}
    tensors |= {f"best.{name}": tensor.clone() for name, tensor in best.items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entries.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(held, aside, metadata={"tuned": json.dumps(vars(tuned))})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _resume(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Tuned, dict[str, Tensor]]:
    """Put back what `_write` wrote; the training so far, and its best state."""
    try:
        with safe_open(path, framework="pt") as file:
            tuned = Tuned(**json.loads(file.metadata()["tuned"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise TuningError(f"{path} is damaged ({error}): delete it and train again") from None

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: each for name, each in tensors.items() if name.startswith(prefix)}

    if part("module.").keys() != learned(module).keys():
        raise TuningError(
            f"{path} is of another module than this {type(module).__name__}: delete it and train again"
        )
    module.load_state_dict(part("module."), strict=False)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return tuned, part("best.")

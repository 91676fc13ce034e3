"""Leaves of training: rows with fresh negatives, one fit through RecBole's Trainer, weights as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmbole.config import Config, resolve_device
from llmbole.data import leak
from llmbole.data.negatives import NegativeSampler
from llmbole.data.positions import training_positions
from llmbole.data.split import Split
from llmbole.model.base import LLMRecommender
from llmbole.model.session import Session, no_leaks
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from llmbole.trainer.batches import Batches
from llmbole.trainer.trainer import Trainer
from recbole.utils import init_seed

WEIGHTS = "weights"


class Hyperparameters(Protocol):
    """What every trained stage states."""

    @property
    def positions(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def schedule(self) -> Literal["constant", "linear"]: ...


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, and ask for deterministic kernels."""
    init_seed(seed, True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors."""
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def load_tensors(artifact: Artifact, name: str) -> dict[str, Tensor]:
    """Read the named tensors of an artifact's file `<name>.safetensors`."""
    return load_file(artifact.folder / f"{name}.safetensors")


def load_weights(model: nn.Module, artifact: Artifact) -> None:
    """Give a model the weights that `fit` left in an artifact; names and shapes must be the same."""
    model.load_state_dict(load_tensors(artifact, WEIGHTS))


def rows(
    split: Artifact, vectors: Artifact, settings: Hyperparameters, seed: int, *, negatives: int
) -> Batches:
    """Training rows of users' last positions, with negatives drawn afresh each epoch.

    Args:
        split: The split's artifact.
        vectors: The backbone's vectors at training positions.
        settings: How many positions per user, and rows per batch.
        seed: Of shuffling and negatives.
        negatives: Items per row that the user has no training interaction with.

    Returns:
        Batches with `user [B]`, `user_vector [B, D]`, `history [B, L]`, `length [B]`, `item [B]` (the next item),
        `negatives [B, n]`, and `candidates [B, n + 1]`: the next item among the negatives, in random order.
    """
    columns = {name: tensor for name, tensor in load_tensors(vectors, "vectors").items() if name != "items"}
    kept = (
        columns["age"] < settings.positions
        if settings.positions
        else torch.ones_like(columns["age"], dtype=torch.bool)
    )
    columns = {name: column[kept] for name, column in columns.items()}
    columns["user_vector"] = columns.pop("user_vectors")
    return _with_negatives(columns, Split.load(split.folder), settings, seed, negatives)


def text_rows(
    split: Artifact, settings: Hyperparameters, seed: int, *, history: int, negatives: int
) -> Batches:
    """Training rows of users' last positions for a method that reads no vectors.

    Args:
        split: The split's artifact.
        settings: How many positions per user (0 takes all), and rows per batch.
        seed: Of shuffling and negatives.
        history: Longest history; the newest items are kept.
        negatives: As for `rows`.

    Returns:
        Batches as `rows` gives them, without `user_vector`.

    Raises:
        ValueError: A row shows its target, or something later than it.
    """
    opened = Split.load(split.folder)
    found = training_positions(opened, settings.positions, history)
    no_leaks(leak.check_training(opened, found.users, found.targets, found.histories))
    columns = {
        "user": found.users,
        "item": found.targets,
        "history": found.histories,
        "length": found.lengths,
    }
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    return _with_negatives(tensors, opened, settings, seed, negatives)


def _with_negatives(
    columns: Mapping[str, Tensor], split: Split, settings: Hyperparameters, seed: int, negatives: int
) -> Batches:
    """Rows to which each epoch brings negatives, and the candidates made of them."""
    sampler = _sampler(split)
    users, items = columns["user"].numpy(), columns["item"]

    def draw(generator: torch.Generator) -> dict[str, Tensor]:
        seed_of_epoch = int(torch.randint(2**62, (), generator=generator))
        drawn = torch.from_numpy(
            sampler.sample(np.random.default_rng(seed_of_epoch), users, negatives)
        )  # [P, n]
        offered = torch.cat([items[:, None], drawn], 1)  # [P, n + 1]
        order = torch.rand(offered.shape, generator=generator).argsort(1)
        return {"negatives": drawn, "candidates": offered.gather(1, order)}

    return Batches(columns, settings.batch_size, seed, draw)


def _sampler(split: Split) -> NegativeSampler:
    """Negatives outside the users' training interactions; held-out items may be drawn, as nobody knows them yet."""
    sequences = [split.train_items(user) for user in range(split.n_users)]
    users = np.repeat(np.arange(split.n_users), [len(sequence) for sequence in sequences])
    return NegativeSampler(users, np.concatenate(sequences), split.n_train_items)


def parameter_groups(model: nn.Module, part: nn.Module, rate: float | None) -> list[dict[str, Any]]:
    """What a model trains, as torch's optimizers take it, a part of it with a learning rate of its own.

    Args:
        model: The model.
        part: A module in it.
        rate: The part's learning rate; `None` is the model's.

    Returns:
        A group, and a second one if the part learns.
    """
    inside = {id(parameter) for parameter in part.parameters()}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    slow = [parameter for parameter in learned if id(parameter) in inside]
    groups: list[dict[str, Any]] = [{"params": [each for each in learned if id(each) not in inside]}]
    return [*groups, {"params": slow, **({} if rate is None else {"lr": rate})}] if slow else groups


def decay_linearly(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Let an optimizer's learning rate fall from its first value to 0 over so many steps.

    The step is the one that Adam counts in its own state, so a resumed training goes on where it stopped.

    Args:
        optimizer: One of the Adam family.
        steps: In all.
    """
    first = [group["lr"] for group in optimizer.param_groups]

    def set_rates(optimizer: torch.optim.Optimizer, *_: object) -> None:
        done = next((float(state["step"]) for state in optimizer.state.values()), 0.0)
        for group, rate in zip(optimizer.param_groups, first, strict=True):
            group["lr"] = rate * max(0.0, 1 - done / steps)

    optimizer.register_step_pre_hook(set_rates)


def fit(
    run: StageRun, model: LLMRecommender, batches: Batches, data: Artifact, settings: Hyperparameters
) -> dict[str, Any]:
    """Train a model through RecBole's Trainer for a fixed number of epochs; resumes after a kill.

    The trained weights go to `weights.safetensors` in the stage's folder.

    Args:
        run: The stage.
        model: Its trainable parameters are trained; everything else stays as it is.
        batches: Training rows.
        data: The data's artifact, whose folder RecBole's Config wants.
        settings: Learning rate, its schedule, and epochs; the optimiser is Adam without weight decay.

    Returns:
        A summary: epochs, loss of the first and the last epoch, trainable parameters, what was done.
    """
    own = {
        "learner": "adam",
        "learning_rate": settings.learning_rate,
        "epochs": settings.epochs,
        "eval_step": 0,
    }
    device = run.resources.get("device", "auto")
    config = Config(type(model), run["dataset.name"], data.folder, own, device=device, seed=run.seed)
    model.to(resolve_device(device))
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with run.progress(len(batches) * settings.epochs, "batch") as ticker:
        trainer = Trainer(config, model, workspace=run.workspace, progress=ticker)
        if settings.schedule == "linear":
            decay_linearly(trainer.optimizer, len(batches) * settings.epochs)
        trainer.resume()
        trainer.fit(batches, verbose=False)
    save_tensors(run.folder / f"{WEIGHTS}.safetensors", model.state_dict())
    losses = [float(loss) for _, loss in sorted(trainer.train_loss_dict.items())]
    tokens = int(getattr(model, "tokens_read", 0))
    run.count(trainable_parameters=parameters, **({"llm_tokens": tokens} if tokens else {}))
    did = f"{parameters:,} parameters trained for {settings.epochs} epochs of {batches.rows} rows"
    mean_loss = losses[-1] / len(batches) if losses else None
    return {
        "epochs": settings.epochs,
        "rows": batches.rows,
        "trainable_parameters": parameters,
        "loss": mean_loss,
        "did": did,
    }


def fit_rows(
    run: StageRun, session: Session, model: LLMRecommender, loaders: Mapping[str, Any]
) -> dict[str, Any]:
    """Train a model as conventional models are trained: with RecBole's settings, the best epoch is kept.

    What was learned goes to `weights.safetensors` in the stage's folder.

    Args:
        run: The stage.
        session: Settings and data; the settings are those of the conventional model in it, or the model's own.
        model: The model.
        loaders: Batches of `train` and `valid`.

    Returns:
        A summary: best epoch (from 1), epochs, validation metrics, trainable parameters, what was done.
    """
    config = session.config
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with run.progress(int(config["epochs"]), "epoch") as ticker:
        trainer = Trainer(config, model, workspace=run.workspace)
        if trainer.resume():
            ticker(trainer.start_epoch)

        def hear(epoch: int, score: float) -> None:
            ticker(trainer.eval_step)
            run.validated(epoch + 1, float(score))

        trainer.fit(loaders["train"], loaders["valid"], verbose=False, callback_fn=hear)
    best = trainer.load_best()
    save_tensors(run.folder / f"{WEIGHTS}.safetensors", model.state_dict())
    run.count(trainable_parameters=parameters)
    epochs = len(trainer.train_loss_dict)
    return {
        "epoch": best["epoch"] + 1,
        "epochs": epochs,
        "valid": best["result"],
        "trainable_parameters": parameters,
        "did": f"{parameters:,} parameters, epoch {best['epoch'] + 1} of {epochs} is best, "
        f"validation {config['valid_metric']} {best['score']:.4f}",
    }

"""Conventional recommenders as backbones: training with early stopping, files, and user and item vectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from llmbole.config import Config
from llmbole.model.labels import for_labels
from llmbole.model.vectors import Vectors, vectors_of
from llmbole.settings import SettingsError, close_name
from llmbole.trainer import all_positions, checkpoint, packing, sampled_softmax
from llmbole.trainer.checkpoint import CheckpointError
from llmbole.trainer.choice import trainer_class
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import init_seed

if TYPE_CHECKING:
    from llmbole.model.session import Session

logger = logging.getLogger(__name__)

TRAININGS = ("auto", "all_positions", "per_prefix")
WEIGHTS = "backbone.safetensors"
SUMMARY = "backbone.json"


class MoreData(Protocol):
    """Training data that are no interactions."""

    def loader(self, loader: Any, config: Config) -> Any:  # noqa: ANN401 - RecBole's loader
        """A loader with more rows, for models that learn row by row."""

    def sequences(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Longer training sequences by internal user id, for models that learn all positions."""


class Backbone:
    """A trained conventional recommender.

    Args:
        model: The RecBole model.
        session: Its settings and data.

    Attributes:
        model: The RecBole model, in evaluation mode.
        session: Its settings and data.
    """

    def __init__(self, model: Any, session: Session) -> None:  # noqa: ANN401 - a RecBole model
        self.model = model.eval().requires_grad_(False)
        self.session = session

    @property
    def dimension(self) -> int:
        """Width D of the item vectors."""
        return self.item_vectors().shape[1]

    @property
    def user_dimension(self) -> int:
        """Width of the user vectors: the items', but DIN's are wider."""
        width = self._vectors().user_width
        return self.dimension if width is None else width(self.model)

    def item_vectors(self) -> Tensor:
        """Vectors of all items by internal id, the padding item's first. Shape `[n_items, D]`."""
        return self._vectors().items(self.model).detach()

    @torch.no_grad()
    def user_vectors(self, interaction: Interaction) -> Tensor:
        """Representations of the users of rows; a model that has none is a SettingsError.

        Args:
            interaction: Rows with the user's id, for sequential models the history and its length, and for DIN, whose
                user vectors depend on it, the item's id.

        Returns:
            A vector per row. Shape `[B, D]`; DIN's are wider, see `VECTORS`.
        """
        return self._vectors().users(self.model, interaction.to(self.session.config["device"]))

    @torch.no_grad()
    def replace_items(self, items: Tensor, vectors: Tensor) -> None:
        """Give items other vectors, which histories are then read by; a model whose users aren't made of them stays.

        Args:
            items: Ids. Shape `[n]`.
            vectors: Shape `[n, D]`.
        """
        if self._vectors().reads_items:
            weight = self.model.item_embedding.weight
            weight[items.to(weight.device)] = vectors.to(weight)

    def _vectors(self) -> Vectors:
        return vectors_of(self.session.config["model"])


def resolve_training(training: str, config: Config, task: str = "ranking") -> str:
    """How a model is trained; `auto` is `all_positions` for causal models, and `per_prefix`, RecBole's way, for others.

    Args:
        training: The setting.
        config: Settings of the model.
        task: The protocol's task; labels are learned row by row.

    Returns:
        `all_positions`, `per_prefix`, or for labels `rows`.

    Raises:
        SettingsError: There is no such way, or the model can't be trained so.
    """
    if training not in TRAININGS:
        raise SettingsError(f"backbone training {training!r} is unknown; {close_name(training, TRAININGS)}")
    if task != "ranking":
        if training != "auto":
            raise SettingsError(
                f"backbone training {training!r} is for rankings; labels are learned row by row, use auto"
            )
        return "rows"
    if training == "all_positions":
        all_positions.causal_model(config["model"])
    if training != "auto":
        return training
    return "all_positions" if config["model"] in all_positions.CAUSAL else "per_prefix"


def train_backbone(
    session: Session,
    training: str,
    folder: Path,
    workspace: Path,
    progress: Callable[[int], None] | None = None,
    validated: Callable[[int, float], None] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    *,
    more: MoreData | None = None,
) -> dict[str, Any]:
    """Train a conventional recommender and write its best weights to the folder.

    Continues from the workspace if an earlier process died there.

    Args:
        session: Settings and data.
        training: `auto`, `all_positions` or `per_prefix`.
        folder: Existing folder for `backbone.safetensors` and `backbone.json`.
        workspace: Folder for checkpoints.
        progress: Told the number of finished epochs.
        validated: Told epochs trained and the selection metric of each validation; it may raise to end it here.
        initial: Weights to begin with, all of the model's; fresh ones if it is `None`.
        more: Training data beyond the session's.

    Returns:
        Model, training, best epoch (from 1), epochs trained, validation metrics, trainable parameters, and `did`.
    """
    config = session.config
    training = resolve_training(training, config, session.protocol.task)
    sampled_softmax.check(config, session.protocol.task)
    session.check_training()
    init_seed(config["seed"], config["reproducibility"])
    model = _make(session, training)
    if initial is not None:
        model.load_state_dict(initial)
    loader, loss = _learning(session, model, training, more)
    trainer = trainer_class(config)(config, model, workspace=workspace, loss_function=loss)
    report = progress or (lambda epochs: None)
    if trainer.resume():
        report(trainer.start_epoch)

    def hear(epoch: int, score: float) -> None:
        report(trainer.eval_step)
        if validated is not None:
            validated(epoch + 1, float(score))

    trainer.fit(loader, session.loader("valid"), verbose=False, callback_fn=hear)
    best = trainer.load_best()
    summary = _summary(model, config, training, best, epochs=len(trainer.train_loss_dict))
    save_backbone(model, summary, folder)
    return summary


def _summary(model: Any, config: Config, training: str, best: dict[str, Any], epochs: int) -> dict[str, Any]:  # noqa: ANN401
    score = "" if best["score"] is None else f", validation {config['valid_metric']} {best['score']:.4f}"
    epoch = best["epoch"] + 1
    return {
        "model": config["model"],
        "training": training,
        "epoch": epoch,
        "epochs": epochs,
        "valid": best["result"],
        "parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "did": f"{config['model']} trained {training}, epoch {epoch} of {epochs} is best{score}",
    }


def _learning(
    session: Session,
    model: Any,  # noqa: ANN401 - a RecBole model
    training: str,
    more: MoreData | None,
) -> tuple[Any, Any]:
    """The training loader, and the loss where it is not the model's own."""
    config = session.config
    if training != "all_positions":
        loader = session.train_loader()
        loader = loader if more is None else more.loader(loader, config)
        return loader, sampled_softmax.loss_function(config, model)
    split = session.ranking_split
    sequences = [split.train_items(user) for user in range(split.n_users)]
    if more is not None:
        sequences = more.sequences(sequences)
    loader = all_positions.AllPositionsLoader(config, session.dataset, sequences)
    return loader, all_positions.loss_function(config, model)


def save_backbone(model: Any, summary: dict[str, Any], folder: Path) -> None:  # noqa: ANN401 - a RecBole model
    """Write a model's state to `backbone.safetensors` and what it is to `backbone.json`.

    Args:
        model: The RecBole model.
        summary: What `train_backbone` returns; `model` and `training` are needed to load it.
        folder: An existing folder.
    """
    tensors, others = packing.pack(model.other_parameter())
    state = checkpoint.prefixed(model.state_dict(), "model") | checkpoint.prefixed(tensors, "other")
    checkpoint.write(
        folder / WEIGHTS, state, {"model": summary["model"], "training": summary["training"], "other": others}
    )
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_backbone(session: Session, folder: Path) -> Backbone:
    """Read what `train_backbone` wrote.

    Args:
        session: Settings and data of the same model.
        folder: The folder.

    Returns:
        The backbone, on the session's device.

    Raises:
        CheckpointError: The file is damaged, or another model's.
    """
    path, config = folder / WEIGHTS, session.config
    tensors, document = checkpoint.read(path, config["device"])
    if document["model"] != config["model"]:
        raise CheckpointError(
            f"{path} holds {document['model']}, not {config['model']}; train the backbone again"
        )
    model = _make(session, document["training"])
    try:
        model.load_state_dict(checkpoint.part(tensors, "model"))
    except RuntimeError as error:
        raise CheckpointError(f"{path} doesn't fit the settings of {config['model']}: {error}") from None
    model.load_other_parameter(packing.unpack(checkpoint.part(tensors, "other"), document["other"]))
    return Backbone(model, session)


def untrained(session: Session, training: str = "rows") -> Backbone:
    """A conventional recommender with fresh weights, to be trained as part of a method.

    Args:
        session: Settings and data.
        training: As `resolve_training` gives it; `rows` for a model that learns labels.

    Returns:
        The backbone.
    """
    return Backbone(_make(session, training), session)


def _make(session: Session, training: str) -> Any:  # noqa: ANN401 - a RecBole model
    config = session.config
    construct_transform(config)  # names the fields that BERT4Rec reads
    name = config["model"]
    model_class = config.model_class
    if training == "all_positions":
        model_class = all_positions.causal_model(name).model_class
    elif session.protocol.task != "ranking":
        model_class = for_labels(model_class, session.protocol.task)
    return model_class(config, session.parts[0]).to(config["device"])

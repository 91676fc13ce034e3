"""RecBole's Trainer with checkpoints of its own, resuming, and progress; `fit` is RecBole's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmbole.config import LEARNERS, Config
from llmbole.evaluator.collector import CANDIDATE_FIELD, Collector, Evaluator
from llmbole.settings import SettingsError, close_name
from llmbole.trainer import checkpoint, packing, state
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import AbstractRecommender, GeneralRecommender, SequentialRecommender
from recbole.trainer import Trainer as RecBoleTrainer

logger = logging.getLogger(__name__)

BEST = "best.safetensors"
RESUME = "resume.safetensors"

Loss = Tensor | tuple[Tensor, ...]


class Trainer(RecBoleTrainer):
    """Trains and evaluates a RecBole model; all its files lie in one workspace.

    `best.safetensors` holds the model of the best validation score (of the last epoch if nothing is validated).
    `resume.safetensors` holds everything at the start of an epoch, so that a training that was killed ends with
    the numbers of one that was not. Both are written aside and renamed. The frozen parameters of a method with a
    language model are in neither. A model with parts of other learning rates than the config's has a method
    `parameter_groups`, which gives all that is trained as torch's optimizers take it.

    Args:
        config: Settings.
        model: The model, on the config's device.
        workspace: Folder for the two files, kept when the process dies.
        progress: Told the number of finished training batches.
        loss_function: Loss of a batch; the model's own `calculate_loss` if it is `None`.
        snapshot_seconds: Least time between two snapshots to resume from.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        *,
        workspace: Path,
        progress: Callable[[int], None] | None = None,
        loss_function: Callable[[Interaction], Loss] | None = None,
        snapshot_seconds: float = 20.0,
    ) -> None:
        super().__init__(config, model)
        self.logger = logger
        self.workspace = Path(workspace)
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.saved_model_file = str(self.workspace / BEST)
        self.progress = progress
        self.loss_function = loss_function
        self.snapshot_seconds = snapshot_seconds
        self.eval_collector = Collector(config)
        self.evaluator = Evaluator(config)
        self._last_snapshot = time.monotonic()
        self._validated: tuple[float, dict[str, float]] | None = None
        self._pending: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def _build_optimizer(self, **arguments: Any) -> torch.optim.Optimizer | None:  # noqa: ANN401 - RecBole's own arguments
        learner = str(arguments.get("learner", self.learner))
        if learner.lower() not in LEARNERS:
            raise SettingsError(f"unknown optimizer learner = {learner!r}; {close_name(learner, LEARNERS)}")
        parameters = [item for item in arguments.pop("params", self.model.parameters()) if item.requires_grad]
        if parameters and hasattr(self.model, "parameter_groups"):
            return super()._build_optimizer(params=self.model.parameter_groups(), **arguments)
        return super()._build_optimizer(params=parameters, **arguments) if parameters else None

    def _train_epoch(
        self,
        train_data: Any,  # noqa: ANN401 - any iterable of Interactions
        epoch_idx: int,
        loss_func: Callable[[Interaction], Loss] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        if self.optimizer is None:
            raise SettingsError(
                f"{type(self.model).__name__} has no trainable parameters: evaluate it as it is, or unfreeze some"
            )
        if self._pending is not None:
            self._restore_random(train_data)
            self._report(epoch_idx * len(train_data))
        elif epoch_idx > 0 and time.monotonic() - self._last_snapshot >= self.snapshot_seconds:
            self._snapshot(epoch_idx, train_data)
        loss_func = loss_func or self.loss_function
        result: float | tuple[float, ...] = super()._train_epoch(
            _Reporting(train_data, self._report), epoch_idx, loss_func=loss_func, show_progress=show_progress
        )
        return result

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:  # noqa: ANN401
        score, result = super()._valid_epoch(valid_data, show_progress=show_progress)
        self._validated = (float(score), {name: float(value) for name, value in result.items()})
        return score, result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **_: object) -> None:
        tensors, others = packing.pack(self.model.other_parameter())
        score, result = self._validated or (None, None)
        document = {
            "model": type(self.model).__name__,
            "epoch": epoch,
            "score": score,
            "result": result,
            "other": others,
        }
        tensors = checkpoint.prefixed(checkpoint.learned_state(self.model), "model") | checkpoint.prefixed(
            tensors, "other"
        )
        checkpoint.write(self.workspace / BEST, tensors, document)

    def _neg_sample_batch_eval(self, batched_data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Score frozen candidates; a model that ranks all items does so once per user instead of once per candidate."""
        interaction, _, positive_u, positive_i = batched_data
        if CANDIDATE_FIELD not in interaction or not _ranks_all_items(self.model):
            result: tuple[Any, ...] = super()._neg_sample_batch_eval(batched_data)
            return result
        candidates = interaction[CANDIDATE_FIELD]  # [rows, C]
        firsts = torch.arange(0, len(candidates), candidates.shape[1])  # first row of each user, [B]
        scores = self.model.full_sort_predict(interaction[firsts].to(self.device)).view(
            len(firsts), -1
        )  # [B, n_items]
        ranked = candidates[firsts].to(scores.device)  # [B, C]
        return (
            interaction,
            torch.full_like(scores, -torch.inf).scatter(1, ranked, scores.gather(1, ranked)),
            positive_u,
            positive_i,
        )

    def load_best(self) -> dict[str, Any]:
        """Load the best model into `self.model`; without one, or with another model's, it is a CheckpointError.

        Returns:
            `epoch` (from 0), `score` and `result` of its validation (`None` if nothing was validated).
        """
        path = self.workspace / BEST
        tensors, document = checkpoint.read(path, self.device)
        checkpoint.load_learned_state(self.model, checkpoint.part(tensors, "model"), path)
        self.model.load_other_parameter(packing.unpack(checkpoint.part(tensors, "other"), document["other"]))
        return {key: document[key] for key in ("epoch", "score", "result")}

    def evaluate(
        self,
        eval_data: Any,  # noqa: ANN401 - RecBole's evaluation loaders and this project's
        load_best_model: bool = False,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> dict[str, float]:
        """Evaluate the model as it is; `self.evaluator` then holds the values of each user.

        Args:
            eval_data: Evaluation loader.
            load_best_model: Load the best model before.
            model_file: Not offered; RecBole's signature has it.
            show_progress: Show RecBole's progress bar.

        Returns:
            Metric name (`hit@10`) to average over users, not rounded.

        Raises:
            ValueError: A model file is given, or a score is not a number.
        """
        if model_file is not None:
            raise ValueError(
                "the trainer's checkpoints lie in its workspace; use load_best() instead of model_file"
            )
        if load_best_model:
            self.load_best()
        self.eval_collector.model_name = type(self.model).__name__
        result: dict[str, float] = super().evaluate(
            eval_data, load_best_model=False, show_progress=show_progress
        )
        return result

    def resume(self) -> bool:
        """Continue from the snapshot in the workspace, if there is one; call it before `fit`.

        A snapshot that is damaged or of another model is a CheckpointError.

        Returns:
            Whether there was a snapshot.
        """
        path = self.workspace / RESUME
        if not path.exists():
            return False
        tensors, document = checkpoint.read(path, self.device)
        checkpoint.load_learned_state(self.model, checkpoint.part(tensors, "model"), path)
        self.model.load_other_parameter(packing.unpack(checkpoint.part(tensors, "other"), document["other"]))
        state.set_counters(self.model, document["counters"])
        optimizers = state.optimizers(self)
        for name, saved in document["optimizers"].items():
            state.load_optimizer_state(optimizers[name], checkpoint.part(tensors, f"optimizer.{name}"), saved)
        self.start_epoch, self.cur_step = document["epoch"], document["cur_step"]
        self.best_valid_score, self.best_valid_result = document["best_score"], document["best_result"]
        self.train_loss_dict = {int(epoch): loss for epoch, loss in document["losses"].items()}
        self._pending = tensors, document
        logger.info("resuming %s from epoch %d", type(self.model).__name__, self.start_epoch)
        return True

    def _snapshot(self, epoch: int, train_data: Any) -> None:  # noqa: ANN401 - any loader
        others, other_values = packing.pack(self.model.other_parameter())
        randoms, random_values = state.random_states()
        tensors = checkpoint.prefixed(checkpoint.learned_state(self.model), "model")
        tensors |= checkpoint.prefixed(others, "other") | checkpoint.prefixed(randoms, "random")
        tensors |= {
            f"loader.{name}": generator.get_state()
            for name, generator in state.generators(train_data).items()
        }
        optimizers = {}
        for name, optimizer in state.optimizers(self).items():
            own, optimizers[name] = state.optimizer_state(optimizer)
            tensors |= checkpoint.prefixed(own, f"optimizer.{name}")
        best = self.best_valid_result
        document = {
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_score": float(self.best_valid_score),
            "best_result": None if best is None else {name: float(value) for name, value in best.items()},
            "losses": {str(number): float(loss) for number, loss in self.train_loss_dict.items()},
            "counters": state.counters(self.model),
            "other": other_values,
            "optimizers": optimizers,
            "random": random_values,
        }
        checkpoint.write(self.workspace / RESUME, tensors, document)
        self._last_snapshot = time.monotonic()

    def _restore_random(self, train_data: Any) -> None:  # noqa: ANN401 - any loader
        if self._pending is None:
            return
        (tensors, document), self._pending = self._pending, None
        state.restore_random_states(checkpoint.part(tensors, "random"), document["random"])
        for name, generator in state.generators(train_data).items():
            generator.set_state(tensors[f"loader.{name}"].cpu())

    def _report(self, batches: int) -> None:
        if self.progress is not None:
            self.progress(batches)


class _Reporting:
    """A loader that tells about each batch once it is trained on."""

    def __init__(self, loader: Any, report: Callable[[int], None]) -> None:  # noqa: ANN401 - any loader
        self._loader, self._report = loader, report

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Interaction]:
        for batch in self._loader:
            yield batch
            self._report(1)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the loader has
        return getattr(self._loader, name)


def _ranks_all_items(model: nn.Module) -> bool:
    """Whether it has a `full_sort_predict` of its own: a method says so, of conventional models it is found out."""
    if hasattr(model, "ranks_all_items"):
        return bool(model.ranks_all_items)
    conventional = isinstance(model, GeneralRecommender | SequentialRecommender)
    return (
        conventional
        and getattr(type(model), "full_sort_predict", None) is not AbstractRecommender.full_sort_predict
    )

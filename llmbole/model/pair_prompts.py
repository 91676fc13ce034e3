"""Leaves of the methods that ask an LLM about a user and an item: settings, rows, tuning, and the text-only model.

The stage `tune_text` is TALLRec's tuning and step 1 of CoLLM: one function, so one artifact for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from llmbole.data import splits
from llmbole.data.pair_rows import SHOWN, SHOWN_RATINGS, PairRows
from llmbole.data.pairs import PairSplit
from llmbole.evaluator import metrics
from llmbole.llm import backbone, tune
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import Answer, PairPrompt
from llmbole.llm.processes import ALONE
from llmbole.model import evaluation, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.pair_settings import PairTuning as PairTuning
from llmbole.model.pair_settings import PromptSettings
from llmbole.model.pair_settings import checks as checks
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build
from recbole.data.interaction import Interaction

T = TypeVar("T")
PROTOCOLS = ("temporal_collm", "temporal_ratio", "unified_ctr", "loo_ctr")
VALIDATION_SEED = 1  # added to the run's, so that validation rows are drawn apart from training rows


class Asking(Protocol):
    """A method that asks with a prompt."""

    prompt: PairPrompt


class Trainable(Protocol):
    """Rows that a method's loss takes."""

    def __len__(self) -> int:
        """How many there are."""

    def interaction(self, rows: Tensor) -> Interaction:
        """Rows by number, from 0."""


def open_prompt(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    text: str | None = None,
    words: tuple[str, str] | None = None,
) -> PairPrompt:
    """The run's prompt over the run's frozen LLM.

    Args:
        run: The stage; it must declare `prompt`, `answer`, `llm` and `dataset`.
        data: Prepared data.
        split: Frozen split.
        text: A template in place of the prompt of titles.
        words: Answers in place of the run's.

    Returns:
        The prompt.
    """
    lm = backbone.load(stages.llm_spec(run), stages.device(run)).freeze()
    wording = build(PromptSettings, run["prompt"], "prompt")
    answer = build(Answer, {**run["answer"], **({"words": words} if words else {})}, "answer")
    titles = stages.item_texts(data, split, "{title}")
    return PairPrompt(lm, text or wording.text, wording, answer, titles, run["dataset"]["words"])


def rows(
    run: StageRun, split: Artifact, part: str, *, length: int = 1, sample: int = 0, seed: int = 0
) -> PairRows:
    """Rows of a part with the history that the prompt shows.

    Args:
        run: The stage; it must declare `prompt`, `dataset` and `protocol`.
        split: Frozen split.
        part: `train`, `valid` or `test`.
        length: Longest history for a conventional model.
        sample: Rows to take, drawn at random; 0 takes all.
        seed: Of the draw.

    Returns:
        The rows.
    """
    settings = build(PromptSettings, run["prompt"], "prompt")
    opened = splits.load(split.folder)
    assert isinstance(opened, PairSplit)  # the protocols of these methods label pairs
    rated = run["protocol"]["labels"]["kind"] == "threshold" and settings.shown == "likes"
    liked_from = run["dataset"]["label"]["positive_from"] if rated else None
    return PairRows(
        opened, part, shown=settings.history, liked_from=liked_from, length=length, sample=sample, seed=seed
    )


def encoded(model: Asking, interaction: Any) -> list[Any]:  # noqa: ANN401 - RecBole's Interaction
    """Prompts of rows: `shown [B, L]`, `item_id [B]`, and where the prompt shows them `shown_ratings [B, L]`."""
    histories = [[item for item in row if item] for row in interaction[SHOWN].tolist()]
    ratings = None
    if model.prompt.rated:
        pairs = zip(histories, interaction[SHOWN_RATINGS].tolist(), strict=True)
        ratings = [given[: len(history)] for history, given in pairs]
    return model.prompt.encode(histories, interaction["item_id"].tolist(), ratings)


def like_loss(logits: Tensor, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
    """Binary cross-entropy of the logits that rows are liked; a scalar."""
    return functional.binary_cross_entropy_with_logits(logits, interaction["label"].to(logits.device))


class TextAnswers(LLMRecommender):
    """An LLM that is asked in words alone whether a user likes an item.

    Args:
        prompt: The prompt of titles over the LLM.
        adapter: Updates of the LLM; none leaves it as it is.
    """

    def __init__(self, prompt: PairPrompt, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.prompt, self.adapter = prompt, adapter

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Binary cross-entropy of the answers.

        Args:
            interaction: `shown [B, L]`, `item_id [B]`, `label [B]`.

        Returns:
            A scalar.
        """
        return like_loss(self.prompt.logits(encoded(self, interaction), {}), interaction)

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Probabilities that rows are liked. Shape `[B]`."""
        return self.prompt.probabilities(encoded(self, interaction))


@stage(
    makes="lora",
    needs=("data", "split"),
    uses=("tune", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
    together=True,
)
def tune_text(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """LoRA on the prompt of titles: TALLRec, and step 1 of CoLLM."""
    training.seed_everything(run.seed)
    model = TextAnswers(*open_adapted(run, data, split))
    settings = build(PairTuning, run["tune"], "tune")
    summary = fit(run, model, split, settings)
    assert model.adapter is not None
    model.adapter.save(run.folder)
    return summary


def open_adapted(
    run: StageRun,
    data: Artifact,
    split: Artifact,
    text: str | None = None,
    words: tuple[str, str] | None = None,
) -> tuple[PairPrompt, Adapter]:
    """The run's prompt over the run's LLM with untrained updates; see `open_prompt`."""
    prompt = open_prompt(run, data, split, text, words)
    return prompt, Adapter(prompt.lm, build(LoraSettings, run["lora"], "lora"))


def fit(
    run: StageRun,
    model: Any,  # noqa: ANN401 - an Asking module
    split: Artifact,
    settings: PairTuning,
    *,
    length: int = 1,
) -> dict[str, Any]:
    """Train what requires gradients in a method, and leave it in its best state on validation rows.

    Args:
        run: The stage.
        model: An `Asking` module.
        split: Frozen split.
        settings: Of the training.
        length: Longest history for a conventional model.

    Returns:
        A summary: steps, the best one, its validation AUC, trainable parameters, what was done.
    """
    train = rows(run, split, "train", length=length, sample=settings.rows, seed=run.seed)
    valid = validation_rows(run, split, settings, length=length)
    return fit_rows(run, model, train, valid, settings)


def validation_rows(run: StageRun, split: Artifact, settings: PairTuning, *, length: int = 1) -> PairRows:
    """The validation rows that choose the step; see `fit`."""
    sample, seed = settings.valid_rows, run.seed + VALIDATION_SEED
    return rows(run, split, "valid", length=length, sample=sample, seed=seed)


def fit_rows(
    run: StageRun,
    model: Any,  # noqa: ANN401 - an Asking module
    train: Trainable,
    valid: PairRows,
    settings: PairTuning,
    score: Callable[[], float] | None = None,
    name: str = "AUC",
) -> dict[str, Any]:
    """Train on given rows; see `fit`.

    Args:
        run: The stage.
        model: An `Asking` module.
        train: Training rows.
        valid: Validation rows.
        settings: Of the training.
        score: Higher is better; `None` takes the AUC of the model's predictions of the validation rows.
        name: What the score is called.

    Returns:
        As `fit`.
    """

    processes = run.processes or ALONE

    def counted(compute: Callable[[], T]) -> tuple[T, int]:
        before = model.prompt.tokens_read
        value = compute()
        return value, model.prompt.tokens_read - before

    def auc() -> float:
        found = evaluation.predict_all(model, valid, lambda done: None, processes)
        return metrics.auc(valid.labels, found.numpy())

    def validate() -> tuple[float, int]:
        value, tokens = counted(score or auc)
        return value, int(processes.sums(tokens)[0])

    with run.progress(settings.steps, "step") as ticker:
        tuned = tune.tune(
            model,
            lambda numbers: counted(lambda: model.calculate_loss(train.interaction(numbers))),
            len(train),
            settings,
            seed=run.seed,
            workspace=run.workspace,
            validate=validate,
            validated=run.validated,
            progress=ticker,
            processes=processes,
        )
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    run.count(trainable_parameters=parameters, llm_tokens=tuned.tokens)
    return {
        "rows": len(train),
        "trainable_parameters": parameters,
        **_summary(tuned, parameters, name, len(valid)),
    }


def _summary(tuned: tune.Tuned, parameters: int, name: str, validated: int) -> dict[str, Any]:
    return {
        "steps": tuned.step,
        "best_step": tuned.best_step,
        "valid_auc": tuned.score,
        "valid_aucs": tuned.scores,
        "loss": tuned.loss,
        "trainable_parameters": parameters,
        "did": f"{parameters:,} parameters, step {tuned.best_step} of {tuned.step} is best, "
        f"{name} {tuned.score:.4f} on {validated} validation rows",
    }


def load_learned(model: nn.Module, artifact: Artifact) -> None:
    """Give a model what training changed in it; names must be the same.

    Raises `ValueError`: They are not.
    """
    tensors = training.load_tensors(artifact, training.WEIGHTS)
    own = tune.learned(model)
    if tensors.keys() != own.keys():
        differing = sorted(tensors.keys() ^ own.keys())
        raise ValueError(
            f"{artifact.folder} does not fit {type(model).__name__}: {', '.join(differing[:5])} differ"
        )
    model.load_state_dict(tensors, strict=False)

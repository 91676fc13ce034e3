"""KD: a conventional model that also learns the probabilities which a tuned LLM gives to training rows.

The baseline of Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024, after Hinton et al.,
Distilling the Knowledge in a Neural Network, 2015. The LLM is tuned as TALLRec's is, and is not needed to serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from llmbole import registry
from llmbole.data import splits
from llmbole.data.numbered import ROW, NumberedRows, loaders
from llmbole.data.pairs import PairSplit
from llmbole.llm.lora import LoraSettings
from llmbole.model import cf, evaluation, pair_prompts, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import Session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build

TEACHER = "teacher"


@dataclass(frozen=True)
class DistilSettings:
    """What is learned of the teacher.

    Attributes:
        weight: Of the loss to the teacher's probabilities; 0 is the conventional model by itself.
        temperature: Divides the teacher's logits.
    """

    weight: float
    temperature: float

    def __post_init__(self) -> None:
        problems = [] if 0 <= self.weight < float("inf") else [f"weight = {self.weight}: must be at least 0"]
        if not 0 < self.temperature < float("inf"):
            problems.append(f"temperature = {self.temperature}: must be above 0")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class TeacherSettings:
    """Which training rows the teacher scores, once.

    Attributes:
        rows: How many, drawn at random; 0 takes all.
    """

    rows: int

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise ValueError(f"rows = {self.rows}: must be at least 0, which takes all")


@register_model("KD")
class KD(LLMRecommender):
    """A conventional model, the student, with the teacher's probabilities of its training rows.

    Args:
        student: A RecBole model that predicts labels.
        teacher: Logit of each row, NaN where the teacher did not score it. Shape `[R]`.
        settings: What is learned of them.
    """

    protocols = ("loo_ctr", "unified_ctr", "temporal_ratio")
    settings_class = pair_prompts.checks(
        registry.check_learns_labels,
        tune=pair_prompts.PairTuning,
        lora=LoraSettings,
        teacher=TeacherSettings,
        distil=DistilSettings,
    )
    goals = ("backbone_scores", "scores")
    validates = "student"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # the student without a teacher
    backbone_scores = stages.score_backbone
    lora = pair_prompts.tune_text  # the teacher

    def __init__(self, student: Any, teacher: Tensor, settings: DistilSettings) -> None:  # noqa: ANN401 - a RecBole model
        super().__init__()
        self.student, self.settings, self.device = student, settings, student.device
        self.teacher = teacher.to(self.device)

    @stage(
        makes="teacher",
        needs=("data", "split", "lora"),
        uses=("teacher", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
    )
    def teach(run: StageRun, data: Artifact, split: Artifact, lora: Artifact) -> Mapping[str, Any]:
        """The tuned LLM's logits of training rows."""
        settings = build(TeacherSettings, run["teacher"], "teacher")
        prompt, adapter = pair_prompts.open_adapted(run, data, split)
        adapter.load(lora.folder)
        model = pair_prompts.TextAnswers(prompt, adapter).eval()
        rows = pair_prompts.rows(run, split, "train", sample=settings.rows, seed=run.seed)
        with run.progress(len(rows), "row") as ticker:
            found = evaluation.predict_all(model, rows, ticker)
        logits = torch.logit(found, eps=1e-12).float()
        tensors = {"rows": torch.from_numpy(rows.places), "logits": logits}
        training.save_tensors(run.folder / f"{TEACHER}.safetensors", tensors)
        run.count(llm_tokens=prompt.tokens_read)
        return {
            "rows": len(rows),
            "llm_parameters": prompt.lm.parameters_total,
            "did": f"{len(rows)} rows scored",
        }

    @stage(
        makes="student",
        needs=("data", "split", "teacher"),
        uses=("distil", "backbone", "dataset.name", "protocol", "seed"),
    )
    def distil(run: StageRun, data: Artifact, split: Artifact, teacher: Artifact) -> Mapping[str, Any]:
        """Train the student; no LLM is loaded."""
        training.seed_everything(run.seed)
        model, session, rows = KD.assemble(run, data, split, teacher)
        return training.fit_rows(run, session, model, loaders(session.config, session.parts, rows))

    @stage(
        makes="scores",
        needs=("data", "split", "teacher", "student"),
        uses=("distil", "backbone", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun, data: Artifact, split: Artifact, teacher: Artifact, student: Artifact
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model, session, rows = KD.assemble(run, data, split, teacher)
        training.load_weights(model, student)
        loader = loaders(session.config, session.parts, rows)[run.phase]
        scored = evaluation.score_conventional(run, model.eval(), session, loader)
        return {**scored, "llm_parameters": teacher.summary["llm_parameters"]}

    @staticmethod
    def assemble(
        run: StageRun, data: Artifact, split: Artifact, teacher: Artifact
    ) -> tuple[KD, Session, NumberedRows]:
        """The model before training, its settings and data, and all rows."""
        session = stages.backbone_session(run, data, split)
        opened = splits.load(split.folder)
        assert isinstance(opened, PairSplit)  # the protocols of this method label pairs
        rows, scored = NumberedRows(opened), training.load_tensors(teacher, TEACHER)
        logits = torch.full((len(rows),), float("nan"))
        logits[scored["rows"]] = scored["logits"]  # training rows come first
        student = cf.untrained(session).model.requires_grad_(True)
        return KD(student, logits, build(DistilSettings, run["distil"], "distil")), session, rows

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """L = BCE(y', y) + weight * BCE(y', p_T), the second over the batch's rows that the teacher scored.

        Args:
            interaction: `row_number [B]`, and what the student reads.

        Returns:
            A scalar.
        """
        loss: Tensor = self.student.calculate_loss(interaction)
        logits = self.teacher[interaction[ROW]] / self.settings.temperature  # [B]
        known = ~logits.isnan()
        if not self.settings.weight or not bool(known.any()):
            return loss
        soft = functional.binary_cross_entropy(
            self.student.predict(interaction)[known], logits[known].sigmoid()
        )
        return loss + self.settings.weight * soft

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """The student's probabilities of rows. Shape `[B]`."""
        scores: Tensor = self.student.predict(interaction)
        return scores


@opens(
    KD,
    needs=("data", "split", "teacher", "student"),
    uses=("distil", "backbone", "dataset.name", "protocol", "seed"),
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, teacher: Artifact, student: Artifact
) -> ConventionalScorer:
    """The student as a scorer."""
    model, session, _ = KD.assemble(run, data, split, teacher)
    training.load_weights(model, student)
    return ConventionalScorer(model.student, session)


# Departures: the teacher is tuned with LoRA on the prompt of titles, as the methods that ask about pairs are here, not
# as a whole; it may score a sample of the training rows, and rows without a score have the first loss alone.

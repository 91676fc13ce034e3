"""RecGen by itself: how well a tuned LLM recommends, and how much of its general ability it keeps.

Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024, its comparison of ways of tuning (Figure
4): AUC of the LLM's answers about held-out rows, and accuracy on MMLU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from llmbole.data import splits
from llmbole.data.numbered import NumberedRows, load_rows
from llmbole.data.pair_rows import PairRows
from llmbole.data.pairs import PairSplit
from llmbole.llm import backbone, hub_file, instruct, mmlu, yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded
from llmbole.model import evaluation, recgen, stages, written
from llmbole.model.base import LLMRecommender
from llmbole.model.new_text import new_texts
from llmbole.model.recgen import RecGenSettings, tuned_spec
from llmbole.model.row_scorer import RowScorer
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import SET, stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks

DATA = "ability.data"


@dataclass(frozen=True)
class AbilitySettings:
    """What general ability is measured on.

    Attributes:
        data: MMLU, see `llmbole.llm.mmlu.read`; `None` measures nothing.
        sha256: Of its files, so that other questions are another artifact.
        subjects: Their names; none takes all.
        part: Which questions.
        shots: Examples before each question.
    """

    data: str | None
    sha256: str | None
    subjects: tuple[str, ...]
    part: Literal["test", "val"]
    shots: int

    def __post_init__(self) -> None:
        problems = [] if 0 <= self.shots <= 5 else [f"shots = {self.shots}: from 0 to 5, as many as MMLU has"]
        if (self.data is None) != (self.sha256 is None):
            problems.append("data and sha256 go together: set both, or none to measure nothing")
        elif self.data is not None:
            problems += self._data_problems(self.data)
        if problems:
            raise ValueError("\n".join(problems))

    def _data_problems(self, data: str) -> list[str]:
        wrong = hub_file.problem(data)
        if wrong or data.startswith(hub_file.PREFIX):
            return [f"data: {wrong}"] if wrong else []
        found = mmlu.fingerprint(data)
        return [] if found == self.sha256 else [f"sha256 must be that of the files of {data!r}: {found}"]


@register_model("RecGen")
class RecGen(LLMRecommender):
    """An LLM, tuned or as it comes, that says of rows whether the user will choose the item.

    Args:
        lm: The LLM.
        names: Items as prompts name them, by internal id.
        text: The prompt.
        listed: How items are listed.
        words: What items are called in this data set.
    """

    protocols = ("loo_ctr", "unified_ctr", "temporal_ratio")
    run_only = (*recgen.RUN_ONLY, DATA)
    settings_class = part_checks(recgen.problems, recgen=RecGenSettings, ability=AbilitySettings)

    data = stages.prepare_data
    split = stages.freeze_split
    tuned_llm = recgen.tune_recgen

    def __init__(
        self,
        lm: LanguageModel,
        names: Sequence[str],
        text: str,
        listed: written.ListSettings,
        words: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.lm, self.names, self.text, self.listed, self.words = lm, list(names), text, listed, words
        self.tokens_read = 0

    @stage(
        makes="ability",
        needs=("recgen",),
        uses=("ability", "llm"),
        when=("ability.sha256", SET),
    )
    def measure_ability(run: StageRun, recgen: Artifact | None) -> Mapping[str, Any]:
        """Accuracy of the LLM on MMLU."""
        settings = build(AbilitySettings, {**run["ability"], "data": run.resources[DATA]}, "ability")
        if mmlu.fingerprint(str(settings.data)) != settings.sha256:
            raise ValueError(f"ability.sha256 is not that of the files of {settings.data!r}")
        subjects = mmlu.read(str(settings.data), settings.subjects, settings.part)
        lm = backbone.load(tuned_spec(run, recgen), stages.device(run)).freeze()
        with run.progress(sum(len(each.questions) for each in subjects), "question") as ticker:
            found = mmlu.ask(lm, subjects, settings.shots, progress=ticker)
        run.count(llm_tokens=found.tokens)
        total = sum(found.questions.values())
        return {
            "MMLU": found.overall,
            "subjects": {name: found.of(name) for name in found.right},
            "shortened": found.shortened,
            "left_out": found.left_out,
            "did": f"MMLU {found.overall:.4f} over {total} questions of {len(subjects)} subjects",
        }

    @stage(
        makes="scores",
        needs=("data", "split", "recgen", "ability"),
        uses=("recgen", "llm", "dataset", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun, data: Artifact, split: Artifact, recgen: Artifact | None, ability: Artifact | None
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation, and what the LLM's ability is."""
        model, rows = RecGen.assemble(run, data, split, recgen), load_rows(split.folder)
        numbers = rows.numbers(run.phase)
        with run.progress(len(numbers), "row") as ticker:
            scores = model.probabilities(rows, numbers, ticker)
        run.count(llm_tokens=model.tokens_read)
        opened = splits.load(split.folder)
        assert isinstance(opened, PairSplit)  # the protocols of this method label pairs
        pairs = PairRows(opened, run.phase, shown=1)
        assert np.array_equal(pairs.items, rows.items[numbers])
        session = open_session(run, data, split, RecGen)
        found = evaluation.save_pairs(run, session, pairs, scores)
        measured = {} if ability is None else {"MMLU": ability.summary["MMLU"]}
        return {
            **found,
            "metrics": {**found["metrics"], **measured},
            "scoring": "answer_probability",
            "llm_parameters": model.lm.parameters_total,
        }

    @staticmethod
    def assemble(run: StageRun, data: Artifact, split: Artifact, recgen: Artifact | None) -> RecGen:
        """The LLM with the run's prompt."""
        lm = backbone.load(tuned_spec(run, recgen), stages.device(run)).freeze()
        listed = build(written.ListSettings, run["recgen"]["listed"], "recgen.listed")
        names = written.item_names(data, split, listed)
        return RecGen(lm, names, run["recgen"]["text"], listed, run["dataset"]["words"])

    def probabilities(
        self, rows: NumberedRows, numbers: np.ndarray, progress: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """P(Yes) against P(No) of rows by number.

        Args:
            rows: All rows.
            numbers: Which. Shape `[n]`.
            progress: Told how many rows are done.

        Returns:
            Shape `[n]`, float64.
        """
        asked = written.row_prompts(self.text, self.listed, self.names, rows, numbers, self.words)
        starts, ids = instruct.question_ids(self.lm, asked)
        self.tokens_read += sum(map(len, starts))
        logits = yes_no.score(self.lm, [Encoded(each) for each in starts], ids, progress=progress)
        return yes_no.probabilities(logits, "difference")

    def predict(self, interaction: Any) -> torch.Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Refuse: rows are scored all at once, in the stage `scores`.

        Raises `TypeError`: Always.
        """
        raise TypeError("RecGen scores rows as prompts, all at once")


@opens(RecGen, needs=("data", "split", "recgen"), uses=("recgen", "llm", "dataset"), reads_new=True)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, recgen: Artifact | None
) -> RowScorer:
    """The LLM as a scorer; it knows items by their text."""
    model = RecGen.assemble(run, data, split, recgen)
    if new is not None:
        model.names += written.named(new_texts(new, model.listed.item), model.listed)
    return RowScorer(model)


# Departures from the paper: the answer's probability is the softmax over both answers, taken once (the code takes it
# twice); MMLU's prompts stand outside a chat frame, as in MMLU's own code; the paper does not say how it asks them.

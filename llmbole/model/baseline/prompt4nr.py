"""Prompt4NR: soft prompt tokens of their own around the titles, learned together with LoRA.

Zhang and Wang, Prompt Learning for News Recommendation, SIGIR 2023, in the form in which Zhang et al., CoLLM, 2023,
compare with it: a causal LLM instead of BERT, three virtual tokens for each field, and a one-word answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmbole.llm import tune
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import PairPrompt, repeat_soft
from llmbole.model import evaluation, pair_prompts, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.pair_scorer import PairScorer, add_titles
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, close_name

KINDS = ("discrete", "continuous", "hybrid")


@dataclass(frozen=True)
class TemplateSettings:
    """Which template is asked with.

    Attributes:
        family: One of `families`, or None for the text of `prompt` and the words of `answer`.
        kind: Which text of the family: `discrete` words, `continuous` virtual tokens, or `hybrid`, both.
        tokens: Virtual tokens of each field.
        families: For each family `words`, its two answers, and its text of each kind.
    """

    family: str | None
    kind: Literal["discrete", "continuous", "hybrid"]
    tokens: int
    families: Mapping[str, Any]

    def __post_init__(self) -> None:
        problems = [] if self.tokens >= 1 else [f"tokens = {self.tokens}: must be at least 1"]
        if self.family is not None and self.family not in self.families:
            problems.append(f"family = {self.family!r} is unknown; {close_name(self.family, self.families)}")
        for name, texts in self.families.items():
            if set(texts) != {"words", *KINDS} or len(texts["words"]) != 2:
                problems.append(
                    f"families.{name}: must have two words, and a text for each of {', '.join(KINDS)}"
                )
        if problems:
            raise ValueError("\n".join(problems))

    def text(self, plain: str) -> str:
        """The template, `plain` if no family is chosen; each field stands as often as it has tokens."""
        return repeat_soft(
            plain if self.family is None else self.families[self.family][self.kind], self.tokens
        )

    @property
    def words(self) -> tuple[str, str] | None:
        """The family's answers for a like and for a dislike."""
        if self.family is None:
            return None
        yes, no = self.families[self.family]["words"]
        return yes, no


@register_model("Prompt4NR")
class Prompt4NR(LLMRecommender):
    """A frozen LLM with LoRA updates and virtual tokens, tuned by the binary cross-entropy of its one-word answers.

    Args:
        prompt: The prompt over the LLM.
        adapter: Updates of the LLM.
        tokens: Virtual tokens of each field.
    """

    protocols = pair_prompts.PROTOCOLS
    validates = "tuned"
    settings_class = pair_prompts.checks(
        tune=pair_prompts.PairTuning, lora=LoraSettings, template=TemplateSettings
    )

    data = stages.prepare_data
    split = stages.freeze_split

    def __init__(self, prompt: PairPrompt, adapter: Adapter, tokens: int) -> None:
        super().__init__()
        self.prompt, self.adapter = prompt, adapter
        self.virtual = VirtualTokens(prompt.template.soft_slots, tokens, prompt.lm.input_weight)

    @stage(
        makes="tuned",
        needs=("data", "split"),
        uses=("template", "tune", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
        together=True,
    )
    def tune_tokens(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Train LoRA and the virtual tokens together."""
        training.seed_everything(run.seed)
        model = Prompt4NR.assemble(run, data, split)
        summary = pair_prompts.fit(run, model, split, build(pair_prompts.PairTuning, run["tune"], "tune"))
        training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", tune.learned(model))
        return summary

    @stage(
        makes="scores",
        needs=("data", "split", "tuned"),
        uses=("template", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
        phased=True,
        together=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model = Prompt4NR.assemble(run, data, split)
        pair_prompts.load_learned(model, tuned)
        return evaluation.score_pairs(run, model, data, split, pair_prompts.rows(run, split, run.phase))

    @staticmethod
    def assemble(run: StageRun, data: Artifact, split: Artifact) -> Prompt4NR:
        """The untrained model of a run."""
        settings = build(TemplateSettings, run["template"], "template")
        text = settings.text(run["prompt"]["text"])
        prompt, adapter = pair_prompts.open_adapted(run, data, split, text, settings.words)
        return Prompt4NR(prompt, adapter, settings.tokens)

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Binary cross-entropy of the answers.

        Args:
            interaction: `shown [B, L]`, `item_id [B]`, `label [B]`.

        Returns:
            A scalar.
        """
        prompts = pair_prompts.encoded(self, interaction)
        return pair_prompts.like_loss(self.prompt.logits(prompts, self.virtual(len(prompts))), interaction)

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Probabilities that rows are liked. Shape `[B]`."""

        def vectors(places: Sequence[int]) -> Mapping[str, Tensor]:
            return self.virtual(len(places))

        return self.prompt.probabilities(pair_prompts.encoded(self, interaction), vectors)


class VirtualTokens(nn.Module):
    """Vectors of the prompt's own, the same in every row.

    Args:
        fields: Names of the template's soft slots.
        tokens: Vectors of each.
        embeddings: The LLM's input embeddings, for the scale of the first vectors. Shape `[V, H]`.
    """

    def __init__(self, fields: Sequence[str], tokens: int, embeddings: Tensor) -> None:
        super().__init__()
        scale, width = float(embeddings.float().std()), embeddings.shape[1]
        self.vectors = nn.ParameterDict(
            {field: nn.Parameter(torch.randn(tokens, width) * scale) for field in fields}
        )
        self.to(embeddings.device)

    def forward(self, rows: int) -> dict[str, Tensor]:
        """The vectors of each field, row by row. Shapes `[rows * tokens, H]`."""
        return {field: vectors.repeat(rows, 1) for field, vectors in self.vectors.items()}


@opens(
    Prompt4NR,
    needs=("data", "split", "tuned"),
    uses=("template", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
    reads_new=True,
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, tuned: Artifact
) -> PairScorer:
    """The tuned LLM as a scorer; it knows items by their titles."""
    model = Prompt4NR.assemble(run, data, split)
    pair_prompts.load_learned(model, tuned)
    add_titles(model.prompt, new)
    return PairScorer(run, model)


# Departures, as in CoLLM's comparison, from the paper:
# - a causal LLM with LoRA in place of a tuned BERT, so the answer stands at the end of each text, and titles of all
#   kinds of items in place of news; binary cross-entropy of the answers' logits; no draw of four negatives;
# - one template a run; the paper also averages the scores of several.
# From CoLLM's code: a field's vectors are learned as they are; the code makes them by a linear map of its number, which
# can give the same vectors.

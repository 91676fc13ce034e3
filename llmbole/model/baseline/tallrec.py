"""TALLRec: LoRA teaches an LLM to answer, from titles alone, whether a user likes an item.

Bao et al., TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with Recommendation,
RecSys 2023, in the form in which Zhang et al., CoLLM, 2023, compare with it and begin with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmbole.llm.lora import LoraSettings
from llmbole.model import evaluation, pair_prompts, stages
from llmbole.model.pair_scorer import PairScorer, add_titles
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model


@register_model("TALLRec")
class TALLRec(pair_prompts.TextAnswers):
    """A frozen LLM with LoRA updates, tuned by the binary cross-entropy of its one-word answers."""

    protocols = pair_prompts.PROTOCOLS
    validates = "lora"
    settings_class = pair_prompts.checks(tune=pair_prompts.PairTuning, lora=LoraSettings)

    data = stages.prepare_data
    split = stages.freeze_split
    lora = pair_prompts.tune_text

    @stage(
        makes="scores",
        needs=("data", "split", "lora"),
        uses=("lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
        phased=True,
        together=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, lora: Artifact) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        prompt, adapter = pair_prompts.open_adapted(run, data, split)
        adapter.load(lora.folder)
        rows = pair_prompts.rows(run, split, run.phase)
        return evaluation.score_pairs(run, TALLRec(prompt, adapter), data, split, rows)


@opens(
    TALLRec,
    needs=("data", "split", "lora"),
    uses=("lora", "prompt", "answer", "llm", "dataset", "protocol"),
    reads_new=True,
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, lora: Artifact
) -> PairScorer:
    """The tuned LLM as a scorer; it knows items by their titles."""
    prompt, adapter = pair_prompts.open_adapted(run, data, split)
    adapter.load(lora.folder)
    add_titles(prompt, new)
    return PairScorer(run, TALLRec(prompt, adapter))


# Departures from TALLRec's paper, as in CoLLM's comparison: the prompt lists likes only, not in Alpaca's frame; no
# updates tuned by Alpaca are taken to start from; all training rows are used instead of 16 to 256; the loss is the
# binary cross-entropy of the answer's logit instead of that of the answer's text. Departures from TALLRec's code: the
# softmax over both answers is taken once (the code takes it twice); token ids are looked up in the tokenizer.

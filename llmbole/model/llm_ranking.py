"""Stages in which an LLM ranks a conventional model's lists: a list at once, or item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmbole import registry
from llmbole.data import leak, splits
from llmbole.data.split import PHASES, Phase, Split
from llmbole.llm import title_prompt, yes_no
from llmbole.llm.lora import LoraSettings
from llmbole.llm.pair_prompt import Answer
from llmbole.llm.ranked_list import FAULTS, parse_ranking
from llmbole.llm.title_prompt import tokens_of
from llmbole.model import attributes, data_augmentation
from llmbole.model.aggregation import chunk_bounds
from llmbole.model.attributes import AttributeSettings
from llmbole.model.data_augmentation import DataSettings
from llmbole.model.instruction_tuning import USES, InstructionTuning, open_prompts
from llmbole.model.instructions import InstructionSettings
from llmbole.model.llm_rating import rating_scale
from llmbole.model.ranking_prompts import AugmentSettings, PromptSettings, RankingPrompts, Shown
from llmbole.model.reranking import Lists, phases_of
from llmbole.model.session import no_leaks
from llmbole.model.similar_users import shown_places
from llmbole.model.vectors import vectors_of
from llmbole.pipeline.run import StageRun, Ticker
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import Rule, build, part_checks

SCORINGS = {
    "likelihood": "candidate_log_likelihood",
    "generation": "generation",
    "pointwise": "answer_probability",
}


@dataclass(frozen=True)
class RankSettings:
    """How the LLM ranks.

    Attributes:
        length: k, items of the conventional model's list that are ranked anew.
        chunk: items of one prompt; a longer list is ranked chunk by chunk, and no item leaves its chunk.
        listwise: `likelihood`: each title's log-likelihood as the first of the answer; `generation`: the answer itself.
        pointwise: whether each item is also asked about alone, by yes or no.
        named: how many of a prompt's items the answer lists.
        order: how candidates stand in the prompt: `shuffled`, or the conventional model's, which gives it away.
        batch_size: prompts run together.
    """

    length: int
    chunk: int
    listwise: Literal["likelihood", "generation"] | None
    pointwise: bool
    named: int
    order: Literal["shuffled", "backbone"]
    batch_size: int

    def __post_init__(self) -> None:
        least = {"length": 2, "chunk": 2, "named": 1, "batch_size": 1}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if self.listwise is None and not self.pointwise:
            problems.append("listwise is null and pointwise false: the LLM ranks nothing, leave one on")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass
class _Answers:
    """What an LLM says of the lists of one phase. Shapes `[U, k]`."""

    positions: np.ndarray
    scores: np.ndarray
    faults: dict[str, int]
    answers: int = 0


@stage(
    makes="listwise",
    needs=("data", "split", "lists", "tuned"),
    uses=(
        "rank.length",
        "rank.chunk",
        "rank.listwise",
        "rank.named",
        "rank.order",
        "rank.batch_size",
        *USES,
    ),
    when=("protocol.task", "ranking"),
    phased=True,
)
def rank_lists(
    run: StageRun, data: Artifact, split: Artifact, lists: Artifact, tuned: Artifact
) -> Mapping[str, Any]:
    """Listwise: the LLM is shown a list and ranks it."""
    if run["rank.listwise"] is None:
        return {"did": "nothing: rank.listwise is null"}
    return _rank(run, data, split, lists, tuned, "listwise")


@stage(
    makes="pointwise",
    needs=("data", "split", "lists", "tuned"),
    uses=("rank.length", "rank.batch_size", *USES),
    when=("rank.pointwise", True),
    phased=True,
)
def rank_items(
    run: StageRun, data: Artifact, split: Artifact, lists: Artifact | None, tuned: Artifact
) -> Mapping[str, Any]:
    """Pointwise: the LLM is asked about each item alone; the surer its yes, the better the item's position."""
    if lists is None:
        return {"did": "nothing: ratings are predicted, not lists"}
    return _rank(run, data, split, lists, tuned, "pointwise")


def _rank(
    run: StageRun, data: Artifact, split: Artifact, lists: Artifact, tuned: Artifact, way: str
) -> dict[str, Any]:
    """Positions of the items of lists, written to `<way>.npz`."""
    augment = build(AugmentSettings, run["augment"], "augment")
    prompts = open_prompts(run, data, split, tuned, augment)
    opened = splits.load(split.folder)
    assert isinstance(opened, Split)  # lists are of rankings
    columns: dict[str, Any] = {}
    faults, answers = dict.fromkeys(FAULTS, 0), 0
    counts = [len(opened.phase(name)) for name in phases_of(run)]
    length = run["rank.length"]
    chunks = len(chunk_bounds(length, run["rank.chunk"])) if way == "listwise" else 1
    with run.progress(sum(counts) * chunks, "list") as ticker:
        for name in phases_of(run):
            phase, found = opened.phase(name), Lists.load(lists, name)
            shown = shown_of(prompts, phase, found, augment)
            one = _Ranker(run, prompts, ticker, run.seed + PHASES.index(name))
            result = getattr(one, way)(shown, found.items[:, :length])
            columns |= {f"{name}_positions": result.positions, f"{name}_scores": result.scores}
            answers += result.answers
            faults = {fault: count + result.faults.get(fault, 0) for fault, count in faults.items()}
    np.savez_compressed(run.folder / f"{way}.npz", **columns)
    kind = run["rank.listwise"] if way == "listwise" else way
    return {
        "scoring": SCORINGS[kind],
        "faults": {fault: count / answers for fault, count in faults.items()} if answers else {},
        "llm_parameters": prompts.lm.parameters_total,
        "did": f"{length} items of {counts[-1]} {run.phase} users {way}",
    }


def shown_of(prompts: RankingPrompts, phase: Phase, lists: Lists, augment: AugmentSettings) -> Shown:
    """What prompts show of a phase's users, checked for leaks."""
    history = prompts.sequences.before(phase.positions, prompts.settings.history)
    no_leaks(leak.check_histories(phase, prompts.sequences.items_at(history)))
    if not augment.prompt:
        return Shown(history)
    similar = shown_places(lists.similar, prompts.sequences, phase.positions, augment.history)
    rows = np.nonzero(similar >= 0)[0]
    no_leaks(leak.check_similar(phase, rows, similar[similar >= 0]))
    return Shown(history, similar, lists.items[:, : augment.predicted])


class _Ranker:
    """Asks about the lists of one phase, chunk by chunk."""

    def __init__(self, run: StageRun, prompts: RankingPrompts, ticker: Ticker, seed: int) -> None:
        self.run, self.prompts, self.ticker, self.batch = run, prompts, ticker, run["rank.batch_size"]
        self.generator = np.random.default_rng(seed)

    def listwise(self, shown: Shown, items: np.ndarray) -> _Answers:
        """Positions of items, `[U, k]`, in lists."""
        result = _Answers(np.zeros_like(items), np.zeros(items.shape), dict.fromkeys(FAULTS, 0))
        for start, stop in chunk_bounds(items.shape[1], self.run["rank.chunk"]):
            self._list_chunk(shown, items[:, start:stop], result, start, stop)
        return result

    def _list_chunk(self, shown: Shown, items: np.ndarray, result: _Answers, start: int, stop: int) -> None:
        order = np.tile(np.arange(items.shape[1]), (len(items), 1))  # [U, C]
        if self.run["rank.order"] == "shuffled":
            order = self.generator.permuted(order, axis=1)
        offered = np.take_along_axis(items, order, axis=1)
        titles, count = self.prompts.titles, min(self.run["rank.named"], items.shape[1])
        ids_of = self.prompts.lm.tokens.ids
        # No end token: more titles may follow the first.
        starts = [[ids_of(titles.quoted([item])) for item in row] for row in offered.tolist()]
        longest = [sum(sorted(map(len, row))[-count:]) + 2 * count for row in starts]
        generates = self.run["rank.listwise"] == "generation"
        room = max(longest) if generates else max(len(ids) for row in starts for ids in row)
        encoded = self.prompts.listwise(shown, offered, count, room)
        self.run.count(llm_tokens=tokens_of(encoded))
        lm = self.prompts.lm
        if generates:
            texts = title_prompt.generated_lists(
                lm, encoded, longest, count, batch_size=self.batch, progress=self.ticker
            )
            self.run.count(llm_tokens=sum(map(len, lm.tokens.ids_many(texts))))
            found = self._parsed(texts, offered, count, result)
        else:
            logs = title_prompt.log_likelihoods(
                lm, encoded, starts, batch_size=self.batch, progress=self.ticker
            )
            self.run.count(llm_tokens=sum(len(ids) for row in starts for ids in row))
            values = logs.double().numpy()
            found = _ranks(values)
            np.put_along_axis(result.scores[:, start:stop], order, values, axis=1)
        np.put_along_axis(result.positions[:, start:stop], order, found + start, axis=1)

    def _parsed(self, texts: list[str], offered: np.ndarray, count: int, result: _Answers) -> np.ndarray:
        """Positions that answers give the candidates as they were offered; faults are counted."""
        found = np.zeros_like(offered)
        for row, (text, items) in enumerate(zip(texts, offered.tolist(), strict=True)):
            parsed = parse_ranking(text, [self.prompts.titles.plain[item] for item in items], count)
            found[row] = parsed.positions(len(items))
            for fault in parsed.faults:
                result.faults[fault] += 1
        result.answers += len(texts)
        return found

    def pointwise(self, shown: Shown, items: np.ndarray) -> _Answers:
        """Positions of items, `[U, k]`, each asked about alone."""
        answer = build(Answer, self.run["answer"], "answer")
        probabilities = np.zeros(items.shape)
        for rows in np.array_split(np.arange(len(items)), -(-len(items) // self.batch)):
            part = shown.taken(rows).repeated(items.shape[1])
            encoded = self.prompts.pointwise(part, items[rows].reshape(-1))
            self.run.count(llm_tokens=tokens_of(encoded))
            logits = yes_no.score(self.prompts.lm, encoded, self.prompts.yes_no)  # [B * k, 2]
            likes = yes_no.probabilities(logits, answer.score).numpy()
            probabilities[rows] = likes.reshape(len(rows), -1)
            self.ticker(len(rows))
        return _Answers(_ranks(probabilities), probabilities, {})


def _ranks(values: np.ndarray) -> np.ndarray:
    """Positions from 1 by descending values; equal ones in the order they stand. Shape as given."""
    order = np.argsort(-values, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable") + 1


def checks(*rules: Rule, **more: type) -> type:
    """A settings class for methods in which an LLM re-ranks a conventional model's lists or changes its ratings.

    Args:
        *rules: As `llmbole.settings.part_checks` takes them.
        **more: Setting name to frozen dataclass, beyond those of the stages here.

    Returns:
        A class with `check(settings)`.
    """
    parts = {
        "prompt": PromptSettings,
        "answer": Answer,
        "augment": AugmentSettings,
        "rank": RankSettings,
        "instructions": InstructionSettings,
        "tune": InstructionTuning,
        "lora": LoraSettings,
        "data": DataSettings,
        "attributes": AttributeSettings,
        **more,
    }

    return part_checks(_backbone_problems, data_augmentation.problems, attributes.problems, *rules, **parts)


def _backbone_problems(settings: Mapping[str, Any]) -> list[str]:
    """Why the backbone can't do what the protocol asks for."""
    name, protocol = settings["backbone"]["name"], settings["protocol"]
    if protocol["task"] == "rating":
        rating_scale(settings["dataset"]["rating"])
        registry.check_learns_labels(settings)
        return []
    if registry.learns_only_labels(name):
        return [
            f"backbone {name} predicts labels, but {protocol['name']} asks for rankings; choose one that ranks, "
            "such as LightGCN or SASRec"
        ]
    vectors_of(name)  # a SettingsError for a model without vectors, by which users are similar
    return []

"""Lists that another LLM, the run's judge, ranks too: wins, ties and losses against it.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024, Figure 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from llmbole.data.split import Phase, Split
from llmbole.llm.engine import Answer
from llmbole.llm.ranked_list import FAULTS, parse_ranking
from llmbole.model import judge, written
from llmbole.model.instruction_tuning import USES, open_prompts
from llmbole.model.judge import CheckSettings
from llmbole.model.llm_ranking import shown_of
from llmbole.model.ranking_prompts import AugmentSettings
from llmbole.model.reranking import Lists
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import SET, stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import SettingsError, build

FILE = "judged_lists.npz"


@stage(
    makes="judged_lists",
    needs=("data", "split", "lists", "tuned"),
    uses=(*judge.USES, "rank.length", "rank.named", "rank.order", *USES),
    when=("check.rankings", SET),
    phased=True,
)
def judge_lists(
    run: StageRun, data: Artifact, split: Artifact, lists: Artifact, tuned: Artifact
) -> Mapping[str, Any]:
    """The judge ranks lists of users whose target stands in them, from the very prompts of the tuned LLM. Figure 7."""
    check = build(CheckSettings, run["check"], "check")
    augment = build(AugmentSettings, run["augment"], "augment")
    prompts = open_prompts(run, data, split, tuned, augment)
    phase = Split.load(split.folder).phase(run.phase)
    found, length = Lists.load(lists, run.phase), int(run["rank.length"])
    generator = np.random.default_rng(run.seed)
    rows = drawn_users(generator, found.items[:, :length], phase.targets, int(check.rankings or 0))
    order = np.tile(np.arange(length), (len(rows), 1))  # [n, k]
    if run["rank.order"] == "shuffled":
        order = generator.permuted(order, axis=1)
    offered = np.take_along_axis(found.items[rows, :length], order, axis=1)
    named = min(run["rank.named"], length)
    shown = shown_of(prompts, phase, found, augment).taken(rows)
    encoded = prompts.listwise(shown, offered, named, check.max_new_tokens)
    questions = [prompts.lm.tokens.decode(prompt.ids) for prompt in encoded]
    answers = judge.ask_judge(run, check, questions).answers
    written.save_texts(
        run.folder / written.TEXTS,
        (
            {"prompt": prompt, "text": answer.text, "refused": answer.refused}
            for prompt, answer in zip(questions, answers, strict=True)
        ),
    )
    positions, shares = read_answers(answers, offered, phase.targets[rows], prompts.titles.plain, named)
    ranked = positions > 0
    np.savez_compressed(run.folder / FILE, rows=rows[ranked], positions=positions[ranked])
    return {
        "shares": shares,
        "did": f"lists of {ranked.sum()} {run.phase} users, ranked by {judge.name_of(run)}; {shares['refused']:.1%} "
        "were refused",
    }


def read_answers(
    answers: Sequence[Answer], offered: np.ndarray, targets: np.ndarray, titles: Sequence[str], named: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Where the judge's answers put the targets.

    Args:
        answers: Of `n` lists.
        offered: Their items in the order of the prompt. Shape `[n, k]`.
        targets: One item of each. Shape `[n]`.
        titles: Of items.
        named: How many items were asked for.

    Returns:
        Positions from 1, and 0 where the judge refused and so gave no order, shape `[n]`. Shares of the lists: with
        each of `FAULTS`; `empty`, an answer without text, which names no item; `refused`, which has neither.
    """
    counts = dict.fromkeys((*FAULTS, "empty", "refused"), 0)
    positions = np.zeros(len(answers), dtype=np.int64)
    for row, (answer, items) in enumerate(zip(answers, offered.tolist(), strict=True)):
        if answer.refused:
            counts["refused"] += 1
            continue
        parsed = parse_ranking(answer.text, [titles[item] for item in items], named)
        positions[row] = parsed.positions(len(items))[items.index(targets[row])]
        for fault in (*parsed.faults, *([] if answer.text else ["empty"])):
            counts[fault] += 1
    return positions, {name: count / len(answers) for name, count in counts.items()}


def drawn_users(
    generator: np.random.Generator, items: np.ndarray, targets: np.ndarray, count: int
) -> np.ndarray:
    """Users whose target stands in their list, at most `count`, ascending.

    Args:
        generator: Draws them.
        items: Their lists. Shape `[U, k]`.
        targets: Their targets. Shape `[U]`.
        count: How many.

    Returns:
        Places. Shape `[n]`.

    Raises:
        SettingsError: There is none.
    """
    able = np.flatnonzero((items == targets[:, None]).any(axis=1))
    if not len(able):
        raise SettingsError(
            f"check.rankings = {count}: no list of {items.shape[1]} items holds its user's target, so that no order is "
            "better than another; raise rank.length, or leave it out"
        )
    return np.sort(generator.choice(able, min(count, len(able)), replace=False))


def against_judge(judged: Artifact, phase: Phase, ranked: np.ndarray) -> dict[str, float]:
    """Whose order puts the target nearer to the top.

    Args:
        judged: What `judge_lists` made.
        phase: Users and targets.
        ranked: Lists in the order to compare, best first. Shape `[U, n]`.

    Returns:
        What `compared` gives, and the shares that `read_answers` gives; all names begin with `judge_`.
    """
    with np.load(judged.folder / FILE, allow_pickle=False) as stored:
        rows, theirs = stored["rows"], stored["positions"]
    mine = (ranked[rows] == phase.targets[rows][:, None]).argmax(axis=1) + 1
    found = {**compared(mine, theirs), **judged.summary["shares"]}
    return {f"judge_{name}": value for name, value in found.items()}


def compared(mine: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Two positions of each target, the smaller the better.

    Args:
        mine: Shape `[n]`.
        other: Shape `[n]`.

    Returns:
        Counts `win`, `tie` and `loss`, and `sign_p`: the two-sided sign test over wins and losses, 1 if all are ties.
    """
    wins, losses = int((mine < other).sum()), int((mine > other).sum())
    decided = wins + losses
    p_value = float(stats.binomtest(wins, decided).pvalue) if decided else 1.0
    return {"win": wins, "tie": len(mine) - decided, "loss": losses, "sign_p": p_value}

"""The stage in which an LLM predicts ratings, told what a conventional model predicts and a similar user gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmbole.data import pair_leak, splits
from llmbole.data.pairs import Pairs, PairSplit
from llmbole.llm import title_prompt
from llmbole.llm.title_prompt import tokens_of
from llmbole.model.instruction_tuning import USES, open_prompts
from llmbole.model.ranking_prompts import AugmentSettings, RankingPrompts, Shown
from llmbole.model.reranking import PREDICTED, Ratings, phases_of
from llmbole.model.session import no_leaks
from llmbole.model.similar_users import shown_places
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import SettingsError, build


@stage(
    makes="predicted",
    needs=("data", "split", "ratings", "tuned"),
    uses=("rank.batch_size", *USES),
    when=("protocol.task", "rating"),
    phased=True,
)
def predict_ratings(
    run: StageRun, data: Artifact, split: Artifact, ratings: Artifact, tuned: Artifact
) -> Mapping[str, Any]:
    """The LLM's ratings of held-out rows: the mean of the scale under the probabilities of its values."""
    augment = build(AugmentSettings, run["augment"], "augment")
    scale = rating_scale(run["dataset"]["rating"])
    prompts = open_prompts(run, data, split, tuned, augment)
    opened = splits.load(split.folder)
    assert isinstance(opened, PairSplit)  # ratings are of rows
    answers = [prompts.titles.answer_ids(f"{value:g}") for value in scale]
    parts = [opened.part(name) for name in phases_of(run)]
    columns: dict[str, Any] = {}
    with run.progress(sum(map(len, parts)), "row") as ticker:
        for part in parts:
            shown = _shown(prompts, part, Ratings.load(ratings, part.name), augment)
            encoded = prompts.rating(shown, part.items, max(map(len, answers)))
            run.count(llm_tokens=tokens_of(encoded) + len(part) * sum(map(len, answers)))
            size, every = run["rank.batch_size"], [answers] * len(part)
            logs = title_prompt.log_likelihoods(prompts.lm, encoded, every, batch_size=size, progress=ticker)
            columns[f"{part.name}_values"] = title_prompt.expected_values(logs, scale)
            columns[f"{part.name}_logs"] = logs.numpy()
    np.savez_compressed(run.folder / PREDICTED, **columns)
    mean = columns[f"{run.phase}_values"].mean()
    return {
        "scoring": "expected_rating",
        "llm_parameters": prompts.lm.parameters_total,
        "did": f"ratings of {len(parts[-1])} {run.phase} rows, {mean:.2f} on average",
    }


def _shown(prompts: RankingPrompts, part: Pairs, known: Ratings, augment: AugmentSettings) -> Shown:
    """What prompts show with the rows of a part, checked for leaks."""
    sequences = prompts.sequences
    history = sequences.before(part.positions, prompts.settings.history)
    no_leaks(pair_leak.check_shown(part, np.nonzero(history >= 0)[0], history[history >= 0]))
    if not augment.prompt:
        return Shown(history)
    similar = shown_places(known.similar, sequences, part.positions, augment.history)
    places = similar[similar >= 0]
    no_leaks(pair_leak.check_shown(part, np.nonzero(similar >= 0)[0], places))
    if not sequences.trained[places].all():
        no_leaks(["rows are shown with a rating of a similar user that is held out"])
    return Shown(history, similar, None, known.values)


def rating_scale(rating: Mapping[str, float] | None) -> list[float]:
    """The ratings that can be given: whole numbers from the lowest to the highest.

    Args:
        rating: `low` and `high` of the data set.

    Returns:
        Ascending.

    Raises:
        SettingsError: The data set does not say, or its ends are no whole numbers.
    """
    ends = [] if not rating else [rating["low"], rating["high"]]
    if not ends or any(float(end) != int(end) for end in ends):
        raise SettingsError(
            f"rating = {rating}: the data set's yaml must say its scale, low and high as whole numbers"
        )
    return [float(value) for value in range(int(ends[0]), int(ends[1]) + 1)]

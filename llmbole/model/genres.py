"""The generation task of A-LLMRec: favourite genres, asked for in free text and compared with what users take next.

Kim et al., Large Language Models meet Collaborative Filtering: An Efficient All-round LLM-based Recommender System,
KDD 2024, Figure 4, which shows answers for a few users; here all users are asked, and answers are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmbole.data.text import ItemText
from llmbole.llm.open_question import OpenQuestion
from llmbole.model import ranking, written
from llmbole.model.base import LLMRecommender
from llmbole.model.genre_score import Genres, genres_of, measures, read_genres
from llmbole.model.session import open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from llmbole.settings import SettingsError, build


@dataclass(frozen=True)
class GenreSettings:
    """What users are asked about genres.

    Attributes:
        ask: Whether they are.
        text: The question, with `{history}` and maybe `{genres}`, the names of all in an order of each prompt's own, so
            that naming the first is worth nothing; what the method's prompt opens with stands before it.
        max_new_tokens: Longest answer.
        batch_size: Prompts of one batch.
        users: How many users are asked, drawn at random; null asks all.
        of: What data sets call their items whose categories are genres.
        left_out: Categories that are no genre.
    """

    ask: bool
    text: str
    max_new_tokens: int
    batch_size: int
    users: int | None
    of: tuple[str, ...]
    left_out: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("max_new_tokens", "batch_size")
            if getattr(self, name) < 1
        ]
        if self.users is not None and self.users < 1:
            problems.append(f"users = {self.users}: must be at least 1, or null")
        if problems:
            raise ValueError("\n".join(problems))
        offered = ("genres",) if "{genres}" in self.text else ()
        written.check_slots(self.text, ("history", *offered))


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Why a run's users can't be asked about genres, though its settings say so."""
    own, dataset = settings["genres"], settings["dataset"]
    word = dataset["words"]["item"]
    if not own["ask"] or word in own["of"]:
        return []
    return [
        f"genres.ask = true: the items of {dataset['name']} have no genres: it calls each {word!r}, and genres.of has "
        f"{', '.join(map(repr, own['of'])) or 'nothing'}; leave genres.ask out, choose another data set, or, if the "
        f"categories of its items are genres, add {word!r} to genres.of"
    ]


def ask_genres(run: StageRun, model: LLMRecommender, data: Artifact, split: Artifact) -> dict[str, Any]:
    """Ask users of a phase for their favourite genres, and compare the answers with the genres of their targets.

    Every prompt's user, answer and genres go to `texts.jsonl`. Users whose target has no genre are not asked.

    Args:
        run: The stage; it must declare `genres`, `prompt`, `dataset`, `protocol` and `seed`.
        model: A `ranking.Chooser` that is a module.
        data: Prepared data.
        split: Frozen split.

    Returns:
        The stage's summary; `measured` joins the record's `extra`.

    Raises:
        SettingsError: No user has a target with a genre.
    """
    settings = build(GenreSettings, run["genres"], "genres")
    session = open_session(run, data, split, type(model))
    frozen = session.ranking_split
    items = genres_of(ItemText.load(data.folder, frozen.item_tokens), settings.left_out)
    targets = frozen.phase(run.phase).targets
    able = np.flatnonzero(items.of_items[targets].any(axis=1))
    if not len(able):
        raise SettingsError(
            f"genres.ask = true: no held-out item of {run['dataset']['name']} has a category that is a genre; give its "
            "items categories, see genres.left_out, or leave genres.ask out"
        )
    asked = able
    if settings.users is not None and settings.users < len(able):
        generator = np.random.default_rng(run.seed)
        asked = np.sort(generator.choice(able, settings.users, replace=False))
    rows = session.held_out(run.phase)[torch.from_numpy(asked)]
    prompts, answers = _answers(run, model, settings, rows, items)
    named = [read_genres(answer, items.names) for answer in answers]
    truth = items.of_items[targets[asked]]  # [U, G]
    users = [str(frozen.user_tokens[user]) for user in rows["user_id"].tolist()]
    written.save_texts(run.folder / written.TEXTS, _entries(users, prompts, answers, named, truth, items))
    _, trained = frozen.train_counts
    found = measures(named, truth, trained @ items.of_items)
    told = ", ".join(f"{name} {found[name]:.4f}" for name in ("GenrePrecision@1", "GenreChance@1"))
    return {
        "measured": {**found, "genre_users": len(asked), "genre_users_without": len(targets) - len(able)},
        "did": f"{told}, {found['GenreValid']:.1%} valid answers of {len(asked)} {run.phase} users",
    }


@torch.inference_mode()
def _answers(
    run: StageRun,
    model: Any,  # noqa: ANN401 - a `ranking.Chooser` that is a module
    settings: GenreSettings,
    rows: Any,  # noqa: ANN401 - RecBole's Interaction
    items: Genres,
) -> tuple[list[str], list[str]]:
    """Prompts as text, without their vectors, and greedy answers. Length `U`."""
    model.eval()
    choice = model.choice
    opening = run["prompt"]["user"] if "user" in choice.template.soft_slots else "{bos}"
    question = OpenQuestion(
        choice, opening + settings.text, run["dataset"]["words"], settings.max_new_tokens, own=("genres",)
    )
    generator = np.random.default_rng(run.seed)
    offered = [{"genres": _listed(generator.permutation(items.labels))} for _ in range(len(rows))]
    prompts: list[str] = []
    answers: list[str] = []
    with run.progress(len(rows), "user") as ticker:
        for places in torch.arange(len(rows)).split(settings.batch_size):
            batch = rows[places]
            users = model.users.user_vectors(batch) if model.users is not None else None
            history = ranking.newest(batch["item_id_list"], batch["item_length"], model.history)
            prompt = question.prompt(history, [offered[place] for place in places.tolist()])
            answers += question.generate(prompt, model.soft_vectors(prompt, users))
            read = zip(prompt.batch.ids.tolist(), prompt.batch.mask.tolist(), strict=True)
            prompts += [
                choice.lm.tokens.decode(each for each, kept in zip(ids, mask, strict=True) if kept)
                for ids, mask in read
            ]
            run.count(llm_tokens=choice.tokens(prompt))
            ticker(len(places))
    return prompts, answers


def _listed(labels: Iterable[str]) -> str:
    """Genres as a prompt lists titles."""
    return ",".join(f'"{label}"' for label in labels)


def _entries(
    users: list[str],
    prompts: list[str],
    answers: list[str],
    named: list[list[int]],
    truth: np.ndarray,
    items: Genres,
) -> list[dict[str, Any]]:
    """A line for each user."""
    return [
        {
            "user": user,
            "prompt": prompt,
            "text": answer,
            "named": [items.names[genre] for genre in genres],
            "genres": [items.names[genre] for genre in np.flatnonzero(right)],
        }
        for user, prompt, answer, genres, right in zip(users, prompts, answers, named, truth, strict=True)
    ]

"""Data augmentation by an LLM: what it prefers joins the training of a conventional recommender that ranks.

Luo et al., Integrating Large Language Models into Recommendation via Mutual Augmentation and Adaptive Aggregation,
2024: for direct recommendation pairs of items, Eq. 2; for sequential recommendation an item more in each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmbole.config import Config, model_class_of
from llmbole.data import leak
from llmbole.data.negatives import NegativeSampler
from llmbole.data.split import Split
from llmbole.llm import title_prompt
from llmbole.llm.title_prompt import tokens_of
from llmbole.model import stages
from llmbole.model.instruction_tuning import open_prompts
from llmbole.model.ranking_prompts import RankingPrompts, Shown
from llmbole.model.session import no_leaks
from llmbole.pipeline.run import StageRun, Ticker
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.settings import build
from llmbole.trainer.all_positions import CAUSAL
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender

FILE = "augmentation.npz"
PROMPTS_PER_BATCH = 32


@dataclass(frozen=True)
class DataSettings:
    """Data augmentation (DA).

    Attributes:
        augment: whether it is on; rankings only.
        per_user: pairs, and inserted items, of a user.
        candidates: random items of which one is inserted.
    """

    augment: bool
    per_user: int
    candidates: int

    def __post_init__(self) -> None:
        least = {"per_user": 1, "candidates": 2}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if problems:
            raise ValueError("\n".join(problems))


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Why a run's data can't be augmented, though its settings say so."""
    name, protocol = settings["backbone"]["name"], settings["protocol"]
    if not settings["data"]["augment"]:
        return []
    if protocol["task"] != "ranking":
        return [
            f"data.augment = true: {protocol['name']} does not rank; leave it out, and set attributes.fill: true to "
            "augment ratings"
        ]
    sequential = issubclass(model_class_of(name), SequentialRecommender)
    if sequential and (name not in CAUSAL or settings["backbone"]["training"] == "per_prefix"):
        return [
            f"data.augment = true: items are inserted into whole sequences, on which {name} is not trained; choose "
            f"one of {', '.join(CAUSAL)} with backbone.training auto, or leave it out"
        ]
    return []


class Augmented:
    """What an LLM prefers, as training data.

    Args:
        users: User of each pair. Shape `[P]`.
        preferred: The item that the LLM prefers. Shape `[P]`.
        other: The item it is preferred to. Shape `[P]`.
        owners: User of each item to insert. Shape `[I]`.
        inserted: The items. Shape `[I]`.
        seed: Of orders and places.
    """

    def __init__(
        self,
        users: np.ndarray,
        preferred: np.ndarray,
        other: np.ndarray,
        owners: np.ndarray,
        inserted: np.ndarray,
        seed: int,
    ) -> None:
        self.pairs = torch.from_numpy(np.stack([users, preferred, other]).astype(np.int64))  # [3, P]
        self.owners, self.inserted, self.seed = owners, inserted, seed

    @classmethod
    def load(cls, artifact: Artifact, seed: int) -> Augmented:
        """Read what `augment_data` wrote."""
        with np.load(artifact.folder / FILE, allow_pickle=False) as stored:
            return cls(**{name: stored[name] for name in stored.files}, seed=seed)

    def loader(self, loader: Any, config: Config) -> WithPairs:  # noqa: ANN401 - RecBole's loader
        """A loader of training rows with the pairs among them."""
        return WithPairs(loader, self.pairs, config, self.seed)

    def sequences(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Users' training items, with each inserted item at a random place of its user's.

        Args:
            sequences: By internal user id.

        Returns:
            The same, longer ones.
        """
        generator, result = np.random.default_rng(self.seed), list(sequences)
        for user, item in zip(self.owners.tolist(), self.inserted.tolist(), strict=True):
            place = int(generator.integers(0, len(result[user]) + 1))
            result[user] = np.insert(result[user], place, item)
        return result


class WithPairs:
    """A loader of BPR's rows with more rows in each batch, D_LLM of Eq. 2, spread over an epoch in random order.

    Args:
        loader: Gives users with an item each and a negative one.
        pairs: Users, preferred and other items. Shape `[3, P]`.
        config: RecBole's names of the fields.
        seed: Of the order.
    """

    def __init__(self, loader: Any, pairs: torch.Tensor, config: Config, seed: int) -> None:  # noqa: ANN401
        self._loader, self.pairs = loader, pairs
        self.generator = torch.Generator().manual_seed(seed)
        item = config["ITEM_ID_FIELD"]
        self.fields = (config["USER_ID_FIELD"], item, config["NEG_PREFIX"] + item)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Interaction]:
        order = torch.randperm(self.pairs.shape[1], generator=self.generator)
        for rows, own in zip(order.tensor_split(len(self)), self._loader, strict=True):
            more = zip(self.fields, self.pairs[:, rows], strict=True)
            yield Interaction({field: torch.cat([own[field], column]) for field, column in more})

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the loader has
        return getattr(self._loader, name)


@stage(
    makes="augmentation",
    needs=("data", "split", "tuned"),
    uses=("data", "tune", "lora", "prompt", "answer", "llm", "dataset", "protocol", "seed"),
    when=("data.augment", True),
)
def augment_data(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
    """Ask the LLM which of two unknown items each user prefers, and which of several comes into the sequence."""
    settings = build(DataSettings, run["data"], "data")
    prompts, opened = open_prompts(run, data, split, tuned), Split.load(split.folder)
    sequences = prompts.sequences
    users = np.repeat(np.flatnonzero(sequences.train_counts > 0), settings.per_user)  # [M]
    history = sequences.training(users, prompts.settings.history)
    last = sequences.items[sequences.train_ends[users] - 1]
    no_leaks(leak.check_training(opened, users, last, sequences.items_at(history)))
    trained = sequences.trained
    sampler = NegativeSampler(sequences.users[trained], sequences.items[trained], opened.n_train_items)
    generator = np.random.default_rng(run.seed)
    pairs = sampler.sample(generator, users, 2)  # [M, 2]
    offered = sampler.sample(generator, users, settings.candidates)  # [M, C]
    with run.progress(2 * len(users), "prompt") as ticker:
        best = _chosen(run, prompts, Shown(history), pairs, "pairwise", ticker)
        next_one = _chosen(run, prompts, Shown(history), offered, "listwise", ticker)
    rows = np.arange(len(users))
    columns = {"users": users, "preferred": pairs[rows, best], "other": pairs[rows, 1 - best]}
    np.savez_compressed(run.folder / FILE, **columns, owners=users, inserted=offered[rows, next_one])
    return {
        "pairs": len(users),
        "first_preferred": float((best == 0).mean()),
        "did": f"{len(users)} pairs and items",
    }


def _chosen(
    run: StageRun, prompts: RankingPrompts, shown: Shown, offered: np.ndarray, task: str, ticker: Ticker
) -> np.ndarray:
    """Place of the likeliest title of each row. Shape `[M]`."""
    titles = prompts.titles
    answers = [[titles.answer_ids(titles.quoted([item])) for item in row] for row in offered.tolist()]
    room = max(len(ids) for row in answers for ids in row)
    ask = prompts.pairwise if task == "pairwise" else _first_of(prompts)
    encoded = ask(shown, offered, room)
    run.count(llm_tokens=tokens_of(encoded) + sum(len(ids) for row in answers for ids in row))
    logs = title_prompt.log_likelihoods(
        prompts.lm, encoded, answers, batch_size=PROMPTS_PER_BATCH, progress=ticker
    )
    found: np.ndarray = logs.argmax(dim=1).numpy()
    return found


def _first_of(prompts: RankingPrompts) -> Any:  # noqa: ANN401 - a function as `prompts.pairwise`
    return lambda shown, offered, room: prompts.listwise(shown, offered, 1, room)


@stage(
    makes="augmented_backbone",
    needs=("data", "split", "augmentation"),
    uses=("dataset.name", "protocol", "backbone", "seed"),
    when=("data.augment", True),
)
def train_augmented(
    run: StageRun, data: Artifact, split: Artifact, augmentation: Artifact
) -> Mapping[str, Any]:
    """Train the conventional recommender on the training interactions and what the LLM prefers."""
    return stages.fit_backbone(run, data, split, more=Augmented.load(augmentation, run.seed))

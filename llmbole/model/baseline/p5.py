"""P5: an encoder-decoder that reads users and items as numbers in sentences, and answers in words.

Geng et al., Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict Paradigm
(P5), RecSys 2022, in the form in which CoReLLa, 2024, compares with it: "Will user_1 likely to interact with item_2 ?"
is answered by yes or no. Families of prompts are the paper's: direct, rating, sequential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from llmbole.data import splits
from llmbole.data.pair_rows import SHOWN, PairRows
from llmbole.data.pairs import PairSplit
from llmbole.llm import seq2seq, tune
from llmbole.llm.seq2seq import Seq2Seq, Sizes
from llmbole.model import evaluation, pair_prompts, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.pair_settings import PairTuning
from llmbole.model.row_scorer import RowScorer, RowsOfToday
from llmbole.model.scorer import NewItems, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, close_name, part_checks
from recbole.data.interaction import Interaction

RATING = "rating"
DIRECT, SEQUENTIAL = "direct", "sequential"
TEMPLATES = {
    DIRECT: "Will user_{user} likely to interact with item_{item} ?",
    RATING: "What star rating do you think user_{user} will give item_{item} ?",
    SEQUENTIAL: "Given the following interactions of user_{user} : {history} predict the next item of the user",
}
"""A sentence of each family."""
YES_NO = ("yes", "no")
RATINGS = " ".join(f"{half / 2:g}" for half in range(21))
ROWS_PER_BATCH = 512  # of one forward pass


@dataclass(frozen=True)
class TaskSettings:
    """What is learned beside the answers that are scored.

    Attributes:
        families: Families of prompts, `direct` among them; a training row is shown as one of them, drawn anew.
        history: Items that a sequential prompt shows, the newest ones.
        ids: `pieces`: the number of a user or an item is written in the model's tokens; `whole`: each is a token.
    """

    families: tuple[str, ...]
    history: int
    ids: Literal["pieces", "whole"]

    def __post_init__(self) -> None:
        problems = [
            f"families: {name!r} is unknown; {close_name(name, TEMPLATES)}"
            for name in self.families
            if name not in TEMPLATES
        ]
        if DIRECT not in self.families:
            problems.append(f"families = {list(self.families)}: must hold {DIRECT!r}, which is scored")
        if len(set(self.families)) < len(self.families):
            problems.append(f"families = {list(self.families)}: a family stands twice")
        if self.history < 1:
            problems.append(f"history = {self.history}: must be at least 1")
        if problems:
            raise ValueError("\n".join(problems))


def _rated(settings: Mapping[str, Any]) -> list[str]:
    """Why ratings can't be learned: not all rows have one of their own."""
    if RATING not in settings["tasks"]["families"] or settings["protocol"]["labels"]["kind"] == "threshold":
        return []
    return [
        f"tasks.families: {settings['protocol']['name']} draws negatives, which have no rating; leave out "
        f"{RATING!r}"
    ]


class Sentences:
    """Rows as sentences, in which numbers that were shuffled stand for users and items.

    Numbers in the order of first appearance would tell when somebody came, and a new item would be the highest number
    and one. Both sides are shuffled apart.

    Args:
        lm: Reads them.
        users: Number of users, the padding user included.
        items: Number of items, the padding item included.
        seed: Of the shuffling.

    Attributes:
        tokens_read: Tokens of all sentences so far.
    """

    def __init__(self, lm: Seq2Seq, users: int, items: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.lm, self.tokens_read = lm, 0
        self.users, self.items = (np.append(0, 1 + draw.permutation(count - 1)) for count in (users, items))

    def write(
        self,
        families: Sequence[str],
        users: Sequence[int],
        items: Sequence[int],
        histories: Sequence[Sequence[int]],
    ) -> list[str]:
        """A sentence for each row; a history is padded with 0."""
        texts = []
        for family, user, item, history in zip(families, users, items, histories, strict=True):
            shown = " , ".join(f"item_{self.items[each]}" for each in history if each)
            text = TEMPLATES[family].format(user=self.users[user], item=self.items[item], history=shown)
            texts.append(text)
            self.tokens_read += sum(len(self.lm.word_ids(word)) for word in text.split()) + 1
        return texts


@register_model("P5")
class P5(LLMRecommender):
    """An encoder-decoder, all of whose weights learn the answers to sentences about users and items.

    Args:
        lm: The encoder-decoder.
        prompt: Writes rows as sentences.
        settings: Which families of sentences it learns.
    """

    protocols = pair_prompts.PROTOCOLS
    settings_class = part_checks(_rated, sizes=Sizes, tasks=TaskSettings, tune=PairTuning)
    validates = "tuned"

    data = stages.prepare_data
    split = stages.freeze_split

    def __init__(self, lm: Seq2Seq, prompt: Sentences, settings: TaskSettings) -> None:
        super().__init__()
        self.lm, self.prompt, self.settings = lm, prompt, settings

    @stage(
        makes="tuned",
        needs=("data", "split"),
        uses=("sizes", "tasks", "tune", "llm", "dataset", "protocol", "seed"),
    )
    def tune_model(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Train all weights on the families of the training rows."""
        training.seed_everything(run.seed)
        model, settings = P5.assemble(run, split), build(PairTuning, run["tune"], "tune")
        train = P5.rows(run, split, "train", settings.rows, run.seed)
        seed = run.seed + pair_prompts.VALIDATION_SEED
        valid = P5.rows(run, split, "valid", settings.valid_rows, seed)
        summary = pair_prompts.fit_rows(run, model, RatedRows(train), valid, settings)
        training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", tune.learned(model))
        return summary

    @stage(
        makes="scores",
        needs=("data", "split", "tuned"),
        uses=("sizes", "tasks", "llm", "dataset", "protocol", "seed"),
        phased=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model = P5.assemble(run, split)
        pair_prompts.load_learned(model, tuned)
        return evaluation.score_pairs(run, model, data, split, P5.rows(run, split, run.phase))

    @staticmethod
    def assemble(run: StageRun, split: Artifact) -> P5:
        """The model of a run before its training."""
        opened, sizes = splits.load(split.folder), build(Sizes, run["sizes"], "sizes")
        known = [*TEMPLATES.values(), *YES_NO, RATINGS]
        settings = build(TaskSettings, run["tasks"], "tasks")
        users, items = len(opened.user_tokens), len(opened.item_tokens)
        sides = (("user", users), ("item", items)) if settings.ids == "whole" else ()
        words = [f"{side}_{number}" for side, count in sides for number in range(1, count)]
        lm = seq2seq.load(stages.llm_spec(run), sizes, known, stages.device(run), words=words)
        return P5(lm, Sentences(lm, users, items, run.seed), settings)

    @staticmethod
    def rows(run: StageRun, split: Artifact, part: str, sample: int = 0, seed: int = 0) -> PairRows:
        """Rows of a part with the items that sequential sentences show."""
        opened = splits.load(split.folder)
        assert isinstance(opened, PairSplit)  # the protocols of this method label pairs
        return PairRows(opened, part, shown=run["tasks"]["history"], sample=sample, seed=seed)

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cross-entropy of the answers to each row's sentence, of a family that is drawn for it.

        Args:
            interaction: `user_id`, `item_id`, `label`, `rating`, `[B]`, and `shown [B, N]`.

        Returns:
            A scalar.
        """
        labels, shown = interaction["label"].tolist(), interaction[SHOWN].tolist()
        drawn = torch.randint(len(self.settings.families), (len(labels),)).tolist()
        families = [
            self._fitting(self.settings.families[number], label, history)
            for number, label, history in zip(drawn, labels, shown, strict=True)
        ]
        items = interaction["item_id"].tolist()
        answers = {
            DIRECT: [YES_NO[label == 0] for label in labels],
            RATING: [f"{rating:g}" for rating in interaction[RATING].tolist()],
            SEQUENTIAL: [f"item_{self.prompt.items[item]}" for item in items],
        }
        texts = self.prompt.write(families, interaction["user_id"].tolist(), items, shown)
        return self.lm.loss(texts, [answers[family][row] for row, family in enumerate(families)])

    @staticmethod
    def _fitting(family: str, label: float, history: Sequence[int]) -> str:
        """The family drawn, or `direct` where a row is nothing to continue a history with."""
        return DIRECT if family == SEQUENTIAL and (label == 0 or not any(history)) else family

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """P(yes) against P(no) of each row's direct sentence. Shape `[B]`, float64."""
        return self._direct(*(interaction[name].tolist() for name in ("user_id", "item_id")))

    def probabilities(self, rows: RowsOfToday, numbers: np.ndarray) -> Tensor:
        """As `predict`, of rows by their numbers. Shape `[n]`."""
        return self._direct(rows.users[numbers].tolist(), rows.items[numbers].tolist())

    def _direct(self, users: Sequence[int], items: Sequence[int]) -> Tensor:
        texts = self.prompt.write([DIRECT] * len(users), users, items, [()] * len(users))
        parts = [texts[start : start + ROWS_PER_BATCH] for start in range(0, len(texts), ROWS_PER_BATCH)]
        logits = torch.cat([self.lm.first_logits(part, YES_NO) for part in parts])  # [B, 2]
        return logits.double().softmax(1)[:, 0].cpu()


class RatedRows:
    """Training rows with their ratings beside them.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: PairRows) -> None:
        self._rows, self._ratings = rows, torch.from_numpy(np.asarray(rows.ratings, np.float32))

    def __len__(self) -> int:
        return len(self._rows)

    def interaction(self, rows: Tensor) -> Interaction:
        """Rows by number, from 0."""
        taken = self._rows.interaction(rows)
        taken.update(Interaction({RATING: self._ratings[rows]}))
        return taken


@opens(
    P5,
    needs=("data", "split", "tuned"),
    uses=("sizes", "tasks", "llm", "dataset", "protocol", "seed"),
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, tuned: Artifact
) -> RowScorer:
    """The tuned encoder-decoder as a scorer."""
    model = P5.assemble(run, split)
    pair_prompts.load_learned(model, tuned)
    return RowScorer(model, history_alone="P5 knows users by their numbers; give a user of the data set")


# Departures from the paper:
# - users and items are shuffled before they become numbers (the code numbers them as they first appear, so that an item
#   of the test is often the highest number seen and one);
# - each user and item is a token of its own by default (tasks.ids: whole); the paper writes them in T5's pieces;
# - three of five families, with one sentence each: explanations and reviews need texts that the data lack, and the
#   direct family asks yes or no about the protocol's labels, without lists of candidates; beam search is not needed;
# - an untrained small T5 by default, whose words are those of the sentences and whose numbers fall into pieces of two
#   digits; T5-small and T5-base by name; whole-word embeddings begin at 0;
# - a row's family is drawn anew for each batch; the code draws a share of each family per epoch;
# - the untrained T5 learns at 3e-3 and without dropout; the learning rate falls as half a cosine instead of in a line,
#   and the AUC of validation rows chooses the step.

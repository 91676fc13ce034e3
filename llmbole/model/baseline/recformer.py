"""RecFormer: a bidirectional encoder reads histories and items as text, and the nearest item comes next.

Li et al., Text Is All You Need: Learning Language Representations for Sequential Recommendation, KDD 2023. Baseline of
Kim et al., Large Language Models meet Collaborative Filtering, KDD 2024. Section numbers are RecFormer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from llmbole.data.positions import RandomPositions
from llmbole.data.sentences import ITEM_FEATURES
from llmbole.data.split import Split
from llmbole.data.text import ItemText
from llmbole.llm.item_sequences import ItemSequences
from llmbole.model import evaluation, stages, training
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.new_text import text_columns
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import Session, open_session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, close_name, part_checks
from llmbole.trainer.batches import Batches

Attributes = tuple[tuple[str, str], ...]
ITEMS_PER_BATCH = 64
CANDIDATES_PER_BATCH = 64 * 20


@dataclass(frozen=True)
class ItemSettings:
    """How items and histories are written (section 2.1).

    Attributes:
        attributes: Of an item, in this order; those without a value are left out.
        attribute_tokens: Longest key, and longest value; longer ones are cut.
        history: Items of a history, the newest ones.
        tokens: Of a history; older items beyond are left out.
        pooling: `first`: a sequence is what the encoder makes of its first token; `mean`: of all its tokens.
    """

    attributes: tuple[str, ...]
    attribute_tokens: int
    history: int
    tokens: int
    pooling: Literal["first", "mean"]

    def __post_init__(self) -> None:
        least = {"attribute_tokens": 1, "history": 1, "tokens": 2}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        problems += [
            f"attributes: items have no {name!r}; {close_name(name, ITEM_FEATURES)}"
            for name in self.attributes
            if name not in ITEM_FEATURES
        ]
        if not self.attributes:
            problems.append("attributes: at least one is needed")
        if problems:
            raise ValueError("\n".join(problems))


@dataclass(frozen=True)
class FineTuning:
    """Two stages of training (section 2.4.2).

    Attributes:
        temperature: What cosines are divided by.
        learning_rate: Of AdamW.
        batch_size: Histories of a step.
        epochs: Of stage 1, at most; each takes one random position of every user.
        refresh_every: Epochs of stage 1 after which all items are encoded anew.
        patience: Epochs without a better validation score after which stage 1 ends.
        frozen_epochs: Of stage 2, at most.
        frozen_patience: As `patience`, of stage 2.
    """

    temperature: float
    learning_rate: float
    batch_size: int
    epochs: int
    refresh_every: int
    patience: int
    frozen_epochs: int
    frozen_patience: int

    def __post_init__(self) -> None:
        counts = ("batch_size", "epochs", "refresh_every", "patience", "frozen_epochs", "frozen_patience")
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in counts
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} = {getattr(self, name)}: must be above 0"
            for name in ("temperature", "learning_rate")
            if not getattr(self, name) > 0
        ]
        if problems:
            raise ValueError("\n".join(problems))


@register_model("RecFormer")
class RecFormer(LLMRecommender):
    """The encoder, and a table of all items as it encoded them.

    Args:
        encoder: Makes representations of sequences of items, the newest first.
        temperature: What cosines are divided by in training.
    """

    table: Tensor
    protocols = ("loo_rank20", "loo_full", "unified_rank")
    settings_class = part_checks(items=ItemSettings, tune=FineTuning)
    validates = "tuned"
    ranks_all_items = True

    data = stages.prepare_data
    split = stages.freeze_split

    def __init__(self, encoder: ItemSequences, temperature: float) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        self.register_buffer("table", torch.zeros(len(encoder.items), encoder.width))  # I, [n_items, H]
        self.epoch = 0

    @stage(
        makes="encoder",
        needs=("data", "split"),
        uses=("items", "tune", "text_encoder", "dataset.name", "protocol", "seed"),
    )
    def tune_encoder(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Stage 1: train the encoder; the table of items is encoded anew with every epoch."""
        settings = build(FineTuning, run["tune"], "tune")
        training.seed_everything(run.seed)
        model = RecFormer.assemble(run, data, split)
        return model.fit(run, data, split, settings.epochs, settings.patience, settings.refresh_every)

    @stage(
        makes="tuned",
        needs=("data", "split", "encoder"),
        uses=("items", "tune", "text_encoder", "dataset.name", "protocol", "seed"),
    )
    def tune_frozen(run: StageRun, data: Artifact, split: Artifact, encoder: Artifact) -> Mapping[str, Any]:
        """Stage 2: go on from the best epoch, with its table of items."""
        settings = build(FineTuning, run["tune"], "tune")
        training.seed_everything(run.seed)
        model = RecFormer.assemble(run, data, split)
        training.load_weights(model, encoder)
        return model.fit(run, data, split, settings.frozen_epochs, settings.frozen_patience)

    @stage(
        makes="scores",
        needs=("data", "split", "tuned"),
        uses=("items", "tune", "text_encoder", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(run: StageRun, data: Artifact, split: Artifact, tuned: Artifact) -> Mapping[str, Any]:
        """Scores on the test, or on validation."""
        model = RecFormer.assemble(run, data, split)
        training.load_weights(model, tuned)
        return evaluation.score_conventional(run, model.eval(), RecFormer.session(run, data, split))

    @staticmethod
    def assemble(run: StageRun, data: Artifact, split: Artifact) -> RecFormer:
        """The model as the encoder comes."""
        settings = build(ItemSettings, run["items"], "items")
        texts = ItemText.load(data.folder, Split.load(split.folder).item_tokens)
        items = attributes(texts, settings.attributes)
        device, longest = stages.device(run), (settings.history, settings.tokens)
        encoder = ItemSequences(
            stages.encoder_spec(run), items, settings.attribute_tokens, longest, settings.pooling, device
        )
        return RecFormer(encoder, run["tune.temperature"]).to(device)

    @staticmethod
    def session(run: StageRun, data: Artifact, split: Artifact, **settings: Any) -> Session:  # noqa: ANN401
        """RecBole's settings and the data."""
        own = {"MAX_ITEM_LIST_LENGTH": run["items.history"], "eval_batch_size": CANDIDATES_PER_BATCH}
        return open_session(run, data, split, RecFormer, {**own, **settings})

    def fit(
        self,
        run: StageRun,
        data: Artifact,
        split: Artifact,
        epochs: int,
        patience: int,
        refresh_every: int = 0,
    ) -> dict[str, Any]:
        """Train on one random position of every user an epoch; the best epoch on validation data is kept.

        Args:
            run: The stage.
            data: Prepared data.
            split: Frozen split.
            epochs: At most.
            patience: Epochs without a better score after which it ends.
            refresh_every: Epochs after which the table is encoded anew; 0 leaves it as it is.

        Returns:
            The summary of `training.fit_rows`.
        """
        rates = {"learner": "adamw", "learning_rate": run["tune.learning_rate"]}
        session = RecFormer.session(run, data, split, **rates, epochs=epochs, stopping_step=patience)
        session.check_training()
        positions = RandomPositions(session.ranking_split, run["items.history"])

        def draw(generator: torch.Generator) -> dict[str, Tensor]:
            if refresh_every and self.epoch % refresh_every == 0:
                self.refresh()
            self.epoch += 1
            return positions.draw(generator)

        rows = Batches({"user": positions.users}, run["tune.batch_size"], run.seed, draw, session.dataset)
        return training.fit_rows(run, session, self, {"train": rows, "valid": session.loader("valid")})

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode all items anew; an item is read as a sequence of its own."""
        mode = self.training
        self.eval()
        for items in torch.arange(1, len(self.table)).split(ITEMS_PER_BATCH):
            self.table[items] = self._encode(items)
        self.train(mode)

    @torch.no_grad()
    def read(self, items: Sequence[Attributes]) -> Tensor:
        """Vectors of items that the data set does not have, as the encoder now reads them.

        Args:
            items: Their attributes.

        Returns:
            Shape `[n, H]`.
        """
        first = len(self.encoder.items)
        self.encoder.add_items(items)
        parts = torch.arange(first, first + len(items)).split(ITEMS_PER_BATCH)
        return torch.cat([self._encode(part) for part in parts])

    def _encode(self, items: Tensor) -> Tensor:
        """Vectors of length 1 of items by id. Shape `[n, H]`."""
        return functional.normalize(self.encoder([[item] for item in items.tolist()]), dim=1)

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cross-entropy of the next item among all items, by cosine over temperature (Eq. 10).

        Args:
            interaction: `newest_first [B, K]`, items before the next one, 0 behind them, and `item [B]`.

        Returns:
            A scalar.
        """
        scores = self._cosines(interaction["newest_first"]) / self.temperature  # [B, n_items]
        return functional.cross_entropy(scores, interaction["item"].to(scores.device))

    def full_sort_predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cosines of all items. Shape `[B, n_items]`."""
        items, lengths = interaction["item_id_list"], interaction["item_length"]  # oldest first, [B, L], [B]
        places = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)  # [B, L]
        return self._cosines(torch.where(places >= 0, items.gather(1, places.clamp(min=0)), 0))

    def _cosines(self, newest_first: Tensor) -> Tensor:
        """Cosines of histories and items; that of the padding item is -inf."""
        histories = functional.normalize(self.encoder(newest_first.tolist()), dim=1)  # [B, H]
        cosines = histories @ self.table.T  # [B, n_items]
        return cosines.index_fill(1, newest_first.new_zeros(1).to(cosines.device), -torch.inf)

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Cosines of rows. Shape `[B]`."""
        return self.full_sort_predict(interaction).gather(1, interaction["item_id"][:, None]).squeeze(1)


def attributes(texts: ItemText, names: Sequence[str]) -> list[Attributes]:
    """Keys and values of each item, in the order of the names; those without a value are left out."""
    columns = {name: texts.format(f"{{{name}}}") for name in names}
    return [
        tuple((name, values[item]) for name, values in columns.items() if values[item])
        for item in range(len(texts))
    ]


@opens(
    RecFormer,
    needs=("data", "split", "encoder", "tuned"),
    uses=("items", "tune", "text_encoder", "dataset.name", "protocol", "seed"),
    reads_new=True,
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, encoder: Artifact, tuned: Artifact
) -> ConventionalScorer:
    """The trained model; new items are read by stage 1's encoder, as those of its table were."""
    model, session = RecFormer.assemble(run, data, split), RecFormer.session(run, data, split)
    if new is None:
        training.load_weights(model, tuned)
        return ConventionalScorer(model, session)
    known = attributes(ItemText.load(data.folder, session.split.item_tokens), run["items.attributes"])
    added = attributes(new.text, run["items.attributes"])[1:]
    training.load_weights(model, encoder)
    vectors = model.eval().read(added)
    training.load_weights(model, tuned)
    model.table = torch.cat([model.table, vectors])
    return ConventionalScorer(model, session, text_columns(known, added))


# Departures from the paper:
# - the encoder is the one that is named, as it was published, all-MiniLM-L6-v2 by default; RecFormer's own pre-training
#   (masked words and a contrastive loss over items of seven categories) is not done here, so what it adds to
#   Longformer-base's vocabulary, types of tokens and places of items, is learned in fine-tuning alone;
# - a sequence is the mean of its tokens by default, which is what sentence encoders are trained for;
#   `items.pooling: first` is the paper's;
# - an attribute of several words in a list (categories) is one value;
# - the learning rate is constant, without warm-up, and a batch is one step (the paper: eight batches).

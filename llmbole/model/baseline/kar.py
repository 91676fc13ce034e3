"""KAR: an LLM's knowledge about users and items, adapted by experts, as two more fields of a conventional model.

Xi et al., Towards Open-World Recommendation with Knowledge Augmentation from Large Language Models, RecSys 2024; a
baseline of Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024. Offline an LLM reasons about
each user's preferences and tells facts about each item, and a text encoder reads both. Online a hybrid-expert adaptor
makes a field of each. No LLM is loaded online.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.first_interactions import check_told, first_interactions, rows_told
from llmbole.data.numbered import ROW, NumberedRows, load_rows
from llmbole.model import evaluation, extra_feature, generation, stages, training, written
from llmbole.model.base import LLMRecommender
from llmbole.model.generation import GenerateSettings
from llmbole.model.hybrid_experts import SIDES, Adaptor, AdaptorSettings
from llmbole.model.knowledge_scorer import KnowledgeScorer
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import Session, no_leaks
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks


@dataclass(frozen=True)
class KnowledgeSettings(written.WritingSettings):
    """What the LLM is asked.

    Attributes:
        user: The prompt about a user's preferences, with `{history}`.
        item: The prompt about an item, with `{target}`.
        listed: How items are listed in the prompts; of a user's, the first `history` interactions at most.
    """

    user: str
    item: str
    listed: written.ListSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.listed.history < 1:
            raise ValueError("listed.history = 0: a user's preferences are read off at least 1 item")
        written.check_slots(self.user, ("history",))
        written.check_slots(self.item, ("target",))


def _fits(settings: Mapping[str, Any]) -> None:
    """Refuse a backbone without a place for more fields."""
    extra_feature.check_backbone(settings["backbone"]["name"], settings["protocol"]["task"])


@register_model("KAR")
class KAR(LLMRecommender):
    """A conventional model with adapted knowledge of the row's user and item as two more fields.

    Args:
        conventional: A RecBole model that reads two extra vectors.
        adaptor: Makes them.
        knowledge: Vectors of what the LLM wrote of `user` and `item`, zeros first. Shapes `[1 + texts, T]`.
        places: The vector of each row's `user` and `item`, 0 for none. Shapes `[R]`.
    """

    protocols = ("loo_ctr", "unified_ctr", "temporal_ratio")
    run_only = generation.RUN_ONLY
    settings_class = part_checks(
        partial(generation.problems, writing="knowledge"),
        _fits,
        knowledge=KnowledgeSettings,
        generate=GenerateSettings,
        adaptor=AdaptorSettings,
    )
    goals = ("backbone_scores", "scores")
    validates = "online"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # the base model, by itself
    backbone_scores = stages.score_backbone

    def __init__(
        self,
        conventional: Any,  # noqa: ANN401 - a RecBole model
        adaptor: Adaptor,
        knowledge: Mapping[str, Tensor],
        places: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__()
        self.conventional, self.device = conventional, conventional.device
        self.adaptor = adaptor.to(self.device)
        self.knowledge = {side: knowledge[side].to(self.device) for side in SIDES}
        self.places = {side: torch.from_numpy(places[side]).to(self.device) for side in SIDES}

    @stage(
        makes="knowledge",
        needs=("data", "split"),
        uses=("knowledge", "llm", generation.SERVED_MODEL, "dataset"),
    )
    def know(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Preference reasoning of users by their first training interactions, and factual knowledge of items."""
        settings = build(KnowledgeSettings, run["knowledge"], "knowledge")
        rows, words = load_rows(split.folder), run["dataset"]["words"]
        names = written.item_names(data, split, settings.listed)
        firsts = first_interactions(rows, settings.listed.history)
        asked = [
            settings.user.format(**words, history=settings.listed.write(rows.split.items[places], names))
            for places in firsts.values()
        ]
        asked += [settings.item.format(**words, target=name) for name in names[1:]]
        model = generation.Model(stages.llm_spec(run), {"llm": run["llm"]})
        found, parameters = generation.write_texts(run, model, settings, asked)
        about = [{"user": user, "shown": places.tolist()} for user, places in firsts.items()]
        about += [{"item": item} for item in range(1, len(names))]
        entries = [{**each, "text": text} for each, text in zip(about, found.texts, strict=True)]
        written.save_texts(run.folder / written.TEXTS, entries)
        did = (
            f"{len(firsts)} users, {len(names) - 1} items, {found.distinct} distinct prompts, {found.empty} empty "
            f"answers ({found.refused} refused)"
        )
        return {
            "users": len(firsts),
            "items": len(names) - 1,
            "empty": found.empty,
            "refused": found.refused,
            "llm_parameters": parameters,
            "did": did,
        }

    @stage(makes="knowledge_vectors", needs=("knowledge",), uses=("text_encoder",))
    def encode(run: StageRun, knowledge: Artifact) -> Mapping[str, Any]:
        """Vectors of the texts, in their order; an empty answer is no knowledge."""
        entries = known_entries(knowledge)
        if not entries:
            raise ValueError("the LLM answered every prompt with nothing; choose another prompt or LLM")
        vectors = generation.encode_texts(run, [entry["text"] for entry in entries])
        training.save_tensors(run.folder / "knowledge.safetensors", {"vectors": torch.from_numpy(vectors)})
        return {"did": f"{len(entries)} texts, width {vectors.shape[1]}"}

    @stage(
        makes="online",
        needs=("data", "split", "knowledge", "knowledge_vectors"),
        uses=("adaptor", "backbone", "dataset.name", "protocol", "seed"),
    )
    def train_online(
        run: StageRun, data: Artifact, split: Artifact, knowledge: Artifact, knowledge_vectors: Artifact
    ) -> Mapping[str, Any]:
        """Train the backbone with the adaptor; nothing is generated or encoded."""
        training.seed_everything(run.seed)
        model, session, rows = KAR.assemble(run, data, split, knowledge, knowledge_vectors)
        return training.fit_rows(run, session, model, session.numbered_loaders(rows))

    @stage(
        makes="scores",
        needs=("data", "split", "knowledge", "knowledge_vectors", "online"),
        uses=("adaptor", "backbone", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        knowledge: Artifact,
        knowledge_vectors: Artifact,
        online: Artifact,
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model, session, rows = KAR.assemble(run, data, split, knowledge, knowledge_vectors)
        training.load_weights(model, online)
        loader = session.numbered_loaders(rows)[run.phase]
        scored = evaluation.score_conventional(run, model.eval(), session, loader)
        return {**scored, "llm_parameters": knowledge.summary["llm_parameters"]}

    @staticmethod
    def assemble(
        run: StageRun, data: Artifact, split: Artifact, knowledge: Artifact, knowledge_vectors: Artifact
    ) -> tuple[KAR, Session, NumberedRows]:
        """The model before training, its settings and data, and all rows; what rows are told is of their past."""
        settings = build(AdaptorSettings, run["adaptor"], "adaptor")
        session, rows = stages.backbone_session(run, data, split), load_rows(split.folder)
        entries = known_entries(knowledge)
        vectors = training.load_tensors(knowledge_vectors, "knowledge")["vectors"]
        nothing = torch.zeros(1, vectors.shape[1])
        of_user = torch.tensor(["user" in entry for entry in entries])
        tables = {side: torch.cat([nothing, vectors[of_user == (side == "user")]]) for side in SIDES}
        items = known_places(entries, "item", rows.split.n_items)
        shown = {entry["user"]: np.array(entry["shown"]) for entry in entries if "user" in entry}
        told = rows_told(rows, shown)
        no_leaks(check_told(rows, told, list(shown.values())))
        conventional = extra_feature.make(session, settings.width, fields=len(SIDES))
        adaptor = Adaptor(vectors.shape[1], settings)
        return KAR(conventional, adaptor, tables, {"user": told, "item": items[rows.items]}), session, rows

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """The backbone's loss; a scalar."""
        self._add_fields(interaction)
        loss: Tensor = self.conventional.calculate_loss(interaction)
        return loss

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Probabilities of rows. Shape `[B]`."""
        self._add_fields(interaction)
        scores: Tensor = self.conventional.predict(interaction)
        return scores

    def _add_fields(self, interaction: Any) -> None:  # noqa: ANN401 - RecBole's Interaction
        """Give a batch the adapted knowledge of its users and items; where there is none, zeros."""
        fields = []
        for side in SIDES:
            places = self.places[side][interaction[ROW].to(self.device)]  # [B]
            adapted = self.adaptor(self.knowledge[side][places], side)  # [B, width]
            fields.append(adapted * (places > 0)[:, None])
        interaction[extra_feature.EXTRA] = torch.stack(fields, dim=1)  # [B, 2, width]


def known_entries(knowledge: Artifact) -> list[dict[str, Any]]:
    """What the LLM wrote, without empty answers."""
    return [entry for entry in written.load_texts(knowledge) if entry["text"]]


def known_places(entries: Iterable[Mapping[str, Any]], side: str, size: int) -> np.ndarray:
    """Which of a side's vectors is each user's or item's.

    Args:
        entries: What the LLM wrote.
        side: `user` or `item`.
        size: How many ids there are, that of padding included.

    Returns:
        From 1 the number of its text among the side's; 0 for none. Shape `[size]`.
    """
    own = [entry[side] for entry in entries if side in entry]
    places = np.zeros(size, dtype=np.int64)
    places[own] = np.arange(1, len(own) + 1)
    return places


@opens(
    KAR,
    needs=("data", "split", "knowledge", "knowledge_vectors", "online"),
    uses=("adaptor", "backbone", "dataset.name", "protocol", "seed"),
)
def open_recommender(
    run: StageRun,
    new: NewItems | None,
    data: Artifact,
    split: Artifact,
    knowledge: Artifact,
    knowledge_vectors: Artifact,
    online: Artifact,
) -> KnowledgeScorer:
    """The trained model, to which all that the LLM wrote is of the past."""
    model, session, rows = KAR.assemble(run, data, split, knowledge, knowledge_vectors)
    training.load_weights(model, online)
    entries, sizes = known_entries(knowledge), (rows.split.n_users, rows.split.n_items)
    places = {side: known_places(entries, side, size) for side, size in zip(SIDES, sizes, strict=True)}
    return KnowledgeScorer(model, session, places)


# Departures:
# - the paper takes the interactions that the LLM was shown out of the data; here they stay, as the protocol says, and
#   rows that are not later than all of them are told nothing of their user;
# - prompts are this project's own and the same for all domains, with the paper's parts; of a user they name the history
#   alone;
# - the text encoder is the run's, whose vectors are as it gives them, not an average of BERT's states;
# - optimiser, rate and epochs are those of the backbone by itself, and validation chooses the epoch, not the test.

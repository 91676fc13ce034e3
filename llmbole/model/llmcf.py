"""LLM-CF: an LLM's reasoning about training rows, distilled into a conventional model as an in-context feature.

Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024. Offline an LLM writes chains of thought
for a sample of training rows, the in-context data set M. Online a small decoder, the in-context module, reads for each
row the K most similar of them, and its last hidden state is one more feature of the conventional model. No LLM is
loaded online.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.numbered import ROW, NumberedRows, as_tensors, load_rows
from llmbole.data.text import ItemText
from llmbole.model import evaluation, examples, extra_feature, generation, recgen, stages, training, written
from llmbole.model.base import LLMRecommender
from llmbole.model.examples import ExampleSettings
from llmbole.model.generation import GenerateSettings
from llmbole.model.in_context import Examples, InContext, InContextSettings, ItemTables, label_table
from llmbole.model.in_context_scorer import InContextScorer
from llmbole.model.recgen import RecGenSettings, identity, tuned_spec
from llmbole.model.scorer import NewItems, opens
from llmbole.model.session import Session, no_leaks
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build, part_checks


def _fits(settings: Mapping[str, Any]) -> list[str]:
    """Why a backbone has no place for the feature, or is trained in a way that does not read it."""
    task, training = settings["protocol"]["task"], settings["backbone"]["training"]
    extra_feature.check_backbone(settings["backbone"]["name"], task)
    if task != "ranking" or training == "per_prefix":
        return []
    return [
        f"backbone.training = {training}: in a ranking each prefix of a sequence has a feature of its own; use "
        "per_prefix, by which the backbone by itself is trained too"
    ]


@register_model("LLMCF")
class LLMCF(LLMRecommender):
    """A conventional model and the in-context module, trained together.

    Args:
        conventional: A RecBole model that reads the extra feature.
        in_context: The in-context module.
        rows: All rows under one numbering.
        shown: Examples of each row, -1 for none. Shape `[R, K]`.
    """

    protocols = ("loo_ctr", "unified_ctr", "temporal_ratio", "loo_full", "unified_rank")
    run_only = (*generation.RUN_ONLY, *recgen.RUN_ONLY)
    settings_class = part_checks(
        partial(generation.problems, writing="reasoning"),
        recgen.problems,
        _fits,
        recgen=RecGenSettings,
        generate=GenerateSettings,
        reasoning=written.ReasoningSettings,
        examples=ExampleSettings,
        in_context=InContextSettings,
    )
    goals = ("backbone_scores", "scores")
    validates = "online"

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # the base model, by itself
    backbone_scores = stages.score_backbone
    tuned_llm = recgen.tune_recgen  # the LLM on recommendations, and on general instructions

    def __init__(
        self,
        conventional: Any,  # noqa: ANN401 - a RecBole model
        in_context: InContext,
        rows: NumberedRows,
        shown: np.ndarray,
    ) -> None:
        super().__init__()
        self.conventional, self.in_context, self.rows, self.shown = conventional, in_context, rows, shown
        self.device = conventional.device
        in_context.to(self.device)

    @stage(makes="item_text", needs=("data", "split"), uses=("dataset.name", "text_encoder", "item_text"))
    def encode_items(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
        """Vectors of the items' text, by the text encoder as it comes."""
        texts = stages.item_texts(data, split, run["item_text"])
        vectors = generation.encode_texts(run, texts)
        training.save_tensors(run.folder / "text.safetensors", {"text": torch.from_numpy(vectors)})
        return {"did": f"{len(texts) - 1} texts, width {vectors.shape[1]}"}

    @stage(
        makes="reasoning",
        needs=("data", "split", "recgen"),
        uses=("reasoning", "llm", generation.SERVED_MODEL, "dataset", "seed"),
    )
    def reason(run: StageRun, data: Artifact, split: Artifact, recgen: Artifact | None) -> Mapping[str, Any]:
        """Chains of thought of sampled training rows: c_i = LLM(P(x_i, y_i))."""
        settings = build(written.ReasoningSettings, run["reasoning"], "reasoning")
        rows, own = load_rows(split.folder), np.random.default_rng(run.seed)
        train = rows.numbers("train")
        size = max(1, round(settings.share * len(train)))
        numbers = np.sort(own.choice(train, size, replace=False))
        names = written.item_names(data, split, settings.listed)
        prompts = written.row_prompts(
            settings.text, settings.listed, names, rows, numbers, run["dataset"]["words"], settings.decisions
        )
        model = generation.Model(tuned_spec(run, recgen), identity(run, recgen))
        found, parameters = generation.write_texts(run, model, settings, prompts)
        entries = [
            {"row": int(number), "text": text} for number, text in zip(numbers, found.texts, strict=True)
        ]
        written.save_texts(run.folder / written.TEXTS, entries)
        did = (
            f"{len(numbers)} rows, {found.distinct} distinct prompts, {found.empty} empty answers "
            f"({found.refused} refused)"
        )
        return {
            "rows": len(numbers),
            "distinct": found.distinct,
            "empty": found.empty,
            "refused": found.refused,
            "llm_parameters": parameters,
            "did": did,
        }

    @stage(makes="reasoning_vectors", needs=("reasoning",), uses=("text_encoder",))
    def encode_reasoning(run: StageRun, reasoning: Artifact) -> Mapping[str, Any]:
        """Vectors of the chains of thought; rows whose answer is empty are no examples."""
        entries = [entry for entry in written.load_texts(reasoning) if entry["text"]]
        if not entries:
            raise ValueError("the LLM answered every prompt with nothing; choose another prompt or LLM")
        vectors = generation.encode_texts(run, [entry["text"] for entry in entries])
        tensors = {
            "vectors": torch.from_numpy(vectors),
            "rows": torch.tensor([entry["row"] for entry in entries]),
        }
        training.save_tensors(run.folder / "reasoning.safetensors", tensors)
        return {"did": f"{len(entries)} texts, width {vectors.shape[1]}"}

    @stage(
        makes="shown",
        needs=("split", "item_text", "reasoning_vectors"),
        uses=("examples", "seed"),
        phased=True,
    )
    def retrieve(
        run: StageRun, split: Artifact, item_text: Artifact, reasoning_vectors: Artifact
    ) -> Mapping[str, Any]:
        """The examples of every row, checked to be of its past; a sweep's trial has none for the test."""
        settings = build(ExampleSettings, run["examples"], "examples")
        rows = load_rows(split.folder)
        chosen = training.load_tensors(reasoning_vectors, "reasoning")["rows"].numpy()
        text = training.load_tensors(item_text, "text")["text"].numpy()
        asked = {part: rows.asked(part) for part in rows.firsts}
        wanted = np.concatenate([*asked.values()])
        with run.progress(len(wanted), "row") as ticker:
            shown = examples.retrieve(
                rows, chosen, text, settings, run.seed, ticker, asked=wanted, masked=rows.hides_items
            )
        owners, places = np.nonzero(shown >= 0)
        no_leaks(rows.check_shown(owners, chosen[shown[owners, places]]))
        tensors = {"shown": torch.from_numpy(shown.astype(np.int32))}
        training.save_tensors(run.folder / "shown.safetensors", tensors)
        counts = {
            part: round(float((shown[numbers] >= 0).sum(1).mean()), 3) for part, numbers in asked.items()
        }
        listed = ", ".join(f"{value:.2f} a row of {part}" for part, value in counts.items())
        return {"examples": counts, "did": f"of {len(chosen)} examples {listed}"}

    @stage(
        makes="online",
        needs=("data", "split", "item_text", "reasoning_vectors", "shown"),
        uses=("in_context", "backbone", "dataset.name", "protocol", "seed"),
    )
    def train_online(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        item_text: Artifact,
        reasoning_vectors: Artifact,
        shown: Artifact,
    ) -> Mapping[str, Any]:
        """Train the backbone with the in-context module; nothing is generated, encoded or searched."""
        training.seed_everything(run.seed)
        model, session = LLMCF.assemble(run, data, split, item_text, reasoning_vectors, shown)
        session.check_training()
        return training.fit_rows(run, session, model, session.numbered_loaders(model.rows))

    @stage(
        makes="scores",
        needs=("data", "split", "item_text", "reasoning", "reasoning_vectors", "shown", "online"),
        uses=("in_context", "backbone", "dataset.name", "protocol", "seed"),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        item_text: Artifact,
        reasoning: Artifact,
        reasoning_vectors: Artifact,
        shown: Artifact,
        online: Artifact,
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation."""
        model, session = LLMCF.assemble(run, data, split, item_text, reasoning_vectors, shown)
        training.load_weights(model, online)
        loader = session.numbered_loaders(model.rows)[run.phase]
        scored = evaluation.score_conventional(run, model.eval(), session, loader)
        return {**scored, "llm_parameters": reasoning.summary["llm_parameters"]}

    @staticmethod
    def assemble(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        item_text: Artifact,
        reasoning_vectors: Artifact,
        shown: Artifact,
    ) -> tuple[LLMCF, Session]:
        """The model before training, and the settings and data of its backbone."""
        settings = build(InContextSettings, run["in_context"], "in_context")
        session = stages.backbone_session(run, data, split)
        rows = load_rows(split.folder)
        text = training.load_tensors(item_text, "text")["text"]
        reasoning = training.load_tensors(reasoning_vectors, "reasoning")
        chosen = reasoning["rows"].numpy()
        columns = (rows.users[chosen], rows.items[chosen], rows.histories(chosen, settings.history))
        users, shown_items, histories, given = as_tensors(*columns, rows.labels[chosen])
        found = Examples(users, shown_items, histories, given, reasoning["vectors"])
        items = ItemText.load(data.folder, rows.split.item_tokens)
        found_labels = (label_table(items.categories), label_table([(each,) for each in items.brand]))
        tables = ItemTables(text, tuple(each for each in found_labels if bool(each.any())))
        in_context = InContext(rows.split.n_users, tables, found, settings)
        conventional = extra_feature.make(session, settings.width, weight=settings.added_weight)
        table = training.load_tensors(shown, "shown")["shown"].numpy()
        return LLMCF(conventional, in_context, rows, table), session

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """L = L_o + alpha L_r: the backbone's loss, and the weighted reconstruction loss.

        Args:
            interaction: `row_number [B]`, and what the backbone reads.

        Returns:
            A scalar.
        """
        reconstruction = self._add_feature(interaction, restore=True)
        loss: Tensor = self.conventional.calculate_loss(interaction)
        return loss + self.in_context.settings.reconstruction * reconstruction

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Probabilities of rows, or of a ranking scores. Shape `[B]`."""
        self._add_feature(interaction, restore=False)
        scores: Tensor = self.conventional.predict(interaction)
        return scores

    def full_sort_predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Scores of all items for the users of rows. Shape `[B, n_items]`."""
        self._add_feature(interaction, restore=False)
        scores: Tensor = self.conventional.full_sort_predict(interaction)
        return scores

    def look_up(self, numbers: np.ndarray) -> list[Tensor]:
        """What the in-context module reads of rows, by number: users, items, histories, places of examples."""
        items = self.rows.items[numbers]
        columns = as_tensors(
            self.rows.users[numbers],
            np.zeros_like(items) if self.rows.hides_items else items,
            self.rows.histories(numbers, self.in_context.settings.history),
            self.shown[numbers],
        )
        return [column.to(self.device) for column in columns]

    def _add_feature(self, interaction: Any, *, restore: bool) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """Give a batch its collaborative features w; the reconstruction loss, a scalar."""
        read = self.look_up(interaction[ROW].cpu().numpy())
        feature, reconstruction = self.in_context(*read, restore=restore)
        interaction[extra_feature.EXTRA] = feature[:, None]  # [B, 1, width]
        found: Tensor = reconstruction
        return found


@opens(
    LLMCF,
    needs=("data", "split", "item_text", "reasoning_vectors", "shown", "online"),
    uses=("in_context", "examples", "backbone", "dataset.name", "protocol", "seed"),
)
def open_recommender(run: StageRun, new: NewItems | None, **made: Artifact) -> InContextScorer:
    """The trained model, which retrieves examples for whatever it scores."""
    parts = [made[name] for name in ("data", "split", "item_text", "reasoning_vectors", "shown")]
    model, session = LLMCF.assemble(run, *parts)
    training.load_weights(model, made["online"])
    text = training.load_tensors(made["item_text"], "text")["text"].numpy()
    chosen = training.load_tensors(made["reasoning_vectors"], "reasoning")["rows"].numpy()
    settings = build(ExampleSettings, run["examples"], "examples")
    return InContextScorer(model, session, model.rows, chosen, text, settings, run.seed)


# Departures from the paper and its code:
# - an example is strictly earlier than the row that is shown it, whoever's row it is; the code lets other users' future
#   through, and shows sampled training rows themselves, label included;
# - where the past holds too few examples of one label, as few of the other are shown; the code makes no row of it;
# - similarity is half the cosine of the histories' mean text vectors and half that of the items', as in the code, by
#   faiss: exact up to a size, above it approximate, and exact again for rows to which an approximate search does not
#   bring enough;
# - greedy answers, one a row; the code samples three of a beam and keeps the best by four scores that are not in the
#   paper;
# - the prompts are this project's own, with the same parts: the user, the item, how they go together, what else;
# - one loss of reconstruction for each row that has an example, averaged over these rows; a mean in place of the
#   decoder has none, as in the code;
# - the conventional model reads all fields that RecBole gives it, and the feature as one more embedded field; DIN's
#   MLP reads it behind its own input;
# - in a ranking the row's token and the search know the user and the history, not the item; the examples of a ranking's
#   training rows are interactions and one drawn negative for each.

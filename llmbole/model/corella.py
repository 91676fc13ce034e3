"""CoReLLa: a conventional recommender and an LLM, trained together, where each answers the rows it is good at.

Play to Your Strengths: Collaborative Intelligence of Conventional Recommender Models and Large Language Models, 2024.
The names of the parts are the paper's: CRM (conventional recommender model), stages S1 to S3, L = alpha L_llm + beta
L_crm + gamma L_cal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmbole import registry
from llmbole.evaluator import metrics
from llmbole.llm import yes_no
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.pair_prompt import PairPrompt
from llmbole.model import cf, evaluation, hidden, pair_prompts, routing, stages, training, two_models
from llmbole.model.base import LLMRecommender
from llmbole.model.conventional_scorer import ConventionalScorer
from llmbole.model.pair_scorer import PairScorer
from llmbole.model.routed_scorer import RoutedScorer
from llmbole.model.routing import RoutingSettings
from llmbole.model.scorer import NewItems, opens
from llmbole.model.two_models import SampleTuning
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import TEST, stage
from llmbole.pipeline.store import Artifact
from llmbole.registry import register_model
from llmbole.settings import build

# Settings of whatever asks the LLM, and of what reads the CRM too.
LLM = ("lora", "prompt", "answer", "llm", "dataset", "protocol", "seed")
BOTH = ("backbone", *LLM)
ROUTING = tuple(f"routing.{field.name}" for field in dataclasses.fields(RoutingSettings))


@dataclass(frozen=True)
class JointSettings(SampleTuning):
    """S2: weights of the losses, and which layers are aligned how."""

    alpha: float
    beta: float
    gamma: float
    llm_layers: tuple[int, ...]
    crm_layers: tuple[int, ...]
    crm_modules: tuple[str, ...] | None
    position: Literal["last", "mean"]
    width: int
    exponent: float

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be a number of at least 0"
            for name in ("alpha", "beta", "gamma")
            if not 0 <= getattr(self, name) < math.inf
        ]
        if not self.llm_layers or len(self.llm_layers) != len(self.crm_layers):
            problems.append(
                f"llm_layers = {list(self.llm_layers)} and crm_layers = {list(self.crm_layers)}: layers are aligned in "
                "pairs, so name as many of each, at least one"
            )
        if self.width < 1 or not 1 <= self.exponent < math.inf:
            problems.append(f"width = {self.width}, exponent = {self.exponent}: must be at least 1")
        if self.batch_size == 1 or self.rows % self.batch_size == 1:
            problems.append(
                f"rows = {self.rows}, batch_size = {self.batch_size}: a batch of one row, which batch "
                "normalisation of the CRM can't take; draw one row more, or in larger batches"
            )
        if problems:
            raise ValueError("\n".join(problems))


def _fits(settings: Mapping[str, Any]) -> list[str]:
    """Why a CRM has no hidden layers, or is never trained."""
    own = {name: value for name, value in settings["routing"].items() if name != "curve"}
    build(RoutingSettings, own, "routing")
    done = settings["stages"]
    if done["joint"]:
        hidden.check_model(settings["backbone"]["name"], settings["joint"]["crm_modules"])
    if not done["joint"] and not done["warm_up"]:
        return ["stages: without warm_up and joint nothing trains the CRM; leave one of them on"]
    return []


@register_model("CoReLLa")
class CoReLLa(LLMRecommender):
    """CRM and LLM as S2 trains them: each on its own loss, and their layers drawn together.

    Args:
        prompt: The prompt over the LLM.
        adapter: The LLM's updates.
        crm: The conventional recommender; it is trained on.
        settings: Of S2.

    Raises:
        SettingsError: The CRM has no hidden layers, or not those that the settings name.
        ValueError: The LLM lacks a layer.
    """

    protocols = pair_prompts.PROTOCOLS
    settings_class = pair_prompts.checks(
        registry.check_learns_labels, _fits, joint=JointSettings, alone=SampleTuning, lora=LoraSettings
    )
    goals = ("backbone_scores", "scores")

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone  # S1: alpha = gamma = 0, beta = 1, on all training rows
    backbone_scores = stages.score_backbone

    def __init__(
        self, prompt: PairPrompt, adapter: Adapter, crm: cf.Backbone, settings: JointSettings
    ) -> None:
        super().__init__()
        self.prompt, self.adapter, self.settings, self.session = prompt, adapter, settings, crm.session
        self.device = crm.session.config["device"]
        probe = crm.session.labelled("train", torch.arange(2)).to(self.device)
        self.layers = hidden.HiddenLayers(crm.model, probe, settings.crm_modules)
        self.crm = crm.model.requires_grad_(True)
        widths = self.layers.check(settings.crm_layers)
        yes_no.check_layers(prompt.lm, settings.llm_layers)
        self.llm_map = nn.Linear(prompt.lm.hidden_size, settings.width)  # g_llm
        self.crm_map = nn.ModuleDict(  # g_crm; layers of one width share it
            {str(width): nn.Linear(width, settings.width) for width in widths}
        )
        self.to(prompt.lm.device)
        self.crm.to(self.device)

    @stage(
        makes="joint",
        needs=("data", "split", "backbone"),
        uses=("joint", "stages.warm_up", *BOTH),
        when=("stages.joint", True),
    )
    def train_jointly(
        run: StageRun, data: Artifact, split: Artifact, backbone: Artifact
    ) -> Mapping[str, Any]:
        """S2: CRM and LLM together, on a sample."""
        settings = build(JointSettings, run["joint"], "joint")
        training.seed_everything(run.seed)
        crm = stages.open_backbone(run, data, split, backbone)
        crm = crm if run["stages.warm_up"] else cf.untrained(crm.session)
        model = CoReLLa(*pair_prompts.open_adapted(run, data, split), crm, settings)
        rows, _ = two_models.samples(pair_prompts.rows(run, split, "train"), settings.rows, 0, run.seed)
        valid = pair_prompts.validation_rows(run, split, settings)

        def score() -> float:
            llm = evaluation.predict_all(model, valid, lambda done: None).numpy()
            crm = two_models.crm_probabilities(model.crm, model.session, "valid", valid.places)
            return (metrics.auc(valid.labels, llm) + metrics.auc(valid.labels, crm)) / 2

        train = two_models.RowsOfBoth(model.session, rows)
        summary = pair_prompts.fit_rows(run, model, train, valid, settings, score, "mean AUC of both")
        model.adapter.save(run.folder)
        cf.save_backbone(model.crm, {"model": run["backbone.name"], "training": "rows"}, run.folder)
        return {**summary, "crm_layers": model.layers.names}

    @stage(
        makes="alone",
        needs=("data", "split", "joint"),
        uses=("alone", "joint.rows", *LLM),
        when=("stages.alone", True),
    )
    def train_llm(
        run: StageRun, data: Artifact, split: Artifact, joint: Artifact | None
    ) -> Mapping[str, Any]:
        """S3: the LLM alone, on another sample: alpha = 1, beta = gamma = 0."""
        settings = build(SampleTuning, run["alone"], "alone")
        training.seed_everything(run.seed)
        model = two_models.open_llm(run, data, split, joint, None)
        everything = pair_prompts.rows(run, split, "train")
        _, rows = two_models.samples(everything, run["joint.rows"], settings.rows, run.seed)
        valid = pair_prompts.validation_rows(run, split, settings)
        summary = pair_prompts.fit_rows(run, model, rows, valid, settings)
        assert model.adapter is not None
        model.adapter.save(run.folder)
        return summary

    @stage(
        makes="routing",
        needs=("data", "split", "backbone", "joint", "alone"),
        uses=(*ROUTING, *BOTH),
    )
    def route(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        joint: Artifact | None,
        alone: Artifact | None,
    ) -> Mapping[str, Any]:
        """The share of rows that the LLM answers, chosen on validation rows."""
        own = {name.partition(".")[2]: run[name] for name in ROUTING}
        settings = build(RoutingSettings, own, "routing")
        sample, seed = settings.valid_rows, run.seed + pair_prompts.VALIDATION_SEED
        rows = pair_prompts.rows(run, split, "valid", sample=sample, seed=seed)
        crm = stages.open_backbone(run, data, split, joint or backbone)
        llm = two_models.open_llm(run, data, split, joint, alone)
        names = list(dict.fromkeys([*crm.session.protocol.reported_names, routing.METRICS[settings.choose]]))
        routed = two_models.routing(run, crm, llm, rows, "valid")
        given = settings.share is not None or settings.threshold is not None
        counts = [routed.count(share, None) for share in settings.shares]
        if given:
            counts = [routed.count(settings.share, settings.threshold)]
        curve = routed.curve(counts, names)
        point = curve[0] if given else routing.best(curve, settings.choose)
        run.count(llm_tokens=routed.tokens)
        found = {"curve": curve, "confidence": routed.confidence(names)}
        share = None if settings.threshold is not None else settings.share if given else point["share"]
        return {
            **found,
            "share": share,
            "threshold": settings.threshold,
            "did": f"{point['rows']} of {len(rows)} validation rows to the LLM, "
            f"{', '.join(f'{name} {point[name]:.4f}' for name in names if name in point)}",
        }

    @stage(
        makes="scores",
        needs=("data", "split", "backbone", "joint", "alone", "routing"),
        uses=("routing.curve", "routing.shares", *BOTH),
        phased=True,
    )
    def score(
        run: StageRun,
        data: Artifact,
        split: Artifact,
        backbone: Artifact,
        joint: Artifact | None,
        alone: Artifact | None,
        routing: Artifact,
    ) -> Mapping[str, Any]:
        """Probabilities of the rows of the test, or of validation: the LLM's of those routed to it, else the CRM's."""
        crm = stages.open_backbone(run, data, split, joint or backbone)
        llm = two_models.open_llm(run, data, split, joint, alone)
        rows, names = pair_prompts.rows(run, split, run.phase), crm.session.protocol.reported_names
        routed = two_models.routing(run, crm, llm, rows, run.phase)
        chosen = routing.summary
        count = routed.count(chosen["share"], chosen["threshold"])
        counts = [count, len(rows), *(routed.count(share, None) for share in run["routing.shares"])]
        curve = routed.curve(counts, names) if run["routing.curve"] else []
        mixed = routed.mix(count)
        saved = evaluation.save_pairs(run, crm.session, rows, torch.from_numpy(mixed))
        if run.phase == TEST:
            saved["groups"] |= routed.groups(mixed, names)
        run.count(llm_tokens=routed.tokens)
        own = {
            "rows_routed": count,
            "share_routed": count / len(rows),
            "crm": routed.metrics(routed.crm, names),
            "confidence": routed.confidence(names),
            "valid_confidence": chosen["confidence"],
            "valid_curve": chosen["curve"],
        }
        if routed.asked == len(rows):
            own["llm"] = routed.metrics(routed.llm, names)
        if curve:
            own["curve"] = curve
        return {
            **saved,
            "scoring": "routed_by_entropy",
            "extra": {**saved["extra"], **own},
            "llm_parameters": llm.prompt.lm.parameters_total,
            "did": f"{saved['did']}, {count} of them by the LLM",
        }

    def calculate_loss(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """L = alpha L_llm + beta L_crm + gamma L_cal, each a mean over rows.

        Args:
            interaction: `shown [B, N]` and `shown_ratings [B, N]`, and the columns that the CRM reads.

        Returns:
            A scalar.
        """
        settings = self.settings
        prompts = pair_prompts.encoded(self, interaction)
        logits, states = self.prompt.logits_and_states(prompts, settings.llm_layers, settings.position)
        of_llm = pair_prompts.like_loss(logits, interaction)
        of_crm = self.crm.calculate_loss(interaction.to(self.device)).to(of_llm.device)
        outputs = [each.to(of_llm.device) for each in self.layers.outputs(settings.crm_layers)]  # [B, w] each
        pairs = [
            (self.llm_map(state), self.crm_map[str(output.shape[1])](output))
            for state, output in zip(states, outputs, strict=True)
        ]
        aligned = alignment(pairs, settings.exponent)
        return settings.alpha * of_llm + settings.beta * of_crm + settings.gamma * aligned

    def predict(self, interaction: Any) -> Tensor:  # noqa: ANN401 - RecBole's Interaction
        """The LLM's probabilities that rows are liked; the CRM gives its own by itself. Shape `[B]`."""
        return self.prompt.probabilities(pair_prompts.encoded(self, interaction))


def alignment(pairs: Sequence[tuple[Tensor, Tensor]], exponent: float) -> Tensor:
    """L_cal: || g_llm(h_llm[i, S_j]) - g_crm(h_crm[i, T_j]) ||_2 to a power, summed over pairs, mean over rows.

    Args:
        pairs: Mapped states of both models, `[B, W]` each.
        exponent: The power.

    Returns:
        A scalar.
    """
    distances = torch.stack([torch.linalg.vector_norm(llm - crm, dim=1) for llm, crm in pairs])  # [C, B]
    return distances.pow(exponent).sum(0).mean()


@opens(CoReLLa, needs=("data", "split", "backbone", "joint", "alone", "routing"), uses=BOTH)
def open_recommender(run: StageRun, new: NewItems | None, **made: Any) -> RoutedScorer:  # noqa: ANN401 - artifacts
    """Both models, and the share or threshold that validation rows chose."""
    data, split, joint = made["data"], made["split"], made["joint"]
    opened = stages.open_backbone(run, data, split, joint or made["backbone"])
    crm, chosen = ConventionalScorer(opened.model, opened.session), made["routing"].summary
    llm = PairScorer(run, two_models.open_llm(run, data, split, joint, made["alone"]))
    return RoutedScorer(crm, llm, chosen["share"], chosen["threshold"])


# Departures from the paper, and what it leaves open:
# - the two-way softmax is of the logits of Yes and No; the paper speaks of a softmax of their probabilities, which
#   would hold every score between .27 and .73;
# - losses are means over rows, not sums; the distance's exponent, the layers and the common width are settings;
# - layers of the CRM that differ in width have maps of their own;
# - S2 keeps the step with the best mean of both models' validation AUCs, S3 that with the LLM's best;
# - S1 is stopped early by the CRM's validation AUC, as every backbone of this project is;
# - the share of rows routed is chosen on validation rows; the paper gives neither threshold nor share;
# - a prompt shows the newest titles with their ratings, one too long for the LLM loses its oldest ones;
# - BatchNorm of the CRM, where it has any, goes on learning its statistics in S2.

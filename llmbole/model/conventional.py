"""Plain RecBole models, trained and scored under a protocol by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmbole import registry
from llmbole.model import stages
from llmbole.model.scorer import NewItems, Scorer, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact


class LabelCheck:
    """What a model must be able to learn, checked before any work."""

    @staticmethod
    def check(settings: Mapping[str, Any]) -> None:
        """Refuse a model that learns which items are preferred, or come next, where labels are asked for.

        Args:
            settings: The run's settings.

        Raises:
            SettingsError: The protocol has labels and the model does not predict any.
        """
        registry.check_learns_labels(settings["backbone"]["name"], settings["protocol"])


class Conventional:
    """The pipeline of `--model=LightGCN` and of every other RecBole model: train it, score it."""

    protocols: ClassVar[tuple[str, ...]] = (
        "loo_rank20",
        "loo_full",
        "unified_rank",
        "loo_ctr",
        "temporal_collm",
        "temporal_ratio",
        "unified_ctr",
        "loo_rating",
    )
    goals: ClassVar[tuple[str, ...]] = ("backbone_scores",)
    validates: ClassVar[str | None] = "backbone"
    run_only: ClassVar[tuple[str, ...]] = ()
    settings_class = LabelCheck

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone


@opens(
    Conventional, needs=("data", "split", "backbone"), uses=("dataset.name", "protocol", "backbone", "seed")
)
def open_recommender(
    run: StageRun, new: NewItems | None, data: Artifact, split: Artifact, backbone: Artifact
) -> Scorer:
    """The trained model as a scorer."""
    from llmbole.model.conventional_scorer import ConventionalScorer

    opened = stages.open_backbone(run, data, split, backbone)
    return ConventionalScorer(opened.model, opened.session)

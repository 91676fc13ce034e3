"""Plain RecBole models, trained and scored under a protocol by themselves."""

from __future__ import annotations

from typing import ClassVar

from llmbole import registry
from llmbole.model import stages
from llmbole.model.scorer import NewItems, Scorer, opens
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from llmbole.settings import part_checks


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
    settings_class = part_checks(registry.check_learns_labels)

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

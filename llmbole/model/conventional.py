"""Plain RecBole models, trained and scored under a protocol by themselves."""

from __future__ import annotations

from typing import ClassVar

from llmbole.model import stages


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
    settings_class = None

    data = stages.prepare_data
    split = stages.freeze_split
    backbone = stages.train_backbone
    backbone_scores = stages.score_backbone

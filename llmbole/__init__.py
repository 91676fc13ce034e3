"""llmbole: one benchmark for recommenders that fuse large language models with collaborative filtering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbole.api import Result as Result
    from llmbole.api import dataset_from_frames as dataset_from_frames
    from llmbole.api import prepare as prepare
    from llmbole.api import run as run
    from llmbole.inference.open import open_recommender as open_recommender
    from llmbole.inference.open import recommend as recommend

__version__ = "0.1.0"
__all__ = ["Result", "dataset_from_frames", "open_recommender", "prepare", "recommend", "run"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - module attributes are of any type
    """Import the Python API on first use, so that `import llmbole` stays light."""
    if name in ("open_recommender", "recommend"):
        from llmbole.inference import open as inference

        return getattr(inference, name)
    if name in __all__:
        from llmbole import api

        return getattr(api, name)
    raise AttributeError(f"module 'llmbole' has no attribute {name!r}")

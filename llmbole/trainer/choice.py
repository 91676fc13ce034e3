"""Which trainer a RecBole model needs: some have one of their own, which is combined with this project's."""

from __future__ import annotations

from functools import cache

from llmbole.config import Config
from llmbole.settings import SettingsError
from llmbole.trainer.trainer import Trainer
from recbole.trainer import Trainer as RecBoleTrainer
from recbole.utils import get_trainer

REFUSED = {
    "S3RecTrainer": "it pre-trains in a run of its own and hands weights over in pickled files",
    "RaCTTrainer": "it pre-trains in runs of its own and hands weights over in pickled files",
    "XGBoostTrainer": "it trains decision trees, which have no epochs and no tensors to keep",
    "LightGBMTrainer": "it trains decision trees, which have no epochs and no tensors to keep",
    "NCLTrainer": "it needs faiss on a GPU and brings a training loop of its own that can't be resumed",
}


def trainer_class(config: Config) -> type[Trainer]:
    """The trainer for a config's model: `Trainer`, or a subclass that keeps what RecBole's own trainer changes.

    Args:
        config: Settings; `model` and `MODEL_TYPE` decide.

    Returns:
        A class with `Trainer`'s constructor.

    Raises:
        SettingsError: RecBole's trainer for the model can't be combined with this project's.
    """
    stock = get_trainer(config["MODEL_TYPE"], config["model"])
    if stock.__name__ in REFUSED:
        raise SettingsError(
            f"{config['model']} can't be trained here: {REFUSED[stock.__name__]}; choose another model"
        )
    return Trainer if stock is RecBoleTrainer else _combined(stock)


@cache
def _combined(stock: type[RecBoleTrainer]) -> type[Trainer]:
    return type(
        stock.__name__,
        (Trainer, stock),
        {"__doc__": f"{stock.__name__} of RecBole with this project's checkpoints."},
    )

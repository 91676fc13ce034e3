"""A small slice of real ml-100k, and models on it built with RecBole's own loaders."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

USERS = 40
INTERACTIONS = 25


@pytest.fixture(autouse=True)
def quiet_logger():
    """Put the package's logger back after a test: the command line gives it a handler for the whole process."""
    root = logging.getLogger("llmbole")
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture(scope="session")
def movielens_slice(tmp_path_factory) -> Path:
    """RecBole's atomic files of the first 40 users of ml-100k, with the first 25 rows of each."""
    import pandas

    import recbole

    source = Path(recbole.__file__).parent / "dataset_example" / "ml-100k"
    folder = tmp_path_factory.mktemp("movielens_slice")
    users = {str(number) for number in range(1, USERS + 1)}
    rows = pandas.read_csv(source / "ml-100k.inter", sep="\t", dtype=str)
    rows = rows[rows["user_id:token"].isin(users)].groupby("user_id:token", sort=False).head(INTERACTIONS)
    rows.to_csv(folder / "ml-100k.inter", sep="\t", index=False)
    people = pandas.read_csv(source / "ml-100k.user", sep="\t", dtype=str)
    people[people["user_id:token"].isin(users)].to_csv(folder / "ml-100k.user", sep="\t", index=False)
    (folder / "ml-100k.item").write_bytes((source / "ml-100k.item").read_bytes())
    return folder


@pytest.fixture(scope="session")
def built(movielens_slice):
    """Make a model's config, dataset, RecBole's loaders and the model: `built("BPR", seed=1, epochs=2)`."""

    def build(model: str, seed: int = 1, **settings) -> SimpleNamespace:
        from llmbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import init_seed

        config = Config(model, "ml-100k", movielens_slice, settings, device="cpu", seed=seed)
        init_seed(seed, True)
        dataset = create_dataset(config)
        train, valid, test = data_preparation(config, dataset)
        init_seed(seed, True)
        module = config.model_class(config, train._dataset)
        return SimpleNamespace(
            config=config, dataset=dataset, train=train, valid=valid, test=test, model=module
        )

    return build

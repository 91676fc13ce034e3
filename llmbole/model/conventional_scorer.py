"""Scores of a conventional model for any user and any items of its data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmbole.data.histories import newest
from llmbole.model.labels import FORMS
from llmbole.model.scorer import Context, Scorer
from llmbole.model.session import Session
from llmbole.settings import SettingsError
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType

ROWS_PER_BATCH = 8192
PROBED = 8


def padded(histories: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """The newest values of histories, as RecBole's lists.

    Args:
        histories: Values, oldest first.
        length: Longest list.

    Returns:
        Values, right-padded with 0, of shape `[B, length]`, and their numbers, of shape `[B]`.
    """
    ends = np.cumsum([len(history) for history in histories])
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    values = np.concatenate([np.asarray(history) for history in histories])
    return newest(values, starts, ends, length)


class UserRows:
    """Rows of users as RecBole's models read them.

    Args:
        session: The model's settings and data.
    """

    def __init__(self, session: Session) -> None:
        config = session.config
        self.dataset, self.device = session.parts[0], config["device"]
        self.user, self.item = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.items = self.item + config["LIST_SUFFIX"]
        self.sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        self._length, self._longest = config["ITEM_LIST_LENGTH_FIELD"], config["MAX_ITEM_LIST_LENGTH"]
        self._transform = construct_transform(config)

    def of_users(self, contexts: Sequence[Context]) -> Interaction:
        """A row for each user: id, features and, for sequential models, the history. `B` rows."""
        users = np.array([context.user for context in contexts], dtype=np.int64)
        columns = {self.user: torch.from_numpy(users), self.item: torch.zeros(len(users), dtype=torch.long)}
        if self.sequential:
            items, lengths = padded([context.history for context in contexts], self._longest)
            columns[self.items] = torch.from_numpy(items.astype(np.int64))
            columns[self._length] = torch.from_numpy(lengths.astype(np.int64))
        return self._transform(self.dataset, self.dataset.join(Interaction(columns)))

    def of_pairs(self, contexts: Sequence[Context], items: np.ndarray) -> Interaction:
        """A row for each user and item, user by user.

        Args:
            contexts: The users.
            items: Shape `[B, C]`.

        Returns:
            `B * C` rows with the features of users and items.
        """
        rows = self.of_users(contexts).repeat_interleave(items.shape[1])
        rows[self.item] = torch.from_numpy(np.array(items, dtype=np.int64)).flatten()
        return self.dataset.join(rows)


class ConventionalScorer:
    """A trained conventional model as a scorer; its scores are the model's own.

    Args:
        model: The model, in evaluation mode.
        session: Its settings and data.
        columns: Where the model's scores of all items hold each item's, new ones included; `None` where that is its id.
            Shape `[n_items]`.

    Raises:
        SettingsError: The model reads something of an interaction that has not taken place yet, such as its time.
    """

    shortlist: int | None = None
    retriever: Scorer | None = None

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a RecBole model
        session: Session,
        columns: np.ndarray | None = None,
    ) -> None:
        self.model, self.session, self.rows = model.eval(), session, UserRows(session)
        self._task, self._columns = session.protocol.task, columns
        own = type(model).full_sort_predict is not AbstractRecommender.full_sort_predict
        # Under labels only these models' scores of all items are known to be those of their rows.
        self._ranks_all = own and (self._task == "ranking" or session.config["model"] in FORMS)
        self.history_alone = self._needs_user()

    @torch.inference_mode()
    def score(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        """The model's scores, `[B, C]`, of items `[B, C]`."""
        if self._ranks_all:
            found = self._all(contexts)  # [B, n_items]
            return np.take_along_axis(found, items if self._columns is None else self._columns[items], axis=1)
        per_batch = max(1, ROWS_PER_BATCH // items.shape[1])
        chunks = [slice(start, start + per_batch) for start in range(0, len(contexts), per_batch)]
        return np.concatenate([self._pairs(contexts[chunk], items[chunk]) for chunk in chunks])

    def predict(self, contexts: Sequence[Context], items: np.ndarray) -> Tensor:
        """The model's scores of rows, user by user. Shape `[B * C]`."""
        scores: Tensor = self.model.predict(self.rows.of_pairs(contexts, items).to(self.rows.device))
        return scores

    def predict_all(self, contexts: Sequence[Context]) -> Tensor:
        """The model's scores of all items. Shape `[B, n_items]`."""
        rows = self.rows.of_users(contexts).to(self.rows.device)
        scores: Tensor = self.model.full_sort_predict(rows).view(len(contexts), -1)
        return scores

    def _pairs(self, contexts: Sequence[Context], items: np.ndarray) -> np.ndarray:
        scores: np.ndarray = self.predict(contexts, items).reshape(items.shape).cpu().double().numpy()
        return scores

    def _all(self, contexts: Sequence[Context]) -> np.ndarray:
        scores = self.predict_all(contexts)
        if self._task == "pairs":
            scores = scores.sigmoid()
        elif self._task == "rating":
            scores = scores + self.model.mean_rating
        found: np.ndarray = scores.cpu().double().numpy()
        return found

    def _needs_user(self) -> str | None:
        """Why a history alone is not enough: the model gives users with the same history other scores."""
        name, known = self.session.config["model"], self.session.split
        history = np.arange(1, min(PROBED, known.n_items))
        items = np.tile(history, (min(PROBED, known.n_users), 1))
        try:
            scores = self.score([Context(user, history) for user in range(len(items))], items)
        except KeyError as error:
            raise SettingsError(
                f"{name} reads {error} of an interaction, which one that has not taken place does not have; "
                "take a model that reads users, items and their order"
            ) from error
        if not self.rows.sequential:
            return f"{name} reads no history, it knows users by their ids; give a user of the data set"
        if not np.allclose(scores, scores[:1], rtol=1e-5, atol=1e-7):
            return f"{name} also reads who the user is, not the history alone; give a user of the data set"
        return None

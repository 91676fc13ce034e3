"""Groups of evaluated rows, such as warm and cold; `summary` computes metrics within each of them.

A row is a labelled pair, or a user with one target item in ranking; everything here is arrays with one value per row
(`R` rows). Users and items have RecBole's internal ids, so a table of counts has a place for each id, and its place 0,
the padding, is not used. Counts are those of training interactions unless a function says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llmbole.evaluator import checks


@dataclass(frozen=True, eq=False)
class Group:
    """Some of the rows.

    Attributes:
        name: Its name in tables; it does not depend on the data.
        rows: Whether each row is in it. Shape `[R]`, booleans.
    """

    name: str
    rows: np.ndarray


def interaction_counts(ids: ArrayLike, size: int) -> np.ndarray:
    """How many interactions each user, or each item, has.

    Args:
        ids: User, or item, of each interaction.
        size: One more than the largest id there is: RecBole's `user_num` or `item_num`.

    Returns:
        Counts. Shape `[size]`.

    Raises:
        ValueError: An id is negative or not below `size`.
    """
    (column,) = checks.columns(ids=ids)
    return np.bincount(checks.indices(column, size, "id"), minlength=size)


def warm_cold_items(items: ArrayLike, item_counts: ArrayLike, share: float = 0.35) -> list[Group]:
    """Rows whose target is a much or a rarely used item: the top and the bottom 35 % of the items. A-LLMRec.

    All items of the catalogue are sorted by their count, those with no training interaction included; each part has
    `floor(share * items)` of them, and rows with an item in between are in neither group. Among equal counts the lower
    id counts as the warmer item.

    Args:
        items: Target of each row. Shape `[R]`.
        item_counts: Training interactions of each item id. Shape `[n_items + 1]`.
        share: Share of the items in each part, above 0 and up to one half.

    Returns:
        `warm_items` and `cold_items`.

    Raises:
        ValueError: The share is out of range, or an id has no count.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share is {share}; it has to be above 0 and at most 0.5")
    targets, counts = _with_counts(items, item_counts, "item")
    order = np.argsort(-counts[1:], kind="stable") + 1  # [n_items], the warmest first
    size = math.floor(round(share * len(order), 9))
    warm, cold = np.zeros((2, len(counts)), dtype=bool)
    warm[order[:size]] = True
    cold[order[len(order) - size :]] = True
    return [Group("warm_items", warm[targets]), Group("cold_items", cold[targets])]


def warm_cold_rows(
    users: ArrayLike, items: ArrayLike, user_counts: ArrayLike, item_counts: ArrayLike, least: int = 3
) -> list[Group]:
    """Rows whose user and item were both seen at least 3 times in training, and all others. CoLLM.

    Args:
        users: User of each row. Shape `[R]`.
        items: Item of each row. Shape `[R]`.
        user_counts: Training interactions of each user id. Shape `[n_users + 1]`.
        item_counts: Training interactions of each item id. Shape `[n_items + 1]`.
        least: Interactions that make a user or an item warm.

    Returns:
        `warm` and `cold`; each row is in one of them.

    Raises:
        ValueError: The columns differ in length, or an id has no count.
    """
    checks.columns(users=users, items=items)
    owners, of_users = _with_counts(users, user_counts, "user")
    targets, of_items = _with_counts(items, item_counts, "item")
    warm = (of_users[owners] >= least) & (of_items[targets] >= least)
    return [Group("warm", warm), Group("cold", ~warm)]


def cold_users(users: ArrayLike, user_counts: ArrayLike, interactions: int = 3) -> list[Group]:
    """Rows of users with exactly 3 interactions in all, and of the others. A-LLMRec.

    Args:
        users: User of each row. Shape `[R]`.
        user_counts: Interactions of each user id in training, validation and test together. Shape `[n_users + 1]`.
        interactions: The number that makes a user cold.

    Returns:
        `cold_users` and `other_users`; each row is in one of them.

    Raises:
        ValueError: An id has no count.
    """
    owners, counts = _with_counts(users, user_counts, "user")
    cold = counts[owners] == interactions
    return [Group("cold_users", cold), Group("other_users", ~cold)]


def popularity_bins(items: ArrayLike, item_counts: ArrayLike, bins: int = 4) -> list[Group]:
    """Rows by the popularity of their target, in quantiles of the rows; see `quantile_bins`.

    Args:
        items: Target of each row. Shape `[R]`.
        item_counts: Training interactions of each item id. Shape `[n_items + 1]`.
        bins: Number of groups.

    Returns:
        `popularity_1_of_4` (the least popular) and so on.

    Raises:
        ValueError: An id has no count, or there are no bins.
    """
    targets, counts = _with_counts(items, item_counts, "item")
    return quantile_bins("popularity", counts[targets], bins)


def history_bins(users: ArrayLike, user_counts: ArrayLike, bins: int = 4) -> list[Group]:
    """Rows by the length of their user's training history, in quantiles of the rows; see `quantile_bins`.

    Args:
        users: User of each row. Shape `[R]`.
        user_counts: Training interactions of each user id. Shape `[n_users + 1]`.
        bins: Number of groups.

    Returns:
        `history_1_of_4` (the shortest) and so on.

    Raises:
        ValueError: An id has no count, or there are no bins.
    """
    owners, counts = _with_counts(users, user_counts, "user")
    return quantile_bins("history", counts[owners], bins)


def quantile_bins(name: str, values: ArrayLike, bins: int) -> list[Group]:
    """Rows by a number, cut at its quantiles over the rows.

    Equal values are in one group, so groups can differ in size and be empty. A value at a cut is in the lower group.

    Args:
        name: What the number is; the first part of the groups' names.
        values: The number of each row. Shape `[R]`.
        bins: Number of groups.

    Returns:
        `<name>_1_of_<bins>` (the lowest values) and so on; each row is in one of them.

    Raises:
        ValueError: A value is not finite, or there are no bins.
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    (column,) = checks.columns(values=values)
    numbers = checks.finite(column, name)
    shares = np.arange(1, bins) / bins
    # Cuts are values that occur, so that no rounding of an interpolation moves a row that lies on one.
    cuts = np.quantile(numbers, shares, method="inverted_cdf") if len(numbers) else np.zeros(bins - 1)
    places = np.searchsorted(cuts, numbers, side="left")  # [R]
    return [Group(f"{name}_{place + 1}_of_{bins}", places == place) for place in range(bins)]


def confidence_thirds(probabilities: ArrayLike) -> list[Group]:
    """Rows in three equal parts by the entropy of the conventional model's probability. CoReLLa, Figure 1.

    The entropy of p is -p log p - (1 - p) log(1 - p); low entropy is high confidence. Rows that don't divide by three
    go to the more confident parts; rows with equal entropy keep their order.

    Args:
        probabilities: The conventional model's, of label 1. Shape `[R]`.

    Returns:
        `confidence_high`, `confidence_middle`, `confidence_low`; each row is in one of them.

    Raises:
        ValueError: A probability is outside [0, 1].
    """
    (column,) = checks.columns(probabilities=probabilities)
    order = np.argsort(entropy(column), kind="stable")
    names = ("confidence_high", "confidence_middle", "confidence_low")
    groups = []
    for name, part in zip(names, np.array_split(order, len(names)), strict=True):
        rows = np.zeros(len(order), dtype=bool)
        rows[part] = True
        groups.append(Group(name, rows))
    return groups


def entropy(probabilities: ArrayLike) -> np.ndarray:
    """Entropy -p log p - (1 - p) log(1 - p) of each probability, in nats; 0 for p = 0 and p = 1. CoReLLa.

    Args:
        probabilities: Any column of numbers in [0, 1]. Shape `[R]`.

    Returns:
        Between 0 and log 2. Shape `[R]`.

    Raises:
        ValueError: A probability is outside [0, 1].
    """
    (column,) = checks.columns(probabilities=probabilities)
    chances = checks.probabilities(column)
    inner = (chances > 0) & (chances < 1)
    result = np.zeros(len(chances))
    p = chances[inner]
    result[inner] = -p * np.log(p) - (1 - p) * np.log1p(-p)
    return result


def _with_counts(ids: ArrayLike, counts: ArrayLike, what: str) -> tuple[np.ndarray, np.ndarray]:
    column, table = checks.columns(ids=ids)[0], checks.columns(counts=counts)[0]
    return checks.indices(column, len(table), what, least=1), table

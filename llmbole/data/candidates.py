"""Frozen candidates: the target among random items that its user never interacted with.

Only PCG64's raw 64-bit output is used, which numpy keeps stable across versions, and each user takes a fixed number of
draws: candidates depend on the seed and the interactions alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


class UnknownItems:
    """The items that each owner has no interaction with, numbered 0, 1, ... in ascending order.

    Args:
        owners: Owner of each known interaction, 0 to `count - 1`. Shape `[N]`.
        items: Item of each known interaction, from 1. Shape `[N]`.
        count: Number of owners.
        n_items: Number of items, the padding item 0 included.

    Attributes:
        sizes: How many items each owner does not know. Shape `[count]`.
    """

    def __init__(self, owners: np.ndarray, items: np.ndarray, count: int, n_items: int) -> None:
        own = np.unique(owners.astype(np.int64) * n_items + items)  # sorted by owner, then by item
        own_owners, own_items = own // n_items, own % n_items
        counts = np.bincount(own_owners, minlength=count)
        self.n_items, self.sizes = n_items, n_items - 1 - counts
        self._starts = np.cumsum(counts) - counts
        # Item s at place p among its owner's has s - 1 - p unknown items below it.
        below = own_items - 1 - (np.arange(len(own)) - self._starts[own_owners])
        self._keys = own_owners * n_items + below  # ascending

    def items(self, owners: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The items of some numbers: number r is item r + 1 + (known items below it).

        Args:
            owners: Shape `[...]`, or one that broadcasts.
            ranks: Below the owner's size. Shape `[...]`.

        Returns:
            Items. Shape `[...]`.
        """
        passed = np.searchsorted(self._keys, owners * self.n_items + ranks, side="right")
        return ranks + 1 + passed - self._starts[owners]


def in_ranges(
    ranges: Sequence[tuple[int, int]], targets: np.ndarray
) -> Iterator[tuple[np.ndarray, int, int, tuple[int, ...]]]:
    """Rows by the set of items that their target is of, for draws within each set.

    Args:
        ranges: First id and one past the last of the items of each set.
        targets: An item of each row. Shape `[R]`.

    Yields:
        The set's rows, ascending; its first id; one past its last; and what tells its draw from those of other sets,
        which is nothing where there is only one.
    """
    for number, (first, end) in enumerate(ranges):
        rows = np.flatnonzero((targets >= first) & (targets < end))
        yield rows, first, end, (number,) if len(ranges) > 1 else ()


def draw(
    targets: np.ndarray,
    owners: np.ndarray,
    items: np.ndarray,
    n_items: int,
    negatives: int,
    entropy: tuple[int, ...],
) -> np.ndarray:
    """Draw candidates for many users at once.

    Args:
        targets: Target of each row, one of the row's own items. Shape `[U]`.
        owners: Row of each known interaction, 0 to U - 1. Shape `[N]`.
        items: Item of each known interaction, from 1. Shape `[N]`.
        n_items: Number of items, the padding item 0 included.
        negatives: Random items per row.
        entropy: Seeds the draw.

    Returns:
        The target and uniform random items that are none of the row's own, without repeats, in random order.
        Shape `[U, 1 + negatives]`.

    Raises:
        ValueError: Rows whose users have too few other items; `args[1]` holds the rows.
    """
    rows = len(targets)
    unknown = UnknownItems(owners, items, rows, n_items)
    short = np.flatnonzero(unknown.sizes < negatives)
    if len(short):
        raise ValueError(f"too few items to draw {negatives} from", short)
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(
        (rows, 2 * negatives + 1)
    )  # [U, 2n + 1] uint64
    ranks = _distinct(raw[:, :negatives], unknown.sizes)  # [U, n]
    drawn = unknown.items(np.arange(rows)[:, None], ranks)
    candidates = np.concatenate([targets[:, None], drawn], axis=1)  # [U, 1 + n]
    order = np.argsort(raw[:, negatives:], axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1).astype(np.int64)


def draw_one(
    users: np.ndarray, owners: np.ndarray, items: np.ndarray, n_items: int, entropy: tuple[int, ...]
) -> np.ndarray:
    """Draw a random item for each row that the row's user never interacted with.

    Args:
        users: User of each row. Shape `[R]`.
        owners: User of each known interaction. Shape `[N]`.
        items: Item of each known interaction, from 1. Shape `[N]`.
        n_items: Number of items, the padding item 0 included.
        entropy: Seeds the draw.

    Returns:
        An item per row, uniform among those left. Shape `[R]`.

    Raises:
        ValueError: Users interacted with every item; `args[1]` holds them.
    """
    unknown = UnknownItems(owners, items, int(users.max(initial=0)) + 1, n_items)
    sizes = unknown.sizes[users]  # [R]
    if len(sizes) and sizes.min() < 1:
        raise ValueError("no item is left to draw", np.unique(users[sizes < 1]))
    raw = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(len(users))  # [R] uint64
    return unknown.items(users, (raw % sizes.astype(np.uint64)).astype(np.int64))


def _distinct(raw: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Different random numbers below each row's size, by Floyd's algorithm on all rows at once.

    Robert W. Floyd, Jon Bentley. 1987. Programming pearls: a sample of brilliance. CACM 30, 9.

    Args:
        raw: Random 64-bit numbers. Shape `[U, n]`.
        sizes: Shape `[U]`, each at least n.

    Returns:
        A uniformly random subset of 0 to size - 1 per row. Shape `[U, n]`.
    """
    count = raw.shape[1]
    chosen = np.full(raw.shape, -1, dtype=np.int64)  # [U, n]
    for step in range(count):
        last = sizes - count + step  # [U]
        number = (raw[:, step] % (last + 1).astype(np.uint64)).astype(np.int64)
        taken = (chosen[:, :step] == number[:, None]).any(axis=1)
        chosen[:, step] = np.where(taken, last, number)
    return chosen

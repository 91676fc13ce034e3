"""Freezing a split for a ranking: what is held out of each user's interactions, and the candidates drawn for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbole.data import arrays
from llmbole.data import candidates as frozen
from llmbole.data.convert.report import DataError
from llmbole.data.interactions import Interactions, item_ranges, read, time_parts
from llmbole.data.protocol import Candidates, Protocol
from llmbole.data.source import DatasetCard
from llmbole.data.split import PHASES, Split


def freeze(protocol: Protocol, card: DatasetCard, data_folder: Path, folder: Path) -> dict[str, Any]:
    """Split prepared data for a ranking and write the split as arrays.

    Unusable interactions, and a user with too few other items for the candidates, are a DataError.

    Args:
        protocol: How to split.
        card: The data set.
        data_folder: Folder of the prepared data.
        folder: An existing folder to write into; after an error it holds half-made files.

    Returns:
        A summary: counts, and the hash.
    """
    split = _split(protocol, card, read(data_folder / f"{card.name}.inter", protocol.order))
    if protocol.frozen:
        for name in PHASES:
            split.phases[name]["candidates"] = _candidates(protocol.frozen, split, name, card.domains)
    digest = split.contents_hash()
    names = ("dataset", "protocol", "version", "order", "n_train_items")
    content = {name: getattr(split, name) for name in names}
    arrays.save(
        folder, {"task": "ranking", **content, "hash": digest}, {**split.arrays(), "rows": split.rows}
    )
    counts = {"users": split.n_users - 1, "items": split.n_items - 1, "interactions": len(split.items)}
    held_out = {f"{name}_users": len(split.phases[name]["users"]) for name in PHASES}
    candidates = protocol.frozen.count if protocol.frozen else None
    return {**counts, **held_out, "candidates": candidates, "hash": digest}


def _split(protocol: Protocol, card: DatasetCard, found: Interactions) -> Split:
    """Hold out interactions of each user as the protocol says."""
    if protocol.split == "leave_one_out":
        train_ends, held = _last_two(found)
    else:
        train_ends, held = _last_in_time(found, protocol)
    ranges = item_ranges(found.item_tokens, card.domains)
    if protocol.scenario is not None:
        trained = protocol.scenario.trained(found, card.domains)  # [n_users]
        tested = protocol.scenario.tested(found, card.domains)  # [n_users]
        train_ends = np.where(trained, train_ends, found.offsets[:-1])
        held["valid"] = held["valid"][trained[found.users[held["valid"]]]]
        held["test"] = held["test"][tested[found.users[held["test"]]]]
        if protocol.scenario.kind == "cross_domain":
            if not protocol.frozen:
                raise DataError(
                    f"{protocol.name} ranks all items, those trained on too; cross_domain needs frozen candidates, "
                    "which are of the set that is tested, such as loo_rank20@cross_domain"
                )
            ranges = ranges[:-1]
    phases = {}
    for name in PHASES:
        positions = held[name]
        phases[name] = {
            "users": found.users[positions],
            "targets": found.items[positions],
            "positions": positions,
        }
    return Split(
        dataset=card.name,
        protocol=protocol.name,
        version=protocol.version,
        order=protocol.order,
        hash="",
        item_tokens=found.item_tokens,
        user_tokens=found.user_tokens,
        items=found.items,
        timestamps=found.timestamps,
        ratings=found.ratings,
        offsets=found.offsets,
        train_ends=train_ends,
        rows=found.rows,
        phases=phases,
        n_train_items=ranges[-1][1],
    )


def _last_two(found: Interactions) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Where each user's training ends, and the positions of the last and the second last interactions."""
    counts = found.counts  # [n_users], 0 for the padding user
    ends = np.cumsum(counts)
    has_test, has_valid = counts >= 2, counts >= 3
    return ends - has_test - has_valid, {"valid": ends[has_valid] - 2, "test": ends[has_test] - 1}


def _last_in_time(found: Interactions, protocol: Protocol) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Where each user's training ends by the global cut, and the last position of a user in each later part."""
    assert protocol.ratios is not None  # checked by Protocol
    parts = time_parts(found, protocol.ratios)  # [N]
    train_ends = found.offsets[:-1] + np.bincount(found.users[parts == 0], minlength=len(found.user_tokens))
    held = {}
    for number, name in enumerate(PHASES, start=1):
        places = np.flatnonzero(parts == number)
        last = np.append(np.diff(found.users[places]) > 0, True)
        held[name] = places[
            last & (places > found.offsets[found.users[places]])
        ]  # without a history nothing is asked
    return train_ends, held


def _candidates(rules: Candidates, split: Split, name: str, domains: Sequence[str]) -> np.ndarray:
    """Frozen candidates of a phase, of the target's set; the protocol's seed and the phase seed the draw."""
    phase = split.phase(name)
    assert rules.count is not None and rules.seed is not None  # checked by Candidates
    drawn = np.zeros((len(phase), rules.count), dtype=np.int64)
    for rows, first, end, own in frozen.in_ranges(item_ranges(split.item_tokens, domains), phase.targets):
        row_of = np.full(split.n_users, -1)
        row_of[phase.users[rows]] = np.arange(len(rows))
        known = row_of[split.owners] >= 0
        owners, items = row_of[split.owners[known]], split.items[known] - (first - 1)
        entropy = (rules.seed, PHASES.index(name), *own)
        try:
            found = frozen.draw(
                phase.targets[rows] - (first - 1), owners, items, end - first + 1, rules.negatives, entropy
            )
        except ValueError as error:
            if len(error.args) != 2:
                raise
            users = [str(split.user_tokens[phase.users[rows[row]]]) for row in error.args[1]]
            raise DataError(
                f"{split.dataset}: {split.protocol} draws {rules.negatives} items that a user never "
                f"interacted with, but of {end - first} items {len(users)} users have fewer left, the first is user "
                f"{users[0]!r}; leave such users out, or take a protocol with fewer negatives"
            ) from None
        drawn[rows] = found + (first - 1)
    return drawn

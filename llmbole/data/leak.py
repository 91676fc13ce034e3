"""Leak check: nothing that training or a prompt can reach holds a target or anything later, and order tells nothing.

It needs only the split, so it runs before any training.
"""

from __future__ import annotations

import numpy as np

from llmbole.data import pair_leak
from llmbole.data.pairs import PairSplit
from llmbole.data.protocol import Candidates, Protocol
from llmbole.data.split import Phase, Split

# Chance that a sound split is refused: one in a million.
ALPHA = 1e-6
SMALLEST_EXPECTED = 5


def check(split: Split | PairSplit, protocol: Protocol) -> list[str]:
    """Every leak of a split, one sentence each.

    Args:
        split: The frozen split.
        protocol: The protocol it should follow.

    Returns:
        Problems with a user or place to look at; empty if there is none.
    """
    problems = _identity_problems(split, protocol)
    if isinstance(split, PairSplit):
        return problems + pair_leak.check(split, protocol)
    problems += _order_problems(split)
    for name in split.phases:
        phase = split.phase(name)
        problems += [f"{name}: {problem}" for problem in _target_problems(phase)]
        if protocol.frozen:
            problems += [f"{name}: {problem}" for problem in _candidate_problems(phase, protocol.frozen)]
    return problems


def _identity_problems(split: Split | PairSplit, protocol: Protocol) -> list[str]:
    problems = []
    followed, wanted = f"{split.protocol} v{split.version}", f"{protocol.name} v{protocol.version}"
    if followed != wanted:
        problems.append(f"the split follows {followed}, not {wanted}; freeze it again")
    if split.contents_hash() != split.hash:
        problems.append("the split's arrays differ from its hash: a file was changed after it was frozen")
    return problems


def check_training(
    split: Split, users: np.ndarray, items: np.ndarray, histories: np.ndarray | None = None
) -> list[str]:
    """Held-out interactions among training rows.

    Args:
        split: The frozen split.
        users: User of each training row. Shape `[R]`.
        items: What the row teaches: its item. Shape `[R]`.
        histories: Items shown with the row, padded with 0. Shape `[R, L]`.

    Returns:
        Problems, one sentence for each kind; empty if training reaches training interactions only.
    """
    allowed = np.unique(_pairs(split, split.owners[split.trained], split.items[split.trained]))
    problems = []
    outside = ~np.isin(_pairs(split, users, items), allowed)
    if outside.any():
        row = int(np.argmax(outside))
        first = _name(split, users[row], items[row])
        problems.append(
            f"training rows hold {outside.sum()} interactions that are held out, the first is {first}"
        )
    if histories is not None:
        shown = histories > 0
        owners = np.broadcast_to(np.asarray(users)[:, None], histories.shape)[shown]
        later = ~np.isin(_pairs(split, owners, histories[shown]), allowed)
        if later.any():
            problems.append(f"histories of training rows hold {later.sum()} items that are not for training")
    return problems


def check_histories(phase: Phase, histories: np.ndarray) -> list[str]:
    """Items shown with a held-out target that are not among the user's earlier ones, such as the target itself.

    Args:
        phase: Users, targets and what came before.
        histories: Items that are shown for each user of the phase, in its order, padded with 0. Shape `[U, L]`.

    Returns:
        Problems, one sentence for each kind; empty if only the past is shown.
    """
    split = phase.split
    shown = histories > 0
    rows = np.broadcast_to(np.arange(len(phase))[:, None], histories.shape)[shown]
    before = np.arange(len(split.items)) < _limit(phase)[split.owners]
    allowed = np.unique(_pairs(split, split.owners[before], split.items[before]))
    later = ~np.isin(_pairs(split, phase.users[rows], histories[shown]), allowed)
    flagged = np.zeros(len(phase), dtype=bool)
    flagged[rows[later]] = True
    return _sentences(phase, {"histories show an item that is not of the past": flagged})


def check_similar(phase: Phase, rows: np.ndarray, shown: np.ndarray) -> list[str]:
    """Interactions of other users that a prompt shows with a held-out target, and may not.

    They must be training interactions, and not later than the target.

    Args:
        phase: Users and targets.
        rows: Number of the row that something is shown with. Shape `[S]`.
        shown: Place of the interaction that is shown, in the split's arrays. Shape `[S]`.

    Returns:
        Problems, one sentence for each kind; empty if the past of training is all that is shown.
    """
    split, own = phase.split, phase.positions[rows]
    flags = {
        "targets are shown with a held-out interaction": ~split.trained[shown],
        "targets are shown with something later": split.timestamps[shown] > split.timestamps[own],
        "targets are shown with an interaction of their own user": split.owners[shown] == split.owners[own],
    }
    problems = {}
    for what, wrong in flags.items():
        problems[what] = np.zeros(len(phase), dtype=bool)
        problems[what][rows[wrong]] = True
    return _sentences(phase, problems)


def _pairs(split: Split, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return np.asarray(users, dtype=np.int64) * split.n_items + items


def _name(split: Split, user: int, item: int) -> str:
    return f"user {str(split.user_tokens[user])!r} with item {str(split.item_tokens[item])!r}"


def _order_problems(split: Split) -> list[str]:
    same_user = split.owners[1:] == split.owners[:-1]
    back = same_user & (split.time_keys[1:] < split.time_keys[:-1])
    if not back.any():
        return []
    place = int(np.argmax(back)) + 1
    first = _name(split, split.owners[place], split.items[place])
    return [f"{back.sum()} interactions stand after a later one, the first is {first}"]


def _target_problems(phase: Phase) -> list[str]:
    """Targets in training rows, histories that reach the target, targets that are none of the user's interactions."""
    split, users, positions = phase.split, phase.users, phase.positions
    late = positions < split.train_ends[users]
    trained = _holds_target(phase, np.asarray(split.train_ends)) & ~late
    return _sentences(
        phase,
        {
            "targets are not the interaction they stand for": (split.owners[positions] != users)
            | (split.items[positions] != phase.targets),
            "targets are training interactions": late,
            "targets are training items of their user": trained,
            "targets stand in their own history": _holds_target(phase, _limit(phase)) & ~late & ~trained,
        },
    )


def _holds_target(phase: Phase, limit: np.ndarray) -> np.ndarray:
    """Whether each target is among its user's items before a limit, which is given for every user. Shape `[U]`."""
    split = phase.split
    before = np.arange(len(split.items)) < limit[split.owners]
    return np.isin(
        _pairs(split, phase.users, phase.targets), _pairs(split, split.owners[before], split.items[before])
    )


def _limit(phase: Phase) -> np.ndarray:
    """Where each user's history ends; users outside the phase have none. Shape `[n_users]`."""
    limit = np.array(phase.split.offsets[:-1])
    limit[phase.users] = phase.positions
    return limit


def _sentences(phase: Phase, checks: dict[str, np.ndarray]) -> list[str]:
    """One sentence for each check that flags a user, with the first such user's raw id."""
    sentences = []
    for what, flags in checks.items():
        if flags.any():
            user = str(phase.split.user_tokens[phase.users[int(np.argmax(flags))]])
            sentences.append(f"{flags.sum()} {what}, the first is of user {user!r}")
    return sentences


def _candidate_problems(phase: Phase, rules: Candidates) -> list[str]:
    split, candidates = phase.split, phase.candidates
    if candidates is None or candidates.shape != (len(phase), rules.count):
        shape = None if candidates is None else candidates.shape
        return [f"candidates have shape {shape}, the protocol wants {(len(phase), rules.count)}"]
    checks = {
        "candidate lists hold a number that is no item": (
            (candidates < 1) | (candidates >= split.n_items)
        ).any(axis=1),
        "candidate lists do not hold their target once": (candidates == phase.targets[:, None]).sum(axis=1)
        != 1,
        "candidate lists hold an item twice": (np.diff(np.sort(candidates, axis=1), axis=1) == 0).any(axis=1),
        "candidate lists hold another item of their user": _known_candidates(phase, candidates),
    }
    return _sentences(phase, checks) + _place_problems(phase, candidates)


def _known_candidates(phase: Phase, candidates: np.ndarray) -> np.ndarray:
    split = phase.split
    pairs = _pairs(split, phase.users[:, None], candidates)  # [U, C]
    known = np.isin(pairs, _pairs(split, split.owners, split.items)) & (candidates != phase.targets[:, None])
    return np.asarray(known.any(axis=1))


def _place_problems(phase: Phase, candidates: np.ndarray) -> list[str]:
    """Pearson's chi-square test that the target's place in the list is uniform."""
    from scipy.stats import chisquare

    places = np.argmax(candidates == phase.targets[:, None], axis=1)
    counts = np.bincount(places, minlength=candidates.shape[1])
    if len(phase) < SMALLEST_EXPECTED * candidates.shape[1]:
        return []
    chance = float(chisquare(counts).pvalue)
    if chance >= ALPHA:
        return []
    return [
        f"the target's place in its list is not random (chi-square, p = {chance:.1e}): by place {counts.tolist()}"
    ]

"""Latent vectors of invented users and items: who fits whom is the greatest inner product."""

import math
import operator
import random
from collections.abc import Sequence

from .samples import Weighted

LATENT = 16
"""Coordinates of a latent vector; a user's are numbered from 0, an item's from `LATENT`."""
SHARPNESS = 20.0
"""Inner products of unit vectors, times this, are the logits of drawn answers."""


def unit(rng: random.Random, width: int, towards: Sequence[float] = (), share: float = 0.0) -> list[float]:
    """A random unit vector of `width` coordinates, `share` times another one added before the division."""
    drawn = [rng.gauss(0, width**-0.5) for _ in range(width)]
    drawn = [each + share * other for each, other in zip(drawn, towards, strict=True)] if towards else drawn
    norm = math.hypot(*drawn)
    return [each / norm for each in drawn]


def items(rng: random.Random, number: int) -> list[list[float]]:
    """Random items of one length; they have few coordinates at times, as such ones are easier to tell apart."""
    width = rng.choice((LATENT // 2, LATENT, LATENT))
    size = rng.uniform(0.7, 1.4)
    return [[size * each for each in unit(rng, width)] for _ in range(number)]


def user(rng: random.Random, candidates: Sequence[Sequence[float]]) -> tuple[list[float], int]:
    """A user and the place of the candidate that fits best.

    Half of the users are close to one candidate. A sixth are short vectors whose candidate is drawn by the softmax
    of the inner products, so that a short vector means little certainty.
    """
    width, number, kind = len(candidates[0]), len(candidates), rng.random()
    close = candidates[rng.randrange(number)] if kind < 1 / 2 else ()
    direction = unit(rng, width, close, rng.uniform(0.6, 2.5))
    fits = [sum(map(operator.mul, direction, each)) for each in candidates]
    if kind < 5 / 6:
        size, best = rng.uniform(0.7, 1.5), fits.index(max(fits))
    else:
        size = rng.uniform(0.1, 1.0)
        weights = [math.exp(SHARPNESS * size * (each - max(fits))) for each in fits]
        best = rng.choices(range(number), weights)[0]
    return [size * each for each in direction], best


def user_segment(vector: Sequence[float]) -> Weighted:
    """A user's vector as a prompt's position."""
    return tuple(enumerate(vector))


def item_segment(vector: Sequence[float]) -> Weighted:
    """An item's vector as a prompt's position."""
    return tuple((LATENT + place, each) for place, each in enumerate(vector))

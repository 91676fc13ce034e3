"""Scenarios: which users a protocol leaves out of training, to see how a method does for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmbole.settings import SettingsError, close_name

if TYPE_CHECKING:
    import numpy as np

    from llmbole.data.interactions import Interactions

SEED = 20250603
COLD = 3


@dataclass(frozen=True)
class Scenario:
    """Who is left out of training and validation; everyone stays in the test, and histories are whole.

    Attributes:
        kind: `few_shot`: all but some random users. `cold_users`: users with few interactions.
        number: `few_shot`: how many users stay (A-LLMRec, Table 4: 256 and 128). `cold_users`: exactly how many
            interactions make a user cold (A-LLMRec, Table 3: 3).
    """

    kind: Literal["few_shot", "cold_users"]
    number: int

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"number = {self.number}: {self.kind} needs at least 1")

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """A scenario as it stands behind a protocol's name.

        Args:
            text: `few_shot-128`, `cold_users`, or `cold_users-4`.

        Returns:
            The scenario.

        Raises:
            SettingsError: It is none of these.
        """
        kind, dash, number = text.partition("-")
        if kind not in ("few_shot", "cold_users"):
            raise SettingsError(f"unknown scenario {text!r}; {close_name(kind, ('few_shot', 'cold_users'))}")
        if (dash or kind == "few_shot") and not (number.isdecimal() and int(number)):
            raise SettingsError(
                f"scenario {text!r} needs a number, such as {kind}-{128 if kind == 'few_shot' else COLD}"
            )
        return cls(kind, int(number) if dash else COLD)  # type: ignore[arg-type]

    def trained(self, found: Interactions) -> np.ndarray:
        """Whether each user is trained on; the padding user is not. Shape `[n_users]`.

        Args:
            found: All interactions.

        Returns:
            A mask.

        Raises:
            SettingsError: No user, or every user, would be left out.
        """
        import numpy as np

        counts = found.counts
        users = np.flatnonzero(counts)
        if self.kind == "cold_users":
            stay = users[counts[users] != self.number]
        else:
            raw = np.random.PCG64(SEED).random_raw(len(users))  # stable across numpy's versions
            stay = users[np.argsort(raw, kind="stable")[: self.number]]
        if not 0 < len(stay) < len(users):
            raise SettingsError(
                f"{self.kind}-{self.number} trains on {len(stay)} of {len(users)} users; choose another number"
            )
        mask = np.zeros(len(counts), dtype=bool)
        mask[stay] = True
        return mask

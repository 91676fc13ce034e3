"""Scenarios: which users a protocol leaves out of training, to see how a method does for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmbole.settings import SettingsError, close_name

if TYPE_CHECKING:
    import numpy as np

    from llmbole.data.interactions import Interactions

SEED = 20250603
COLD = 3
KINDS = ("few_shot", "cold_users", "cross_domain")


@dataclass(frozen=True)
class Scenario:
    """Who is left out of training and validation; histories are whole.

    Attributes:
        kind: `few_shot`: all but some random users. `cold_users`: users with few interactions. `cross_domain`: users of
            the last one of several joined sets; they alone are tested. Otherwise everyone is.
        number: `few_shot`: how many users stay (A-LLMRec, Table 4: 256 and 128). `cold_users`: exactly how many
            interactions make a user cold (A-LLMRec, Table 3: 3). `cross_domain` (Table 5) has none.
    """

    kind: Literal["few_shot", "cold_users", "cross_domain"]
    number: int | None = None

    def __post_init__(self) -> None:
        if self.kind == "cross_domain":
            if self.number is not None:
                raise ValueError(f"number = {self.number}: cross_domain takes none; remove it")
        elif self.number is None or self.number < 1:
            raise ValueError(f"number = {self.number}: {self.kind} needs at least 1")

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """A scenario as it stands behind a protocol's name.

        Args:
            text: `few_shot-128`, `cold_users`, `cold_users-4`, or `cross_domain`.

        Returns:
            The scenario.

        Raises:
            SettingsError: It is none of these.
        """
        kind, dash, number = text.partition("-")
        if kind not in KINDS:
            raise SettingsError(f"unknown scenario {text!r}; {close_name(kind, KINDS)}")
        if kind == "cross_domain":
            if dash:
                raise SettingsError(
                    f"scenario {text!r}: cross_domain takes no number; leave {dash}{number} out"
                )
            return cls("cross_domain")
        if (dash or kind == "few_shot") and not (number.isdecimal() and int(number)):
            raise SettingsError(
                f"scenario {text!r} needs a number, such as {kind}-{128 if kind == 'few_shot' else COLD}"
            )
        return cls(kind, int(number) if dash else COLD)  # type: ignore[arg-type]

    def check_dataset(self, domains: Sequence[str]) -> None:
        """Refuse a data set that the scenario has no use for.

        Args:
            domains: The sets it joins, see `DatasetCard.domains`.

        Raises:
            SettingsError: It joins none, but one is to be trained on and another one tested.
        """
        if self.kind == "cross_domain" and not domains:
            raise SettingsError(
                "cross_domain trains on one data set and tests on another; join them, such as "
                "--dataset=ml-1m+beauty to train on ml-1m and test on beauty"
            )

    def tested(self, found: Interactions, domains: Sequence[str]) -> np.ndarray:
        """Whether each user may be tested. Shape `[n_users]`.

        Args:
            found: All interactions.
            domains: The sets the data join.

        Returns:
            A mask.
        """
        import numpy as np

        from llmbole.data.interactions import domains_of

        if self.kind != "cross_domain":
            return np.ones(len(found.user_tokens), dtype=bool)
        return domains_of(found.user_tokens, domains) == len(domains) - 1

    def trained(self, found: Interactions, domains: Sequence[str] = ()) -> np.ndarray:
        """Whether each user is trained on; the padding user is not. Shape `[n_users]`.

        Args:
            found: All interactions.
            domains: The sets the data join.

        Returns:
            A mask.

        Raises:
            SettingsError: No user, or every user, would be left out, or the data set doesn't fit.
        """
        import numpy as np

        from llmbole.data.interactions import domains_of

        self.check_dataset(domains)
        counts = found.counts
        users = np.flatnonzero(counts)
        if self.kind == "cross_domain":
            stay = users[domains_of(found.user_tokens[users], domains) < len(domains) - 1]
        elif self.kind == "cold_users":
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

"""Leaves of methods in which a conventional model (CRM) and an LLM read the same labelled rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.data.pair_rows import SHOWN, SHOWN_RATINGS, PairRows
from llmbole.model import cf, evaluation, pair_prompts
from llmbole.model.routing import Routing
from llmbole.model.session import Session
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact
from recbole.data.interaction import Interaction


@dataclass(frozen=True)
class SampleTuning(pair_prompts.PairTuning):
    """Training on a sample, which shares no row with another one and so can't take all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 1:
            raise ValueError(f"rows = {self.rows}: must be at least 1, a sample of the training rows")


class RowsOfBoth:
    """Training rows as both models read them.

    Args:
        session: The CRM's data.
        rows: The rows, with what prompts show.
    """

    def __init__(self, session: Session, rows: PairRows) -> None:
        self.session, self.rows = session, rows

    def __len__(self) -> int:
        return len(self.rows)

    def interaction(self, rows: Tensor) -> Interaction:
        """Rows by number, from 0."""
        both = self.session.labelled("train", torch.from_numpy(self.rows.places[rows.numpy()]))
        shown = self.rows.interaction(rows)
        both.update(Interaction({name: shown[name] for name in (SHOWN, SHOWN_RATINGS)}))
        return both


def samples(rows: PairRows, joint: int, alone: int, seed: int) -> tuple[PairRows, PairRows]:
    """Two samples, drawn at random, without a row in common.

    Args:
        rows: All training rows.
        joint: Rows of the first, in which both models learn.
        alone: Rows of the second, in which the LLM learns alone.
        seed: Of the draw; the first sample does not depend on the size of the second.

    Returns:
        Both samples.

    Raises:
        ValueError: There are too few rows.
    """
    if joint + alone > len(rows):
        raise ValueError(
            f"joint.rows = {joint} and alone.rows = {alone} are samples without a row in common, but there are "
            f"{len(rows)} training rows; draw fewer"
        )
    drawn = np.random.default_rng(seed).permutation(len(rows))
    return rows.taking(np.sort(drawn[:joint])), rows.taking(np.sort(drawn[joint : joint + alone]))


@torch.inference_mode()
def crm_probabilities(crm: nn.Module, session: Session, part: str, places: np.ndarray) -> np.ndarray:
    """The CRM's probabilities of labelled rows, in the batches that the evaluation of the backbone has. Shape `[R]`."""
    crm.eval()
    model: Any = crm
    batches = torch.from_numpy(places).split(session.config["eval_batch_size"])
    found = [
        model.predict(session.labelled(part, each).to(session.config["device"])).cpu() for each in batches
    ]
    return torch.cat(found).numpy()


def open_llm(
    run: StageRun, data: Artifact, split: Artifact, joint: Artifact | None, alone: Artifact | None
) -> pair_prompts.TextAnswers:
    """The LLM with the updates of the last stage that trained it, or as it comes."""
    prompt, adapter = pair_prompts.open_adapted(run, data, split)
    tuned = alone or joint
    if tuned is not None:
        adapter.load(tuned.folder)
    return pair_prompts.TextAnswers(prompt, adapter)


def routing(
    run: StageRun, crm: cf.Backbone, llm: pair_prompts.TextAnswers, rows: PairRows, part: str
) -> Routing:
    """Rows with the CRM's probabilities, of which the LLM can be asked."""

    def ask(numbers: np.ndarray) -> tuple[np.ndarray, int]:
        before = llm.prompt.tokens_read
        with run.progress(len(numbers), "row") as ticker:
            found = evaluation.predict_all(llm, rows.taking(numbers), ticker)
        return found.numpy(), llm.prompt.tokens_read - before

    return Routing(rows.users, rows.labels, crm_probabilities(crm.model, crm.session, part, rows.places), ask)

"""The run's judge, another LLM beside the tuned one, or a server's model: what it is asked for, and how."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbole.llm.texts import Written
from llmbole.model import generation, stages
from llmbole.model.written import WritingSettings
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact

USES = ("check", "judge", generation.SERVED_MODEL)
"""Settings of stages that ask the judge."""

_SLOTS = {"item", "attribute", "title", "value", "known"}


@dataclass(frozen=True)
class CheckSettings(WritingSettings):
    """What the other LLM, the run's `judge`, is asked.

    Attributes:
        attributes: Items whose known attributes the tuned LLM says and the judge judges; null for none.
        rankings: Users of the test whose lists the judge ranks too; null for none.
        verdict: Asks whether a `{value}` agrees with what is `{known}` of the `{attribute}` of `{title}`.
    """

    attributes: int | None
    rankings: int | None
    verdict: str

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1, or null"
            for name in ("attributes", "rankings")
            if getattr(self, name) is not None and getattr(self, name) < 1
        ]
        found = {name for _, name, _, _ in string.Formatter().parse(self.verdict) if name is not None}
        if not _SLOTS - {"item"} <= found <= _SLOTS:
            problems.append(
                f"verdict = {self.verdict!r}: must hold {{attribute}}, {{title}}, {{value}} and {{known}}, and may "
                "hold {item}"
            )
        if problems:
            raise ValueError("\n".join(problems))


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Why a run's judge can't be asked what its settings say."""
    own, protocol, rank = settings["check"], settings["protocol"], settings["rank"]
    word = settings["dataset"]["words"]["item"]
    known = [each for each in settings["attributes"]["of"] if each["item"] == word and each.get("source")]
    asks = own["attributes"] is not None or own["rankings"] is not None
    found = generation.problems(settings, "check") if asks else []
    if settings["generate"]["served_model"] and not asks:
        found.append(
            f"{generation.SERVED_MODEL} = {settings['generate']['served_model']}: the server's model is the judge, and "
            "nothing is asked of it; set check.attributes or check.rankings, or leave it out"
        )
    if own["attributes"] is not None and not known:
        found.append(
            f"check.attributes = {own['attributes']}: attributes.of has none of a {word} with a source, so that "
            "nothing is known to compare with; add one, or leave it out"
        )
    if own["rankings"] is not None and protocol["task"] != "ranking":
        found.append(f"check.rankings = {own['rankings']}: {protocol['name']} does not rank; leave it out")
    if own["rankings"] is not None and rank["chunk"] < rank["length"]:
        found.append(
            f"check.rankings = {own['rankings']}: the judge ranks a list in one prompt; set rank.chunk to rank.length "
            f"= {rank['length']} or more"
        )
    return found


def name_of(run: StageRun) -> str:
    """The judge's name; the stage must declare `USES`."""
    return str(run[generation.SERVED_MODEL] or run["judge"]["name"])


def ask_judge(run: StageRun, settings: WritingSettings, questions: list[str]) -> Written:
    """Have questions answered by the run's judge, an LLM as it comes or the server's model of `generate`.

    Args:
        run: The stage, which declares `USES`; its workspace keeps answers while it is under way.
        settings: How answers are decoded.
        questions: What is asked.

    Returns:
        The answers.
    """
    model = generation.Model(stages.llm_spec(run, "judge"), {"judge": run["judge"]})
    found, _ = generation.write_texts(run, model, settings, questions)
    return found


def told(scored: dict[str, Any], judged_attributes: Artifact | None) -> dict[str, Any]:
    """A summary of scores whose record also tells of judged attributes; names begin with `attribute_`."""
    shares = {} if judged_attributes is None else judged_attributes.summary["shares"]
    return {
        **scored,
        "extra": {**scored["extra"], **{f"attribute_{name}": value for name, value in shares.items()}},
    }

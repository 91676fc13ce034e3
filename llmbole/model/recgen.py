"""RecGen: an LLM that is tuned on recommendations, and on general instructions lest it forget how to reason.

Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024, its first half, with the ways of tuning
that it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.data.numbered import NumberedRows
from llmbole.llm import backbone as language_models
from llmbole.llm import instruct, tune
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.tune import TuneSettings
from llmbole.model import pair_prompts, stages, training, written
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.store import Artifact, file_hash
from llmbole.settings import build

SLOTS = ("history", "target")


@dataclass(frozen=True)
class GeneralSettings:
    """A local file of general instructions.

    Attributes:
        file: Alpaca's or LIMA's form; `None` for none.
        sha256: Of the file, so that other content is another artifact.
    """

    file: str | None
    sha256: str | None


@dataclass(frozen=True)
class RecGenSettings(TuneSettings):
    """How the LLM is tuned.

    Attributes:
        variant: `None` leaves it as it is; `lora`; `full`, all weights; `neft`, all with noise on embeddings;
            `wise_ft`, all, then a mean of weights before and after; `mixed`, all, with general instructions: RecGen.
        text: The prompt of a recommendation, whose answer is Yes or No.
        rows: Recommendations, drawn from the training rows.
        general: General instructions of `mixed`.
        max_tokens: Longer lessons are cut.
        noise: Of `neft`.
        ensemble: Share of the tuned weights in the mean of `wise_ft`.
        lora: Sizes of `lora`.
        listed: How items are listed.
    """

    variant: Literal["lora", "full", "neft", "wise_ft", "mixed"] | None
    text: str
    rows: int
    general: GeneralSettings
    max_tokens: int
    noise: float
    ensemble: float
    lora: LoraSettings
    listed: written.ListSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {least}"
            for name, least in (("rows", 1), ("max_tokens", 2), ("noise", 0))
            if getattr(self, name) < least
        ]
        if not 0 <= self.ensemble <= 1:
            problems.append(f"ensemble = {self.ensemble}: must be in [0, 1]")
        problems += self._general_problems()
        if problems:
            raise ValueError("\n".join(problems))
        written.check_slots(self.text, SLOTS)

    def _general_problems(self) -> list[str]:
        given = self.general.file
        if self.variant != "mixed":
            return [] if given is None else [f"general.file = {given!r} is read by variant mixed alone"]
        if given is None:
            return ["variant = mixed needs general instructions: set general.file"]
        if not Path(given).expanduser().is_file():
            return [f"general.file = {given!r}: there is no such file"]
        found = file_hash(Path(given).expanduser())
        return [] if found == self.general.sha256 else [f"general.sha256 must be that of {given!r}: {found}"]


class Tuned(nn.Module):
    """What is trained: all weights of a language model, or its updates.

    Args:
        lm: The language model.
        lora: Sizes of updates; `None` trains all weights.
    """

    def __init__(self, lm: LanguageModel, lora: LoraSettings | None) -> None:
        super().__init__()
        self.part: nn.Module = lm.model.requires_grad_(True) if lora is None else Adapter(lm.freeze(), lora)

    def train(self, mode: bool = True) -> Tuned:
        """Set the mode of updates; a model that is tuned as a whole is tuned without dropout."""
        self.training = mode
        if isinstance(self.part, Adapter):
            self.part.train(mode)
        return self


def settings_of(run: StageRun) -> RecGenSettings:
    """The run's settings; the stage must declare `recgen`."""
    return build(RecGenSettings, run["recgen"], "recgen")


def tune_recgen(run: StageRun, data: Artifact, split: Artifact, rows: NumberedRows) -> dict[str, Any]:
    """Tune the run's LLM and write what was learned to the stage's folder.

    Args:
        run: The stage; it must declare `recgen`, `llm`, `dataset` and `seed`.
        data: Prepared data.
        split: Frozen split.
        rows: Its rows.

    Returns:
        The stage's summary.
    """
    training.seed_everything(run.seed)
    settings = settings_of(run)
    lm, module = _open(run, settings)
    own = _recommendations(run, data, split, rows, settings)
    general = instruct.read(Path(settings.general.file).expanduser()) if settings.general.file else []
    lessons = instruct.lessons(lm, [*own, *general], settings.max_tokens)
    before = tune.learned(module)
    noise = settings.noise if settings.variant == "neft" else 0.0

    def loss(numbers: Tensor) -> tuple[Tensor, int]:
        return instruct.answer_loss(lm, [lessons[number] for number in numbers.tolist()], noise)

    with run.progress(settings.steps, "step") as ticker:
        tuned = tune.tune(
            module, loss, len(lessons), settings, seed=run.seed, workspace=run.workspace, progress=ticker
        )
    after = tune.learned(module)
    if settings.variant == "wise_ft":
        after = {name: torch.lerp(before[name], after[name], settings.ensemble) for name in after}
    training.save_tensors(run.folder / f"{training.WEIGHTS}.safetensors", after)
    count = sum(each.numel() for each in module.parameters() if each.requires_grad)
    run.count(trainable_parameters=count, llm_tokens=tuned.tokens)
    left_out = len(own) + len(general) - len(lessons)
    return {
        "recommendations": len(own),
        "general": len(general),
        "left_out": left_out,
        "loss": tuned.loss,
        "did": f"{settings.variant}: {count:,} parameters, {tuned.step} steps over {len(lessons)} lessons "
        f"({left_out} were too long), loss {tuned.loss:.4f}",
    }


def open_llm(run: StageRun, recgen: Artifact | None) -> tuple[LanguageModel, Mapping[str, Any]]:
    """The run's LLM as it comes or as it was tuned, and what it is.

    Args:
        run: The stage; it must declare `recgen` and `llm`.
        recgen: What was learned; `None` for nothing.

    Returns:
        The frozen language model, and name, revision and tuning.
    """
    settings = settings_of(run)
    if recgen is None:
        lm = language_models.load(stages.llm_spec(run), stages.device(run)).freeze()
        return lm, {"llm": run["llm"], "recgen": None}
    lm, module = _open(run, settings)
    pair_prompts.load_learned(module, recgen)
    return lm.freeze(), {"llm": run["llm"], "recgen": recgen.key}


def _open(run: StageRun, settings: RecGenSettings) -> tuple[LanguageModel, Tuned]:
    lm = language_models.load(stages.llm_spec(run), stages.device(run))
    return lm, Tuned(lm, settings.lora if settings.variant == "lora" else None)


def _recommendations(
    run: StageRun, data: Artifact, split: Artifact, rows: NumberedRows, settings: RecGenSettings
) -> list[instruct.Instruction]:
    """Instructions made of training rows: will the user choose the item?"""
    train = rows.numbers("train")
    drawn = np.random.default_rng(run.seed).choice(train, min(settings.rows, len(train)), replace=False)
    names = written.item_names(data, split, settings.listed)
    words = run["dataset"]["words"]
    prompts = written.row_prompts(settings.text, settings.listed, names, rows, drawn, words)
    answers = ["Yes" if label else "No" for label in rows.labels[drawn]]
    return [instruct.Instruction(*each) for each in zip(prompts, answers, strict=True)]

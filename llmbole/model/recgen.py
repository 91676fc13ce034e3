"""RecGen: an LLM that is tuned on recommendations, and on general instructions lest it forget how to reason.

Sun et al., Large Language Models Enhanced Collaborative Filtering, CIKM 2024, its first half, with the ways of tuning
that it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from llmbole.data.numbered import load_rows
from llmbole.llm import backbone as language_models
from llmbole.llm import hub_file, instruct, tune
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import Adapter, LoraSettings, merge
from llmbole.llm.tune import TuneSettings
from llmbole.model import stages, training, written
from llmbole.pipeline.run import StageRun
from llmbole.pipeline.stage import SET, stage
from llmbole.pipeline.store import Artifact, file_hash
from llmbole.settings import build

SLOTS = ("history", "target")


HALVES = ("half", "half_mixed")
MIXED = ("mixed", "half_mixed")
FILES = "recgen.general.files"
RUN_ONLY = (FILES,)
"""Settings that change nothing: where general instructions lie, which their SHA-256 pins."""


@dataclass(frozen=True)
class GeneralSettings:
    """Files of general instructions, one behind the other.

    Attributes:
        files: In Alpaca's or LIMA's form: paths, or `hf://datasets/OWNER/NAME@COMMIT/PATH`.
        sha256: Of each file, so that other content is another artifact.
    """

    files: tuple[str, ...]
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class RecGenSettings(TuneSettings):
    """How the LLM is tuned.

    Attributes:
        variant: `None` leaves it as it is; `lora`; `full`, all weights; `half`, all, on half the recommendations;
            `neft`, all, with noise on embeddings; `r3f`, all, with a loss that keeps predictions smooth; `wise_ft`,
            all, then a mean of weights before and after; `mixed`, all, with general instructions: RecGen;
            `half_mixed`, so on half the recommendations: Rec(Half)Gen.
        text: The prompt of a recommendation, whose answer is Yes or No.
        rows: Recommendations, drawn from the training rows; the halves take half of them.
        general: General instructions; `mixed` and `half_mixed` read them, so that one command may run all variants.
        max_tokens: Longer lessons are cut.
        epochs: Passes over all lessons, in place of `steps`; `None` takes `steps`.
        noise: Of `neft`.
        smoothness: Of `r3f`.
        ensemble: Share of the tuned weights in the mean of `wise_ft`.
        lora: Sizes of `lora`.
        listed: How items are listed.
    """

    variant: Literal["lora", "full", "half", "neft", "r3f", "wise_ft", "mixed", "half_mixed"] | None
    text: str
    rows: int
    general: GeneralSettings
    max_tokens: int
    epochs: float | None
    noise: float
    smoothness: instruct.Smoothness
    ensemble: float
    lora: LoraSettings
    listed: written.ListSettings

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {least}"
            for name, least in (("rows", 2), ("max_tokens", 2), ("noise", 0))
            if getattr(self, name) < least
        ]
        if not 0 <= self.ensemble <= 1:
            problems.append(f"ensemble = {self.ensemble}: must be in [0, 1]")
        if self.epochs is not None and not 0 < self.epochs < float("inf"):
            problems.append(f"epochs = {self.epochs}: must be a number above 0, or null")
        problems += self._general_problems()
        if problems:
            raise ValueError("\n".join(problems))
        written.check_slots(self.text, SLOTS)

    def _general_problems(self) -> list[str]:
        files, sums = self.general.files, self.general.sha256
        if not files and self.variant not in MIXED:
            return []
        if not files:
            return [f"variant = {self.variant} needs general instructions: set general.files"]
        missing = [f"general.files: {wrong}" for each in files if (wrong := hub_file.problem(each))]
        if missing:
            return missing
        here = [None if each.startswith(hub_file.PREFIX) else _checksum(each) for each in files]
        if len(sums) != len(files) or any(
            own not in (None, given) for own, given in zip(here, sums, strict=True)
        ):
            found = [own or "the hub's" for own in here]
            return [f"general.sha256 must be those of {list(files)!r}: {found}"]
        return []

    @property
    def recommendations(self) -> int:
        """How many recommendations the variant takes."""
        return self.rows // 2 if self.variant in HALVES else self.rows

    def for_lessons(self, number: int) -> RecGenSettings:
        """These settings with the steps that `epochs` asks for."""
        if self.epochs is None:
            return self
        steps = max(1, round(self.epochs * number / (self.batch_size * self.accumulation)))
        return replace(self, steps=steps)


def _checksum(name: str) -> str:
    return file_hash(Path(name).expanduser())


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
    general = {**run["recgen"]["general"], "files": run.resources[FILES]}
    return build(RecGenSettings, {**run["recgen"], "general": general}, "recgen")


def problems(settings: Mapping[str, Any]) -> list[str]:
    """What can't be tuned, of settings whose parts are sound.

    Args:
        settings: All settings.

    Returns:
        Messages.
    """
    if settings["recgen"]["variant"] is not None and settings["llm"].get("quantization"):
        return [
            "recgen.variant writes a whole model: leave llm.quantization empty, and quantize the tuned one"
        ]
    return []


@stage(
    makes="recgen",
    needs=("data", "split"),
    uses=("recgen", "llm", "dataset", "seed"),
    when=("recgen.variant", SET),
)
def tune_recgen(run: StageRun, data: Artifact, split: Artifact) -> Mapping[str, Any]:
    """Tune the LLM on recommendations, and on general instructions; the artifact holds the tuned model as a folder."""
    training.seed_everything(run.seed)
    settings = settings_of(run)
    lm = language_models.load(stages.llm_spec(run), stages.device(run))
    module = Tuned(lm, settings.lora if settings.variant == "lora" else None)
    own, general = _recommendations(run, data, split, settings), _general(settings)
    lessons = instruct.lessons(lm, [*own, *general], settings.max_tokens)
    settings = settings.for_lessons(len(lessons))
    before = tune.learned(module) if settings.variant == "wise_ft" else {}

    def loss(numbers: Tensor) -> tuple[Tensor, int]:
        batch = [lessons[number] for number in numbers.tolist()]
        if settings.variant == "r3f":
            return instruct.smooth_answer_loss(lm, batch, settings.smoothness)
        return instruct.answer_loss(lm, batch, settings.noise if settings.variant == "neft" else 0.0)

    with run.progress(settings.steps, "step") as ticker:
        tuned = tune.tune(
            module, loss, len(lessons), settings, seed=run.seed, workspace=run.workspace, progress=ticker
        )
    if settings.variant == "wise_ft":
        after = tune.learned(module)
        mean = {name: torch.lerp(before[name], after[name], settings.ensemble) for name in after}
        module.load_state_dict(mean, strict=False)
    count = sum(each.numel() for each in module.parameters() if each.requires_grad)
    run.count(trainable_parameters=count, llm_tokens=tuned.tokens)
    if settings.variant == "lora":
        merge(lm)
    name = f"recgen-{settings.variant}"
    language_models.save(lm, run.folder / name)
    left_out = len(own) + len(general) - len(lessons)
    return {
        "folder": name,
        "recommendations": len(own),
        "general": len(general),
        "left_out": left_out,
        "steps": tuned.step,
        "loss": tuned.loss,
        "did": f"{settings.variant}: {count:,} parameters, {tuned.step} steps over {len(lessons)} lessons "
        f"({left_out} were too long), loss {tuned.loss:.4f}",
    }


def tuned_spec(run: StageRun, recgen: Artifact | None) -> LLMSpec:
    """Where the run's LLM lies, as it comes or as it was tuned.

    Args:
        run: The stage; it must declare `llm`.
        recgen: The tuned LLM; `None` for the LLM as it comes.

    Returns:
        The language model.
    """
    spec: LLMSpec = stages.llm_spec(run)
    if recgen is None:
        return spec
    return replace(spec, name=str(recgen.folder / recgen.summary["folder"]), revision=None)


def identity(run: StageRun, recgen: Artifact | None) -> Mapping[str, Any]:
    """What the run's LLM is: name, revision and tuning; the stage must declare `llm`."""
    return {"llm": run["llm"], "recgen": None if recgen is None else recgen.key}


def _general(settings: RecGenSettings) -> list[instruct.Instruction]:
    """General instructions of files that are the pinned ones."""
    if settings.variant not in MIXED:
        return []
    found: list[instruct.Instruction] = []
    for name, wanted in zip(settings.general.files, settings.general.sha256, strict=True):
        path = hub_file.located(name)
        if file_hash(path) != wanted:
            raise ValueError(f"{name}: its SHA-256 is {file_hash(path)}, and general.sha256 says {wanted}")
        found += instruct.read(path)
    return found


def _recommendations(
    run: StageRun, data: Artifact, split: Artifact, settings: RecGenSettings
) -> list[instruct.Instruction]:
    """Instructions made of training rows: will the user choose the item?"""
    rows = load_rows(split.folder)
    train = rows.numbers("train")
    size = min(settings.recommendations, len(train))
    drawn = np.random.default_rng(run.seed).choice(train, size, replace=False)
    names = written.item_names(data, split, settings.listed)
    words = run["dataset"]["words"]
    prompts = written.row_prompts(settings.text, settings.listed, names, rows, drawn, words)
    answers = ["Yes" if label else "No" for label in rows.labels[drawn]]
    return [instruct.Instruction(*each) for each in zip(prompts, answers, strict=True)]

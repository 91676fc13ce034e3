"""Texts in, texts out: who answers a method's prompts, an LLM here, by vLLM or by many workers, or a server's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmbole.llm import backbone, encode
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.engine import Access, Engine, EngineError
from llmbole.llm.identity import LLMSpec
from llmbole.llm.local import LocalEngine
from llmbole.llm.served import ServedEngine, check_address
from llmbole.llm.texts import TextStore, Written, write
from llmbole.model import stages, written
from llmbole.pipeline.run import StageRun
from llmbole.settings import build

if TYPE_CHECKING:
    from llmbole.llm.workers import Workers

NAME = "generate"
SERVED_MODEL = f"{NAME}.served_model"


@dataclass(frozen=True)
class GenerateSettings:
    """Who writes texts, and how. Only `served_model` says which texts come out; nothing else is in an artifact's key.

    Attributes:
        engine: `local`, the method's LLM in this process; `ray`, in many workers; `vllm`, by vLLM; `openai`, a model
            of a server that speaks OpenAI's protocol.
        served_model: Of `openai`: the model's name at the server, which stands for all that the texts depend on.
        base_url: Of `openai`; this and the next ones: `llmbole.llm.engine.Access`.
        concurrency: As there.
        attempts: As there.
        timeout: As there.
        budget_requests: As there.
        budget_tokens: As there.
        workers: Of `ray`; this and the next ones: `llmbole.llm.workers.Workers`.
        cpus_per_worker: As there.
        gpus_per_worker: As there.
        ray_address: As there.
    """

    engine: Literal["local", "ray", "vllm", "openai"]
    served_model: str | None
    base_url: str | None
    concurrency: int
    attempts: int
    timeout: float
    budget_requests: int
    budget_tokens: int
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float | None
    ray_address: str | None

    def __post_init__(self) -> None:
        least = {"concurrency": 1, "attempts": 1, "budget_requests": 0, "budget_tokens": 0, "workers": 1}
        problems = [
            f"{name} = {getattr(self, name)}: must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        for name in ("timeout", "cpus_per_worker"):
            if not 0 < getattr(self, name) < float("inf"):
                problems.append(f"{name} = {getattr(self, name)}: must be a number above 0")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker < float("inf"):
            problems.append(
                f"gpus_per_worker = {self.gpus_per_worker}: must be a number of at least 0, or null"
            )
        problems += self._server_problems()
        if problems:
            raise ValueError("\n".join(problems))

    def _server_problems(self) -> list[str]:
        if self.engine == "openai" and not self.served_model:
            return ["engine = openai needs served_model: the model's name at the server"]
        if self.engine != "openai" and self.served_model:
            return [f"served_model = {self.served_model!r} is a server's: set engine=openai, or take it away"]
        try:
            check_address(self.base_url)
        except EngineError as error:
            return [str(error)]
        return []

    def access(self) -> Access:
        """How the server is asked."""
        return Access(**self._part(Access))

    def shared(self) -> Workers:
        """Who works, of `ray`."""
        from llmbole.llm.workers import Workers

        return Workers(**self._part(Workers))

    def _part(self, kind: type) -> dict[str, Any]:
        own = {each.name for each in fields(self)}
        return {each.name: getattr(self, each.name) for each in fields(kind) if each.name in own}


RUN_ONLY = tuple(f"{NAME}.{each.name}" for each in fields(GenerateSettings) if each.name != "served_model")
"""Settings that change no text: methods name them among their `run_only`."""


@dataclass(frozen=True)
class Model:
    """The LLM that writes, if no server does.

    Attributes:
        spec: Where it lies.
        identity: What it is, for the keys of answers.
    """

    spec: LLMSpec
    identity: Mapping[str, Any]


def problems(settings: Mapping[str, Any], writing: str) -> list[str]:
    """What engines can't do with a method's settings.

    Args:
        settings: All settings, whose parts are sound.
        writing: Name of the part that says how texts are decoded.

    Returns:
        Messages.
    """
    engine, penalty = settings[NAME]["engine"], settings[writing]["repetition_penalty"]
    if engine in ("openai", "vllm") and penalty != 1:
        return [
            f"{writing}.repetition_penalty = {penalty}: {NAME}.engine = {engine} has no penalty of an answer's own "
            "tokens; set it to 1"
        ]
    return []


def settings_of(run: StageRun) -> GenerateSettings:
    """The run's settings; a stage that writes must declare `generate.served_model`."""
    own = {name.partition(".")[2]: run.resources[name] for name in RUN_ONLY}
    return build(GenerateSettings, {**own, "served_model": run[SERVED_MODEL]}, NAME)


def write_texts(
    run: StageRun, model: Model, settings: written.WritingSettings, prompts: list[str]
) -> tuple[Written, int | None]:
    """Have prompts answered; a stage that was killed goes on where it was.

    Every answer is on the disk before the next group is taken, and an answer on the disk is never asked for again.
    What a kill can lose are answers under way: at most `generate.concurrency` requests of a server, a batch of a local
    model, a batch for each worker.

    Args:
        run: The stage, which declares `generate.served_model`; its workspace keeps answers while it is under way.
        model: The LLM, which is not loaded if a server answers.
        settings: How texts are decoded.
        prompts: What is asked.

    Returns:
        The answers, and the LLM's number of parameters; `None` if a server answers.
    """
    generate = settings_of(run)
    engine, parameters = _engine(run, model, settings, generate)
    return _write(run, engine, settings, prompts), parameters


def write_texts_here(
    run: StageRun,
    lm: LanguageModel,
    identity: Mapping[str, Any],
    settings: written.WritingSettings,
    prompts: list[str],
) -> Written:
    """Have prompts answered as `write_texts` does, by an LLM that is loaded already, such as one with updates.

    Args:
        run: The stage, whose workspace keeps answers while it is under way.
        lm: The LLM.
        identity: What it is, for the keys of answers.
        settings: How texts are decoded.
        prompts: What is asked.

    Returns:
        The answers.
    """
    engine = LocalEngine(lm, identity, settings.max_new_tokens, settings.repetition_penalty)
    return _write(run, engine, settings, prompts)


def _write(run: StageRun, engine: Engine, settings: written.WritingSettings, prompts: list[str]) -> Written:
    """Answers of an engine, kept in the stage's workspace; its tokens are counted."""
    store = TextStore(run.workspace / written.TEXTS)
    with run.progress(len(set(prompts)), "text") as ticker:
        try:
            return write(engine, prompts, store, settings.batch_size, ticker)
        finally:
            run.count(llm_tokens=engine.tokens)


def _engine(
    run: StageRun, model: Model, settings: written.WritingSettings, generate: GenerateSettings
) -> tuple[Engine, int | None]:
    """What answers, and its number of parameters."""
    longest, penalty = settings.max_new_tokens, settings.repetition_penalty
    if generate.engine == "openai":
        return ServedEngine(str(generate.served_model), longest, generate.access()), None
    if generate.engine == "local":
        lm = backbone.load(model.spec, stages.device(run)).freeze()
        return LocalEngine(lm, model.identity, longest, penalty), lm.parameters_total
    parameters = backbone.parameter_count(model.spec)
    if generate.engine == "vllm":
        from llmbole.llm.vllm_engine import VllmEngine

        return VllmEngine(model.spec, model.identity, longest), parameters
    from llmbole.llm.workers import WorkersEngine

    return WorkersEngine(model.spec, model.identity, longest, penalty, generate.shared()), parameters


def encode_texts(run: StageRun, texts: Sequence[str]) -> np.ndarray:
    """Vectors of texts by the run's text encoder, here or by the workers of `generate.engine=ray`.

    Args:
        run: The stage; it must declare `text_encoder`.
        texts: The texts.

    Returns:
        Shape `[n, T]`, float32.
    """
    spec = stages.encoder_spec(run)
    with run.progress(len(texts), "text") as ticker:
        if run.resources[f"{NAME}.engine"] == "ray":
            from llmbole.llm.workers import Workers, encode_by_workers

            own = {each.name: run.resources[f"{NAME}.{each.name}"] for each in fields(Workers)}
            return encode_by_workers(spec, texts, Workers(**own), ticker)
        parts = [
            encode.encode_texts(spec, part, stages.device(run), progress=ticker)
            for part in encode.shards(texts) or [[]]
        ]
        return np.concatenate(parts)

"""Greedy answers by vLLM, if it is installed: the prompts of a local model, with vLLM's own batches."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmbole.llm.backbone import load_tokens
from llmbole.llm.engine import Answer, EngineError
from llmbole.llm.identity import LLMSpec, folder
from llmbole.llm.local import frame
from llmbole.llm.texts import batches

PROMPTS_PER_CALL = 1024  # answers that a kill can lose; vLLM makes its batches of them


class VllmEngine:
    """Greedy answers of a language model that vLLM holds, in its chat template, as `LocalEngine` frames prompts.

    Args:
        spec: The language model.
        model: What it is: name, revision and tuning, for the keys of answers.
        max_new_tokens: Longest answer.

    Raises:
        EngineError: vLLM is not installed.
    """

    def __init__(self, spec: LLMSpec, model: Mapping[str, Any], max_new_tokens: int) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise EngineError("generate.engine = vllm needs vLLM and its hardware: pip install llmbole[vllm]")
        from vllm import LLM, SamplingParams

        self._tokens = load_tokens(spec)
        self._before, self._after = frame(self._tokens)
        self._llm = LLM(
            model=str(folder(spec)),
            dtype=spec.precision,
            quantization="bitsandbytes" if spec.quantization else None,
            trust_remote_code=spec.trust_remote_code,
            seed=0,
        )
        self._sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
        self.tokens = 0
        self.identity: Mapping[str, Any] = {
            "engine": "vllm",
            "model": dict(model),
            "max_new_tokens": max_new_tokens,
        }

    def answers(self, prompts: Sequence[str], batch_size: int) -> Iterator[Mapping[int, Answer]]:
        """Answers by their prompts' places.

        Args:
            prompts: What is asked.
            batch_size: Of no account: vLLM makes its own batches.

        Yields:
            Those of one call.
        """
        ids = [[*self._before, *each, *self._after] for each in self._tokens.ids_many(list(prompts))]
        for places in batches([len(each) for each in ids], PROMPTS_PER_CALL):
            asked = [{"prompt_token_ids": ids[place]} for place in places]
            found = [each.outputs[0] for each in self._llm.generate(asked, self._sampling, use_tqdm=False)]
            self.tokens += sum(len(ids[place]) for place in places) + sum(
                len(each.token_ids) for each in found
            )
            yield {place: Answer(each.text) for place, each in zip(places, found, strict=True)}

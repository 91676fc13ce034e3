"""vLLM is given the prompts and settings of a local model; without it the extra is named."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest

from llmbole.llm.engine import EngineError
from llmbole.llm.identity import LLMSpec
from llmbole.llm.texts import TextStore, write
from llmbole.llm.vllm_engine import VllmEngine


@pytest.fixture
def vllm(monkeypatch):
    """A module with vLLM's two names, which notes what they are given and answers with a prompt's length."""
    module, made = ModuleType("vllm"), []

    class LLM:
        def __init__(self, **settings):
            made.append(settings)

        def generate(self, prompts, sampling, use_tqdm):
            made.append((prompts, sampling))
            return [
                SimpleNamespace(
                    outputs=[SimpleNamespace(text=f" {len(each['prompt_token_ids'])}", token_ids=[1])]
                )
                for each in prompts
            ]

    module.LLM, module.SamplingParams = LLM, lambda **settings: settings
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_it_is_asked_for_greedy_answers_to_framed_prompts(vllm, folders, tmp_path):
    engine = VllmEngine(LLMSpec(str(folders["llama"])), {"name": "small"}, 5)
    found = write(engine, ["one", "one two three"], TextStore(tmp_path / "texts.jsonl"), 1)
    assert vllm[0]["model"] == str(folders["llama"].resolve()) and vllm[0]["dtype"] == "auto"
    prompts, sampling = vllm[1]
    assert sampling == {"temperature": 0.0, "max_tokens": 5}
    begin = engine._tokens.bos_id
    ids = [each["prompt_token_ids"] for each in prompts]
    assert ids == [[begin, *engine._tokens.ids(text)] for text in ("one two three", "one")]
    assert found.texts == [str(len(ids[1])), str(len(ids[0]))] and engine.tokens == sum(map(len, ids)) + 2


def test_without_it_the_extra_is_named(folders):
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(EngineError, match=r"pip install llmbole\[vllm\]"):
        VllmEngine(LLMSpec(str(folders["llama"])), {}, 5)

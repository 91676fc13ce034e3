"""Users per second of an LLM's ranking: by likelihood and by generation, in batches and one prompt at a time.

    python benchmarks/reranking.py [--llm tiny] [--adapter FOLDER] [--users 64] [--batch 32] [--threads 1]

Prompts are Llama4Rec's over ml-100k titles: a history of 5, a similar user's 5, 10 candidates. The plain ways are what
the library's replace: `candidate after candidate` runs prompt and title as a sequence of its own for each candidate of
one user at a time; `one answer at a time` generates for one user, to the end token or the longest answer. The
likelihoods are compared, and so are the generated answers. An adapter is what a run's stage `tuned` left in the store.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import movielens
import numpy as np
import torch
from torch import Tensor

from llmbole.llm import title_prompt
from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.lora import Adapter, LoraSettings
from llmbole.llm.prompt import Encoded
from llmbole.llm.title_prompt import ListWording, TitlePrompt, Titles
from llmbole.settings import load_yaml, properties_folder

logger = logging.getLogger("reranking")

NAMED = 3
WORDS = {"item": "movie", "items": "movies"}


def draw(lm: LanguageModel, users: int) -> tuple[list[Encoded], list[list[list[int]]]]:
    """Llama4Rec's listwise prompts, and each candidate's answer as the first title."""
    own = load_yaml(properties_folder() / "model" / "Llama4Rec.yaml")
    names = ListWording.__dataclass_fields__
    wording = ListWording(**{name: own["prompt"][name] for name in names})
    titles = Titles(lm, wording, movielens.titles())
    text = own["prompt"]["listwise"].replace("{augmentation}", own["augment"]["similar"])
    prompt = TitlePrompt(lm, text, wording, ("history", "candidates", "similar"), WORDS)
    generator = np.random.default_rng(0)
    drawn = [
        generator.choice(np.arange(1, len(titles.plain)), 20, replace=False).tolist() for _ in range(users)
    ]
    rows = [
        {
            "history": [titles.listed[item] for item in row[:5]],
            "similar": [titles.listed[item] for item in row[5:10]],
            "candidates": [titles.listed[item] for item in row[10:]],
            "count": str(NAMED),
        }
        for row in drawn
    ]
    answers = [[lm.tokens.ids(titles.quoted([item])) for item in row[10:]] for row in drawn]
    return prompt.encode(rows, 300), answers


@torch.inference_mode()
def plain_likelihoods(lm: LanguageModel, prompts: list[Encoded], answers: list[list[list[int]]]) -> Tensor:
    """Candidate after candidate, a whole sequence each."""
    rows = []
    for prompt, candidates in zip(prompts, answers, strict=True):
        values = []
        for ids in candidates:
            logits = lm.model(torch.tensor([[*prompt.ids, *ids]], device=lm.device), use_cache=False).logits[
                0
            ]
            places = torch.arange(len(prompt.ids) - 1, len(prompt.ids) + len(ids) - 1)
            values.append(
                logits[places].float().log_softmax(1)[torch.arange(len(ids)), torch.tensor(ids)].sum()
            )
        rows.append(torch.stack(values))
    return torch.stack(rows).cpu()


@torch.inference_mode()
def plain_generation(lm: LanguageModel, prompts: list[Encoded], longest: int) -> list[str]:
    """One answer at a time, without an end at the last title."""
    texts = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids], device=lm.device)
        found = lm.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=lm.tokens.pad_id,
        )
        texts.append(lm.tokens.decode(found[0, len(prompt.ids) :].tolist()))
    return texts


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="tiny", help="tiny, a local folder, or a hub id")
    parser.add_argument("--adapter", type=Path, help="folder of a tuned LoRA update of this LLM")
    parser.add_argument("--users", type=int, default=64, help="users of the library's ways")
    parser.add_argument("--batch", type=int, default=32, help="prompts run together")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    lm = load(LLMSpec(name=arguments.llm), arguments.device).freeze()
    if arguments.adapter is not None:
        stored = json.loads((arguments.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        rank, alpha = stored["r"], stored["lora_alpha"]
        targets = tuple(stored["target_modules"])
        Adapter(lm, LoraSettings(rank, alpha, 0.0, targets)).load(arguments.adapter)
    prompts, answers = draw(lm, arguments.users)
    few, batch = max(2, arguments.users // 8), arguments.batch
    longest = max(sum(sorted(map(len, row))[-NAMED:]) for row in answers) + 2 * NAMED
    limits = [longest] * len(prompts)
    logger.info(
        "%s%s, %d parameters, %d threads; prompts of %.0f tokens, titles of %.1f, answers of up to %d",
        arguments.llm,
        " tuned" if arguments.adapter else "",
        lm.parameters_total,
        arguments.threads,
        np.mean([len(prompt.ids) for prompt in prompts]),
        np.mean([len(ids) for row in answers for ids in row]),
        longest,
    )
    title_prompt.log_likelihoods(lm, prompts[:2], answers[:2], batch_size=2)  # warm up
    fast, scores = movielens.rate(
        logger,
        "by likelihood, in batches",
        len(prompts),
        lambda: title_prompt.log_likelihoods(lm, prompts, answers, batch_size=batch),
    )
    slow, plain = movielens.rate(
        logger, "candidate after candidate", few, lambda: plain_likelihoods(lm, prompts[:few], answers[:few])
    )
    many, texts = movielens.rate(
        logger,
        "by generation, in batches",
        len(prompts),
        lambda: title_prompt.generated_lists(lm, prompts, limits, NAMED, batch_size=batch),
    )
    single, alone = movielens.rate(
        logger, "one answer at a time", len(prompts), lambda: plain_generation(lm, prompts, longest)
    )
    if not (isinstance(scores, Tensor) and isinstance(plain, Tensor)):
        raise TypeError("scores must be tensors")
    if not (isinstance(texts, list) and isinstance(alone, list)):
        raise TypeError("answers must be texts")
    same = sum(
        whole.startswith(text) or text.startswith(whole) for text, whole in zip(texts, alone, strict=True)
    )  # one ends at its last title, the other at the limit
    logger.info("largest difference of likelihoods: %.1e", (scores[:few] - plain).abs().max())
    logger.info("answers that begin alike: %d of %d", same, len(texts))
    logger.info("likelihood, batches / candidate after candidate: %.1f x", fast / slow)
    logger.info("generation, batches / one answer at a time:      %.1f x", many / single)
    logger.info("likelihood, batches / generation, batches:       %.1f x", fast / many)


if __name__ == "__main__":
    main()

"""Users per second of scoring 20 candidates: shared prompt, full forward passes, and generation, in one process.

    python benchmarks/shared_prefix.py [--llm tiny] [--users 48] [--threads 1]

The prompts are A-LLMRec's over ml-100k titles, with random soft vectors. The plain scorers are what they replace:

- `full`: every candidate's whole text (prompt and title) is a sequence of its own, 20 in one padded batch per user;
- `generate`: greedy decoding of 512 tokens for two users at a time with repetition penalty 1.5, as in A-LLMRec's code;
- `generate, ends at eos`: the same, but both answers may end before 512 tokens.

The likelihoods of the first two ways are compared as well.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import movielens
import numpy as np
import torch
from torch import Tensor

from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.prompt import Encoded, Template, collate
from llmbole.llm.score import candidate_log_likelihood
from llmbole.llm.splice import splice

logger = logging.getLogger("shared_prefix")

ITEM = '"{title}"{item:soft}'
TEMPLATE = Template(
    "{user:soft}{bos} is a user representation.This user has watched {history} in the previous. Recommend one next "
    "movie for this user to watch next from the following movie title set, {candidates}. The recommendation is ",
    items={"history": ITEM, "candidates": ITEM},
    drop_oldest="history",
)
ANSWER = Template('"{title}"{eos}')
NEW_TOKENS = 512


def draw(lm: LanguageModel, users: int) -> tuple[list[Encoded], list[list[list[int]]]]:
    """Prompts with 10 items of history and 20 candidates, and the candidates' answer tokens."""
    titles = movielens.titles()[1:]
    generator = np.random.default_rng(0)
    drawn = [[titles[i] for i in generator.choice(len(titles), 30, replace=False)] for _ in range(users)]
    prompts = TEMPLATE.encode_many(
        lm.tokens, [{"history": row[:10], "candidates": row[10:]} for row in drawn]
    )
    answers = [
        [e.ids for e in ANSWER.encode_many(lm.tokens, [{"title": t} for t in row[10:]])] for row in drawn
    ]
    return prompts, answers


def embed(lm: LanguageModel, prompts: list[Encoded]) -> tuple[Tensor, Tensor]:
    """Prompt embeddings with vectors at the soft positions, the same for every prompt, and their mask."""
    batch = collate(prompts, lm.tokens.pad_id)
    embeddings = lm.embed(batch.ids)
    known = torch.randn(64, lm.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1
    for rows, columns in batch.soft.values():
        embeddings = splice(
            embeddings, rows, columns, known[: len(rows) // len(prompts)].repeat(len(prompts), 1)
        )
    return embeddings, batch.mask.to(lm.device)


def shared(lm: LanguageModel, prompts: list[Encoded], answers: list[list[list[int]]], batch: int) -> Tensor:
    """The library's way."""
    parts = []
    for start in range(0, len(prompts), batch):
        embeddings, mask = embed(lm, prompts[start : start + batch])
        parts.append(candidate_log_likelihood(lm, embeddings, mask, answers[start : start + batch]))
    return torch.cat(parts)


@torch.inference_mode()
def full(lm: LanguageModel, prompts: list[Encoded], answers: list[list[list[int]]]) -> Tensor:
    """One sequence for each candidate, all of a user in one batch, logits at answer positions only."""
    rows = []
    for prompt, candidates in zip(prompts, answers, strict=True):
        embeddings = embed(lm, [prompt])[0]  # [1, T, H]
        lengths = torch.tensor([len(ids) for ids in candidates], device=lm.device)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(c) for c in candidates], batch_first=True).to(
            lm.device
        )
        known = torch.arange(ids.shape[1], device=lm.device) < lengths[:, None]  # [C, A]
        inputs = torch.cat([embeddings.expand(len(ids), -1, -1), lm.embed(ids)], 1)  # [C, T+A, H]
        mask = torch.cat([torch.ones(len(ids), embeddings.shape[1], device=lm.device), known], 1).long()
        logits = lm.model(
            inputs_embeds=inputs, attention_mask=mask, use_cache=False, logits_to_keep=ids.shape[1] + 1
        ).logits[:, :-1]  # [C, A, V]
        values = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0] * known
        rows.append(values.sum(1) / lengths)
    return torch.stack(rows).cpu()


@torch.inference_mode()
def generate(lm: LanguageModel, prompts: list[Encoded], force: bool) -> int:
    """Greedy decoding for two users at a time; gives the number of decoding steps."""
    steps = 0
    for start in range(0, len(prompts), 2):
        embeddings, mask = embed(lm, prompts[start : start + 2])
        ids = lm.model.generate(  # type: ignore[operator]
            inputs_embeds=embeddings,
            attention_mask=mask,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS if force else None,
            do_sample=False,
            repetition_penalty=1.5,
            pad_token_id=lm.tokens.pad_id,
        )
        steps += ids.shape[1]
    return steps


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="tiny", help="tiny, a local folder, or a hub id")
    parser.add_argument("--users", type=int, default=48, help="users scored by the library's way")
    parser.add_argument("--batch", type=int, default=16, help="users in one batch of it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.filterwarnings("ignore", message="Passing `repetition_penalty`")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(arguments.threads)
    lm = load(LLMSpec(name=arguments.llm), arguments.device).freeze()
    prompts, answers = draw(lm, arguments.users)
    logger.info(
        "%s, %d parameters, %d threads; prompts of %.0f tokens, answers of %.1f",
        arguments.llm,
        lm.parameters_total,
        arguments.threads,
        np.mean([len(prompt.ids) for prompt in prompts]),
        np.mean([len(ids) for row in answers for ids in row]),
    )
    few, pairs = max(2, arguments.users // 6), 4
    shared(lm, prompts[:2], answers[:2], 2), full(lm, prompts[:1], answers[:1])  # warm up
    fast, scores = movielens.rate(
        logger, "shared prompt", len(prompts), lambda: shared(lm, prompts, answers, arguments.batch)
    )
    slow, plain = movielens.rate(
        logger, "20 full forward passes", few, lambda: full(lm, prompts[:few], answers[:few])
    )
    forced, _ = movielens.rate(
        logger, "generate 512", pairs, lambda: generate(lm, prompts[:pairs], force=True)
    )
    free, steps = movielens.rate(
        logger, "generate, ends at eos", pairs, lambda: generate(lm, prompts[:pairs], force=False)
    )
    if not (isinstance(scores, Tensor) and isinstance(plain, Tensor)):
        raise TypeError("scores must be tensors")
    logger.info("largest difference of the likelihoods: %.1e", (scores[:few] - plain).abs().max())
    logger.info("shared prompt / full forward passes: %.1f x (at least 5)", fast / slow)
    logger.info("shared prompt / generate 512:        %.1f x (at least 50)", fast / forced)
    logger.info(
        "shared prompt / generate to eos:     %.1f x (%s steps for %d users)", fast / free, steps, pairs
    )


if __name__ == "__main__":
    main()

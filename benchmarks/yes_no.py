"""Rows per second of yes/no scoring against plain code, and CoLLM's inference over TALLRec's, in one process.

    python benchmarks/yes_no.py [--llm tiny] [--rows 2000] [--threads 1] [--repeats 3]

The rows are ml-100k's: a random user's item and the items before it, in CoLLM's prompts.

- `scored`: what the methods run: sorted by length, packed, the template's beginning run once, the logits of two words
  at one position;
- `plain`: one prompt at a time, logits of every word at every position, of which two are read;
- `with soft tokens`: CoLLM's prompt, a user and an item vector mapped into it by an MLP, over `without`, TALLRec's
  prompt of titles. The paper has 1.11 to 1.14 (Table 6). `same prompts` is CoLLM's prompt in both, so that it shows
  what mapping and splicing cost alone.

The probabilities of `scored` and `plain` are compared as well. Times are the best of the repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

import movielens
import numpy as np
import torch
from torch import Tensor, nn

from llmbole.llm import yes_no
from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.pair_prompt import Answer, PairPrompt, Wording
from llmbole.llm.prompt import Encoded
from llmbole.settings import load_yaml, properties_folder

WIDTH, FACTOR = 64, 10  # of the conventional recommender's vectors, and of the mapping's inner layer
WORDS = {"item": "movie", "items": "movies"}


def prompt_of(lm: LanguageModel, titles: Sequence[str], part: str) -> PairPrompt:
    """CoLLM's prompt of titles (`prompt`), or the one with soft tokens (`hybrid`), as its yaml has them."""
    own = load_yaml(properties_folder() / "model" / "CoLLM.yaml")
    listed, answer = own["prompt"], own["answer"]
    names = ("listed", "separator", "empty", "untitled", "title_tokens")
    wording = Wording(**{name: listed[name] for name in names})
    asked = Answer(tuple(answer["words"]), answer["first_token"], answer["score"])
    return PairPrompt(lm, own[part]["text"], wording, asked, titles, WORDS)


def draw(count: int, users: Mapping[int, Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """Histories of up to 10 items, and the item after each."""
    generator = np.random.default_rng(0)
    histories, targets = [], []
    for user in generator.choice(list(users), count):
        place = int(generator.integers(1, len(users[user])))
        histories.append(list(users[user][max(0, place - 10) : place]))
        targets.append(users[user][place])
    return histories, targets


@torch.inference_mode()
def plain(prompt: PairPrompt, prompts: Sequence[Encoded]) -> Tensor:
    """One prompt at a time, with the logits of every word at every position."""
    found = []
    for one in prompts:
        embeddings, _ = yes_no.embed(prompt.lm, [one], {})
        logits = prompt.lm.model(inputs_embeds=embeddings, use_cache=False).logits  # [1, T, V]
        found.append(logits[0, -1, [prompt.ids.yes, prompt.ids.no]])
    return yes_no.probabilities(torch.stack(found).float(), prompt.answer.score)


def best(repeats: int, run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds of the fastest of some runs, and the last one's result."""
    seconds, result = [], torch.zeros(0)
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm = load(LLMSpec(options.llm)).freeze()
    titles, users = movielens.titles(), movielens.sequences()
    histories, targets = draw(options.rows, users)
    text, hybrid = (prompt_of(lm, titles, part) for part in ("prompt", "hybrid"))
    texts, hybrids = text.encode(histories, targets), hybrid.encode(histories, targets)

    scored, ours = best(options.repeats, lambda: text.probabilities(texts))
    few = max(1, options.rows // 10)
    slow, theirs = best(options.repeats, lambda: plain(text, texts[:few]))
    slow *= options.rows / few
    length = np.mean([len(one.ids) for one in texts])
    print(
        f"{options.llm}, {options.rows} rows of {length:.0f} tokens on average, {options.threads} thread(s)"
    )
    print(f"scored              {options.rows / scored:9.0f} rows/s")
    print(
        f"plain               {options.rows / slow:9.0f} rows/s   scored is {slow / scored:.1f} times as fast"
    )
    print(f"largest difference of the probabilities: {(ours[:few] - theirs).abs().max():.1e}")

    vectors = torch.randn(2, options.rows, WIDTH, generator=torch.Generator().manual_seed(0))
    mapping = nn.Sequential(
        nn.Linear(WIDTH, FACTOR * WIDTH), nn.ReLU(), nn.Linear(FACTOR * WIDTH, lm.hidden_size)
    )
    fixed = torch.zeros(options.rows, lm.hidden_size)

    def mapped(places: Sequence[int]) -> Mapping[str, Tensor]:
        rows = torch.as_tensor(places)
        return {"user": mapping(vectors[0][rows]), "item": mapping(vectors[1][rows])}

    def unmapped(places: Sequence[int]) -> Mapping[str, Tensor]:
        return dict.fromkeys(("user", "item"), fixed[: len(places)])

    collm, _ = best(options.repeats, lambda: hybrid.probabilities(hybrids, mapped))
    same, _ = best(options.repeats, lambda: hybrid.probabilities(hybrids, unmapped))
    print(
        f"with soft tokens    {options.rows / collm:9.0f} rows/s   {collm / scored:.2f} times the time of titles alone"
    )
    print(
        f"same prompts        {options.rows / same:9.0f} rows/s   {collm / same:.2f} times the time without mapping"
    )


if __name__ == "__main__":
    main()

"""Rows per second of yes/no scoring against plain code, and CoLLM's inference over TALLRec's, in one process.

    python benchmarks/yes_no.py [--llm tiny] [--protocol unified_ctr] [--rows 1000] [--threads 1] [--repeats 3]

The rows are the first test rows of ml-100k under a protocol of labelled pairs, as its runs score them, in the prompts
of TALLRec and CoLLM (and of CoReLLa with `--prompt CoReLLa`). `temporal_collm` has windows of months made up here.

- `scored`: what the methods run: what prompts begin with alike run once, packed, the logits of two words at one place;
- `template alone`: the same, with only what all prompts begin with run once;
- `plain`: one prompt at a time, logits of every word at every position, of which two are read;
- `positions`: those that the LLM reads for a row, which is what sharing lowers; and where the time of `scored` goes;
- `with soft tokens`: CoLLM's prompt, a user and an item vector mapped into it by an MLP, over `scored`, TALLRec's
  prompt of titles. The paper has 1.11 to 1.14 (Table 6). `same prompts` is CoLLM's prompt in both, so that it shows
  what mapping and splicing cost alone.

The probabilities of `scored` and `plain` are compared as well. Times are the best of the repeats, which take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from llmbole.data import cards, joined, protocol, splits
from llmbole.data.pair_rows import SHOWN, SHOWN_RATINGS, PairRows
from llmbole.data.pairs import PairSplit
from llmbole.data.text import ItemText
from llmbole.llm import shared_prefix, yes_no
from llmbole.llm.backbone import LanguageModel, load
from llmbole.llm.identity import LLMSpec
from llmbole.llm.pair_prompt import Answer, PairPrompt, Wording
from llmbole.llm.prompt import Encoded
from llmbole.settings import load_yaml, properties_folder

WIDTH, FACTOR = 64, 10  # of the conventional recommender's vectors, and of the mapping's inner layer
WORDS = {"item": "movie", "items": "movies"}
DAYS = ("1997-09-01", "1998-01-01", "1998-03-01", "1998-05-01")
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
}


@dataclasses.dataclass
class Rows:
    """Test rows: users, items shown with their ratings, items asked about; titles by internal id."""

    users: list[int]
    histories: list[list[int]]
    ratings: list[list[float]]
    targets: list[int]
    titles: list[str]


def test_rows(name: str, count: int, prompt: Mapping[str, Any]) -> Rows:
    """The first test rows of ml-100k under a protocol, with the history that a method's prompt shows."""
    package = importlib.util.find_spec("recbole")
    assert package is not None and package.origin is not None
    raw = Path(package.origin).parent / "dataset_example" / "ml-100k"
    windows = cards.Windows(*zip(DAYS, DAYS[1:], strict=False))
    card = dataclasses.replace(cards.card("ml-100k"), windows=windows)
    rules = protocol.protocol(name)
    with tempfile.TemporaryDirectory() as folder:
        data, frozen = Path(folder, "data"), Path(folder, "split")
        data.mkdir()
        frozen.mkdir()
        joined.prepare([card], [raw], data, lambda *done: None, Path(folder))
        splits.freeze(rules, card, data, frozen)
        split = splits.load(frozen)
        assert isinstance(split, PairSplit) and card.label is not None
        likes = prompt["shown"] == "likes" and name != "loo_ctr"
        taken = PairRows(
            split, "test", shown=prompt["history"], liked_from=card.label.positive_from if likes else None
        )
        columns = taken.interaction(range(min(count, len(taken))))
        histories = [[item for item in row if item] for row in columns[SHOWN].tolist()]
        ratings = [
            row[: len(own)] for row, own in zip(columns[SHOWN_RATINGS].tolist(), histories, strict=True)
        ]
        titles = ItemText.load(data, split.item_tokens).format("{title}", missing={})
        return Rows(columns["user_id"].tolist(), histories, ratings, columns["item_id"].tolist(), titles)


def prompt_of(lm: LanguageModel, titles: Sequence[str], model: str, part: str) -> PairPrompt:
    """A method's prompt as its yaml has it: of titles (`prompt`), or with soft tokens (`hybrid`)."""
    own = load_yaml(properties_folder() / "model" / f"{model}.yaml")
    listed, answer = own["prompt"], own["answer"]
    names = ("listed", "separator", "empty", "untitled", "title_tokens")
    wording = Wording(**{name: listed[name] for name in names})
    asked = Answer(tuple(answer["words"]), answer["first_token"], answer["score"])
    return PairPrompt(lm, own[part]["text"], wording, asked, titles, WORDS)


@torch.inference_mode()
def plain(prompt: PairPrompt, prompts: Sequence[Encoded]) -> Tensor:
    """One prompt at a time, with the logits of every word at every position."""
    found = []
    for one in prompts:
        embeddings, _ = yes_no.embed(prompt.lm, [one], {})
        logits = prompt.lm.model(inputs_embeds=embeddings, use_cache=False).logits  # [1, T, V]
        found.append(logits[0, -1, [prompt.ids.yes, prompt.ids.no]])
    return yes_no.probabilities(torch.stack(found).float(), prompt.answer.score)


def best(
    repeats: int, runs: Mapping[str, Callable[[], Tensor]]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Seconds of the fastest run of each, taking turns, and the last results."""
    seconds, results = dict.fromkeys(runs, float("inf")), {}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, results


def template_alone(run: Callable[[], Tensor]) -> Tensor:
    """A run in which groups of prompts share nothing."""

    def no_groups(symbols: Sequence[list[int]], shared: int) -> tuple[list[shared_prefix.Group], list[int]]:
        return [], list(range(len(symbols)))

    with mock.patch.object(shared_prefix, "partition", no_groups):
        return run()


def positions(run: Callable[[], Tensor]) -> int:
    """How many positions, padding included, the LLM reads in a run."""
    read, hidden = [], LanguageModel.hidden

    def counting(lm: LanguageModel, embeddings: Tensor, *more: Any, **named: Any) -> Tensor:  # noqa: ANN401
        read.append(embeddings.shape[0] * embeddings.shape[1])
        return hidden(lm, embeddings, *more, **named)

    with mock.patch.object(LanguageModel, "hidden", counting):
        run()
    return sum(read)


def where(run: Callable[[], Tensor]) -> str:
    """Shares of a run's time by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    times = {entry.key: entry.self_cpu_time_total for entry in found.key_averages()}
    shares = {
        kind: sum(times.get(name, 0) for name in names) / sum(times.values()) for kind, names in KINDS.items()
    }
    shares["other"] = 1 - sum(shares.values())
    return ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llm", default="tiny")
    parser.add_argument("--protocol", default="unified_ctr")
    parser.add_argument("--prompt", default="TALLRec", choices=("TALLRec", "CoReLLa"))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm = load(LLMSpec(options.llm)).freeze()
    shown = load_yaml(properties_folder() / "model" / f"{options.prompt}.yaml")["prompt"]
    rows = test_rows(options.protocol, options.rows, shown)
    text = prompt_of(lm, rows.titles, options.prompt, "prompt")
    start = time.perf_counter()
    texts = text.encode(rows.histories, rows.targets, rows.ratings)
    encoding = time.perf_counter() - start
    few = texts[:: max(1, len(texts) // 100)]
    scored = functools.partial(text.probabilities, texts)
    runs: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(text, few),
        "template alone": lambda: template_alone(scored),
        "scored": scored,
    }
    seconds, results = best(options.repeats, runs)
    seconds["plain"] *= len(texts) / len(few)
    difference = (results["scored"][:: max(1, len(texts) // 100)] - results["plain"]).abs().max()
    length = np.mean([len(one.ids) for one in texts])
    print(
        f"{options.prompt}, {options.llm}, {len(texts)} test rows of {options.protocol}, {length:.0f} tokens on "
        f"average, {options.threads} thread(s)"
    )
    for name, taken in seconds.items():
        print(f"{name:18} {len(texts) / taken:7.0f} rows/s   {seconds['plain'] / taken:.2f} times plain")
    print(f"largest difference of the probabilities: {difference:.1e}")
    alone, read = (positions(run) / len(texts) for run in (runs["template alone"], scored))
    print(f"positions of a row: plain {length:.0f}, template alone {alone:.0f}, scored {read:.0f}")
    print(
        f"where time goes: {where(scored)}; prompts were encoded in {encoding / seconds['scored']:.0%} of it before"
    )
    if options.prompt == "TALLRec":
        soft_tokens(lm, rows, seconds["scored"], options.repeats)


def soft_tokens(lm: LanguageModel, rows: Rows, titles_alone: float, repeats: int) -> None:
    """What CoLLM's vectors cost: those of a user are the same in all rows, as matrix factorisation has them."""
    hybrid = prompt_of(lm, rows.titles, "CoLLM", "hybrid")
    prompts, count = hybrid.encode(rows.histories, rows.targets), len(rows.users)
    generator = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(max(ids) + 1, WIDTH, generator=generator) for ids in (rows.users, rows.targets)
    )
    mapping = nn.Sequential(
        nn.Linear(WIDTH, FACTOR * WIDTH), nn.ReLU(), nn.Linear(FACTOR * WIDTH, lm.hidden_size)
    )
    of_users, of_items = (torch.tensor(ids) for ids in (rows.users, rows.targets))
    fixed = [mapping(table).detach() for table in (users, items)]

    def mapped(places: Sequence[int]) -> Mapping[str, Tensor]:
        taken = torch.as_tensor(places)
        return {"user": mapping(users[of_users[taken]]), "item": mapping(items[of_items[taken]])}

    def unmapped(places: Sequence[int]) -> Mapping[str, Tensor]:
        taken = torch.as_tensor(places)
        return {"user": fixed[0][of_users[taken]], "item": fixed[1][of_items[taken]]}

    runs = {
        "with soft tokens": lambda: hybrid.probabilities(prompts, mapped),
        "same prompts": lambda: hybrid.probabilities(prompts, unmapped),
    }
    seconds, _ = best(repeats, runs)
    collm, same = seconds.values()
    print(
        f"with soft tokens   {count / collm:7.0f} rows/s   {collm / titles_alone:.2f} times the time of titles alone"
    )
    print(
        f"same prompts       {count / same:7.0f} rows/s   {collm / same:.2f} times the time without mapping"
    )


if __name__ == "__main__":
    main()

"""Measures what the tiny LLM can do: `python -m llmbole.llm.tiny.measure [--model FOLDER] [--items FILE]`."""

import argparse
import csv
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from . import FOLDER, answers, copying, corpus, matching
from .encoding import Encoder
from .samples import Sample, fill, single
from .titles import KINDS, titles

logger = logging.getLogger(__name__)
RULES: tuple[tuple[str, str], ...] = (
    ("exact", "symbols"),
    ("exact", "words"),
    ("frequent", "symbols"),
    ("overlap", "symbols"),
    ("overlap", "words"),
)


class Answerer:
    """Answers samples greedily with the model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer, self.encoder = model.eval(), tokenizer, Encoder(tokenizer)

    def prompt_ids(self, sample: Sample, rng: random.Random) -> list[int]:
        """The prompt's tokens, with random tokens for its symbols."""
        encoded = self.encoder(Sample(sample.task, (*sample.turns[:-1], sample.turns[-1])), rng)
        return encoded.ids[: len(encoded.ids) - len(self.encoder.text(sample.answer)) - 1]

    @torch.no_grad()
    def __call__(self, samples: list[Sample], seed: int = 0, longest: int = 72, size: int = 16) -> list[str]:
        """One greedy answer per sample, without special tokens and surrounding space."""
        rng = random.Random(seed)
        found: list[str] = []
        pad = self.tokenizer.pad_token_id
        for start in range(0, len(samples), size):
            prompts = [self.prompt_ids(each, rng) for each in samples[start : start + size]]
            width = max(map(len, prompts))
            ids = torch.tensor([[pad] * (width - len(each)) + each for each in prompts])
            mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
            made = self.model.generate(ids, attention_mask=mask, max_new_tokens=longest, do_sample=False)
            texts = [str(self.tokenizer.decode(each[width:], skip_special_tokens=True)) for each in made]
            found += [each.strip() for each in texts]
        return found


def chosen(answer: str, candidates: tuple[str, ...]) -> int | None:
    """Which candidate an answer is exactly: quoted, alone or in a sentence; None if none."""
    text = answer.removeprefix("I recommend ").removesuffix(".").strip()
    for place, candidate in enumerate(candidates):
        if text in (candidate, f'"{candidate}"') or answer in (candidate, f'"{candidate}"'):
            return place
    return None


def draw(make: Callable[[random.Random], Sample], number: int, seed: int) -> list[Sample]:
    """Samples with one turn each (the first, where there are several)."""
    rng = random.Random(f"measure-{seed}")
    return [Sample(each.task, each.turns[:1], each.candidates) for each in (make(rng) for _ in range(number))]


def right(answerer: Answerer, samples: list[Sample], longest: int = 72) -> float:
    """Share of the answers that equal the sample's."""
    found = answerer(samples, longest=longest)
    return sum(made == each.answer for made, each in zip(found, samples, strict=True)) / len(samples)


def candidate_share(answerer: Answerer, samples: list[Sample]) -> dict[str, object]:
    """How often the answer is exactly one of the candidates, how often the drawn one, and where it stands."""
    places = [
        chosen(answer, each.candidates) for answer, each in zip(answerer(samples), samples, strict=True)
    ]
    hits = [
        place is not None and each.candidates[place] in each.answer
        for place, each in zip(places, samples, strict=True)
    ]
    return {
        "is_a_candidate": sum(place is not None for place in places) / len(places),
        "hit_at_1": sum(hits) / len(hits),
        "places": dict(sorted(Counter(place for place in places if place is not None).items())),
    }


def movie_prompts(names: list[str], number: int, seed: int, wording: int = 0) -> Iterator[Sample]:
    """A-LLMRec's prompt with random histories and 20 random candidates."""
    rng = random.Random(f"movies-{seed}")
    for _ in range(number):
        made = rng.sample(names, 20 + rng.randint(5, 10))
        listed = [",".join(f'"{each}"' for each in part) for part in (made[20:], made[:20])]
        prompt = fill(
            matching.WORDINGS[wording],
            user="",
            history=listed[0],
            candidates=listed[1],
            noun="movie",
            past="watched",
            verb="watch",
        )
        yield single("movies", prompt, f'"{rng.choice(made[:20])}"', tuple(made[:20]))


def movie_titles(file: Path) -> list[str]:
    """The titles of a RecBole item file of MovieLens-100K, with their years in brackets."""
    with file.open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        made = {f"{row['movie_title:token_seq']} ({row['release_year:token']})" for row in rows}
    return sorted(made)


def measurements(answerer: Answerer, number: int, names: list[str] | None = None) -> dict[str, object]:
    """All measurements of the model card, shares of 1; `number` samples each."""
    card: dict[str, object] = {}
    if names:
        bare = [each.rsplit(" (", 1)[0] for each in names]
        card["movielens_titles"] = candidate_share(answerer, list(movie_prompts(names, number, 1)))
        unique = sorted(set(bare))
        card["movielens_titles_without_year"] = candidate_share(
            answerer, list(movie_prompts(unique, number, 2))
        )
        card["movielens_other_wording"] = candidate_share(answerer, list(movie_prompts(unique, number, 3, 3)))
    for style in ("film", "product"):
        invented = titles(random.Random(f"held-out-{style}"), style, 2000)
        card[f"invented_{style}_titles"] = candidate_share(answerer, list(movie_prompts(invented, number, 4)))
    for rule, form in RULES:
        for most in (2, 5, 10, 20):
            samples = draw(partial(match_of, rule=rule, form=form, number=most), number, most)
            card[f"{rule}_{form}_{most}_candidates"] = candidate_share(answerer, samples)["hit_at_1"]
    for task in (
        "yes_no_symbols",
        "yes_no_words",
        "member",
        "rate_symbols",
        "rate_words",
        "place",
        "following",
    ):
        card[task] = right(answerer, draw(task_of(task), number, 5))
    for task in ("rank_symbols", "rank_words", "sort", "repeat"):
        card[task] = right(answerer, draw(task_of(task), number, 6), 320)
    card["explain"] = right(answerer, draw(answers.explain, number, 7), 96)
    card["copy_by_title_tokens"] = copy_rates(answerer, number)
    return card


def task_of(name: str) -> Callable[[random.Random], Sample]:
    """A task of the corpus with at most 20 candidates."""
    return lambda rng: corpus.TASKS[name](rng, 20)


def match_of(rng: random.Random, rule: str, form: str, number: int) -> Sample:
    """A movie choice with exactly `number` candidates."""
    while True:
        sample = matching.match(rng, rule, form, number, KINDS[0])
        if len(sample.candidates) == number:
            return sample


def copy_rates(answerer: Answerer, number: int) -> dict[str, float]:
    """Exact copies of single titles by their length in tokens."""
    samples = draw(copying.copy, 4 * number, 8)
    groups: dict[str, list[Sample]] = {}
    for each in samples:
        length = len(answerer.encoder.text(each.candidates[0]))
        name = next(f"up to {most}" for most in (5, 10, 20, 40, 1000) if length <= most)
        groups.setdefault(name, []).append(each)
    return {name: right(answerer, group) for name, group in sorted(groups.items())}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the model")
    parser.add_argument("--items", type=Path, help="a RecBole .item file of MovieLens-100K, for real titles")
    parser.add_argument("--number", type=int, default=100, help="samples per measurement")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    answerer = Answerer(model, PreTrainedTokenizerFast.from_pretrained(options.model))
    names = movie_titles(options.items) if options.items else None
    logger.info(json.dumps(measurements(answerer, options.number, names), indent=2))


if __name__ == "__main__":
    main()

"""Tests whether soft prompts can steer the frozen LLM: `python -m llmbole.llm.tiny.soft [--model FOLDER]`.

Users and items are random latent vectors; the item that fits a user best has the greatest inner product. Two
small networks, which map latent vectors into the frozen LLM's input embeddings, are trained on the loss of
the answer in A-LLMRec's prompt (Kim et al., KDD 2024): the user's vector comes first and an item's vector
follows its title. Then candidates are ranked by the mean log-likelihood of their titles, for held-out users.
"""

import argparse
import logging
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from . import FOLDER
from .initial import embeddings
from .titles import titles

logger = logging.getLogger(__name__)
BEGIN = "<s> is a user representation.This user has watched "
MIDDLE = (
    " in the previous. Recommend one next movie for this user to watch next from the following movie title "
    "set, "
)
END = ". The recommendation is "


@dataclass(frozen=True)
class Question:
    """A user, a history and candidates (item numbers), and the candidate that is the answer."""

    user: int
    history: list[int]
    candidates: list[int]
    answer: int


@dataclass
class World:
    """Random users and items whose inner products say how well they fit."""

    users: int = 300
    items: int = 400
    width: int = 50
    seed: int = 0
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.user_latent = torch.randn(self.users, self.width, generator=generator)
        self.item_latent = torch.randn(self.items, self.width, generator=generator)
        self.fit = self.user_latent @ self.item_latent.T / self.width**0.5  # [users, items]
        self.names = titles(random.Random(f"soft-{self.seed}"), "film", self.items)

    def question(
        self, user: int, rng: random.Random, candidates: int = 20, sharpness: float = 0.0
    ) -> Question:
        """Random candidates; the answer is the best one, or is drawn by softmax with a sharpness above 0."""
        shown = rng.sample(range(self.items), candidates)
        fits = self.fit[user][shown]
        if sharpness:
            weights = torch.softmax(sharpness * fits, 0).tolist()
            answer = rng.choices(shown, weights)[0]
        else:
            answer = shown[int(fits.argmax())]
        liked = [each for each in self.fit[user].topk(60).indices.tolist() if each not in shown]
        return Question(user, rng.sample(liked, rng.randint(3, 6)), shown, answer)


class SoftPrompts(nn.Module):
    """The frozen LLM with trainable networks from latent vectors to input embeddings."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World) -> None:
        super().__init__()
        self.model, self.tokenizer, self.world = model.requires_grad_(False), tokenizer, world
        width = model.config.hidden_size
        self.user_network, self.item_network = (
            nn.Sequential(
                nn.Linear(world.width, width), nn.LayerNorm(width), nn.LeakyReLU(), nn.Linear(width, width)
            )
            for _ in range(2)
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def layout(self, question: Question, answer: int) -> tuple[list[int], list[tuple[int, int]], int]:
        """Token numbers, (position, item) of the item vectors, and where the answer begins."""
        ids, places = [0, *self.ids(BEGIN)], []
        for items, after in ((question.history, MIDDLE), (question.candidates, END)):
            for order, item in enumerate(items):
                ids += self.ids(("," if order else "") + f'"{self.world.names[item]}"')
                places.append((len(ids), item))
                ids.append(0)
            ids += self.ids(after)
        start = len(ids)
        return [*ids, *self.ids(f'"{self.world.names[answer]}"'), self.tokenizer.eos_token_id], places, start

    def losses(self, asked: list[tuple[Question, int]]) -> Tensor:
        """The mean cross-entropy of each answer's tokens, [B]."""
        layouts = [self.layout(question, answer) for question, answer in asked]
        width = max(len(ids) for ids, _, _ in layouts)
        ids = torch.tensor([each + [0] * (width - len(each)) for each, _, _ in layouts])  # [B, T]
        learned = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (each, _, start) in enumerate(layouts):
            learned[row, start : len(each)] = True
        rows = torch.tensor([row for row, (_, places, _) in enumerate(layouts) for _ in places])
        columns = torch.tensor([column for _, places, _ in layouts for column, _ in places])
        items = torch.tensor([item for _, places, _ in layouts for _, item in places])
        users = torch.tensor([question.user for question, _ in asked])
        inputs = embeddings(self.model)[ids]  # [B, T, H]
        inputs = inputs.index_put((rows, columns), self.item_network(self.world.item_latent[items]))
        first = self.user_network(self.world.user_latent[users])[:, None]  # [B, 1, H]
        inputs = torch.cat((first, inputs[:, 1:]), 1)
        states = self.model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, :-1]
        learned, labels = learned[:, 1:], ids[:, 1:]
        losses = torch.zeros(labels.shape).masked_scatter(
            learned,
            functional.cross_entropy(self.model.lm_head(states[learned]), labels[learned], reduction="none"),
        )
        return losses.sum(1) / learned.sum(1)


def agreement(prompts: SoftPrompts, users: range, number: int, seed: int) -> float:
    """Share of questions whose most likely candidate is the one of the greatest inner product."""
    rng = random.Random(seed)
    hits = 0
    with torch.no_grad():
        for _ in range(number):
            question = prompts.world.question(rng.choice(users), rng)
            losses = prompts.losses([(question, each) for each in question.candidates])
            hits += question.candidates[int(losses.argmin())] == question.answer
    return hits / number


def train(prompts: SoftPrompts, users: range, seconds: float, rate: float, sharpness: float = 2.0) -> int:
    """Trains the networks for some time; returns the number of updates with 8 questions each."""
    networks = [*prompts.user_network.parameters(), *prompts.item_network.parameters()]
    optimizer = torch.optim.Adam(networks, lr=rate)
    rng, started, mean, updates = random.Random(1), time.monotonic(), 0.0, 0
    while time.monotonic() - started < seconds:
        asked = [prompts.world.question(rng.choice(users), rng, sharpness=sharpness) for _ in range(8)]
        loss = prompts.losses([(each, each.answer) for each in asked]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        mean += (loss.item() - mean) / min(updates, 100)
        if updates % 100 == 0:
            logger.info("%d updates, %.0f s: loss %.3f", updates, time.monotonic() - started, mean)
    return updates


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the model")
    parser.add_argument("--seconds", type=float, default=300.0, help="training time")
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument(
        "--sharpness", type=float, default=2.0, help="of the training answers; 0: always the best"
    )
    parser.add_argument("--number", type=int, default=120, help="questions of the test")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    model = LlamaForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)
    prompts = SoftPrompts(model, tokenizer, World())
    seen, held_out = range(240), range(240, 300)
    updates = train(prompts, seen, options.seconds, options.rate, options.sharpness)
    shares = [agreement(prompts, users, options.number, 2) for users in (seen, held_out)]
    logger.info("%d updates: agreement %.3f with users seen, %.3f with users held out", updates, *shares)


if __name__ == "__main__":
    main()

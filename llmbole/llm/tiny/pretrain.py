"""Pre-trains the tiny LLM on the generated corpus: `python -m llmbole.llm.tiny.pretrain --out FOLDER`."""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import sample
from .encoding import BOS, EOS, PAD, SPECIAL, VOCABULARY_SIZE, Encoded, Encoder, train_tokenizer
from .initial import embeddings, initialize

logger = logging.getLogger(__name__)
STATE = "training.pt"
POOL = 384
"""Samples that are generated, sorted by length and cut into batches at a time."""


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, besides the corpus."""

    tokens: int = 28_000_000
    seed: int = 2026
    batch_tokens: int = 4096
    batch_tokens_early: int = 2048
    early: float = 0.7
    rate: float = 2.5e-3
    final_rate: float = 5e-5
    warmup: float = 0.01
    decay: float = 0.05
    noise: float = 0.5
    longest: int = 640
    longest_late: int = 1280
    late: float = 0.75


@dataclass(frozen=True)
class Batch:
    """Samples of about one length, padded on the right (causal attention needs no mask then)."""

    ids: Tensor  # [B, T]
    weights: Tensor  # [B, T]
    rows: Tensor  # [N], position p's vector is added up from N_p entries
    columns: Tensor  # [N]
    tokens: Tensor  # [N]
    shares: Tensor  # [N], whose squares add up to 1 at a position
    invented: Tensor  # [N], bool


def new_model() -> LlamaForCausalLM:
    """The untrained model: 4 layers of width 128 with tied embeddings, 1.3 M parameters."""
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        initializer_range=0.04,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
    )
    model = LlamaForCausalLM(config)
    initialize(model)
    return model


def collate(samples: list[Encoded]) -> Batch:
    """Samples as one right-padded batch; padding has weight 0."""
    width = max(len(each.ids) for each in samples)
    entries = [
        (row, column, token, weight, each.invented)
        for row, each in enumerate(samples)
        for column, shares in each.vectors.items()
        for token, weight in shares
    ]
    rows, columns, tokens, shares, invented = zip(*entries, strict=True) if entries else ((), (), (), (), ())
    return Batch(
        torch.tensor([each.ids + [0] * (width - len(each.ids)) for each in samples]),
        torch.tensor([each.weights + [0.0] * (width - len(each.ids)) for each in samples]),
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(columns, dtype=torch.long),
        torch.tensor(tokens, dtype=torch.long),
        torch.tensor(shares, dtype=torch.float),
        torch.tensor(invented, dtype=torch.bool),
    )


def pool(encoder: Encoder, recipe: Recipe, number: int, progress: float) -> Iterator[Batch]:
    """The batches of the `number`-th pool, which depends on nothing but the seed and the progress."""
    rng = random.Random(f"{recipe.seed}-{number}")
    longest = recipe.longest_late if progress >= recipe.late else recipe.longest
    most = recipe.batch_tokens_early if progress < recipe.early else recipe.batch_tokens
    encoded = [encoder(sample(rng, progress), rng) for _ in range(POOL)]
    encoded = sorted((each for each in encoded if len(each.ids) <= longest), key=lambda each: len(each.ids))
    groups: list[list[Encoded]] = [[]]
    for each in encoded:
        if len(each.ids) * (len(groups[-1]) + 1) > most:
            groups.append([])
        groups[-1].append(each)
    rng.shuffle(groups)
    yield from (collate(group) for group in groups)


def embed(model: LlamaForCausalLM, batch: Batch, noise: float) -> Tensor:
    """Input embeddings; attributes are noisy sums of token embeddings or of vectors drawn for the batch."""
    table = embeddings(model)
    inputs = functional.embedding(batch.ids, table)  # [B, T, H]
    if not len(batch.rows):
        return inputs
    deviation = table.detach().std()
    # a symbol is one token within its sample, so it gets one drawn vector there
    symbols, places = torch.unique(batch.rows * VOCABULARY_SIZE + batch.tokens, return_inverse=True)
    drawn = invent(symbols // VOCABULARY_SIZE, table.shape[1]) * deviation
    vectors = torch.where(batch.invented[:, None], drawn[places], table[batch.tokens])  # [N, H]
    vectors = vectors * batch.shares[:, None]
    added = torch.zeros_like(inputs).index_put((batch.rows, batch.columns), vectors, accumulate=True)
    replaced = torch.zeros(batch.ids.shape, dtype=torch.bool)
    replaced[batch.rows, batch.columns] = True
    strength = torch.rand(len(batch.ids), 1, 1) * 2 - 1  # half of the rows stay without noise
    added = added + torch.randn_like(added) * deviation * noise * strength.clamp(min=0)
    return torch.where(replaced[..., None], added, inputs)


def invent(rows: Tensor, width: int) -> Tensor:
    """Random vectors of the norm sqrt(width), orthogonal within a sample if at most `width`."""
    drawn = torch.randn(len(rows), width)
    pieces = []
    for piece in drawn.split(torch.unique_consecutive(rows, return_counts=True)[1].tolist()):
        few = len(piece) <= width
        pieces.append(torch.linalg.qr(piece.T)[0].T * width**0.5 if few else piece)
    return torch.cat(pieces)  # [symbols, H]


def loss_of(model: LlamaForCausalLM, batch: Batch, noise: float) -> Tensor:
    """The weighted mean of the learned tokens' cross-entropy, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(inputs_embeds=embed(model, batch, noise), use_cache=False).last_hidden_state
        weights = batch.weights[:, 1:]
        learned = weights > 0
        logits = model.lm_head(states[:, :-1][learned])  # [learned tokens, V]
    losses = functional.cross_entropy(logits.float(), batch.ids[:, 1:][learned], reduction="none")
    return (losses * weights[learned]).sum() / weights[learned].sum()


def rate_at(recipe: Recipe, seen: int) -> float:
    """Linear warm-up, then a cosine to the final learning rate."""
    progress = seen / recipe.tokens
    if progress < recipe.warmup:
        return recipe.rate * (progress + 1e-3) / recipe.warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - recipe.warmup) / (1 - recipe.warmup))))
    return recipe.final_rate + (recipe.rate - recipe.final_rate) * cosine


def optimizer_of(model: LlamaForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices but neither norms nor embeddings."""
    table = embeddings(model)
    matrices = [each for each in model.parameters() if each.ndim > 1 and each is not table]
    others = [each for each in model.parameters() if each.ndim < 2 or each is table]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98), fused=True)


class Run:
    """A training run and its folder, which holds the last checkpoint and the state to resume from."""

    def __init__(self, folder: Path, recipe: Recipe, resume: bool) -> None:
        self.folder, self.recipe = folder, recipe
        self.seen, self.pools, self.seconds = 0, 0, 0.0
        torch.manual_seed(recipe.seed)
        if resume and not (folder / STATE).exists():
            raise FileNotFoundError(f"{folder / STATE} is missing: start without --resume")
        if resume:
            self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        else:
            self.tokenizer = train_tokenizer(recipe.seed)
            self.model = new_model()
        self.optimizer = optimizer_of(self.model, recipe)
        if resume:
            state = torch.load(folder / STATE, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.seen, self.pools, self.seconds = state["seen"], state["pools"], state["seconds"]

    def save(self) -> None:
        """Writes the model, the tokenizer, the recipe and the state to resume from."""
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "seen": self.seen,
            "pools": self.pools,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / STATE)
        record = {**vars(self.recipe), "seen": self.seen, "seconds": round(self.seconds)}
        (self.folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n")
        logger.info("saved %s after %d tokens, %.0f s", self.folder, self.seen, self.seconds)

    def step(self, batch: Batch) -> float:
        """One update; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.recipe, self.seen)
        loss = loss_of(self.model, batch, self.recipe.noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.seen += int(batch.ids.numel())
        return loss.item()

    def train(self, every: int = 1_000_000) -> None:
        """Trains until the recipe's tokens are seen; saves about every `every` tokens and at the end."""
        encoder = Encoder(self.tokenizer)
        saved, mean = self.seen, 0.0
        with tqdm(
            total=self.recipe.tokens, initial=self.seen, unit="token", unit_scale=True, mininterval=10
        ) as bar:
            while self.seen < self.recipe.tokens:
                started, before = time.monotonic(), self.seen
                losses = [
                    self.step(batch)
                    for batch in pool(encoder, self.recipe, self.pools, self.seen / self.recipe.tokens)
                ]
                self.pools += 1
                self.seconds += time.monotonic() - started
                bar.update(self.seen - before)
                mean = sum(losses) / len(losses)
                if self.pools % 10 == 0:
                    logger.info("%d tokens, %.0f s: loss %.3f", self.seen, self.seconds, mean)
                if self.seen - saved >= every:
                    self.save()
                    saved = self.seen
        self.save()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, made if missing")
    parser.add_argument("--tokens", type=int, default=Recipe.tokens, help="training length, padding included")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last checkpoint")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    Run(options.out, Recipe(tokens=options.tokens, seed=options.seed), options.resume).train()


if __name__ == "__main__":
    main()

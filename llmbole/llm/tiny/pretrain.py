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
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import sample
from .encoding import BOS, EOS, PAD, SPECIAL, VOCABULARY_SIZE, Encoded, Encoder, train_tokenizer
from .initial import EMBEDDING_DEVIATION, Directions, embeddings, initialize
from .latent import LATENT

logger = logging.getLogger(__name__)
STATE = "training.pt"
POOL = 384
"""Samples that are generated, sorted by length and cut into batches at a time."""


@dataclass(frozen=True)
class Recipe:
    """What decides the trained weights, besides the corpus."""

    tokens: int = 20_000_000
    curriculum: int = 12_000_000
    """Tokens of the curriculum; behind it the learning rate rises and falls once more."""
    seed: int = 2026
    batch_tokens: int = 4096
    batch_tokens_early: int = 2048
    early: float = 0.7
    rate: float = 2.5e-3
    second_rate: float = 1.2e-3
    final_rate: float = 5e-5
    warmup: float = 0.01
    decay: float = 0.05
    noise: float = 0.5
    longest: int = 640
    longest_late: int = 1280
    late: float = 0.32


@dataclass(frozen=True)
class Batch:
    """Samples of about one length, padded on the right (causal attention needs no mask then)."""

    ids: Tensor  # [B, T]
    weights: Tensor  # [B, T]
    rows: Tensor  # [N], position p's vector is added up from N_p entries
    columns: Tensor  # [N]
    tokens: Tensor  # [N], or coordinates of latent vectors
    shares: Tensor  # [N]
    invented: Tensor  # [N], bool
    latent: Tensor  # [B], bool


class LatentMaps(nn.Module):
    """Two linear maps, for users and for items, of latent vectors into the model's input space.

    They are trained with the model and thrown away after it. The model then has a language of vectors that it
    understands, and who wants to speak it has to find it, as with any LLM.
    """

    def __init__(self, directions: Directions) -> None:
        super().__init__()
        norm = directions.user.shape[1] ** 0.5 * EMBEDDING_DEVIATION  # a token embedding's
        self.rows = nn.Parameter(torch.cat((directions.user, directions.item)) * norm)  # [2 LATENT, H]
        self.marks = nn.Parameter(directions.marks * norm / 2)  # [2, H], added to users and to items


def new_model(tokenizer: PreTrainedTokenizerFast) -> tuple[LlamaForCausalLM, LatentMaps]:
    """The untrained model, 4 layers of width 128 with tied embeddings, 1.6 M parameters, and its maps.

    Heads of width 64 with slow rotations leave 40 dimensions in which a query finds a key at any distance.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000_000.0},
        initializer_range=0.04,
        tie_word_embeddings=True,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
    )
    model = LlamaForCausalLM(config)
    openings = [
        token for text in (',"', ' "') for token in tokenizer(text, add_special_tokens=False).input_ids
    ]
    return model, LatentMaps(initialize(model, SPECIAL.index(BOS), openings))


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
        torch.tensor([each.latent for each in samples]),
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


def embed(model: LlamaForCausalLM, maps: LatentMaps, batch: Batch, noise: float) -> Tensor:
    """Input embeddings, [B, T, H]; attributes are noisy sums of token embeddings, drawn or mapped vectors."""
    table = embeddings(model)
    inputs = functional.embedding(batch.ids, table)  # [B, T, H]
    if not len(batch.rows):
        return inputs
    deviation = table.detach().std()
    # a symbol is one token within its sample, so it gets one drawn vector there
    symbols, places = torch.unique(batch.rows * VOCABULARY_SIZE + batch.tokens, return_inverse=True)
    drawn = invent(symbols // VOCABULARY_SIZE, table.shape[1]) * deviation
    vectors = torch.where(batch.invented[:, None], drawn[places], table[batch.tokens])  # [N, H]
    mapped = maps.rows[batch.tokens.clamp(max=len(maps.rows) - 1)]
    latent = batch.latent[batch.rows][:, None]  # [N, 1]
    vectors = torch.where(latent, mapped, vectors) * batch.shares[:, None]
    marked = (batch.tokens % LATENT == 0)[:, None] & latent  # once per position, at the first coordinate
    items = (batch.tokens >= LATENT).long()
    present = 2.4 * torch.rand(len(batch.ids), 2) - 1.2  # [B, 2], so that half of the marks are missing
    marks = maps.marks[items] * present.clamp(min=0)[batch.rows, items][:, None]
    vectors = vectors + torch.where(marked, marks, 0.0)
    added = torch.zeros_like(inputs).index_put((batch.rows, batch.columns), vectors, accumulate=True)
    replaced = torch.zeros(batch.ids.shape, dtype=torch.bool)
    replaced[batch.rows, batch.columns] = True
    strength = torch.rand(len(batch.ids), 1, 1) * 2 - 1  # half of the rows stay without noise
    drawn_noise = torch.randn_like(added) + batch.latent[:, None, None] * offsets(batch, table.shape[1])
    added = added + drawn_noise * deviation * noise * strength.clamp(min=0)
    return torch.where(replaced[..., None], added, inputs)


def offsets(batch: Batch, width: int) -> Tensor:
    """A vector per sample that all its users' positions share, and one for all its items', [B, T, H]."""
    items = torch.zeros(batch.ids.shape, dtype=torch.long)
    items[batch.rows, batch.columns] = (batch.tokens >= LATENT).long()
    drawn = torch.randn(len(batch.ids), 2, width)
    return drawn.gather(1, items[..., None].expand(-1, -1, width))


def invent(rows: Tensor, width: int) -> Tensor:
    """Random vectors of the norm sqrt(width), orthogonal within a sample if at most `width`."""
    drawn = torch.randn(len(rows), width)
    pieces = []
    for piece in drawn.split(torch.unique_consecutive(rows, return_counts=True)[1].tolist()):
        few = len(piece) <= width
        pieces.append(torch.linalg.qr(piece.T)[0].T * width**0.5 if few else piece)
    return torch.cat(pieces)  # [symbols, H]


def loss_of(model: LlamaForCausalLM, maps: LatentMaps, batch: Batch, noise: float) -> Tensor:
    """The weighted mean of the learned tokens' cross-entropy, in nats."""
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(
            inputs_embeds=embed(model, maps, batch, noise), use_cache=False
        ).last_hidden_state
        weights = batch.weights[:, 1:]
        learned = weights > 0
        logits = model.lm_head(states[:, :-1][learned])  # [learned tokens, V]
    losses = functional.cross_entropy(logits.float(), batch.ids[:, 1:][learned], reduction="none")
    return (losses * weights[learned]).sum() / weights[learned].sum()


def rate_at(recipe: Recipe, seen: int) -> float:
    """Linear warm-up, then a cosine to the final learning rate; twice."""
    first = seen < recipe.curriculum
    rate = recipe.rate if first else recipe.second_rate
    done, all_tokens = seen, recipe.curriculum
    if not first:
        done, all_tokens = seen - recipe.curriculum, recipe.tokens - recipe.curriculum
    progress = done / all_tokens
    if progress < recipe.warmup:
        return rate * (progress + 1e-3) / recipe.warmup
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - recipe.warmup) / (1 - recipe.warmup))))
    return recipe.final_rate + (rate - recipe.final_rate) * cosine


def optimizer_of(model: LlamaForCausalLM, maps: LatentMaps, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices but neither norms nor embeddings nor maps."""
    table = embeddings(model)
    matrices = [each for each in model.parameters() if each.ndim > 1 and each is not table]
    others = [each for each in model.parameters() if each.ndim < 2 or each is table]
    others += list(maps.parameters())
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
        self.tokenizer = (
            PreTrainedTokenizerFast.from_pretrained(folder) if resume else train_tokenizer(recipe.seed)
        )
        self.model, self.maps = new_model(self.tokenizer)
        if resume:
            self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.optimizer = optimizer_of(self.model, self.maps, recipe)
        if resume:
            state = torch.load(folder / STATE, weights_only=True)
            self.maps.load_state_dict(state["maps"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            self.seen, self.pools, self.seconds = state["seen"], state["pools"], state["seconds"]

    def save(self) -> None:
        """Writes the model, the tokenizer, the recipe and the state to resume from."""
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
        state = {
            "maps": self.maps.state_dict(),
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
        loss = loss_of(self.model, self.maps, batch, self.recipe.noise)
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
                    for batch in pool(encoder, self.recipe, self.pools, self.seen / self.recipe.curriculum)
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

"""Initial weights from which a small transformer finds in-context copying quickly.

In the spirit of mimetic initialization (Trockman and Kolter, "Mimetic Initialization of Self-Attention
Layers", 2023), attention begins near what trained models come to: values are copied (the output projection is
the transpose of the value projection) and equal tokens attend to each other (queries equal keys). Beyond it,
two heads of the first layer begin as the previous-token heads, and half of the second layer's as the matching
heads, of an induction circuit (Olsson et al., "In-context Learning and Induction Heads", 2022). Others begin as the
parts of a recommendation: one fetches the user's vector, one gathers the beginning of a title, and one of each late
layer looks for the items that fit the user. Everything is trained further.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional, init
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from .latent import LATENT

EMBEDDING_DEVIATION = 0.5
FINAL_NORM = 0.15
"""Tied embeddings of this deviation would else give logits in the tens."""
MATCH, BACK, NEAR, FIT = 0.6, 6.0, 5.0, 2.5
MATCHING_LAYERS = (2, 3)


def embeddings(model: LlamaForCausalLM) -> Tensor:
    """The model's table of token embeddings, [V, H]."""
    return cast(Tensor, model.get_input_embeddings().weight)


def orthogonal(rows: int, columns: int) -> Tensor:
    return init.orthogonal_(torch.empty(rows, columns))


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions of the input space that latent vectors begin with."""

    user: Tensor  # [LATENT, H]
    item: Tensor  # [LATENT, H]
    marks: Tensor  # [2, H], of any user and of any item
    others: Tensor  # [H - 2 LATENT - 2, H], what tokens begin with

    @classmethod
    def draw(cls, width: int) -> "Directions":
        """Random directions."""
        return cls(*orthogonal(width, width).split((LATENT, LATENT, 2, width - 2 * LATENT - 2)))

    def part(self, size: int) -> Tensor:
        """Random directions among the tokens', [size, H]."""
        return orthogonal(size, len(self.others)) @ self.others


@torch.no_grad()
def initialize(model: LlamaForCausalLM, beginning: int, openings: list[int]) -> Directions:
    """Sets the embeddings and attention weights of a new model, in place; its attention needs biases.

    Args:
        model: The new model.
        beginning: The token that stands behind a user.
        openings: Tokens that stand before a title in a list.

    Returns:
        What latent vectors begin with.
    """
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    size = cast(int, model.config.head_dim)
    directions = Directions.draw(width)
    tokens = torch.randn(len(embeddings(model)), len(directions.others)) @ directions.others
    embeddings(model).copy_(tokens * EMBEDDING_DEVIATION * (width / len(directions.others)) ** 0.5)
    model.model.norm.weight.fill_(FINAL_NORM)
    for layer in model.model.layers:
        attention = layer.self_attn
        values, queries = orthogonal(heads * size, width), orthogonal(heads * size, width)
        attention.v_proj.weight.copy_(values)
        attention.o_proj.weight.copy_(values.T)
        attention.q_proj.weight.copy_(MATCH * queries)
        attention.k_proj.weight.copy_(MATCH * queries)
    first, second = (model.model.layers[place].self_attn for place in (0, 1))
    for head, distance in ((0, 1), (1, 2)):
        own = slice(head * size, (head + 1) * size)
        seen = torch.cat((directions.part(size - LATENT), directions.user))
        written = directions.part(size)
        first.q_proj.weight[own].mul_(0.1)
        first.k_proj.weight[own].mul_(0.1)
        first.k_proj.bias[own], first.q_proj.bias[own] = looking_back(model, size, distance)
        first.v_proj.weight[own] = seen
        first.o_proj.weight[:, own] = 2 * written.T
        if distance > 1:
            continue
        behind_user = written[-LATENT:]
        marks_of_openings = functional.normalize(embeddings(model)[openings] @ seen.T @ written, dim=1)
        for user in range(0, heads, 2):  # induction: where was the present token the previous one?
            its = slice(user * size, (user + 1) * size)
            second.q_proj.weight[its] = 2 * MATCH * seen
            second.k_proj.weight[its] = 2 * MATCH * written
    taken = directions.part(size)
    fetch_user(first, directions, slice(2 * size, 3 * size))
    anchor = functional.normalize(embeddings(model)[beginning], dim=0)
    fetch_behind(model, second, anchor, behind_user, directions, slice(size, 2 * size))
    gather_beginnings(model, second, marks_of_openings.sum(0), taken, slice(3 * size, 4 * size))
    for place in MATCHING_LAYERS:
        match_items(model.model.layers[place].self_attn, directions, taken, slice(size, 2 * size))
    return directions


def fetch_user(attention: LlamaAttention, directions: Directions, head: slice) -> None:
    """Every position looks at marked users, wherever they stand, and takes their vectors over."""
    slow = slow_places(head)
    attention.q_proj.weight[head].mul_(0.1)
    attention.k_proj.weight[head].mul_(0.1)
    attention.q_proj.bias[slow[:8]] = 1.5
    attention.k_proj.weight[slow[:8]] += 1.5 * directions.marks[0]
    attention.v_proj.weight[head] = 0.0
    attention.v_proj.weight[head.start : head.start + LATENT] = directions.user
    attention.o_proj.weight[:, head.start : head.start + LATENT] = 0.5 * directions.user.T


def fetch_behind(
    model: LlamaForCausalLM,
    attention: LlamaAttention,
    anchor: Tensor,
    behind_user: Tensor,
    directions: Directions,
    head: slice,
) -> None:
    """Every position looks at the newest beginning token, which knows the vector before it, and takes that over."""
    slow = slow_places(head)
    attention.q_proj.weight[head].mul_(0.1)
    attention.k_proj.weight[head].mul_(0.1)
    near = preferring(model, head, 0.03, 0.005, NEAR / 2)
    attention.q_proj.bias[head] = near
    attention.k_proj.bias[head] = near
    attention.q_proj.bias[slow[:8]] = 3.0
    attention.k_proj.weight[slow[:8]] += 3.0 * anchor
    attention.v_proj.weight[head] = 0.0
    attention.v_proj.weight[head.start : head.start + LATENT] = behind_user
    attention.o_proj.weight[:, head.start : head.start + LATENT] = 0.7 * directions.user.T


def preferring(
    model: LlamaForCausalLM, head: slice, fastest: float, slowest: float, strength: float
) -> Tensor:
    """Biases of keys and queries that prefer near positions, by rotations of some speeds (radians per position)."""
    size = head.stop - head.start
    rotation = cast(Tensor, model.model.rotary_emb.inv_freq)[: size // 2].float()  # [size / 2]
    chosen = ((rotation < fastest) & (rotation > slowest)).float()
    return torch.cat((strength * chosen, torch.zeros(size // 2)))


def gather_beginnings(
    model: LlamaForCausalLM, attention: LlamaAttention, opened: Tensor, taken: Tensor, head: slice
) -> None:
    """Every position takes over the newest first token of a title: one whose previous token opens a title."""
    slow, near = slow_places(head), preferring(model, head, 0.2, 0.02, NEAR)
    attention.q_proj.weight[head].mul_(0.1)
    attention.k_proj.weight[head].mul_(0.1)
    attention.q_proj.bias[head] = near
    attention.k_proj.bias[head] = near
    attention.q_proj.bias[slow[:4]] = 1.5
    attention.k_proj.weight[slow[:4]] += 1.5 * opened
    attention.v_proj.weight[head] = taken
    attention.o_proj.weight[:, head] = 3 * taken.T


def match_items(attention: LlamaAttention, directions: Directions, taken: Tensor, head: slice) -> None:
    """Queries are the user's coordinates, keys the items'; the title's beginning is taken over."""
    slow = slow_places(head)
    attention.q_proj.weight[head].mul_(0.1)
    attention.k_proj.weight[head].mul_(0.1)
    attention.q_proj.weight[slow[:LATENT]] += FIT * directions.user
    attention.k_proj.weight[slow[:LATENT]] += FIT * directions.item
    attention.q_proj.bias[slow[LATENT : LATENT + 4]] = 1.5
    attention.k_proj.weight[slow[LATENT : LATENT + 4]] += 2.5 * directions.marks[1]
    attention.v_proj.weight[head] = taken
    attention.o_proj.weight[:, head] = 3 * taken.T


def slow_places(head: slice) -> list[int]:
    """Places of a head that rotate so slowly that distance hardly matters, from the slowest."""
    half = (head.stop - head.start) // 2
    fast = (half * 3) // 8
    return [head.start + place + side for place in range(half - 1, fast - 1, -1) for side in (0, half)]


def looking_back(model: LlamaForCausalLM, size: int, distance: int) -> tuple[Tensor, Tensor]:
    """Biases of keys and queries whose rotated product is greatest at a distance, [size] each."""
    rotation = cast(Tensor, model.model.rotary_emb.inv_freq)[: size // 2].float()  # [size / 2]
    amplitude = BACK * (rotation > 0.02).float()
    keys = torch.cat((amplitude, torch.zeros_like(amplitude)))
    angle = -distance * rotation
    queries = torch.cat((amplitude * angle.cos(), amplitude * angle.sin()))
    return keys, queries

"""Peak memory of training projections into a frozen LLM, on paper."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only language model.

    Attributes:
        hidden: width of the residual stream.
        layers: number of decoder layers.
        heads: attention heads.
        key_value_heads: heads of keys and values.
        intermediate: inner width of the feed-forward part.
        vocabulary: rows of the embedding matrix.
        gated: Llama's feed-forward part (two matrices in, one out, no biases, RMSNorm); else OPT's (one in, one out,
            biases, LayerNorm, learned positions).
        tied: whether the head is the embedding matrix.
        positions: rows of the learned position embeddings; 0 with rotary positions.
    """

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    gated: bool
    tied: bool
    positions: int = 0

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        keys = self.hidden // self.heads * self.key_value_heads
        attention = 2 * self.hidden * (self.hidden + keys)
        forward = (3 if self.gated else 2) * self.hidden * self.intermediate
        biases = 0 if self.gated else 3 * self.hidden + 2 * keys + self.intermediate
        norm = self.hidden if self.gated else 2 * self.hidden
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden + self.positions * self.hidden
        return self.layers * (attention + forward + biases + 2 * norm) + norm + embeddings


LLAMA_7B = Shape(4096, 32, 32, 32, 11008, 32000, gated=True, tied=False)
OPT_6_7B = Shape(4096, 32, 32, 32, 16384, 50272, gated=False, tied=True, positions=2050)


@dataclass(frozen=True)
class Memory:
    """Bytes by what holds them, at the peak of a training step."""

    weights: int
    activations: int
    logits: int
    trainable: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.logits + self.trainable


def layer_activations(shape: Shape, width: int) -> int:
    """Bytes per token that one frozen layer keeps for the backward pass.

    A linear map with frozen weights keeps nothing. What stays is the input of both norms (RMSNorm computes in
    float32), queries, keys, values and output of the attention with one float32 number per head, and what the
    activation function and the gate need.

    Args:
        shape: the model.
        width: bytes of a number.

    Returns:
        Bytes per token.
    """
    keys = shape.hidden // shape.heads * shape.key_value_heads
    norms = 2 * shape.hidden * (4 if shape.gated else width)
    attention = 2 * (shape.hidden + keys) * width + 4 * shape.heads
    return norms + attention + (3 if shape.gated else 1) * shape.intermediate * width


def training_memory(
    shape: Shape,
    *,
    batch: int,
    length: int,
    answer_tokens: int,
    trainable_parameters: int,
    width: int = 2,
    weight_width: float | None = None,
    checkpointing: bool = False,
) -> Memory:
    """Peak memory of a training step in which only projections into the model are trained.

    The frozen model has no gradients of weights and no optimizer state. Its activations are kept, because gradients
    pass through it to the soft tokens.

    Args:
        shape: the model.
        batch: prompts in a step.
        length: positions of a prompt with its answer.
        answer_tokens: tokens of an answer; logits exist for these only.
        trainable_parameters: parameters of the projections: float32 weights, gradients and two Adam moments.
        width: bytes of an activation: 2 for bfloat16, 4 for float32.
        weight_width: bytes of a weight; None is `width`, 4-bit quantisation about 0.56.
        checkpointing: each layer keeps its input only and is computed again in the backward pass.

    Returns:
        Bytes by part. Buffers of the allocator and of kernels are not counted.
    """
    tokens = batch * length
    per_layer = layer_activations(shape, width)
    # Gradients that live at once while one layer is worked on backwards.
    working = (2 * shape.intermediate + 2 * shape.hidden) * width
    if checkpointing:
        kept = shape.layers * shape.hidden * width + per_layer
    else:
        kept = shape.layers * per_layer
    return Memory(
        weights=int(shape.parameters * (width if weight_width is None else weight_width)),
        activations=tokens * (kept + working),
        # float32 log-probabilities and their gradient, and the logits themselves
        logits=batch * answer_tokens * shape.vocabulary * (8 + width),
        trainable=trainable_parameters * 16,
    )


def projection_parameters(widths: tuple[int, ...], hidden: int) -> int:
    """Parameters of A-LLMRec's projections, Linear, LayerNorm, activation, Linear, for inputs of these widths."""
    return sum(width * hidden + hidden + 2 * hidden + hidden * hidden + hidden for width in widths)

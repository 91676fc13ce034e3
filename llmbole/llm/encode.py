"""Texts to vectors with sentence-transformers: once and for all, or as a module that is fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from llmbole.llm.identity import EncoderSpec, folder
from llmbole.llm.quiet import quiet

_TEXTS_PER_CHUNK = 1024
TEXTS_PER_SHARD = 4096


def load_encoder(spec: EncoderSpec, device: torch.device | str = "cpu") -> SentenceTransformer:
    """Load a text encoder from its local folder, in evaluation mode; nothing is asked of the network.

    A missing folder is a FileNotFoundError; weights that are not safetensors are a ValueError.

    Args:
        spec: which encoder.
        device: where it goes.

    Returns:
        The encoder.
    """
    path = folder(spec)
    with quiet():
        model = SentenceTransformer(
            str(path),
            device=str(device),
            local_files_only=True,
            trust_remote_code=spec.trust_remote_code,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    if spec.max_tokens is not None:
        model.max_seq_length = spec.max_tokens
    return model.eval()


class TrainableEncoder(nn.Module):
    """A text encoder over a fixed list of texts, with gradients.

    The texts are tokenised once; a forward pass takes their indices. A text that occurs several times in a batch is
    encoded once. An encoder that does not read padded token ids is a ValueError.

    Attributes:
        dimension: size of an embedding.

    Args:
        spec: which encoder.
        texts: the texts; index `i` means `texts[i]`.
        device: where the module goes.
    """

    ids: Tensor
    starts: Tensor
    lengths: Tensor

    def __init__(self, spec: EncoderSpec, texts: Sequence[str], device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.model = load_encoder(spec, device)
        self.dimension: int = int(self.model.get_embedding_dimension() or 0)
        tokenizer = self.model.tokenizer
        self._pad_id: int = tokenizer.pad_token_id or 0
        self._left: bool = tokenizer.padding_side == "left"
        self._segments = False
        self._extra: dict[str, object] = {}
        rows = self._tokenize(texts)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        # The texts can be tokenised again, so they are no part of a checkpoint.
        self.register_buffer("ids", torch.cat([torch.zeros(0, dtype=torch.long), *rows]), persistent=False)
        self.register_buffer("lengths", lengths, persistent=False)
        self.register_buffer("starts", lengths.cumsum(0) - lengths, persistent=False)
        self.to(device)

    def _tokenize(self, texts: Sequence[str]) -> list[Tensor]:
        """Token ids of each text, without padding."""
        prompt = self.model.prompts.get(self.model.default_prompt_name or "") or None
        rows: list[Tensor] = []
        for start in range(0, len(texts), _TEXTS_PER_CHUNK):
            features = self.model.preprocess(list(texts[start : start + _TEXTS_PER_CHUNK]), prompt=prompt)
            ids, mask = features.pop("input_ids", None), features.pop("attention_mask", None)
            if ids is None or mask is None or ids.dim() != 2:
                raise ValueError(
                    f"{type(self.model[0]).__name__} reads no padded token ids: use a transformer encoder"
                )
            rows.extend(row[kept.bool()] for row, kept in zip(ids, mask, strict=True))
            self._segments = features.pop("token_type_ids", None) is not None
            self._extra = {name: value for name, value in features.items() if not isinstance(value, Tensor)}
        return rows

    def learn_last(self, blocks: int) -> None:
        """Freeze all but the encoder's last blocks.

        Args:
            blocks: how many learn, at least 1.

        Raises:
            ValueError: the encoder has fewer blocks, or no stack of them is found.
        """
        stacks = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        stack = max(stacks, key=len, default=nn.ModuleList())
        if not 1 <= blocks <= len(stack):
            raise ValueError(
                f"the last {blocks} blocks of the text encoder cannot learn: it has {len(stack)}; set a number from 1"
            )
        self.requires_grad_(False)
        for block in stack[len(stack) - blocks :]:
            block.requires_grad_(True)

    def forward(self, indices: Tensor) -> Tensor:
        """Embeddings `[n, D]` of the texts with these indices `[n]`."""
        distinct, inverse = torch.unique(indices.to(self.ids.device), return_inverse=True)
        lengths = self.lengths[distinct]  # [m]
        width = int(lengths.max())
        columns = torch.arange(width, device=self.ids.device)  # [L]
        if self._left:
            columns = columns - (width - lengths)[:, None]  # [m, L]
        kept = (columns >= 0) & (columns < lengths[:, None])  # [m, L]
        places = (self.starts[distinct][:, None] + columns).clamp(0, len(self.ids) - 1)
        ids = torch.where(kept, self.ids[places], self._pad_id)  # [m, L]
        features = {**self._extra, "input_ids": ids, "attention_mask": kept.long()}
        if self._segments:
            features["token_type_ids"] = torch.zeros_like(ids)
        return self.model(features)["sentence_embedding"][inverse]  # [n, D]


@torch.inference_mode()
def encode_texts(
    spec: EncoderSpec,
    texts: Sequence[str],
    device: torch.device | str = "cpu",
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embeddings of texts.

    Args:
        spec: which encoder.
        texts: the texts, possibly none.
        device: where to compute.
        batch_size: texts in one forward pass; texts of similar length go together.
        progress: called with the number of texts done since the last call.

    Returns:
        Embeddings in the order of the texts, `[n, D]`, float32.
    """
    encoder = TrainableEncoder(spec, texts, device).eval()
    result = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
    order = torch.argsort(encoder.lengths, descending=True, stable=True)
    for indices in order.split(batch_size) if len(texts) else ():
        result[indices.cpu().numpy()] = encoder(indices).float().cpu().numpy()
        if progress is not None:
            progress(len(indices))
    return result


def shards(texts: Sequence[str]) -> list[Sequence[str]]:
    """Texts in order, in parts that are encoded apart, so that it does not matter who encodes which."""
    return [texts[start : start + TEXTS_PER_SHARD] for start in range(0, len(texts), TEXTS_PER_SHARD)]

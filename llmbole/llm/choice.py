"""Choosing one of the candidates by its title: prompts, soft tokens, training loss, likelihoods, generated answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmbole.llm import generate, score
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import PromptBatch, Template, collate
from llmbole.llm.splice import splice

LISTS = ("history", "candidates")


@dataclass(frozen=True)
class ChoicePrompt:
    """A batch of prompts and the items whose vectors its soft positions take.

    Attributes:
        batch: Padded token ids, mask and soft positions.
        items: For each list slot the item ids in the order of its soft positions. Shapes `[n]`.
        candidates: Candidates of each prompt. Shape `[B, C]`.
        dropped: Items of histories left out to fit the model's context.
    """

    batch: PromptBatch
    items: Mapping[str, Tensor]
    candidates: Tensor
    dropped: int


class TitleChoice:
    """An LLM that answers a prompt with the title of one of the candidates.

    Args:
        lm: The language model.
        text: The prompt's template with the list slots `{history}` and `{candidates}`, the slots named in `words`, and
            soft slots of the caller's.
        item: Template of one listed item: `{title}`, and a soft slot if items have vectors.
        answer: Template text of the answer with `{title}`; the end token follows it.
        titles: Title of each item by internal id; 0 is the padding item. Length `n_items`.
        words: Values of the template's other text slots: what items are called in this data set.
        title_tokens: Longest title in tokens; longer ones are cut.
    """

    def __init__(
        self,
        lm: LanguageModel,
        text: str,
        item: str,
        answer: str,
        titles: Sequence[str],
        words: Mapping[str, str],
        title_tokens: int,
    ) -> None:
        self.lm, self.item = lm, item
        self.template = Template(text, items={name: item for name in LISTS}, drop_oldest="history")
        self.words = {name: words[name] for name in self.template.slots if name not in LISTS}
        self.titles = [lm.tokens.shorten(title, title_tokens) for title in titles]
        self.title_tokens = title_tokens
        before, _, after = answer.partition("{title}")
        self.answers = lm.tokens.ids_many([f"{before}{title}{after}" for title in self.titles])
        end = [] if lm.tokens.eos_id is None else [lm.tokens.eos_id]
        self.answers = [[*ids, *end] for ids in self.answers]
        self.longest_answer = max(map(len, self.answers))
        self.most_quotes = max(answer.count('"') + title.count('"') for title in self.titles)

    def prompt(self, histories: Tensor, candidates: Tensor) -> ChoicePrompt:
        """Prompts of a batch.

        Args:
            histories: Items before the choice, oldest first, padded with 0. Shape `[B, L]`.
            candidates: Items to choose from, in the order they stand in the prompt. Shape `[B, C]`.

        Returns:
            The prompts, on the model's device.
        """
        kept = [[item for item in row if item] for row in histories.tolist()]
        offered = candidates.tolist()
        rows = [
            {
                **self.words,
                "history": [self.titles[i] for i in past],
                "candidates": [self.titles[i] for i in offer],
            }
            for past, offer in zip(kept, offered, strict=True)
        ]
        limit = None if self.lm.max_length is None else self.lm.max_length - self.longest_answer
        encoded = self.template.encode_many(self.lm.tokens, rows, max_tokens=limit, value_tokens=None)
        past = [item for row, prompt in zip(kept, encoded, strict=True) for item in row[prompt.dropped :]]
        items = {"history": torch.tensor(past, dtype=torch.long), "candidates": candidates.reshape(-1).cpu()}
        batch = collate(encoded, self.lm.tokens.pad_id, "left").to(self.lm.device)
        return ChoicePrompt(batch, items, candidates, sum(prompt.dropped for prompt in encoded))

    def embed(self, prompt: ChoicePrompt, vectors: Mapping[str, Tensor]) -> Tensor:
        """Input embeddings with the given vectors at their soft positions.

        Args:
            prompt: The prompts.
            vectors: For each soft slot its vectors in order. Shapes `[n, H]`.

        Returns:
            Embeddings. Shape `[B, T, H]`.
        """
        embeddings = self.lm.embed(prompt.batch.ids)  # [B, T, H]
        if not vectors:
            return embeddings
        places = [prompt.batch.soft[name] for name in vectors]
        rows, columns = (torch.cat([place[axis] for place in places]) for axis in (0, 1))
        return splice(embeddings, rows, columns, torch.cat(list(vectors.values())))

    def loss(self, prompt: ChoicePrompt, vectors: Mapping[str, Tensor], targets: Tensor) -> score.AnswerLoss:
        """Cross-entropy of the targets' answers, a mean over the batch's answer tokens.

        Args:
            prompt: The prompts.
            vectors: For each soft slot its vectors in order. Shapes `[n, H]`.
            targets: The right item of each prompt. Shape `[B]`.

        Returns:
            The loss and the number of tokens the model read.
        """
        answers = [self.answers[item] for item in targets.tolist()]
        return score.answer_loss(self.lm, self.embed(prompt, vectors), prompt.batch.mask, answers)

    def log_likelihood(self, prompt: ChoicePrompt, vectors: Mapping[str, Tensor]) -> Tensor:
        """Log-likelihood of every candidate's whole answer. Shape `[B, C]`."""
        answers = [[self.answers[item] for item in row] for row in prompt.candidates.tolist()]
        return score.candidate_log_likelihood(
            self.lm, self.embed(prompt, vectors), prompt.batch.mask, answers, normalize=False
        )

    def generate(self, prompt: ChoicePrompt, vectors: Mapping[str, Tensor]) -> list[str]:
        """Greedy answers as text, one per prompt."""
        return generate.greedy(
            self.lm,
            self.embed(prompt, vectors),
            prompt.batch.mask,
            self.longest_answer,
            quotes=self.most_quotes,
        )

    def chosen(self, answer: str, candidates: Sequence[int]) -> int | None:
        """Place of the candidate whose title an answer gives; `None` if it gives none of them."""
        return score.title_match(answer, [self.titles[item] for item in candidates])

    def tokens(self, prompt: ChoicePrompt) -> int:
        """Tokens of the prompts, padding left out."""
        return int(prompt.batch.mask.sum())

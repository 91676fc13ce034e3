"""A question about a history that is answered in free text, by the LLM that otherwise chooses among titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmbole.llm import generate
from llmbole.llm.choice import ChoicePrompt, TitleChoice
from llmbole.llm.prompt import Template, collate


class OpenQuestion:
    """A prompt with the titles of a history, listed as a choice's prompt lists them, and no candidates.

    Args:
        choice: The prompt that asks for a title; its LLM, its titles and how it lists them are used.
        text: The template with the list slot `{history}`, slots named in `words`, and soft slots of the caller's.
        words: Values of text slots that are the same in each prompt: what items are called in this data set.
        answer_tokens: Longest answer in tokens.
        own: Text slots whose values each prompt has by itself; the template may lack them.
    """

    def __init__(
        self,
        choice: TitleChoice,
        text: str,
        words: Mapping[str, str],
        answer_tokens: int,
        own: Sequence[str] = (),
    ) -> None:
        self.choice, self.answer_tokens = choice, answer_tokens
        self.template = Template(text, items={"history": choice.item}, drop_oldest="history")
        self.own = [name for name in self.template.slots if name in own]
        self.words = {name: words[name] for name in self.template.slots if name not in ("history", *own)}

    def prompt(self, histories: Tensor, values: Sequence[Mapping[str, str]]) -> ChoicePrompt:
        """Prompts of a batch, which have no candidates.

        Args:
            histories: Items, oldest first, padded with 0. Shape `[B, L]`.
            values: Texts of a prompt's own slots, those in `own`. Length `B`.

        Returns:
            The prompts, on the model's device; `candidates` has the shape `[B, 0]`.
        """
        choice = self.choice
        kept = [[item for item in row if item] for row in histories.tolist()]
        rows = [
            {
                **self.words,
                **{name: each[name] for name in self.own},
                "history": [choice.titles[item] for item in past],
            }
            for past, each in zip(kept, values, strict=True)
        ]
        limit = None if choice.lm.max_length is None else choice.lm.max_length - self.answer_tokens
        encoded = self.template.encode_many(choice.lm.tokens, rows, max_tokens=limit, value_tokens=None)
        past = [item for row, prompt in zip(kept, encoded, strict=True) for item in row[prompt.dropped :]]
        batch = collate(encoded, choice.lm.tokens.pad_id, "left").to(choice.lm.device)
        nothing = torch.zeros(len(kept), 0, dtype=torch.long)
        items = {"history": torch.tensor(past, dtype=torch.long)}
        return ChoicePrompt(batch, items, nothing, sum(prompt.dropped for prompt in encoded))

    def generate(self, prompt: ChoicePrompt, vectors: Mapping[str, Tensor]) -> list[str]:
        """Greedy answers as text, one per prompt; each goes on to the end token or the longest answer.

        Args:
            prompt: The prompts.
            vectors: For each soft slot its vectors in order. Shapes `[n, H]`.

        Returns:
            The answers.
        """
        embeddings = self.choice.embed(prompt, vectors)  # [B, T, H]
        return generate.greedy(self.choice.lm, embeddings, prompt.batch.mask, self.answer_tokens, quotes=None)

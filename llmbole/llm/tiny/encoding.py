"""The tiny LLM's byte-level tokenizer, and how samples become token numbers."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import stream
from .samples import Sample, Segment, Turn, Weighted, is_latent, weighted
from .titles import words

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIAL: tuple[str, ...] = (PAD, BOS, EOS)
VOCABULARY_SIZE = 4096


def training_texts(seed: int, number: int) -> Iterable[str]:
    """The corpus's own text, and every word of the lexicon as titles and sentences write it."""
    for each in (each for group in words() for each in group):
        yield from (f"{each} {each}", f"{each.title()} {each.title()}")
    for sample, _ in zip(stream(seed), range(number), strict=False):
        for turn in sample.turns:
            yield "".join(piece for piece in (*turn.prompt, *turn.answer) if isinstance(piece, str))


def train_tokenizer(seed: int, number: int = 20_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `VOCABULARY_SIZE` tokens; `<s>` comes first only with special tokens.

    A quotation mark is always a token of its own, with the comma or space before it, so that a title has the
    same tokens in a prompt and in an answer, and that opening marks differ from closing ones wherever titles
    are listed.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r'[ ,]?"|\n'), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(seed, number), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


@dataclass
class Encoded:
    """A sample as numbers."""

    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    """The weight of each position's token in the loss; 0: given."""
    vectors: dict[int, Weighted] = field(default_factory=dict)
    """Positions of attributes, with the tokens whose embeddings are added there, or coordinates, and weights."""
    invented: bool = False
    """Whether those tokens only number random vectors that are drawn for this sample."""
    latent: bool = False
    """Whether they are coordinates of latent vectors."""


class Encoder:
    """Turns samples into numbers, with a random token for each symbol of a sample."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.eos = SPECIAL.index(EOS)
        quote = self.text('"')
        self.allowed = [each for each in range(len(SPECIAL), len(tokenizer)) if [each] != quote]

    def text(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def __call__(self, sample: Sample, rng: random.Random) -> Encoded:
        """Every answer is learned, as is the text of turns without one; eos follows each document."""
        made, tokens = Encoded(latent=sample.task.endswith("_vectors")), _Tokens(self.allowed, rng)
        for turn in sample.turns:
            turn = moved_space(turn) if rng.random() < 0.3 else turn
            self._add(made, turn.prompt, 0.0 if turn.answer else 1.0, tokens)
            self._add(made, turn.answer, 1.0, tokens)
        made.ids.append(self.eos)
        made.weights.append(1.0)
        made.weights[0] = 0.0
        scale = sum(made.weights) ** -0.5  # long answers (lists) would else outweigh choices
        made.weights = [weight * scale for weight in made.weights]
        if not (made.latent or sample.task.endswith(("_symbols", "_blend"))):
            made.vectors = {}
        made.invented = sample.task.endswith("_blend") and rng.random() < 0.5
        return made

    def _add(self, made: Encoded, segments: Sequence[Segment], weight: float, tokens: "_Tokens") -> None:
        for piece in segments:
            if isinstance(piece, str):
                ids = self.text(piece)
            elif is_latent(piece):
                made.vectors[len(made.ids)] = weighted(piece)
                ids = [SPECIAL.index(PAD)]
            else:
                shares = tuple((tokens[symbol], share) for symbol, share in weighted(piece))
                if not made.latent:
                    made.vectors[len(made.ids)] = shares
                ids = [shares[0][0]]
            made.ids += ids
            made.weights += [weight] * len(ids)


def moved_space(turn: Turn) -> Turn:
    """The turn with the space between prompt and answer in the answer, where both are text."""
    if not (turn.prompt and turn.answer):
        return turn
    last, first = turn.prompt[-1], turn.answer[0]
    if not (
        isinstance(last, str) and isinstance(first, str) and last.endswith(" ") and first.startswith('"')
    ):
        return turn
    return Turn((*turn.prompt[:-1], last[:-1]), (f" {first}", *turn.answer[1:]))


class _Tokens(dict[int, int]):
    """Different random tokens for the symbols of one sample."""

    def __init__(self, allowed: list[int], rng: random.Random) -> None:
        super().__init__()
        self.allowed, self.rng, self.taken = allowed, rng, set[int]()

    def __missing__(self, symbol: int) -> int:
        while (token := self.rng.choice(self.allowed)) in self.taken:
            pass
        self.taken.add(token)
        self[symbol] = token
        return token

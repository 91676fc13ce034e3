"""Choose-one-of-the-candidates tasks, most of them decided by attributes that match the user's.

An attribute is a symbol (any token of the vocabulary, standing for nothing else) or an English word. The
user's attributes stand at the prompt's beginning or follow the titles of the history; the candidate's follow
its title; the answer is the title whose attributes share most with the user's.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from . import latent
from .samples import Sample, Segment, Turn, Weighted, fill, join
from .titles import Kind, titles, word
from .titles import kind as any_kind

USERS: tuple[str, ...] = (
    "{key}<s> is a user representation.",
    "{key}<s> is a user representation.",
    "<s>{key} is a user representation.",
    "<s>The user {key} has a taste. ",
    "{key}<s>",
    "<s>User: {key}\n",
)
WORD_USERS: tuple[str, ...] = (
    "<s>This user likes {key}. ",
    "This user likes {key}. ",
    "{key}<s> is a user representation.",
    "<s>The user's taste: {key}.\n",
    "<s>Preferences: {key}.\n",
)
VECTOR_USERS: tuple[str, ...] = (
    "{key}<s> is a user representation.",
    "{key}<s> is a user representation.",
    "{key}<s>",
    "{key}<s> A user's taste. ",
)
WORDINGS: tuple[str, ...] = (
    "{user}This user has {past} {history} in the previous. Recommend one next {noun} for this user "
    "to {verb} next from "
    "the following {noun} title set, {candidates}. The recommendation is ",
    "{user}This user has {past} {history} in the previous. Recommend one next {noun} for this user "
    "to {verb} next from "
    "the following {noun} title set, {candidates}. The recommendation is ",
    "{user}This user has {past} {history} in the previous. Please predict the next {noun} this user "
    "will {verb}. The "
    "{noun} title candidates are {candidates}. Choose only one {noun} from the candidates. The answer is ",
    "{user}The user {past} {history} before. Which {noun} will the user {verb} next? Candidates: "
    "{candidates}. Answer: ",
    "{user}### Instruction: Given the {noun}s that a user {past}, choose the next {noun} from the "
    "candidates.\n### Input: "
    "{noun}s: {history}\nCandidates: {candidates}\n### Response: ",
    "{user}I have {past} {history}. Recommend me one of {candidates}. I should {verb} ",
    "{user}History: {history}\nCandidates: {candidates}\nNext {noun}: ",
    "{user}{history} were {past}. From {candidates} select the best {noun}: ",
)
SHORT_WORDINGS: tuple[str, ...] = (
    "{user}Recommend one next {noun} from the following {noun} title set, {candidates}. The "
    "recommendation is ",
    "{user}Choose one of {candidates}. The answer is ",
    "{user}Candidates: {candidates}\nBest {noun}: ",
    "{user}Which {noun} fits this user, {candidates}? Answer: ",
)
VECTOR_AGAIN: tuple[str, ...] = (
    "\n{key}<s> is a user representation. The recommendation is ",
    "\nAnother user {key}<s>: ",
    "{key}<s>",
)
AGAIN: tuple[str, ...] = ("\nAnother user {key}: ", " And for {key}? ", "\n{key} The recommendation is ")


@dataclass(frozen=True)
class Look:
    """How attributes are written in a sample."""

    form: str
    """`symbols`: one position each; `blend`: all at one position; `vectors`: one vector; `words`: English."""
    words: tuple[str, ...] = ()
    vectors: tuple[Weighted, ...] = ()
    opening: str = " ("
    between: str = ", "
    closing: str = ")"

    def behind(self, attributes: list[int]) -> tuple[Segment, ...]:
        """The attributes as they stand behind a title."""
        if not attributes:
            return ()
        if self.form != "words":
            return self.alone(attributes)
        return (self.opening + self.between.join(self.words[each] for each in attributes) + self.closing,)

    def alone(self, attributes: list[int]) -> tuple[Segment, ...]:
        """The attributes as they stand for a user."""
        if self.form == "words":
            return (", ".join(self.words[each] for each in attributes),)
        if self.form == "vectors":
            return tuple(self.vectors[each] for each in attributes)
        return (tuple(attributes),) if self.form == "blend" else tuple((each,) for each in attributes)


def look(rng: random.Random, form: str, number: int) -> Look:
    """A look for attributes numbered below `number`."""
    if form != "words":
        return Look(form)
    found: dict[str, None] = {}
    while len(found) < number:
        found[word(rng)] = None
    opening, between, closing = rng.choice(
        ((" (", ", ", ")"), (" ", " ", ""), (" [", ", ", "]"), (": ", " ", ";"))
    )
    return Look(form, tuple(found), opening=opening, between=between, closing=closing)


@dataclass(frozen=True)
class Problem:
    """The attributes of a user, of the history and of the candidates, and which candidate is right."""

    key: list[int]
    history: list[list[int]]
    candidates: list[list[int]]
    chosen: int
    alphabet: int
    vectors: tuple[Weighted, ...] = ()
    """What the attributes stand for where they are vectors."""
    items: Sequence[Sequence[float]] = ()
    """The candidates' latent vectors."""


def exact(rng: random.Random, number: int, length: int) -> Problem:
    """Every candidate has an attribute of its own and the user has one of them; so may the history."""
    chosen = rng.randrange(number)
    share = rng.choice((0.0, 0.0, 0.3, 0.7))
    other = [number + place for place in range(8)]
    history = [[chosen if rng.random() < share else rng.choice(other)] for _ in range(length)]
    if rng.random() < 0.3:
        history = [[] for _ in history]
    return Problem([chosen], history, [[each] for each in range(number)], chosen, number + 8)


def frequent(rng: random.Random, number: int, length: int) -> Problem:
    """No attribute of the user is named: the most frequent one of the history decides."""
    chosen = rng.randrange(number)
    length = max(length, 3)
    others = rng.sample([each for each in range(number + 8) if each != chosen], min(length - 2, number + 7))
    times = rng.randint(2, length)
    history = [[chosen]] * times + [[each] for each in others[: length - times]]
    rng.shuffle(history)
    return Problem([], history, [[each] for each in range(number)], chosen, number + 8)


def overlap(rng: random.Random, number: int, length: int) -> Problem:
    """Users and items have 2 to 4 attributes; the candidate that shares most with the user is right."""
    while True:
        alphabet, most = rng.randint(6, 16), rng.randint(2, 4)
        key = rng.sample(range(alphabet), rng.randint(2, 4))
        candidates = [rng.sample(range(alphabet), rng.randint(min(2, most), most)) for _ in range(number)]
        shared = [len(set(key) & set(each)) for each in candidates]
        if Counter(shared)[max(shared)] > 1:
            best = [place for place, each in enumerate(shared) if each == max(shared)]
            keep = rng.choice(best)
            for place in best:
                if place != keep:
                    candidates[place] = [each for each in candidates[place] if each not in key] or [alphabet]
        likely = [each for each in range(alphabet) for _ in range(3 if each in key else 1)]
        history = [list(dict.fromkeys(rng.choices(likely, k=most))) for _ in range(length)]
        shared = [len(set(key) & set(each)) for each in candidates]
        if Counter(shared)[max(shared)] == 1:
            return Problem(key, history, candidates, shared.index(max(shared)), alphabet + 1)


def nearest(rng: random.Random, number: int, length: int) -> Problem:
    """Users and items are latent vectors: the candidate of the greatest inner product is right."""
    items = latent.items(rng, number)
    key, best = latent.user(rng, items)
    share = rng.choice((0.0, 0.5, 1.0))
    past = [latent.unit(rng, len(key), key, share) for _ in range(length)]
    vectors = (latent.user_segment(key), *map(latent.item_segment, (*past, *items)))
    places = range(1 + length, 1 + length + number)
    history = [[1 + place] for place in range(length)]
    return Problem([0], history, [[each] for each in places], best, 0, vectors, items)


PROBLEMS = {"exact": exact, "frequent": frequent, "overlap": overlap, "nearest": nearest}


def listing(made: list[str], attributes: list[list[int]], shown: Look, between: str) -> tuple[Segment, ...]:
    """Quoted titles, each followed by its attributes."""
    segments: list[Segment] = []
    for place, (each, owned) in enumerate(zip(made, attributes, strict=True)):
        start = f"\n{place + 1}. " if between == "\n" else between if place else ""
        segments += [f'{start}"{each}"', *shown.behind(owned)]
    return join(segments)


def answered(rng: random.Random, title: str) -> str:
    return f'"{title}"' if rng.random() < 0.95 else f'I recommend "{title}".'


def match(rng: random.Random, rule: str, form: str, most: int, kind: Kind | None = None) -> Sample:
    """A choice among 2 to `most` titles by the rule `exact`, `frequent`, `overlap` or `nearest`."""
    kind = kind or any_kind(rng)
    number = most if rng.random() < 0.3 else rng.randint(2, most)
    short = rule != "frequent" and rng.random() < 0.4
    length = 0 if short else rng.randint(1, 10)
    problem = PROBLEMS[rule](rng, number, length)
    shown = Look(form, vectors=problem.vectors) if problem.vectors else look(rng, form, problem.alphabet)
    made = titles(rng, kind.style, number + len(problem.history))
    names, past = made[:number], made[number:]
    between = rng.choice((",", ",", ",", ", ", "\n"))
    users = {"words": WORD_USERS, "vectors": VECTOR_USERS}.get(form, USERS)
    user = (
        fill(rng.choice(users), key=shown.alone(problem.key)) if problem.key else (rng.choice(("<s>", "")),)
    )
    prompt = fill(
        rng.choice(SHORT_WORDINGS if short else WORDINGS),
        user=user,
        history=listing(past, problem.history, shown, between),
        candidates=listing(names, problem.candidates, shown, between),
        noun=kind.noun,
        past=kind.past,
        verb=kind.verb,
    )
    turns = [Turn(prompt, (answered(rng, names[problem.chosen]),))]
    if rule in ("exact", "nearest") and rng.random() < (0.4 if rule == "exact" else 0.8):
        turns += again(rng, problem, shown, names)
    return Sample(f"{rule}_{form}", tuple(turns), tuple(names))


def again(rng: random.Random, problem: Problem, shown: Look, names: list[str]) -> list[Turn]:
    """More users for the same candidates: the later keys stand behind the list."""
    wording = rng.choice(VECTOR_AGAIN if problem.items else AGAIN)
    keys: list[tuple[tuple[Segment, ...], int]]
    if problem.items:
        users = [latent.user(rng, problem.items) for _ in range(rng.randint(1, 6))]
        keys = [((latent.user_segment(key),), best) for key, best in users]
    else:
        places = rng.sample(range(len(names)), min(len(names), rng.randint(1, 4)))
        keys = [(shown.alone(problem.candidates[place]), place) for place in places]
    return [Turn(fill(wording, key=key), (f'"{names[place]}"',)) for key, place in keys]


def free(rng: random.Random, most: int, kind: Kind | None = None) -> Sample:
    """A choice without any attribute: the first candidate is right, so that the model is sure of one.

    With an answer drawn at random the model would have to hold the beginnings of all candidates in one state,
    which 128 dimensions cannot.
    """
    kind = kind or any_kind(rng)
    number = most if rng.random() < 0.4 else rng.randint(2, most)
    length = rng.randint(1, 10)
    made = titles(rng, kind.style, number + length)
    none: list[list[int]] = [[] for _ in made]
    between = rng.choice((",", ",", ",", ", ", "\n"))
    prompt = fill(
        rng.choice(WORDINGS),
        user=rng.choice(("<s>", "", "<s> is a user representation.")),
        history=listing(made[number:], none[number:], Look("words"), between),
        candidates=listing(made[:number], none[:number], Look("words"), between),
        noun=kind.noun,
        past=kind.past,
        verb=kind.verb,
    )
    return Sample("free", (Turn(prompt, (answered(rng, made[0]),)),), tuple(made[:number]))

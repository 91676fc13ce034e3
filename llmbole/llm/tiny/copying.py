"""The curriculum's first tasks: copying and looking up chunks of random symbols, and repeating titles.

In-context copying of arbitrary tokens is what every later answer needs (an answer repeats a title of the
prompt), and a small model finds it in far fewer tokens on symbols than on instructions.
"""

import random

from . import latent
from .samples import Sample, Segment, Turn, fill, join, single
from .titles import kind as any_kind
from .titles import titles

COPY_WORDINGS: tuple[str, ...] = (
    'Copy the title: "{title}". Copy: ',
    '"{title}" Repeat it: ',
    'Repeat the following {noun} title exactly: "{title}"\n',
    'The {noun} is called "{title}". What is it called? It is called ',
    "<s>Write the title once more: {title}\nAnswer: ",
)
PLACE_WORDINGS: tuple[str, ...] = (
    "{list}. The {place} title is ",
    "Here are some {noun}s: {list}.\nWhich one stands {place} in the list? ",
    "<s>{noun} list: {list}. Repeat the {place} one: ",
)
PLACES: tuple[str, ...] = ("first", "second", "third", "fourth", "last")
NEXT_WORDINGS: tuple[str, ...] = (
    "{list}. Which title comes after {title}? ",
    "<s>{list}\nAfter {title} stands ",
)


def chunks(rng: random.Random, number: int, longest: int, alphabet: int) -> list[list[Segment]]:
    """Different chunks of random symbols, 2 to `longest` long; a small alphabet makes beginnings shared."""
    found: dict[tuple[Segment, ...], None] = {}
    while len(found) < number:
        length = rng.randint(2, longest)
        found[tuple((rng.randrange(alphabet),) for _ in range(length))] = None
    return [list(chunk) for chunk in found]


def quoted(chunk: list[Segment]) -> list[Segment]:
    return ['"', *chunk, '"']


def permuted(rng: random.Random, size: int) -> Sample:
    """A list of chunks and the same list in another order, to be learned after each chunk's beginning."""
    number = rng.randint(3, 12)
    made = chunks(rng, number, 6, rng.choice((20, 200)))
    prompt: list[Segment] = []
    for chunk in made:
        prompt += [*quoted(chunk), ","]
    answer: list[Segment] = []
    for chunk in rng.sample(made, min(number, size)):
        answer += [*quoted(chunk), ","]
    return Sample("permuted", (Turn(join([*prompt, "\n"]), join(answer)),))


def lookup(rng: random.Random, most: int) -> Sample:
    """Chunks, each with a key symbol behind it; then keys are named, whose chunks are the answers."""
    number = rng.randint(2, most)
    made = chunks(rng, number, rng.choice((3, 6)), rng.choice((40, 400)))
    keys: list[Segment] = [(1000 + place,) for place in range(number)]
    listed: list[Segment] = []
    for chunk, key in zip(made, keys, strict=True):
        listed += [*quoted(chunk), key, ","]
    asked = rng.sample(range(number), number)[: rng.choice((2, 8))]
    turns = []
    for order, place in enumerate(asked):
        prompt = [*(listed if order == 0 else []), "\n", keys[place], ": "]
        turns.append(Turn(join(prompt), join(quoted(made[place]))))
    return Sample("lookup", tuple(turns))


def lookup_first(rng: random.Random, most: int) -> Sample:
    """As `lookup`, but the one key stands before the chunks."""
    number = rng.randint(2, most)
    made = chunks(rng, number, rng.choice((2, 4)), rng.choice((40, 400)))
    chosen = rng.randrange(number)
    prompt: list[Segment] = [(1000 + chosen,), rng.choice(("<s>", "<s> is a user representation.", ": "))]
    for place, chunk in enumerate(made):
        prompt += [*quoted(chunk), (1000 + place,), ","]
    return Sample("lookup_first", (Turn(join([*prompt, " The answer is "]), join(quoted(made[chosen]))),))


def recall(rng: random.Random, most: int) -> Sample:
    """Chunks with a key each, then the keys in another order, each followed by its chunk's first symbol."""
    number = rng.randint(2, most)
    listed: list[Segment] = []
    made = chunks(rng, number, rng.choice((3, 6)), rng.choice((40, 400)))
    for place, chunk in enumerate(made):
        listed += [*quoted(chunk), (1000 + place,), ","]
    turns = []
    for place in rng.sample(range(number), number):
        turns.append(Turn(join([*listed, (1000 + place,)]), (made[place][0],)))
        listed = []
    return Sample("recall", tuple(turns))


def fit_recall(rng: random.Random, most: int) -> Sample:
    """As `recall`, but keys are latent vectors: a user's is followed by the best item's first symbol."""
    number = rng.randint(2, most)
    listed: list[Segment] = []
    made = chunks(rng, number, rng.choice((2, 4, 8, 14)), rng.choice((40, 400)))
    items = latent.items(rng, number)
    for chunk, vector in zip(made, items, strict=True):
        listed += [*quoted(chunk), latent.item_segment(vector), ","]
    turns = []
    for _ in range(rng.randint(4, 16)):
        key, best = latent.user(rng, items)
        turns.append(Turn(join([*listed, latent.user_segment(key)]), (made[best][0],)))
        listed = []
    return Sample("fit_recall_vectors", tuple(turns))


def fit_lookup(rng: random.Random, most: int) -> Sample:
    """As `lookup_first`, but keys are latent vectors; more users may follow the answer."""
    number = rng.randint(2, most)
    made = chunks(rng, number, rng.choice((2, 4, 8, 14)), rng.choice((40, 400)))
    items = latent.items(rng, number)
    key, best = latent.user(rng, items)
    prompt: list[Segment] = [
        latent.user_segment(key),
        rng.choice(("<s>", "<s> is a user representation.")),
    ]
    for chunk, vector in zip(made, items, strict=True):
        prompt += [*quoted(chunk), latent.item_segment(vector), ","]
    turns = [Turn(join([*prompt, " The answer is "]), join(quoted(made[best])))]
    for _ in range(rng.choice((0, 4))):
        key, best = latent.user(rng, items)
        turns.append(
            Turn(join(["\n", latent.user_segment(key), "<s> The answer is "]), join(quoted(made[best])))
        )
    return Sample("fit_lookup_vectors", tuple(turns))


def mark(rng: random.Random, most: int) -> Sample:
    """A key, then chunks with keys, each of which is marked Yes where its key is the first one's, else No."""
    number = rng.randint(2, most)
    prompt: list[Segment] = [(1000,), rng.choice(("<s>", "<s> is a user representation.", ": "))]
    turns = []
    for place, chunk in enumerate(chunks(rng, number, rng.choice((2, 4)), rng.choice((40, 400)))):
        right = rng.random() < 0.4
        prompt += [*quoted(chunk), (1000 if right else 1001 + place,), " "]
        turns.append(Turn(join(prompt), ("Yes" if right else "No",)))
        prompt = [","]
    return Sample("mark", tuple(turns))


def echo(rng: random.Random, most: int) -> Sample:
    """Chunks with keys; behind each key like the first (or behind all) stands its chunk's first symbol."""
    number = rng.randint(3, most + 1)
    every = rng.random() < 0.2
    prompt: list[Segment] = (
        [] if every else [(1000,), rng.choice(("<s>", "<s> is a user representation.", ": "))]
    )
    turns = []
    for place, chunk in enumerate(chunks(rng, number, rng.choice((3, 6)), rng.choice((40, 400)))):
        right = rng.random() < 0.4
        prompt += [*quoted(chunk), (1000 if right else 1001 + place,)]
        turns.append(Turn(join(prompt), (chunk[0], ",") if right or every else (",",)))
        prompt = []
    return Sample("echo", tuple(turns))


def copy(rng: random.Random) -> Sample:
    """One title, to be repeated exactly."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, 1)[0]
    return single("copy", fill(rng.choice(COPY_WORDINGS), title=made, noun=kind.noun), f'"{made}"', (made,))


def place(rng: random.Random) -> Sample:
    """A list of titles, of which the one at a named place is asked."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(4, 12))
    number = rng.randrange(len(PLACES))
    answer = made[-1] if PLACES[number] == "last" else made[number]
    listed = ",".join(f'"{each}"' for each in made)
    prompt = fill(rng.choice(PLACE_WORDINGS), list=listed, place=PLACES[number], noun=kind.noun)
    return single("place", prompt, f'"{answer}"', tuple(made))


def following(rng: random.Random) -> Sample:
    """A list of titles, of which the one after a named one is asked."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(3, 12))
    number = rng.randrange(len(made) - 1)
    listed = ",".join(f'"{each}"' for each in made)
    prompt = fill(rng.choice(NEXT_WORDINGS), list=listed, title=f'"{made[number]}"')
    return single("following", prompt, f'"{made[number + 1]}"', tuple(made))

"""Invented titles of movies, games, books, songs and products, from common words and syllable-made names."""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What the items of a sample are, with the words that instructions use for them."""

    noun: str
    past: str
    verb: str
    style: str
    """Which title generator fits: `film`, `book`, `game` or `product`."""


KINDS: tuple[Kind, ...] = (
    Kind("movie", "watched", "watch", "film"),
    Kind("film", "seen", "see", "film"),
    Kind("series", "watched", "watch", "film"),
    Kind("book", "read", "read", "book"),
    Kind("game", "played", "play", "game"),
    Kind("song", "listened to", "listen to", "film"),
    Kind("item", "bought", "buy", "product"),
    Kind("product", "purchased", "purchase", "product"),
    Kind("toy", "bought", "buy", "product"),
)

KIND_WEIGHTS: tuple[float, ...] = (9, 2, 1, 2, 3, 1, 2, 1, 1)

GENRES: tuple[str, ...] = tuple(
    (
        "action adventure animation biography comedy crime documentary drama family fantasy history horror "
        "music musical mystery romance science sport thriller war western noir satire suspense travel "
        "cooking puzzle racing strategy simulation arcade platform poetry science-fiction detective "
        "superhero zombie vampire pirate school space robot politics nature children classic modern dark "
        "funny slow loud quiet gentle bitter sweet cheap elegant vintage"
    ).split()
)

PLACES: tuple[str, ...] = tuple(
    (
        "Harbor Valley River Mountain Desert Island Street Avenue Castle Village City Forest Garden Lake "
        "Bridge Tower Station Hotel Kingdom Empire Coast Canyon Prairie Moon Ocean North South East West "
        "Hollow Manor Abbey Bay"
    ).split()
)

PRODUCTS: tuple[str, ...] = tuple(
    (
        "Face Cream|Shampoo|Conditioner|Body Lotion|Lip Balm|Hair Dryer|Makeup Brush Set|Nail Polish|"
        "Perfume Spray|Sunscreen|Soap Bar|Building Blocks|Board Game|Puzzle|Plush Bear|Action Figure|"
        "Toy Train|Water Bottle|Backpack|Wireless Headphones|Phone Case|USB Cable|Keyboard|Desk Lamp|"
        "Kitchen Knife|Coffee Mug|Tea Kettle|Yoga Mat|Running Shoes|Dog Leash|Cat Toy|Garden Hose|"
        "Guitar Strings|Paint Set|Notebook|Ball Pen|Storage Box|Wall Clock|Facial Cleanser|Eye Serum|"
        "Hair Clips|Mascara|Vitamin Tablets|Protein Bar|Green Tea|Card Game|Doll House|Drone"
    ).split("|")
)

FEATURES: tuple[str, ...] = tuple(
    (
        "for Women|for Men|for Kids|for Dry Skin|for All Hair Types|with Vitamin C|with Aloe Vera|"
        "with Storage Bag|Long Lasting|Waterproof|Rechargeable|Cruelty Free|Sulfate Free|Natural & Organic|"
        "Professional|Heavy Duty|Ages 3 and Up|2 Players|Gift Set|Travel Size|Unscented|Extra Strength|"
        "Ultra Soft|Easy to Clean|Stainless Steel|Anti-Aging|Hydrating|Moisturizing|Non-Slip|Adjustable|"
        "Portable|Washable|Lightweight|Made in USA|Hypoallergenic"
    ).split("|")
)

COLORS: tuple[str, ...] = tuple(
    (
        "Black White Red Blue Green Pink Purple Yellow Orange Brown Gray Gold Silver Rose Ivory Clear Navy "
        "Teal"
    ).split()
)

ONSETS: tuple[str, ...] = tuple(
    "b br c ch d dr f fr g gr h j k kl l m n p pr qu r s sh st t th tr v w y z".split()
)
VOWELS: tuple[str, ...] = tuple("a e i o u a e i o ai ea ee ia io ou oo".split())
CODAS: tuple[str, ...] = (
    "",
    "",
    "",
    "n",
    "r",
    "l",
    "s",
    "m",
    "t",
    "ck",
    "nd",
    "rt",
    "x",
    "lle",
    "ne",
    "ski",
    "son",
)
ROMANS: tuple[str, ...] = ("II", "III", "IV", "V", "2", "3", "4", "64", "2000", "Part 2", "Vol. 1", "Deluxe")
FOREIGN: tuple[str, ...] = (
    "La",
    "Le",
    "Les",
    "El",
    "Los",
    "Il",
    "Das",
    "Der",
    "Die",
    "Un",
    "Une",
    "De",
    "Mon",
)
NUMBERS: tuple[str, ...] = (
    "Two",
    "Three",
    "Four",
    "Five",
    "Seven",
    "Nine",
    "Ten",
    "Twelve",
    "Hundred",
    "Thousand",
)


@functools.cache
def words() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Nouns, adjectives and verbs of the `wonderwords` package (MIT licence), without the profane ones."""
    from wonderwords import RandomWord, is_profanity

    source = RandomWord()
    nouns, adjectives, verbs = (
        tuple(sorted({each for each in source.filter(include_categories=[kind]) if not is_profanity(each)}))
        for kind in ("noun", "adjective", "verb")
    )
    return nouns, adjectives, verbs


def kind(rng: random.Random) -> Kind:
    """A kind of items, most often movies."""
    return rng.choices(KINDS, KIND_WEIGHTS)[0]


def word(rng: random.Random) -> str:
    """Any lower-case word: an attribute, a genre, a thing."""
    nouns, adjectives, verbs = words()
    return rng.choice(rng.choices((nouns, adjectives, verbs, GENRES), (4, 2, 1, 3))[0])


def name(rng: random.Random) -> str:
    """A capitalised name of one to three syllables that need not exist in any language."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
    return ("".join(syllables) + rng.choice(CODAS)).capitalize()


def noun(rng: random.Random) -> str:
    return rng.choice(words()[0]).title()


def adjective(rng: random.Random) -> str:
    return rng.choice(words()[1]).title()


def verb(rng: random.Random) -> str:
    return rng.choice(words()[2]).title()


def plural(rng: random.Random) -> str:
    return noun(rng) + "s"


def gerund(rng: random.Random) -> str:
    stem = verb(rng)
    return (stem[:-1] if stem.endswith("e") else stem) + "ing"


Maker = Callable[[random.Random], str]
FILM_PATTERNS: tuple[str, ...] = tuple(
    (
        "{n};{n};{p};{m};{a} {n};{a} {n};{a} {p};{n}, The;{a} {n}, The;{n} {n}, The;{n}, A;The {n};"
        "The {a} {n};{n} of {p};{n} of the {n};{m}'s {n};{m}'s {a} {n};{g} {m};{g} the {n};{m} and {m};"
        "{m} & {m};{n} and {n};{m} {r};{n} {r};{n}: The {n};{m}: {n} of {l};{l} {n};{n} in the {l};"
        "{n} on {m} {l};A {n} for {m};My {a} {n};Dr. {m};Mr. {m} and the {n};{k} {p};{k} {a} {p};{f} {m};"
        "{f} {m} de {m};{v} Me {n};{v} the {n};How to {v} a {n};What {m} {v}s;{v} or {v};{m} {m};"
        "{m} {m} Story, The;{m} {m}: {n} {r};Once Upon a {n};{n} vs. {n};{n} Without {n};In the {n} of {m};"
        "When {p} {v};Last {n} to {m}, The;{m}-{m};{n}'s Eleven {p};I {v} a {n};{n}!;{n}?;{a}, {a} {n};"
        "{m} Goes to {l};{n} {n};{g};To {v} a {a} {n};{d} {p};{d};Under the {l} {n}"
    ).split(";")
)
BOOK_PATTERNS: tuple[str, ...] = FILM_PATTERNS[:30] + tuple(
    (
        "{n} of {l}: A Novel;The {n} {v}er's {n};The {a} {n} (The {m} Chronicles, Book {d});"
        "{m} {m}: A Life;{g} for Beginners;The Art of {g};{d} Ways to {v} Your {n};{a} {p}: Stories;"
        "A History of {p} in {d} {p}"
    ).split(";")
)
GAME_PATTERNS: tuple[str, ...] = tuple(
    (
        "{n} {n};{m} {r};Super {m} {n};{n} of {n} {r};{m}: {n} {n};{a} {n} - {m} Edition;{l} {n} {r};"
        "{n} {g} Simulator;{m}'s {a} {l};{n} Racer {r};{m} {n}: The {a} {l};{n} Quest;Star {n} {r};"
        "{n}craft;World of {p};{m} Fighter {r} Turbo;{a} {n} Wireless Controller for {m} - {c};"
        "{m} {d} GB Console - {c}"
    ).split(";")
)
PRODUCT_PATTERNS: tuple[str, ...] = tuple(
    (
        "{m} {o};{m} {o}, {c};{m} {a} {o};{m} {o} {e};{m} {a} {o} {e}, {s};{m} {n} {o} - {c} ({s});"
        "{m} & {m} {a} {o} {e}, {e}, {s} (Pack of {d});{o} {e}, {e}, {e} - {c};"
        "{m} {n} {a} {o} with {n} & {n}, {e}, {s};{d} Pack {o}, {a} {n} {o} {e} - {e}, {c} and {c};"
        "{m} {m}'s {n} {o};{a} {n} {o} Set, {d} Pieces, {e}, {e}, {s}, {c};{m} {n}-{d} {o};"
        "[{m}] {a} {o} {s};{m} {o} | {e} | {n} {n} | {e}, {d} Count ({c})"
    ).split(";")
)


def size(rng: random.Random) -> str:
    unit = rng.choice(("Ounce", "oz", "ml", "Fl Oz", "Inch", "Count", "lbs", "Pieces"))
    number = rng.choice((rng.randint(1, 48), round(rng.uniform(0.1, 9), 1), rng.choice((100, 250, 500))))
    return f"{number} {unit}"


MAKERS: dict[str, Maker] = {
    "n": noun,
    "p": plural,
    "a": adjective,
    "v": verb,
    "g": gerund,
    "m": name,
    "l": lambda rng: rng.choice(PLACES),
    "r": lambda rng: rng.choice(ROMANS),
    "k": lambda rng: rng.choice(NUMBERS),
    "f": lambda rng: rng.choice(FOREIGN),
    "d": lambda rng: str(rng.choice((rng.randint(2, 12), rng.randint(2, 199), rng.randint(1000, 2050)))),
    "o": lambda rng: rng.choice(PRODUCTS),
    "e": lambda rng: rng.choice(FEATURES),
    "c": lambda rng: rng.choice(COLORS),
    "s": size,
}
PATTERNS: dict[str, Sequence[str]] = {
    "film": FILM_PATTERNS,
    "book": BOOK_PATTERNS,
    "game": GAME_PATTERNS,
    "product": PRODUCT_PATTERNS,
}


def year(rng: random.Random) -> int:
    """A year of release, later ones more often."""
    return int(2026 - min(rng.expovariate(1 / 25), 105))


def title(rng: random.Random, style: str) -> str:
    """One invented title, without quotation marks; a third of the films carry their year."""
    text = rng.choice(PATTERNS[style])
    parts: list[str] = []
    for piece in text.split("{"):
        head, closing, rest = piece.partition("}")
        parts.append(MAKERS[head](rng) + rest if closing else piece)
    made = "".join(parts)
    if style == "film" and rng.random() < 0.33:
        made = f"{made} ({year(rng)})"
    chance = rng.random()
    return made.upper() if chance < 0.02 else made.lower() if chance < 0.04 else made


def titles(rng: random.Random, style: str, number: int) -> list[str]:
    """`number` different titles of one style."""
    found: dict[str, None] = {}
    while len(found) < number:
        found[title(rng, style)] = None
    return list(found)

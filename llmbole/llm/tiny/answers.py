"""Tasks whose answers are not one title: facts, yes or no, ordered lists, ratings and explanations."""

import random

from .matching import Look, listing, look
from .samples import Sample, Segment, Turn, fill, single
from .titles import GENRES, PLACES, name, title, titles, word, year
from .titles import kind as any_kind

FACTS: tuple[str, ...] = (
    '"{title}" is a {first} {noun} from {year}. It was made by {maker} in {place}. People who like '
    "{first} and {second} "
    "often {verb} it.",
    "The {noun} {title} came out in {year}; its maker is {maker}. It is about a {thing} and a {other}.",
    "{maker} made {title} in {year}. It is a {second} {noun} for people who like {first}.",
    'I {past} "{title}" with my friend {maker}. It was {first}, a little {second}, and the {thing} '
    "was the best part.",
    "A {noun} is something that you {verb}. A {first} {noun} is for those who like {first} {noun}s.",
)
QUESTIONS: tuple[tuple[str, str], ...] = (
    ("What kind of {noun} is it?", "{first}"),
    ("When did it come out?", "{year}"),
    ("Who made it?", "{maker}"),
    ("What is its title?", '"{title}"'),
)
YES_WORDINGS: tuple[str, ...] = (
    '{user}Will the user {verb} the {noun} {item}? Answer with "Yes" or "No". Answer: ',
    "{user}This user has {past} {history}. Would the user enjoy the {noun} titled {item}? Answer "
    'with "Yes" or "No". '
    "Answer: ",
    "{user}### Instruction: Given the user's preference, identify whether the user will like the "
    "target {noun} by "
    'answering "Yes" or "No".\n### Input: User preference: {history}\nWhether the user will like the '
    "target {noun} "
    "{item}?\n### Response: ",
    "#Question: A user has given high ratings to the following {noun}s: {history}. {user}Make a "
    "prediction about whether "
    'the user would enjoy the {noun} titled {item}? Answer with "Yes" or "No". \n#Answer: ',
    "{user}{item} Yes or No? ",
)
MEMBER_WORDINGS: tuple[str, ...] = (
    '{list}. Is {item} in the list? Answer with "Yes" or "No". Answer: ',
    'The user has {past} {list}. Has the user {past} {item}? Answer with "Yes" or "No". Answer: ',
)
RANK_WORDINGS: tuple[str, ...] = (
    "{user}Rank the following {noun}s for this user, best first: {list}. The order is: ",
    "{user}Sort {list} by how well they fit the user. Ranking: ",
    "{user}Candidates: {list}\nOrder all {noun}s from the most to the least fitting.\nRanking:\n",
)
SORT_WORDINGS: tuple[str, ...] = (
    "Sort these {noun}s by their score, highest first: {list}. The order is: ",
    "<s>Scores of {noun}s: {list}. Ranking from high to low: ",
)
REPEAT_WORDINGS: tuple[str, ...] = (
    "Repeat the list: {list}. The list is: ",
    "<s>{list}\nWrite the same titles again: ",
)
RATE_WORDINGS: tuple[str, ...] = (
    "The user rated these {noun}s from 1 to 5: {list}. How would the user rate {item}? Rating: ",
    "<s>Ratings: {list}\nPredict the rating (1 to 5) of {item}. Answer: ",
)
EXPLAIN_WORDINGS: tuple[str, ...] = (
    "{user}Choose one {noun} from {candidates}. Think step by step. ",
    "{user}Recommend one of {candidates} and explain why.\n",
)


def facts(rng: random.Random) -> Sample:
    """A text about an invented item, learned whole, often with questions about it."""
    kind = any_kind(rng)
    known: dict[str, str] = {
        "title": title(rng, kind.style),
        "noun": kind.noun,
        "past": kind.past,
        "verb": kind.verb,
        "first": rng.choice(GENRES),
        "second": rng.choice(GENRES),
        "year": str(year(rng)),
        "maker": f"{name(rng)} {name(rng)}",
        "place": rng.choice(PLACES),
        "thing": word(rng),
        "other": word(rng),
    }
    wording = rng.choice(FACTS)
    turns = [Turn(("<s>", *fill(wording, **known)), ())]
    asked = [(question, answer) for question, answer in QUESTIONS if answer.strip('"') in wording]
    for question, answer in rng.sample(asked, min(len(asked), rng.randint(0, 3))):
        turns.append(Turn((" ", *fill(question, **known), " "), fill(answer, **known)))
    return Sample("facts", tuple(turns))


def preferred(rng: random.Random, form: str, number: int) -> tuple[Look, list[int], list[int]]:
    """A look of `number` attributes, those that the user likes and the others."""
    shown = look(rng, form, number)
    attributes = rng.sample(range(number), number)
    liked = rng.randint(1, max(1, number // 3))
    return shown, attributes[:liked], attributes[liked:]


def yes_no(rng: random.Random, form: str) -> Sample:
    """Does an item have an attribute that the user likes? Those stand first or behind the history."""
    kind = any_kind(rng)
    shown, liked, others = preferred(rng, form, 8)
    right = rng.random() < 0.5
    owned = [rng.choice(liked if right else others)]
    if rng.random() < 0.4:
        owned = rng.sample([*owned, rng.choice([each for each in others if each not in owned])], 2)
    wording = rng.choice(YES_WORDINGS)
    made = titles(rng, kind.style, 1 + rng.randint(len(liked), 6))
    history = [[each] for each in liked] + [[rng.choice(liked)] for _ in made[1 + len(liked) :]]
    user: tuple[Segment, ...] = (rng.choice(("<s>", "")),)
    if "{history}" not in wording or rng.random() < 0.5:
        opening = "<s>This user likes {key}. " if form == "words" else "{key}<s> is a user representation."
        user = fill(opening, key=shown.alone(liked))
    prompt = fill(
        wording,
        user=user,
        history=listing(made[1:], history, shown, ","),
        item=listing(made[:1], [owned], shown, ","),
        noun=kind.noun,
        past=kind.past,
        verb=kind.verb,
    )
    return single(f"yes_no_{form}", prompt, "Yes" if right else "No", ("Yes", "No"))


def member(rng: random.Random) -> Sample:
    """Is a title one of a list?"""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(3, 10))
    right = rng.random() < 0.5
    asked = rng.choice(made[1:]) if right else made[0]
    listed = ",".join(f'"{each}"' for each in made[1:])
    prompt = fill(rng.choice(MEMBER_WORDINGS), list=listed, item=f'"{asked}"', past=kind.past)
    return single("member", prompt, "Yes" if right else "No", ("Yes", "No"))


def ordered(rng: random.Random, made: list[str]) -> str:
    """Titles as an ordered answer: joined by `; ` or numbered."""
    if rng.random() < 0.5:
        return "; ".join(f'"{each}"' for each in made)
    return "\n".join(f'{place}. "{each}"' for place, each in enumerate(made, 1))


def rank(rng: random.Random, form: str) -> Sample:
    """Titles in the order of how many of the user's attributes they have, ties in the order of the list."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(2, 8))
    shown = look(rng, form, 10)
    key, others = [0, 1, 2], list(range(3, 10))
    shares = [rng.randint(0, 3) for _ in made]
    owned = [rng.sample(rng.sample(key, share) + rng.sample(others, 3 - share), 3) for share in shares]
    opening = "<s>This user likes {key}. " if form == "words" else "{key}<s> is a user representation."
    prompt = fill(
        rng.choice(RANK_WORDINGS),
        user=fill(opening, key=shown.alone(key)),
        list=listing(made, owned, shown, ","),
        noun=kind.noun,
    )
    best = sorted(range(len(made)), key=lambda each: -shares[each])
    return single(f"rank_{form}", prompt, ordered(rng, [made[each] for each in best]), tuple(made))


def sort(rng: random.Random) -> Sample:
    """Titles in the order of a score from 1 to 9 that stands behind each."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(2, 7))
    scores = rng.sample(range(1, 10), len(made))
    listed = ",".join(f'"{each}" {score}' for each, score in zip(made, scores, strict=True))
    prompt = fill(rng.choice(SORT_WORDINGS), list=listed, noun=kind.noun)
    best = sorted(range(len(made)), key=lambda each: -scores[each])
    return single("sort", prompt, ordered(rng, [made[each] for each in best]), tuple(made))


def repeat(rng: random.Random) -> Sample:
    """The titles of a list again, in its order."""
    kind = any_kind(rng)
    made = titles(rng, kind.style, rng.randint(2, 20))
    prompt = fill(rng.choice(REPEAT_WORDINGS), list=",".join(f'"{each}"' for each in made))
    return single("repeat", prompt, ordered(rng, made), tuple(made))


def rate(rng: random.Random, form: str) -> Sample:
    """A rating from 1 to 5: the one that the user gave to the items with the same attribute."""
    kind = any_kind(rng)
    shown = look(rng, form, 4)
    stars = [rng.randint(1, 5) for _ in range(4)]
    made = titles(rng, kind.style, rng.randint(4, 10))
    owned = [rng.randrange(4) for _ in made[1:]]
    asked = rng.choice(owned)
    listed: list[Segment] = []
    for place, (each, attribute) in enumerate(zip(made[1:], owned, strict=True)):
        listed += ["," if place else "", *listing([each], [[attribute]], shown, ","), f" {stars[attribute]}"]
    prompt = fill(
        rng.choice(RATE_WORDINGS),
        list=tuple(listed),
        item=listing(made[:1], [[asked]], shown, ","),
        noun=kind.noun,
    )
    return single(f"rate_{form}", prompt, str(stars[asked]), ("1", "2", "3", "4", "5"))


def explain(rng: random.Random) -> Sample:
    """A choice with its reason: the liked word, the title that has it, then the recommendation."""
    kind = any_kind(rng)
    number = rng.randint(2, 10)
    shown = look(rng, "words", number)
    chosen = rng.randrange(number)
    made = titles(rng, kind.style, number)
    best, taste = f'"{made[chosen]}"', shown.words[chosen]
    prompt = fill(
        rng.choice(EXPLAIN_WORDINGS),
        user=f"<s>This user likes {taste}. ",
        candidates=listing(made, [[each] for each in range(number)], shown, ","),
        noun=kind.noun,
    )
    answer = rng.choice(
        (
            f"The user likes {taste}. {best} is {taste}. So the recommendation is {best}.",
            f"First, the user likes {taste}. Second, {best} has {taste}. Therefore I recommend {best}.",
        )
    )
    return single("explain", prompt, answer, tuple(made))

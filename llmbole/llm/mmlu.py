"""General ability of a language model: accuracy on MMLU's questions with four answers.

Hendrycks et al., Measuring Massive Multitask Language Understanding, ICLR 2021. The data are the authors' csv files,
`dev/<subject>_dev.csv` and `test/<subject>_test.csv` without a header: question, four answers, the right letter.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from llmbole.llm import hub_file, yes_no
from llmbole.llm.backbone import LanguageModel
from llmbole.llm.prompt import Encoded
from llmbole.llm.score import position_limit
from llmbole.settings import close_name

LETTERS = ("A", "B", "C", "D")
EXAMPLES = "dev"
Part = Literal["test", "val"]


@dataclass(frozen=True)
class Question:
    """A question: its text, its four answers, and the number of the right one."""

    text: str
    answers: tuple[str, str, str, str]
    right: int

    def prompt(self) -> str:
        """The question and its answers, up to where the letter stands (the paper, section 4.1)."""
        lines = [f"{letter}. {answer}" for letter, answer in zip(LETTERS, self.answers, strict=True)]
        return "\n".join([self.text, *lines, "Answer:"])


@dataclass(frozen=True)
class Subject:
    """A subject: its name as the files have it, examples with their answers, and questions."""

    name: str
    examples: tuple[Question, ...]
    questions: tuple[Question, ...]

    def prefix(self, shots: int) -> str:
        """What stands before every question: the subject, and so many examples."""
        words = self.name.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {words}.\n\n"
        return head + "".join(f"{each.prompt()} {LETTERS[each.right]}\n\n" for each in self.examples[:shots])


@dataclass(frozen=True)
class Accuracy:
    """How many questions were answered rightly.

    Attributes:
        right: Right answers by subject.
        questions: Questions by subject.
        shortened: Questions that were asked with fewer examples, since the model does not take more tokens.
        left_out: Questions that it does not take even without examples; they count as wrong.
        tokens: Tokens read.
    """

    right: Mapping[str, int]
    questions: Mapping[str, int]
    shortened: int
    left_out: int
    tokens: int

    def of(self, subject: str) -> float:
        """Accuracy on a subject."""
        return self.right[subject] / self.questions[subject]

    @property
    def overall(self) -> float:
        """Accuracy over all questions, as the authors' code has it; subjects weigh by their questions."""
        return sum(self.right.values()) / sum(self.questions.values())


def read(name: str, subjects: Sequence[str] = (), part: Part = "test") -> list[Subject]:
    """Read questions from a folder or a zip file of the authors' layout.

    Args:
        name: The folder that holds `dev` and `test` (or one with a folder `data` that does), the zip file, or one of
            the hub: `hf://datasets/OWNER/NAME@COMMIT/PATH`.
        subjects: Their names; none takes all.
        part: Which questions are asked.

    Returns:
        Subjects by name.

    Raises:
        ValueError: There are no such files or subjects, or a row is no question; the message names file and row.
    """
    files = _files(hub_file.located(name))
    known = sorted(
        each.removesuffix(f"_{part}.csv").rpartition("/")[2]
        for each in files
        if each.endswith(f"_{part}.csv")
    )
    if not known:
        raise ValueError(f"{name} holds no {part}/<subject>_{part}.csv: give MMLU's folder or zip file")
    for subject in subjects:
        if subject not in known:
            raise ValueError(f"{name} has no subject {subject!r}; {close_name(subject, known)}")
    return [
        Subject(each, _questions(files, each, EXAMPLES, name), _questions(files, each, part, name))
        for each in (sorted(subjects) or known)
    ]


def fingerprint(name: str) -> str:
    """SHA-256 over names and contents of the csv files of a folder or a zip file, the same for both."""
    digest = hashlib.sha256()
    for path, content in sorted(_files(hub_file.located(name)).items()):
        digest.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(path: Path) -> dict[str, bytes]:
    """Contents of csv files, by `<part>/<file>`."""
    if path.is_dir():
        found = {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*.csv")}
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = {each: archive.read(each) for each in archive.namelist() if each.endswith(".csv")}
    else:
        raise ValueError(f"{path} is neither a folder nor a zip file: give MMLU's, as its authors made it")
    return {"/".join(name.split("/")[-2:]): content for name, content in found.items()}


def _questions(files: Mapping[str, bytes], subject: str, part: str, name: str) -> tuple[Question, ...]:
    """The rows of one file."""
    file = f"{part}/{subject}_{part}.csv"
    if file not in files:
        raise ValueError(f"{name} lacks {file}: fetch it again")
    found = []
    rows = csv.reader(io.StringIO(files[file].decode("utf-8"), newline=""), strict=True)
    for number, row in enumerate(rows, start=1):
        if len(row) != 6 or row[5] not in LETTERS:
            raise ValueError(
                f"{name}, {file}, row {number}: expected a question, four answers and a letter A to D"
            )
        found.append(Question(row[0], (row[1], row[2], row[3], row[4]), LETTERS.index(row[5])))
    if not found:
        raise ValueError(f"{name}, {file} has no row: fetch it again")
    return tuple(found)


def ask(
    lm: LanguageModel,
    subjects: Sequence[Subject],
    shots: int = 5,
    *,
    token_budget: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Accuracy:
    """Ask all questions: the answer is the letter with the highest log-likelihood behind the prompt.

    The examples of a subject are run once and their keys and values kept for its questions, which are packed by length.
    A question that is too long is asked with as many examples as fit, as in the authors' code.

    Args:
        lm: The language model.
        subjects: Questions.
        shots: Examples before each question, at most those that the subject has.
        token_budget: Positions of one forward pass, padding included; `None` takes what suits the device.
        progress: Told how many questions are done.

    Returns:
        The accuracy.

    Raises:
        ValueError: A letter is not one token.
    """
    letters = _letter_ids(lm)
    right, counts, shortened, left_out, tokens = {}, {}, 0, 0, 0
    for subject in subjects:
        groups = _by_shots(lm, subject, shots)
        counts[subject.name], right[subject.name] = len(subject.questions), 0
        for fitting, places in groups.items():
            if fitting is None:
                left_out += len(places)
            else:
                shortened += len(places) * (fitting < min(shots, len(subject.examples)))
                before = _before(lm, subject, fitting)
                behind = [lm.tokens.ids(subject.questions[place].prompt()) for place in places]
                prompts = [Encoded([*before, *ids]) for ids in behind]
                chosen = yes_no.score_answers(lm, prompts, letters, token_budget=token_budget).argmax(1)
                wanted = torch.tensor([subject.questions[place].right for place in places])
                right[subject.name] += int((chosen == wanted).sum())
                tokens += len(before) + sum(map(len, behind))
            if progress is not None:
                progress(len(places))
    return Accuracy(right, counts, shortened, left_out, tokens)


def _letter_ids(lm: LanguageModel) -> list[int]:
    """Ids of the four letters as they follow `Answer:`."""
    ids = lm.tokens.ids_many([f" {letter}" for letter in LETTERS])
    if any(len(each) != 1 for each in ids) or len({each[0] for each in ids}) != len(LETTERS):
        raise ValueError(
            f"the tokenizer of {type(lm.model).__name__} has no token of its own for each of {LETTERS} behind a space, "
            "so their likelihoods can't be compared: use another model"
        )
    return [each[0] for each in ids]


def _before(lm: LanguageModel, subject: Subject, shots: int) -> list[int]:
    """Ids of what stands before every question, the begin token first."""
    begin = [] if lm.tokens.bos_id is None else [lm.tokens.bos_id]
    return [*begin, *lm.tokens.ids(subject.prefix(shots))]


def _by_shots(lm: LanguageModel, subject: Subject, shots: int) -> dict[int | None, list[int]]:
    """Places of questions by the number of examples that fit before them; `None` if the question alone does not."""
    limit = position_limit(lm)
    most = min(shots, len(subject.examples))
    taken = [len(_before(lm, subject, count)) for count in range(most + 1)]
    groups: dict[int | None, list[int]] = {}
    for place, ids in enumerate(lm.tokens.ids_many([each.prompt() for each in subject.questions])):
        fitting = [count for count in range(most + 1) if limit is None or taken[count] + len(ids) <= limit]
        groups.setdefault(fitting[-1] if fitting else None, []).append(place)
    return groups

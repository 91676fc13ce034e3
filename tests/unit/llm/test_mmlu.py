"""MMLU: files are read as their authors lay them out, and answers are those of a plain pass over whole prompts."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest
import torch

from llmbole.cli import main
from llmbole.llm import mmlu
from llmbole.llm.backbone import load
from llmbole.llm.identity import LLMSpec

SUBJECTS = ("films", "high_school_films")


def rows(subject, number):
    return [
        [
            f'Which of {subject} is {place}, "quoted"?',
            "Heat",
            "M",
            f"Se7en {place}",
            "Amélie",
            "ABCD"[place % 4],
        ]
        for place in range(number)
    ]


@pytest.fixture
def folder(tmp_path):
    for subject in SUBJECTS:
        for part, number in (("dev", 5), ("test", 7), ("val", 2)):
            path = tmp_path / "mmlu" / "data" / part / f"{subject}_{part}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as stream:
                csv.writer(stream).writerows(rows(subject, number))
    return tmp_path / "mmlu"


@pytest.fixture
def packed(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive:
        for path in sorted(folder.rglob("*.csv")):
            archive.write(path, path.relative_to(folder).as_posix())
    return tmp_path / "mmlu.zip"


def test_a_folder_and_its_zip_are_the_same(folder, packed):
    found = mmlu.read(str(folder))
    assert found == mmlu.read(str(packed)) == mmlu.read(str(folder / "data"))
    assert mmlu.fingerprint(str(folder)) == mmlu.fingerprint(str(packed))
    assert [subject.name for subject in found] == list(SUBJECTS)
    assert len(found[0].examples) == 5 and len(found[0].questions) == 7
    assert len(mmlu.read(str(folder), ["films"], "val")[0].questions) == 2
    assert found[1].prefix(1) == (
        "The following are multiple choice questions (with answers) about high school films.\n\n"
        'Which of high_school_films is 0, "quoted"?\nA. Heat\nB. M\nC. Se7en 0\nD. Amélie\nAnswer: A\n\n'
    )


@pytest.mark.parametrize("shots", [0, 5])
def test_answers_are_those_of_whole_prompts_one_by_one(shots, folder):
    lm = load(LLMSpec("tiny")).freeze()
    subjects = mmlu.read(str(folder))
    found = mmlu.ask(lm, subjects, shots, token_budget=150)
    letters = [lm.tokens.ids(f" {letter}") for letter in "ABCD"]
    assert all(len(each) == 1 for each in letters)
    for subject in subjects:
        right = 0
        for question in subject.questions:
            ids = [lm.tokens.bos_id, *lm.tokens.ids(subject.prefix(shots)), *lm.tokens.ids(question.prompt())]
            with torch.inference_mode():
                logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
            right += int(logits[[each[0] for each in letters]].argmax()) == question.right
        assert found.right[subject.name] == right and found.questions[subject.name] == 7
    assert found.overall == sum(found.right.values()) / 14 and (found.shortened, found.left_out) == (0, 0)


def test_questions_that_are_too_long_get_fewer_examples_or_count_as_wrong(folder):
    lm = load(LLMSpec("tiny")).freeze()
    subjects = mmlu.read(str(folder), ["films"])
    sizes = [len(mmlu._before(lm, subjects[0], shots)) for shots in range(6)]
    longest = max(len(lm.tokens.ids(question.prompt())) for question in subjects[0].questions)
    lm.max_length = sizes[2] + longest
    found = mmlu.ask(lm, subjects, 5)
    assert (found.shortened, found.left_out) == (7, 0)
    assert found.right == mmlu.ask(lm, subjects, 2).right
    lm.max_length = sizes[0]
    none = mmlu.ask(lm, subjects, 5)
    assert (none.left_out, none.overall, none.tokens) == (7, 0.0, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [(["a", "b", "c"], r"films_test\.csv, row 8"), (["q", "1", "2", "3", "4", "E"], "a letter A to D")],
)
def test_a_row_that_is_no_question_is_named(folder, row, message):
    with (folder / "data/test/films_test.csv").open("a", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow(row)
    with pytest.raises(ValueError, match=message):
        mmlu.read(str(folder))


def test_the_command_tells_each_subject_and_writes_the_numbers(folder, tmp_path, capsys):
    output = tmp_path / "found.json"
    words = [
        "ability",
        "--llm=tiny",
        f"--data={folder}",
        "--subjects=films",
        "--shots=1",
        f"--output={output}",
        "--quiet",
    ]
    assert main(words) == 0
    printed, written = capsys.readouterr().out, json.loads(output.read_text())
    assert printed.splitlines()[0].split() == ["films", f"{written['subjects']['films']:.4f}", "7"]
    assert written["overall"] == written["subjects"]["films"] and written["data"] == mmlu.fingerprint(
        str(folder)
    )
    assert main(["ability", "--llm=tiny", f"--data={folder}", "--subjects=film"]) == 2
    assert "did you mean 'films'" in capsys.readouterr().err
    assert main(["ability", "--llm=tiny", f"--data={tmp_path / 'nothing'}"]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_tokenizer_without_the_letters_is_refused(folder, folders):
    lm = load(LLMSpec(str(folders["llama"]))).freeze()
    with pytest.raises(ValueError, match="no token of its own for each of"):
        mmlu.ask(lm, mmlu.read(str(folder)))

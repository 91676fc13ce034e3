"""The command `llmbole ability`: its options and what it says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from llmbole.settings import SettingsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to its parser."""
    parser.add_argument("--llm", required=True, help="tiny, a folder, or a hub id with a revision")
    parser.add_argument(
        "--data",
        required=True,
        help="MMLU as its authors publish it: a folder, a zip file, or hf://datasets/OWNER/NAME@COMMIT/PATH of one",
    )
    parser.add_argument("--subjects", default=None, help="names with commas between; default all")
    parser.add_argument("--part", choices=("test", "val"), default="test", help="default test")
    parser.add_argument("--shots", type=int, default=5, help="examples before each question; default 5")
    parser.add_argument("--precision", default="auto", help="of the weights; default auto")
    parser.add_argument("--device", default="auto", help="torch device; default auto")
    parser.add_argument("--output", default=None, help="also write the numbers to this file, as JSON")


def command(parsed: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Ask a language model MMLU's questions.

    Args:
        parsed: The command's options.
        say: Writes to standard output.

    Returns:
        Exit status 0.

    Raises:
        SettingsError: The data or the language model can't be read.
    """
    if not 0 <= parsed.shots <= 5:
        raise SettingsError(f"--shots={parsed.shots}: from 0 to 5, as many as MMLU has")
    from tqdm import tqdm

    from llmbole.config import resolve_device
    from llmbole.llm import backbone, identity, mmlu

    names = [name.strip() for name in (parsed.subjects or "").split(",") if name.strip()]
    try:
        subjects = mmlu.read(parsed.data, names, parsed.part)
        spec = identity.LLMSpec(name=parsed.llm, precision=parsed.precision)
        revision = identity.revision(spec)
        lm = backbone.load(spec, resolve_device(parsed.device)).freeze()
        total = sum(len(subject.questions) for subject in subjects)
        with tqdm(total=total, unit="question", leave=False, disable=parsed.quiet) as bar:
            found = mmlu.ask(lm, subjects, parsed.shots, progress=lambda done: bar.update(done))
    except ValueError as error:
        raise SettingsError(str(error)) from None
    width = max(len("overall"), *(len(each.name) for each in subjects))
    for each in subjects:
        say(f"{each.name:<{width}}  {found.of(each.name):.4f}  {found.questions[each.name]:>6,}")
    say(f"{'overall':<{width}}  {found.overall:.4f}  {total:>6,}")
    say(
        f"{parsed.llm} @ {revision[:12]}, MMLU {parsed.part}, {parsed.shots} examples; {found.shortened} questions had "
        f"fewer, {found.left_out} were too long and count as wrong"
    )
    if parsed.output:
        written = {
            "llm": identity.given_folder(spec) and f"./{Path(parsed.llm).name}" or parsed.llm,
            "revision": revision,
            "data": mmlu.fingerprint(parsed.data),
            "part": parsed.part,
            "shots": parsed.shots,
            "overall": found.overall,
            "subjects": {each.name: found.of(each.name) for each in subjects},
            "questions": dict(found.questions),
            "shortened": found.shortened,
            "left_out": found.left_out,
        }
        Path(parsed.output).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 0

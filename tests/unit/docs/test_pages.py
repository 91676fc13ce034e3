"""Documents: links open files and headings that exist, every method has a page of the same form, tables are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from markdown_it import MarkdownIt

from llmbole import registry
from llmbole.cli import SUBCOMMANDS
from llmbole.markdown import MarkdownError, regions
from llmbole.method_page import published_table, settings_table
from llmbole.render import check_document
from llmbole.settings import load_yaml

ROOT = Path(__file__).resolve().parents[3]
METHODS = ROOT / "docs" / "methods"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "llmbole").rglob("*.md")),
]
PARTS = ("The paper in the code", "Settings", "Published numbers", "Departures")
METHOD_NAMES = sorted(found for found in registry._built_in() if "." not in found)
FORMS = sorted(found for found in registry._built_in() if "." in found)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tokens(path: Path) -> list:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def headings(path: Path) -> list[str]:
    parsed = tokens(path)
    return [parsed[place + 1].content for place, token in enumerate(parsed) if token.type == "heading_open"]


def anchors(path: Path) -> set[str]:
    """What a forge makes of headings: small letters, no punctuation, hyphens for spaces."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(path))
    return {text.replace(" ", "-") for text in plain}


def links(path: Path) -> list[tuple[str, str]]:
    """Words and target of each link."""
    found = []
    for token in tokens(path):
        for place, child in enumerate(token.children or ()):
            if child.type == "link_open":
                words = next(other for other in token.children[place:] if other.type != "link_open")
                found.append((words.content, child.attrs["href"]))
    return found


def problems(path: Path) -> list[str]:
    """Links of a document that open nothing."""
    found = []
    for _, target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        opened = (path.parent / place).resolve() if place else path
        if not opened.is_file():
            found.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(opened):
            found.append(f"{target}: no such heading; there are {', '.join(sorted(anchors(opened)))}")
    return found


def commands(path: Path) -> list[str]:
    """Lines of code blocks that call the command, without comments."""
    blocks = [token.content for token in tokens(path) if token.type == "fence"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"(llmbole|python run_benchmark\.py) ", line)]


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """The site's hooks."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_open_files_and_headings(path):
    assert problems(path) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One: a `word`\n\n[a](#one-a-word) [b](#two) [c](other.md) [d](https://x.org)\n", "utf-8"
    )
    assert problems(page) == ["#two: no such heading; there are one-a-word", "other.md: no such file"]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_exist_and_their_methods_do_too(path):
    for line in commands(path):
        words = shlex.split(line, comments=True)
        words = words[1:] if words[0] == "llmbole" else words[2:]
        assert words[0].startswith("--") or words[0] in SUBCOMMANDS, line
        for model in [word.partition("=")[2] for word in words if word.startswith("--model=")]:
            if model not in ("MyMethod", "Blend"):  # what the guide on methods of one's own adds
                registry.check_name(model)


@pytest.mark.parametrize(
    "path", [path for path in PAGES if "<!-- generated:" in path.read_text("utf-8")], ids=name
)
def test_generated_tables_are_current(path):
    found = check_document(path, ROOT / "leaderboard" / "results")
    assert found == [], f"run: llmbole render --document={name(path)}"


def pages_of(method: str) -> list[Path]:
    """Pages with the settings of a method, or of a form of it."""
    wanted = {"settings": method}
    return [
        path
        for path in sorted(METHODS.glob("*.md"))
        if wanted in [region.attributes for region in regions(path.read_text(encoding="utf-8"))]
    ]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_has_one_page(method):
    found = pages_of(method)
    assert len(found) == 1, (
        f"{method} needs one page: write docs/methods/{method.lower()}.md with <!-- generated:settings-{method} "
        f"settings={method} -->; docs/methods/index.md says what a page holds. Found: {[*map(name, found)]}"
    )
    text = found[0].read_text(encoding="utf-8")
    assert f"--model={method} " in text, f"{name(found[0])} shows no command with --model={method}"
    assert [part for part in PARTS if part in headings(found[0])] == list(PARTS), (
        f"{name(found[0])} needs the headings {', '.join(PARTS)}, in this order"
    )
    assert found[0].name in [target for _, target in links(METHODS / "index.md")], (
        f"docs/methods/index.md has no link to {found[0].name}"
    )
    assert f"`{method}`" in (METHODS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_a_method_stands_on_its_page(form):
    method, _, _ = form.partition(".")
    assert pages_of(form) == pages_of(method), (
        f"the page of {method} needs <!-- generated:settings-{form} settings={form} -->"
    )
    protocol = load_yaml(ROOT / "properties" / "model" / f"{form}.yaml")["protocol"]
    shown = [shlex.split(line) for path in pages_of(method) for line in commands(path)]
    assert [line for line in shown if {f"--model={method}", f"--protocol={protocol}"} <= {*line}], (
        f"the page of {method} shows no command with --protocol={protocol}, which is {form}'s"
    )


@pytest.mark.parametrize("path", sorted(METHODS.glob("*.md")), ids=name)
def test_pages_of_methods_name_code_that_exists(path, hooks):
    code = [(words, target) for words, target in links(path) if target.endswith(".py")]
    assert code or path.name == "index.md", "no link to the code of the paper's equations"
    for words, target in code:
        assert hooks.line_of(words, (path.parent / target).resolve()) > 0


def test_a_name_that_is_gone_is_found(hooks):
    file = ROOT / "llmbole" / "model" / "collm.py"
    line = hooks.line_of("CoLLM.predict", file)
    assert file.read_text(encoding="utf-8").splitlines()[line - 1].startswith("    def predict(")
    with pytest.raises(hooks.PluginError, match=r"collm\.py has no CoLLM\.predicts"):
        hooks.line_of("CoLLM.predicts", file)


def test_forms_have_settings_of_their_own():
    column = {
        form: next(line for line in settings_table(form).splitlines() if "`backbone.name`" in line)
        for form in ("CTRL", "CTRL.ranking")
    }
    assert "`DIN`" in column["CTRL"] and "`SASRec`" in column["CTRL.ranking"]


def test_settings_are_those_of_the_yaml():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in settings_table("KD").splitlines()
    ]
    assert rows[0] == ["setting", "default", "embedded LLM", "searched", ""]
    found = {row[0].strip("`"): row[1:] for row in rows[2:]}
    content = load_yaml(ROOT / "properties" / "model" / "KD.yaml")
    assert found["distil.weight"] == [
        f"`{content['distil']['weight']}`",
        "",
        "`[0.05, 0.1, 0.2, 0.5]`",
        "of the loss to the teacher's probabilities",
    ]
    assert found["teacher.rows"][:2] == ["`0`", "`10000`"]
    assert found["prompt.text"][0].endswith(" …`")  # a long text, of which the beginning stands there
    assert not [key for key in found if key.startswith(("by_llm", "sweep", "datasets"))]


def test_published_values_are_those_of_the_experiment():
    text = published_table("ICL", ["collm/table2"])
    yaml = load_yaml(ROOT / "properties" / "experiment" / "collm" / "table2.yaml")
    published = {data: values["ICL"]["AUC"] for data, values in yaml["published"].items()}
    assert len(published) == 2
    for data, value in published.items():
        assert re.search(rf"\| {data} +\| ICL +\| +{value:.4f} \|", text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: settings_table("CoLM"), "settings=CoLM: no method"),
        (lambda: settings_table("DeepFM"), "settings=DeepFM: no method"),
        (lambda: settings_table("CTRL.rating"), "settings=CTRL.rating: no method"),
        (lambda: published_table("KD", ["llmcf/table30"]), "did you mean 'llmcf/table3'"),
        (lambda: published_table("KD", ["collm/table2"]), "collm/table2 has no published value"),
    ],
)
def test_tables_of_what_does_not_exist_are_refused(make, message):
    with pytest.raises(MarkdownError, match=re.escape(message)):
        make()

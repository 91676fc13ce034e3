"""The site's own steps: pages of folders in its navigation, and pages of the repository's files that documents link to.

In the repository a link to `../../llmbole/model/collm.py` opens the file. On the site it opens a page with the file's
text, and a link whose words are a function's name in code opens that page at the function.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "source"
LINK = re.compile(r"(?<!!)\[(?P<words>[^\[\]]+)\]\((?P<target>[^()\s]+)\)")
NAMED = re.compile(r'<a href="(?P<path>[^"#]+\.py)\.html"><code>(?P<name>\w+(?:\.\w+)?)</code></a>')
LANGUAGES = {".py": "python", ".yaml": "yaml"}
FENCE = "`" * 10  # longer than any fence inside a file
HEADER = "---\nsearch:\n  exclude: true\n---\n\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page of a folder where the navigation says `folder/*`; the page `index.md` comes first."""
    config.nav = [_expanded(entry) for entry in config.nav or ()]
    return config


def _expanded(entry: Any) -> Any:  # noqa: ANN401 - a page, or a title with pages
    if not isinstance(entry, dict):
        return entry
    [(title, pages)] = entry.items()
    if not isinstance(pages, str) or not pages.endswith("/*"):
        return entry
    found = sorted((ROOT / "docs").glob(f"{pages}.md"), key=lambda path: (path.stem != "index", path.stem))
    return {title: [path.relative_to(ROOT / "docs").as_posix() for path in found]}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file outside the folder of documents that a document, or such a page, links to."""
    waiting = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for _, path, _ in _links(_text(page), page):
            if path.startswith("docs/") or files.get_file_from_path(_page_of(path)):
                continue
            files.append(File.generated(config, _page_of(path), content=_text(_page_of(path))))
            waiting.append(_page_of(path))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to the repository's files open the site's pages of them."""
    here = page.file.src_uri
    lines = markdown.split("\n")
    for number in _prose(lines):
        lines[number] = LINK.sub(lambda link: _on_site(link, here), lines[number])
    return "\n".join(lines)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let a link whose words are a function's name in code open the function's line.

    The site's own check of anchors does not know those of lines of code, so they are added behind it.
    """
    folder = PurePosixPath(page.url).parent

    def at_line(link: re.Match[str]) -> str:
        path = os.path.normpath(folder / link["path"]).removeprefix(f"{SOURCE}/")
        line = line_of(link["name"], ROOT / path)
        return f'<a href="{link["path"]}.html#__codelineno-0-{line}"><code>{link["name"]}</code></a>'

    return NAMED.sub(at_line, html)


def _prose(lines: list[str]) -> Iterator[int]:
    """Numbers of the lines outside code fences."""
    fence = ""
    for number, line in enumerate(lines):
        ticks = re.match(r"\s*(`{3,}|~{3,})", line)
        if ticks and (not fence or ticks[1].startswith(fence)):
            fence = "" if fence else ticks[1]
        elif not fence:
            yield number


def _links(markdown: str, here: str) -> Iterator[tuple[str, str, str]]:
    """Words, path in the repository, and anchor of a page's links to files."""
    lines = markdown.split("\n")
    for number in _prose(lines):
        for link in LINK.finditer(lines[number]):
            if not re.match(r"[a-z]+:|#", link["target"]):
                target, _, anchor = link["target"].partition("#")
                yield link["words"], _place(target, here), anchor


def _place(target: str, here: str) -> str:
    """Path in the repository of what a page's link names."""
    folder = PurePosixPath(_origin(here)).parent
    path = os.path.normpath(folder / target)
    if path.startswith("..") or not (ROOT / path).is_file():
        raise PluginError(f"{_origin(here)}: the link to {target} names no file of the repository")
    return PurePosixPath(path).as_posix()


def _origin(page: str) -> str:
    """Path in the repository of a page's text."""
    if not page.startswith(f"{SOURCE}/"):
        return f"docs/{page}"
    path = page.removeprefix(f"{SOURCE}/")
    code = path.removesuffix(".md")
    return code if PurePosixPath(code).suffix in LANGUAGES else path


def _page_of(path: str) -> str:
    """Name of the site's page of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    suffix = PurePosixPath(path).suffix
    if suffix not in (".md", *LANGUAGES):
        raise PluginError(
            f"{path}: the site shows no {suffix or 'file without an ending'}; link to something else"
        )
    return f"{SOURCE}/{path}" if suffix == ".md" else f"{SOURCE}/{path}.md"


def _text(page: str) -> str:
    """Markdown of a page: a document's own, or a file's text in a fence."""
    origin = _origin(page)
    text = (ROOT / origin).read_text(encoding="utf-8")
    language = LANGUAGES.get(PurePosixPath(origin).suffix)
    if language is None:
        return text
    return f'{HEADER}# {origin}\n\n{FENCE}{{ .{language} linenums="1" }}\n{text.rstrip()}\n{FENCE}\n'


def _on_site(link: re.Match[str], here: str) -> str:
    if re.match(r"[a-z]+:|#", link["target"]):
        return link[0]
    target, _, anchor = link["target"].partition("#")
    path = os.path.relpath(_page_of(_place(target, here)), PurePosixPath(here).parent)
    return f"[{link['words']}]({path}{'#' if anchor else ''}{anchor})"


def line_of(name: str, path: Path) -> int:
    """Line on which a class, a function, or a class's function begins.

    Args:
        name: `function`, `Class` or `Class.function`.
        path: A file of Python.

    Returns:
        The line, from 1.

    Raises:
        PluginError: The file has no such thing.
    """
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    found: ast.stmt | None = None
    for part in name.split("."):
        named = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
        ]
        if not named:
            raise PluginError(f"{path.relative_to(ROOT)} has no {name}; a document links to it")
        found = named[0]
        body = found.body
    assert found is not None  # a name has a part
    return found.lineno

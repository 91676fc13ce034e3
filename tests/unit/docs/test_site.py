"""The documentation site: built without a warning, whole, without other servers, links to code open the right line."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def build(site: Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}"],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_document_is_a_page_and_methods_are_in_the_navigation(site):
    pages = sorted((ROOT / "docs").rglob("*.md"))
    assert len(pages) > 20
    for page in pages:
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    overview = (site / "index.html").read_text(encoding="utf-8")
    linked = set(re.findall(r'href="(methods/\w+\.html)"', overview))
    assert linked == {f"methods/{page.stem}.html" for page in (ROOT / "docs" / "methods").glob("*.md")}


def test_a_link_to_a_function_opens_its_line(site):
    page = (site / "methods" / "collm.html").read_text(encoding="utf-8")
    [(target, line)] = re.findall(
        r'<a href="\.\./(source/[^"]+)#__codelineno-0-(\d+)"><code>CoLLM\.predict</code>', page
    )
    code = (site / target).read_text(encoding="utf-8")
    assert f'id="__codelineno-0-{line}"' in code
    source = (ROOT / "llmbole" / "model" / "collm.py").read_text(encoding="utf-8").splitlines()
    assert source[int(line) - 1].startswith("    def predict(")


def test_the_site_loads_nothing_from_other_servers(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="?(?:https?:)?//', text), page
        assert not re.search(r'<link[^>]*rel="?stylesheet"?[^>]*href="?(?:https?:)?//', text), page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a](nowhere.md)", "the link to nowhere.md names no file"),
        ("[a](#nowhere)", "no such anchor"),
        ("[`CoLLM.nothing`](../llmbole/model/collm.py)", "has no CoLLM.nothing"),
        ("[a](../LICENSE)", "the site shows no file without an ending"),
    ],
)
def test_a_broken_link_stops_the_build(tmp_path, text, message):
    for entry in ("mkdocs.yml", "LICENSE", "docs/hooks.py", "llmbole/model/collm.py"):
        (tmp_path / entry).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / entry, tmp_path / entry)
    configuration = (tmp_path / "mkdocs.yml").read_text(encoding="utf-8")
    before, _, rest = configuration.partition("nav:\n")
    after = rest[rest.index("\n\n") :]
    (tmp_path / "mkdocs.yml").write_text(f"{before}nav: [index.md]{after}", encoding="utf-8")
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode != 0 and message in done.stderr, done.stderr

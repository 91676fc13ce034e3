"""Who may import whom: the layers of docs/architecture.md, read from the syntax trees of the package."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "llmbole"

COMMANDS = (
    "cli",
    "sweep_command",
    "table_command",
    "reproduce_command",
    "recommend_command",
    "serve_command",
    "leaderboard_command",
    "ability_command",
    "__main__",
)
RUNS = ("api", "defaults", "grid", "inference", "recording", "reproduce", "sweep", "resolve")
RESULTS = (
    "render",
    "report",
    "charts",
    "excerpt",
    "experiment",
    "experiment_page",
    "table_run",
    "table_values",
    "protocol_page",
    "method_page",
    "tables",
    "markdown",
    "verify",
    "results",
    "sweep_record",
    "record",
    "provenance",
    "significance",
)
RECBOLE_SIDE = ("config", "data", "evaluator", "recommender", "trainer")
GROUND = ("registry", "settings", "compat", "cluster")
# Top to bottom. A part imports parts below it, and of its own layer where PEERS says so.
LAYERS = (COMMANDS, ("serve",), RUNS, RESULTS, ("model",), (*RECBOLE_SIDE, "llm", "pipeline"), GROUND)
# Parts of one layer that may know each other; llm and pipeline stand alone.
PEERS = tuple(map(set, (COMMANDS, RUNS, RESULTS, RECBOLE_SIDE, GROUND)))
LLM_LIBRARIES = {
    "transformers",
    "peft",
    "sentence_transformers",
    "accelerate",
    "tokenizers",
    "bitsandbytes",
    "vllm",
    "openai",
}
FORBIDDEN = {
    "data": LLM_LIBRARIES,
    "recommender": LLM_LIBRARIES,
    "trainer": LLM_LIBRARIES,
    "evaluator": LLM_LIBRARIES,
    "config": LLM_LIBRARIES,
    "llm": {"recbole"},
}
# All that these parts may import from outside the standard library and llmbole.
ALLOWED = {
    "pipeline": {"numpy", "filelock", "psutil", "tqdm"},
    "settings": {"yaml"},
    "registry": set(),
    "significance": {"numpy", "scipy"},
    "method_page": {"yaml"},
    **{part: set() for part in RESULTS if part not in ("significance", "method_page")},
}
ONLY_IN = {
    "ray": {"cluster", "sweep", "grid", "llm"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "pydantic": {"serve"},
}
# What names are checked with must not pull in HEAVY.
LIGHT = (
    "llmbole",
    "llmbole.cli",
    "llmbole.data.source",
    "llmbole.data.protocol",
    "llmbole.llm.identity",
    "llmbole.resolve",
)
HEAVY = ("torch", "transformers", "sentence_transformers", "ray", "recbole", "pandas", "scipy", "sklearn")


@dataclass(frozen=True)
class Import:
    """One imported module, with the place that imports it."""

    module: str
    importer: str
    line: int


def part(module: str) -> str:
    """`llmbole.data.source` is of the part `data`; the package itself is of the part ``."""
    return (module.split(".") + [""])[1]


def layer(name: str) -> int:
    return next(depth for depth, names in enumerate(LAYERS) if name in names)


def drawing(text: str) -> list[set[str]]:
    """The parts that a drawing of layers names, from the top; names of a line stand two spaces apart."""
    found: dict[int, set[str]] = {}
    for line in text.splitlines():
        names = line.lstrip(" │├└─")
        listed = re.split(r"   +", names)[0].split("  ")
        found.setdefault(len(line) - len(names), set()).update(name.removesuffix("/*") for name in listed)
    return [found[depth] for depth in sorted(found)]


def read_package() -> dict[str, str]:
    """Module name to source text of every file of the package."""
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        sources[".".join(names[:-1] if names[-1] == "__init__" else names)] = path.read_text(encoding="utf-8")
    return sources


def imports(module: str, source: str, modules: set[str]) -> Iterator[Import]:
    """Every import statement of a module, those inside functions too, and `import_module` of a literal name."""
    is_package = any(other.startswith(f"{module}.") for other in modules)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (
                module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in full]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            first = node.args[0] if node.args else None
            names = [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
        else:
            continue
        yield from (Import(name, module, node.lineno) for name in names)


def refusal(found: Import, methods: set[str]) -> str | None:
    """Why an import is not allowed, or None."""
    importer, top = part(found.importer), found.module.split(".")[0]
    if top == "llmbole":
        imported = part(found.module)
        if found.module in methods and importer != "":
            return "nothing imports a method's module; the registry finds it by name"
        if "" in (importer, imported) or importer == imported:
            return None
        if layer(imported) > layer(importer) or any({importer, imported} <= peers for peers in PEERS):
            return None
        return f"{importer} does not stand above {imported}"
    if top in FORBIDDEN.get(importer, ()):
        return f"{importer} does not know {top}"
    if importer in ALLOWED and top not in ALLOWED[importer] and top not in sys.stdlib_module_names:
        return f"{importer} may import only the standard library and {sorted(ALLOWED[importer])}"
    if top in ONLY_IN and importer not in ONLY_IN[top]:
        return f"{top} is for {sorted(ONLY_IN[top])}"
    return None


def foreign_names(tree: ast.Module) -> set[str]:
    """Names that a module's imports bind to objects of other packages."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign = [alias for alias in node.names if alias.name.split(".")[0] != "llmbole"]
            names |= {alias.asname or alias.name.split(".")[0] for alias in foreign}
        elif (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] != "llmbole"
        ):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def root(node: ast.expr) -> str | None:
    """`a` of `a.b.c`, `a[0].b` and `vars(a)["b"]`; None for anything else."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("vars", "importlib.import_module")
            and node.args
        ):
            node = node.args[0]
        else:
            return None
    return node.id


def patches(source: str) -> Iterator[tuple[int, str]]:
    """Assignments to attributes of foreign modules and classes: line and text."""
    tree = ast.parse(source)
    foreign = foreign_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr") and node.args:
            targets = [ast.Attribute(node.args[0], "_", ast.Store())]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Attribute | ast.Subscript) and root(target) in foreign - {"os"}:
                yield node.lineno, ast.unparse(node)


def violations(sources: dict[str, str]) -> list[str]:
    """Every broken rule, as `module:line: what: why`."""
    methods = {name for name, source in sources.items() if "\n@register_model(" in source}
    found = []
    for module, source in sorted(sources.items()):
        for item in imports(module, source, set(sources)):
            reason = refusal(item, methods)
            if reason:
                found.append(f"{module}:{item.line}: imports {item.module}: {reason}")
        if module != "llmbole.compat":
            found += [
                f"{module}:{line}: {text}: only compat.py patches foreign code"
                for line, text in patches(source)
            ]
    return found


def test_every_part_has_a_layer() -> None:
    parts = {part(module) for module in read_package()} - {""}
    assert parts - {name for names in LAYERS for name in names} == set(), (
        "give the new part its place in LAYERS"
    )


def test_the_drawing_of_the_layers_is_these_rules() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"^## Layers\n\n```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    drawn = drawing(block[1])
    assert len(drawn) == len(LAYERS)
    for names, layer_names in zip(drawn, LAYERS, strict=True):
        if "..." in names:
            assert names - {"..."} < set(layer_names)
        else:
            assert names == set(layer_names)


def test_a_drawing_is_read() -> None:
    text = "cli  ...   what\n └─ api  grid/*\n     ├─ data      why  not\n     └─ llm/*\n"
    assert drawing(text) == [{"cli", "..."}, {"api", "grid"}, {"data", "llm"}]


def test_the_package_keeps_the_rules() -> None:
    assert violations(read_package()) == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("pipeline.store", "import recbole", "pipeline may import only"),
        ("pipeline.store", "def f():\n    import torch", "pipeline may import only"),
        ("pipeline.store", "from llmbole.data import source", "pipeline does not stand above data"),
        ("llm.score", "from recbole.utils import init_seed", "llm does not know recbole"),
        ("llm.score", "from ..data import source", "llm does not stand above data"),
        ("llm.score", "from llmbole import config", "llm does not stand above config"),
        ("data.source", "from transformers import AutoTokenizer", "data does not know transformers"),
        ("data.source", "import importlib\nimportlib.import_module('peft')", "data does not know peft"),
        ("data.source", "import llmbole.model.base", "data does not stand above model"),
        ("data.source", "from ray import tune", "ray is for ['cluster', 'grid', 'llm', 'sweep']"),
        ("results", "import numpy", "results may import only the standard library"),
        ("verify", "import pandas", "verify may import only the standard library"),
        ("settings", "from llmbole import registry, cli", "settings does not stand above cli"),
        ("model.other", "from llmbole.model import method", "nothing imports a method's module"),
        ("model.other", "from .method import Method", "nothing imports a method's module"),
        ("config", "import numpy as np\nnp.float = float", "only compat.py"),
        ("config", "from recbole.trainer import trainer\ntrainer.Trainer.fit = None", "only compat.py"),
        ("config", "import recbole.x\nsetattr(recbole.x, 'y', 1)", "only compat.py"),
        ("config", "from scipy import sparse\nvars(sparse)['dok_matrix'] = 1", "only compat.py"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, reason: str) -> None:
    planted = {
        "llmbole": "",
        "llmbole.cli": "",
        "llmbole.config": "",
        "llmbole.data": "",
        "llmbole.data.source": "",
        "llmbole.model": "",
        "llmbole.model.base": "",
        "llmbole.model.method": "\n@register_model('Method')\nclass Method: ...",
        f"llmbole.{module}": source,
    }
    found = violations(planted)
    assert len(found) == 1, found
    assert reason in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli", "from llmbole.results import load"),
        ("model.base", "import recbole, transformers, llmbole.llm.score, llmbole.data.source"),
        ("trainer.trainer", "from recbole.trainer import Trainer\nfrom llmbole.data import source"),
        ("data.source", "from . import text\nfrom .text import ItemText\nimport recbole"),
        ("config", "import torch\nself.torch = torch\nstate = {}\nstate['np'] = 1"),
        ("compat", "import numpy\nnumpy.float = float"),
    ],
)
def test_an_allowed_import_is_not_reported(module: str, source: str) -> None:
    known = ("llm", "llm.score", "data", "data.source", "data.text", "results", "trainer")
    assert violations({**{f"llmbole.{name}": "" for name in known}, f"llmbole.{module}": source}) == []


def loaded_modules(code: str) -> tuple[list[str], str, float]:
    """Heavy modules that a fresh interpreter has loaded after some code, what it printed, and its seconds."""
    loaded = f"json.dumps([name for name in {HEAVY} if name in sys.modules])"
    report = f"import sys, json\n{code}\nsys.stderr.write({loaded})"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", report],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout, time.perf_counter() - started


@pytest.mark.parametrize("what", ["models", "backbones", "datasets", "protocols", "experiments"])
def test_list_imports_nothing_heavy(what: str, record_property: Callable[[str, object], None]) -> None:
    code = (
        f"import runpy\nsys.argv = ['llmbole', 'list', '{what}']\n"
        "try:\n    runpy.run_module('llmbole', run_name='__main__')\nexcept SystemExit as end:\n    assert not end.code"
    )
    heavy, printed, seconds = loaded_modules(code)
    record_property("seconds", seconds)
    sys.stdout.write(f"llmbole list {what}: {seconds:.2f} s\n")
    assert heavy == []
    assert printed.strip()


@pytest.mark.parametrize("module", LIGHT)
def test_names_are_checked_before_anything_heavy_is_imported(module: str) -> None:
    assert loaded_modules(f"import {module}")[0] == []

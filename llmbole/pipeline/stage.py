"""`@stage`: a function that makes one artifact, with what it needs and the settings it may read.

A class body that holds stages is a pipeline. An artifact's key is the hash of the stage's code, of the settings
it declared, and of the keys of its inputs; settings carry the identities of data, protocol and models, so nothing
that changes a result is left out and nothing else makes it run again.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = "llmbole"
TEST, VALID = "test", "valid"
"""Phases: what a run scores, and what the trials of a sweep score."""
SET = object()
"""For `when`: any value but `None`."""


class StageError(ValueError):
    """A pipeline whose stages do not fit together, or a stage that reads a setting it did not declare."""


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        makes: Name of the artifact.
        needs: Names of the artifacts it is given, as keyword arguments.
        uses: Dotted names of the settings it may read; a name gives everything below it.
        function: Called with a `StageRun` and the needed artifacts; fills `run.folder` and returns a summary.
        when: A setting and the value it must have for the stage to run (`SET`: any but `None`); `None` for a stage that
            always does. Where it does not run, the stages that need it are given `None`.
        phased: Whether it scores the users or rows of a phase, and so is another artifact in each.
        together: Whether several processes of one run share its work; the others' results are the first one's, and only
            the first one's folder is kept. Else the first works alone and the others wait.
    """

    makes: str
    needs: tuple[str, ...]
    uses: tuple[str, ...]
    function: Callable[..., Mapping[str, Any]]
    when: tuple[str, object] | None = None
    phased: bool = False
    together: bool = False

    def __call__(self, *arguments: object, **keywords: object) -> Mapping[str, Any]:
        """Run the function itself, without the store."""
        return self.function(*arguments, **keywords)

    def __get__(self, instance: object, owner: type | None = None) -> Stage:
        return self

    @property
    def title(self) -> str:
        """First line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.makes).splitlines()[0]

    @property
    def code(self) -> str:
        """Hash of the function's syntax and of all llmbole code it can reach."""
        return code_hash(self.function)

    def runs(self, settings: Mapping[str, Any]) -> bool:
        """Whether the stage is part of the pipeline under some settings."""
        if self.when is None:
            return True
        found = lookup(settings, self.when[0], self.makes)
        return found is not None if self.when[1] is SET else found == self.when[1]

    def declared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings this stage may read, by dotted name.

        Raises `StageError`: A declared name is not in the settings.
        """
        return {name: lookup(settings, name, self.makes) for name in self.uses}

    def key(self, settings: Mapping[str, Any], needed: Mapping[str, str], phase: str = TEST) -> str:
        """The artifact's key: SHA-256 over code, declared settings, keys of what it needs, and phase if it has one."""
        content = {
            "makes": self.makes,
            "code": self.code,
            "settings": self.declared(settings),
            "needs": dict(needed),
        }
        if self.phased and phase != TEST:
            content["phase"] = phase
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def stage(
    *,
    makes: str,
    needs: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
    when: tuple[str, object] | None = None,
    phased: bool = False,
    together: bool = False,
) -> Callable[[Callable[..., Any]], Stage]:
    """Declare a function as the stage that makes an artifact.

    Args:
        makes: Name of the artifact.
        needs: Names of the artifacts it is given, as keyword arguments.
        uses: Dotted names of the settings it may read.
        when: A setting and the value it must have for the stage to run.
        phased: Whether it scores the users or rows of `run.phase`.
        together: Whether several processes of one run share its work.

    Returns:
        A decorator that gives a `Stage`.
    """

    def declare(function: Callable[..., Any]) -> Stage:
        parameters = list(inspect.signature(function).parameters)[1:]
        if tuple(parameters) != needs:
            raise StageError(
                f"stage {makes!r} needs {needs} but its function takes {tuple(parameters)}; make them the same"
            )
        return Stage(
            makes=makes,
            needs=needs,
            uses=uses,
            function=function,
            when=when,
            phased=phased,
            together=together,
        )

    return declare


def lookup(settings: Mapping[str, Any], name: str, stage_name: str) -> Any:  # noqa: ANN401 - a setting is of any type
    """One setting by dotted name.

    Raises `StageError`: There is no such setting.
    """
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise StageError(f"stage {stage_name!r} uses setting {name!r}, which this model's settings lack")
        value = value[part]
    return value


def stages_of(pipeline: type) -> dict[str, Stage]:
    """The stages of a class by what they make, in an order that runs (needed ones first).

    Raises `StageError`: Two stages make the same thing, something needed is made by none, or needs run in a circle.
    """
    found: dict[str, Stage] = {}
    for name in dir(pipeline):
        member = inspect.getattr_static(pipeline, name)
        if isinstance(member, Stage):
            if member.makes in found and found[member.makes] is not member:
                raise StageError(f"{pipeline.__name__}: two stages make {member.makes!r}")
            found[member.makes] = member
    ordered: dict[str, Stage] = {}

    def place(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise StageError(
                f"{pipeline.__name__}: stages need each other in a circle: {' -> '.join((*path, name))}"
            )
        if name not in found:
            raise StageError(f"{pipeline.__name__}: stage {path[-1]!r} needs {name!r}, which no stage makes")
        for needed in found[name].needs:
            place(needed, (*path, name))
        ordered.setdefault(name, found[name])

    for name in found:
        place(name, ())
    return ordered


@cache
def code_hash(function: Callable[..., Any]) -> str:
    """Hash of a function's syntax tree without docstrings, with the code of llmbole (or its own package) it reaches.

    Names of the same module are followed one by one; a name imported from the package brings its whole module and
    what that module imports. Comments, docstrings and formatting change nothing.
    """
    module = inspect.getmodule(function)
    if module is None or module.__file__ is None:
        raise StageError(f"{function!r} stands in no file: a stage must be importable")
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    parts: dict[str, str] = {"function": _dump(tree)}
    modules: set[str] = set()
    _follow(tree, Path(module.__file__), parts, modules, {ROOT, module.__name__.split(".")[0]})
    for name in sorted(modules):
        parts[f"module {name}"] = _module_dump(name)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _follow(tree: ast.AST, file: Path, parts: dict[str, str], modules: set[str], packages: set[str]) -> None:
    """Add the same-module definitions and the package modules that a syntax tree names."""
    definitions, imports = _module_names(file)
    for node in ast.walk(tree):
        for name in _imported_modules(node, packages):
            _reach(name, modules, packages)
        if not isinstance(node, ast.Name):
            continue
        label = f"name {file.stem}.{node.id}"
        if node.id in definitions and label not in parts:
            parts[label] = _dump(definitions[node.id])
            _follow(definitions[node.id], file, parts, modules, packages)
        for name in _imported_modules(imports[node.id], packages) if node.id in imports else ():
            _reach(name, modules, packages)


@cache
def _module_names(file: Path) -> tuple[dict[str, ast.AST], dict[str, ast.AST]]:
    """Top-level definitions and imports of a file, by the name they bind."""
    definitions: dict[str, ast.AST] = {}
    imports: dict[str, ast.AST] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions.update({target.id: node for target in targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update({(alias.asname or alias.name.split(".")[0]): node for alias in node.names})
    return definitions, imports


def _imported_modules(node: ast.AST, packages: set[str]) -> list[str]:
    """Modules of the given packages that an import statement names (a submodule where `from` names one)."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        submodules = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name for name in submodules if name.split(".")[0] in packages and _module_file(name)]
        if len(names) < len(submodules):  # something is of the module itself
            names.append(node.module)
    else:
        return []
    return [name for name in names if name.split(".")[0] in packages]


@cache
def _module_file(name: str) -> Path | None:
    """The file of a module, found by its path: nothing is imported, so that planning stays fast."""
    top, *below = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*below) if below else Path(spec.origin)
    for file in (path, path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


def _reach(name: str, modules: set[str], packages: set[str]) -> None:
    """Add a module and, transitively, the package modules it imports."""
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in modules and _module_file(module) is not None:
            modules.add(module)
            waiting.extend(_imports_of(module, frozenset(packages)))


@cache
def _imports_of(name: str, packages: frozenset[str]) -> tuple[str, ...]:
    file = _module_file(name)
    tree = ast.parse(file.read_text(encoding="utf-8") if file else "")
    return tuple(other for node in ast.walk(tree) for other in _imported_modules(node, set(packages)))


@cache
def _module_dump(name: str) -> str:
    file = _module_file(name)
    return _dump(ast.parse(file.read_text(encoding="utf-8"))) if file else ""


def _dump(tree: ast.AST) -> str:
    """A syntax tree as text, without docstrings."""
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if (
                node.body
                and isinstance(node.body[0], ast.Expr)
                and isinstance(node.body[0].value, ast.Constant)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)

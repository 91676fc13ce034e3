"""Model names, folders and the revisions that pin them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmbole.llm import identity, tiny
from llmbole.llm.identity import EncoderSpec, LLMSpec, folder, revision

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty hub cache."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    identity._commit.cache_clear()
    return cache


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the files of a model."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "README.md").write_text("about")
    return path


def test_revision_follows_the_files_that_matter(model: Path, tmp_path: Path) -> None:
    spec = LLMSpec(name=str(model))
    first = revision(spec)
    assert len(first) == 64
    (model / "README.md").write_text("other words")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    assert revision(spec) == first
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    assert revision(LLMSpec(name=str(copy), precision="bfloat16")) == first
    for name, content in [
        ("config.json", '{"a": 1}'),
        ("tokenizer.json", "[]"),
        ("model.safetensors", "WEIGHTS"),
    ]:
        before = (model / name).read_bytes()
        (model / name).write_text(content)
        assert revision(spec) != first
        (model / name).write_bytes(before)
        assert revision(spec) == first
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert revision(spec) != first
    assert folder(spec) == model


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    for function in (revision, folder):
        with pytest.raises(ValueError, match=r"only pickled ones \(pytorch_model.bin\).*save_pretrained"):
            function(LLMSpec(name=str(model)))
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="it holds none"):
        revision(LLMSpec(name=str(model)))


@pytest.mark.parametrize("name", ["./absent", "/absent/model", "~/absent", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        revision(LLMSpec(name=name))


def test_tiny_is_the_embedded_folder(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    monkeypatch.setattr(tiny, "FOLDER", model)
    assert folder(LLMSpec()) == model
    assert revision(LLMSpec()) == revision(LLMSpec(name=str(model)))


def test_packaged_encoder() -> None:
    path = folder(EncoderSpec())
    assert (path / "1_Pooling" / "config.json").is_file()
    assert len(revision(EncoderSpec())) == 64


def test_revision_covers_the_modules_of_an_encoder(tmp_path: Path) -> None:
    path = tmp_path / "encoder"
    shutil.copytree(folder(EncoderSpec()), path)
    spec = EncoderSpec(name=str(path))
    assert revision(spec) == revision(EncoderSpec())
    (path / "1_Pooling" / "config.json").write_text("{}")
    assert revision(spec) != revision(EncoderSpec())


def test_a_pinned_hub_id_is_its_commit() -> None:
    assert revision(LLMSpec(name=f"facebook/opt-125m@{COMMIT}")) == COMMIT
    assert revision(LLMSpec(name="facebook/opt-125m", revision=COMMIT)) == COMMIT
    with pytest.raises(ValueError, match="keep one"):
        revision(LLMSpec(name=f"facebook/opt-125m@{COMMIT}", revision="main"))


def cached(cache: Path, name: str, files: list[str]) -> Path:
    """A hub model in the local cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


def test_a_cached_hub_id_needs_no_network(offline: Path) -> None:
    snapshot = cached(offline, "some/model", ["config.json", "tokenizer.json", "model.safetensors"])
    assert revision(LLMSpec(name="some/model")) == COMMIT
    assert folder(LLMSpec(name="some/model")) == snapshot
    assert folder(LLMSpec(name=f"some/model@{COMMIT}")) == snapshot


def test_a_cached_hub_id_with_pickled_weights_is_refused(offline: Path) -> None:
    cached(offline, "some/model", ["config.json", "pytorch_model.bin"])
    with pytest.raises(ValueError, match="can't be downloaded|only pickled ones"):
        folder(LLMSpec(name="some/model"))


def test_an_unknown_hub_id_without_network_says_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"in the local cache.*pin it as facebook/opt-125m@<40-digit commit>"
    ):
        revision(LLMSpec(name="facebook/opt-125m"))
    with pytest.raises(ValueError, match="not in the local cache and can't be downloaded"):
        folder(LLMSpec(name=f"facebook/opt-125m@{COMMIT}"))
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        revision(LLMSpec(name="two words"))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="precision must be"):
        LLMSpec(precision="float8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="quantization must be"):
        LLMSpec(quantization="8bit")  # type: ignore[arg-type]


def test_import_is_light() -> None:
    code = (
        "import sys, json; import llmbole.llm.identity; "
        "print(json.dumps([m for m in ('torch', 'transformers', 'huggingface_hub', 'numpy') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []

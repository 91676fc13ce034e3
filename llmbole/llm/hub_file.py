"""A file by name: one on this machine, or one of a data set on the Hugging Face hub at a pinned commit."""

from __future__ import annotations

import re
from pathlib import Path

PREFIX = "hf://"
FORM = "hf://datasets/OWNER/NAME@COMMIT/PATH, with a commit of 40 digits"
_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)@([0-9a-f]{40})/(.+)")


def problem(name: str) -> str | None:
    """What is wrong with a name; `None` if it is a file or folder here, or of the hub's form."""
    if name.startswith(PREFIX):
        return None if _HUB.fullmatch(name) else f"{name!r} is not of the form {FORM}"
    return None if Path(name).expanduser().exists() else f"{name!r}: there is no such file"


def located(name: str) -> Path:
    """Where a file lies; one of the hub is downloaded unless the hub's cache has it.

    Args:
        name: A path, or `hf://datasets/OWNER/NAME@COMMIT/PATH`.

    Returns:
        Its path.

    Raises:
        ValueError: The name is neither, or the hub can't be reached.
    """
    wrong = problem(name)
    if wrong:
        raise ValueError(wrong)
    found = _HUB.fullmatch(name)
    if found is None:
        return Path(name).expanduser()
    from huggingface_hub import hf_hub_download

    repository, commit, path = found.groups()
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset", revision=commit))
    except Exception as error:  # the errors of a broken connection depend on the hub client's transport
        raise ValueError(
            f"{name} is not in the local cache and can't be downloaded ({type(error).__name__}): download it once with "
            "a connection, or give a path"
        ) from error

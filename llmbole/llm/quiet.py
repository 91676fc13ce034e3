"""Loading models without the libraries' own progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import logging as transformers_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of transformers inside."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()

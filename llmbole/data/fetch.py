"""Downloads: resumed where they broke off, tried again, checked, and renamed into place when whole."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import urllib3
from tqdm.auto import tqdm

from llmbole.data.cards import Download
from llmbole.data.convert.report import DataError

logger = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT = 1.0
TIMEOUT = (15.0, 60.0)  # to connect, and between two blocks
BLOCK = 1 << 18


class UnreachableError(ConnectionError):
    """An address that can't be reached, or refuses; says why."""


class _BrokenError(ConnectionError):
    """A connection that may work when tried again."""


def fetch(download: Download, target: Path, *, progress: bool = True, first_wait: float = FIRST_WAIT) -> None:
    """Download one file; what a broken connection left in `<name>.part` is gone on with.

    Args:
        download: Address, and size and hash where they are known.
        target: Where it goes.
        progress: Whether to show a progress bar.
        first_wait: Seconds before the second attempt; doubled each time.

    Raises:
        UnreachableError: The address can't be reached or refuses.
        DataError: What came is not the published file.
    """
    part = target.with_name(f"{target.name}.part")
    with tqdm(
        desc=target.name, unit="B", unit_scale=True, disable=not progress, file=sys.stderr, leave=False,
        dynamic_ncols=True, total=download.size,
    ) as bar:  # fmt: skip
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _attempt(download, part, bar)
                break
            except (_BrokenError, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, UnreachableError):
                    raise
                if attempt == ATTEMPTS:
                    raise UnreachableError(
                        f"{download.address}: {_reason(error)}, {ATTEMPTS} times"
                    ) from error
                wait = first_wait * 2 ** (attempt - 1)
                logger.info("%s: %s; attempt %d in %.0f s", target.name, _reason(error), attempt + 1, wait)
                time.sleep(wait)
    _check(download, part)
    os.replace(part, target)
    _validator(part).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The innermost cause, which says what happened without the layers around it."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return f"{type(inner).__name__}: {inner}"


def _validator(part: Path) -> Path:
    """File that holds what the server calls the version of which `part` is a part."""
    return part.with_name(f"{part.name}.version")


def _attempt(download: Download, part: Path, bar: Any) -> None:  # noqa: ANN401 - a tqdm bar
    """One connection: the rest of the file, or all of it if the server can't resume or has another version now."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _validator(part).is_file():
            headers["If-Range"] = _validator(part).read_text(encoding="utf-8")
    with requests.get(download.address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # there is no rest: whole already, or the part is of something else
            if have == download.size or response.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise _BrokenError("the part does not fit the file, it is begun anew")
        _refuse(response)
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _BrokenError("the server sent another part than the one asked for")
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        whole = have + int(length) if length else None
        _remember(part, response)
        bar.reset(total=whole or download.size)
        bar.update(have)
        got = have + _copy(response, part, resumed, bar.update)
    if whole is not None and got < whole:
        raise _BrokenError(f"the connection broke after {got} of {whole} bytes")


def _refuse(response: requests.Response) -> None:
    status = response.status_code
    if status >= 500 or status in (408, 425, 429):
        raise _BrokenError(f"HTTP {status} {response.reason}")
    if status not in (200, 206):
        raise UnreachableError(f"{response.url}: HTTP {status} {response.reason}")


def _remember(part: Path, response: requests.Response) -> None:
    # A weak entity tag may not be used for ranges (RFC 9110, 13.1.5).
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    if version:
        _validator(part).write_text(version, encoding="utf-8")
    else:
        _validator(part).unlink(missing_ok=True)


def _copy(response: requests.Response, part: Path, append: bool, tick: Callable[[int], object]) -> int:
    """Write the body as it was sent: a `.gz` stays one even where the server calls it an encoding."""
    got = 0
    with part.open("ab" if append else "wb") as file:
        while block := response.raw.read(BLOCK, decode_content=False):
            file.write(block)
            got += len(block)
            tick(len(block))
    return got


def _check(download: Download, part: Path) -> None:
    problem = None
    size = part.stat().st_size
    if download.size is not None and size != download.size:
        problem = f"{size} bytes, not {download.size}"
    elif download.sha256 is not None:
        digest = hashlib.sha256()
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != download.sha256:
            problem = f"SHA-256 {digest.hexdigest()}, not {download.sha256}"
    if problem:
        part.unlink()
        _validator(part).unlink(missing_ok=True)
        raise DataError(
            f"{download.address} did not send the published file ({problem}); it was thrown away, try again"
        )

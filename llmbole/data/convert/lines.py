"""Lines of big text files, gzipped or not, one at a time; a thread unpacks ahead."""

from __future__ import annotations

import gzip
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from llmbole.data.convert.report import DataError

BLOCK = 1 << 20
BLOCKS_AHEAD = 8
LINES_PER_REPORT = 10_000


def read_lines(path: Path, progress: Callable[[int], None] | None = None) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, without their ends; empty ones are passed over.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        progress: Called with the number of lines read since the last call.

    Yields:
        Line number from 1, and the line.
    """
    number = reported = 0
    rest = b""
    for block in _ahead(path):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            if line.endswith(b"\r"):
                line = line[:-1]
            if line:
                yield number, line
        if progress is not None and number - reported >= LINES_PER_REPORT:
            progress(number - reported)
            reported = number
    if rest.rstrip(b"\r"):
        yield number + 1, rest.rstrip(b"\r")
    if progress is not None:
        progress(number - reported)


def _ahead(path: Path) -> Iterator[bytes]:
    """Blocks of a file's content, read by a thread that is at most a few blocks ahead."""
    blocks: queue.Queue[bytes | Exception] = queue.Queue(BLOCKS_AHEAD)
    stopped = threading.Event()

    def put(block: bytes | Exception) -> bool:
        while not stopped.is_set():
            try:
                blocks.put(block, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            with _open(path) as file:
                while block := file.read(BLOCK):
                    if not put(block):
                        return
            put(b"")
        except Exception as error:  # whatever it is, the reader of the blocks raises it
            put(error)

    reader = threading.Thread(target=read, name=f"read {path.name}", daemon=True)
    reader.start()
    try:
        while block := blocks.get():
            if isinstance(block, EOFError):
                raise DataError(f"{path} is cut off: its gzip stream has no end; get it again") from block
            if isinstance(block, gzip.BadGzipFile | zlib.error):
                raise DataError(f"{path} is no sound gzip file ({block}); get it again") from block
            if isinstance(block, Exception):
                raise block
            yield block
    finally:
        stopped.set()
        reader.join()


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]

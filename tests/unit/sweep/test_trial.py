"""The log of a trial or a cell: where it runs, what is said, and the error that ends it."""

from __future__ import annotations

import logging
import os
import socket
import sys
from types import SimpleNamespace

import pytest

from llmbole.sweep.trial import error_file, logged


def test_a_log_says_where_it_was_written_and_why_it_ended(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with pytest.raises(ValueError, match="no"), logged(tmp_path, "00001"):
        logging.getLogger("llmbole.x").info("a line")
        raise ValueError("no")
    first, second, *_ = (tmp_path / "logs" / "00001.log").read_text(encoding="utf-8").splitlines()
    assert first.endswith(f" on {socket.gethostname()}, process {os.getpid()}") and second.endswith(" a line")
    assert error_file(tmp_path, "00001").read_text(encoding="utf-8") == "ValueError: no\n"


def test_a_task_of_ray_names_its_node(tmp_path, monkeypatch):
    context = SimpleNamespace(get_node_id=lambda: "abc123")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with logged(tmp_path, "00001"):
        pass
    log = (tmp_path / "logs" / "00001.log").read_text(encoding="utf-8")
    assert log.endswith(f"process {os.getpid()}, Ray's node abc123\n")

"""A real process that serves a finished run, asked over a real socket and ended by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llmbole.cli import main

ROOT = Path(__file__).resolve().parents[2]


def ask(address, body):
    request = urllib.request.Request(
        f"{address}/recommend", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["items"]


@pytest.fixture
def words(run, shared):
    result = run("SASRec")
    folders = [f"--store={shared / 'store'}", f"--leaderboard={shared / 'leaderboard'}"]
    return result, ["serve", result.record.id[:12], "--quiet", "--threads=1", *folders]


def test_a_process_serves_what_the_python_interface_gives_and_ends_when_told(words):
    result, arguments = words
    command = [sys.executable, str(ROOT / "run_benchmark.py"), *arguments, "--port=0", "--rate=1000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ)
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line).group()
        expected = result.recommender()("1", k=3)["1"]
        found = ask(address, {"user": "1", "k": 3})
        assert [item["item_id"] for item in found] == [each.item_id for each in expected]
        assert len(ask(address, {"history": [expected[0].item_id], "k": 2})) == 2
        with urllib.request.urlopen(f"{address}/info", timeout=60) as answer:
            info = json.load(answer)
        assert info["record"] == result.record.id and info["accepts_history"] is True
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address, {"user": "1", "k": "3"})
        assert refused.value.code == 422
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()


def test_a_port_that_is_taken_is_said(words, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([*words[1], f"--port={port}"]) == 2
    assert f"127.0.0.1:{port} can't be listened at" in capsys.readouterr().err
    assert main([*words[1], "--port=99999"]) == 2 and "--port=99999" in capsys.readouterr().err
    assert main([*words[1], "--max-in-flight=0"]) == 2
    assert "in_flight = 0: must be at least 1" in capsys.readouterr().err

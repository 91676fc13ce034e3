"""The process that serves: a socket, uvicorn, and a clean end."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import uvicorn

from llmbole.inference.recommender import Recommender
from llmbole.serve.app import make_app
from llmbole.serve.limits import Limits
from llmbole.settings import SettingsError

logger = logging.getLogger(__name__)

SECONDS_TO_END = 10


def serve(recommender: Recommender, host: str, port: int, limits: Limits, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; requests under way are answered first.

    Args:
        recommender: The open run.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        limits: How much the service takes on.
        say: Told the address once requests can come.

    Raises:
        SettingsError: The address can't be listened at.
    """
    bound = _bound(host, port)
    config = uvicorn.Config(
        make_app(recommender, limits),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    address = f"[{host}]" if ":" in host else host
    say(f"serving {recommender.finished.model} at http://{address}:{bound.getsockname()[1]} (Ctrl-C ends it)")
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:  # uvicorn has ended by then, and raises the signal again
        logger.info("stopped")
    finally:
        bound.close()


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SettingsError(f"--port={port}: from 0, which takes a free one, to 65535")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} can't be listened at ({error}); choose another --port or --host"
        ) from None

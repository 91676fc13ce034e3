"""What bounds the load: requests under way, requests a second, and the size of a body."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Limits:
    """How much the service takes on.

    Attributes:
        in_flight: Requests under way at once; more are refused.
        rate: Requests a second over time; 0 sets no limit.
        burst: Requests that may come at once after a quiet time, where there is a rate.
        body: Bytes of a body.
        seconds: For a body to come in.
    """

    in_flight: int = 64
    rate: float = 0.0
    burst: int = 64
    body: int = 262_144
    seconds: float = 10.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in ("in_flight", "burst", "body")
            if getattr(self, name) < 1
        ]
        if not 0 < self.seconds < math.inf:
            problems.append(f"seconds = {self.seconds}: must be a number above 0")
        if not 0 <= self.rate < math.inf:
            problems.append(f"rate = {self.rate}: must be a number of at least 0")
        if problems:
            raise ValueError("\n".join(problems))


class Bucket:
    """A token bucket: `burst` requests at once, refilled at `rate` a second.

    Args:
        rate: Tokens a second.
        burst: Most tokens.
        clock: Seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._tokens, self._last = float(burst), clock()

    def wait(self) -> float:
        """Take a token: 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Gate:
    """Stands before the application: refuses what is too much, before it is parsed.

    Args:
        app: The application.
        limits: How much it takes on.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._bucket, self._under_way = Bucket(limits.rate, limits.burst), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with 408, 413 or 429; `/health` always answers."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._limits.in_flight:
            await _refuse(send, 429, f"{self._under_way} requests are under way; try again", retry=1)
            return
        seconds = self._bucket.wait()
        if seconds:
            message = f"more than {self._limits.rate:g} requests a second; try again"
            await _refuse(send, 429, message, retry=math.ceil(seconds))
            return
        self._under_way += 1
        try:
            try:
                body = await asyncio.wait_for(self._body(scope, receive), self._limits.seconds)
            except asyncio.TimeoutError:
                await _refuse(send, 408, f"the body did not come in within {self._limits.seconds:g} seconds")
                return
            if isinstance(body, str):
                await _refuse(send, 413, body)
                return
            if body is not None:
                await self._app(scope, _replay(body, receive), send)
        finally:
            self._under_way -= 1

    async def _body(self, scope: Scope, receive: Receive) -> bytes | str | None:
        """The whole body; what to say where it is too large; `None` where the client left."""
        too_large = f"the body is larger than {self._limits.body} bytes; ask for less at once"
        stated = dict(scope["headers"]).get(b"content-length", b"")
        if stated.isdigit() and int(stated) > self._limits.body:
            return too_large
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._limits.body:
                return too_large
            if not message.get("more_body", False):
                return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A body that was read, then whatever else comes."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def _refuse(send: Send, status: int, message: str, retry: int | None = None) -> None:
    content = json.dumps({"problems": [{"field": "", "message": message}]}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if retry is not None:
        headers.append((b"retry-after", str(max(1, retry)).encode()))
    else:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})

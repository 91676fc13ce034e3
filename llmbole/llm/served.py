"""Answers of a server that speaks OpenAI's protocol: many requests at once, repeated where that may help, budgeted."""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import logging
import os
import random
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llmbole.llm.engine import Access, Answer, EngineError

logger = logging.getLogger(__name__)

T = TypeVar("T")
KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
PATIENCE = 600.0  # a server that asks for a longer pause has no room today
PASSING = (408, 409, 429)  # like all from 500 on, these may go when asked again
EXHAUSTED = "insufficient_quota"  # OpenAI's code for an account without credit, which comes as 429
FILTERED = "content_filter"
GO_ON = "what is answered is kept; run the same command again to go on"


class ServedEngine:
    """Answers of one model of a server, in its own chat template, with temperature 0.

    The key is read from the environment (`OPENAI_API_KEY`) and stands in no setting, record, log line or error. A
    prompt is asked again, after a growing and partly random pause or the one that the server names in `Retry-After`,
    when the server is busy (408, 409, 429), fails (from 500 on), takes too long or hangs up. Other errors end the run.
    Where one prompt fails for good, requests under way are awaited and their answers given before the error is raised.

    Args:
        served_model: The model's name at the server.
        max_new_tokens: Longest answer.
        access: How the server is asked.

    Raises:
        EngineError: The client is not installed, the address is none, or there is no key for OpenAI itself.
    """

    def __init__(self, served_model: str, max_new_tokens: int, access: Access) -> None:
        if importlib.util.find_spec("openai") is None:
            raise EngineError("generate.engine = openai needs its client: pip install llmbole[openai]")
        self.served_model, self.max_new_tokens, self.access = served_model, max_new_tokens, access
        self.base_url = access.base_url or os.environ.get(URL) or None
        check_address(self.base_url)
        self._key = os.environ.get(KEY, "")
        if not self._key and self.base_url is None:
            raise EngineError(
                f"OpenAI's own server asks for a key: set {KEY}, or generate.base_url of another"
            )
        self.tokens, self.requests = 0, 0
        self._quiet_until = 0.0  # by the clock of time.monotonic
        self.identity: Mapping[str, Any] = {
            "engine": "openai",
            "model": served_model,
            "max_new_tokens": max_new_tokens,
            "temperature": 0,
        }

    def answers(self, prompts: Sequence[str], batch_size: int) -> Iterator[Mapping[int, Answer]]:
        """Answers by their prompts' places, each as it comes.

        Args:
            prompts: What is asked.
            batch_size: Of no account: the server makes its own batches.

        Yields:
            Those that came since the last time.

        Raises:
            EngineError: A prompt can't be answered, or the budget is spent.
        """
        if not prompts:
            return
        waiting, tasks = list(range(len(prompts) - 1, -1, -1)), dict[asyncio.Task[Answer], int]()
        failure: EngineError | None = None
        with _Loop() as loop:
            client = loop.run(self._client())
            try:
                while tasks or (waiting and failure is None):
                    free = self.access.concurrency - len(tasks) if failure is None else 0
                    places = [waiting.pop() for _ in range(min(free, len(waiting)))]
                    done = loop.run(self._round(client, tasks, {place: prompts[place] for place in places}))
                    found = {}
                    for place, result in done.items():
                        if isinstance(result, EngineError):
                            failure = failure or result
                        else:
                            found[place] = result
                    if found:
                        yield found
            finally:
                loop.run(_close(client, tasks))
        if failure is not None:
            raise failure

    async def _client(self) -> Any:  # noqa: ANN401 - the client is imported only here
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",  # local servers ask for none, the client does
            timeout=self.access.timeout,
            max_retries=0,  # each request counts against the budget, so they are repeated here
        )

    async def _round(
        self,
        client: Any,  # noqa: ANN401 - an AsyncOpenAI
        tasks: dict[asyncio.Task[Answer], int],
        prompts: Mapping[int, str],
    ) -> dict[int, Answer | EngineError]:
        """Begin to ask these prompts, and wait until any of those under way is done."""
        for place, prompt in prompts.items():
            tasks[asyncio.create_task(self._ask(client, prompt))] = place
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        found: dict[int, Answer | EngineError] = {}
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, EngineError):
                raise error
            found[tasks.pop(task)] = error or task.result()
        return found

    async def _ask(self, client: Any, prompt: str) -> Answer:  # noqa: ANN401 - an AsyncOpenAI
        """One prompt, asked until it is answered."""
        import openai

        limit = "max_tokens" if self.base_url else "max_completion_tokens"  # others know the older name
        message = {"role": "user", "content": prompt}
        asked = {"model": self.served_model, "messages": [message], "temperature": 0}
        reason, wanted = "", 0.0
        for attempt in range(self.access.attempts):
            await self._pause(attempt, wanted)
            self._spend()
            try:
                answer = self._read(
                    await client.chat.completions.create(**asked, **{limit: self.max_new_tokens})
                )
                if answer is not None:
                    return answer
                reason, wanted = "a reply without an answer", 0.0
            except openai.APIStatusError as error:
                if error.code == FILTERED:
                    return Answer("", refused=True)
                reason, wanted = self._status(error), retry_after(error.response.headers)
            except openai.APIError as error:  # hung up, out of time, or no protocol
                reason, wanted = type(error).__name__, 0.0
            logger.debug("attempt %d of %d: %s", attempt + 1, self.access.attempts, reason)
        raise EngineError(
            f"{self._where()} failed {self.access.attempts} times for one prompt, last with {reason}; {GO_ON}, or "
            f"raise generate.attempts or generate.timeout; the prompt begins {prompt[:80]!r}"
        )

    async def _pause(self, attempt: int, wanted: float) -> None:
        """Wait as long as the server asks all to, and before another attempt also a growing, partly random while."""
        if wanted:
            self._quiet_until = max(self._quiet_until, time.monotonic() + wanted)
        if attempt:
            longest = min(self.access.longest_pause, self.access.first_pause * 2 ** (attempt - 1))
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))
        while (left := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _spend(self) -> None:
        """Count a request; an EngineError if the budget has none left."""
        for name, spent in (("requests", self.requests), ("tokens", self.tokens)):
            budget = getattr(self.access, f"budget_{name}")
            if budget and spent >= budget:
                raise EngineError(
                    f"the budget is spent: {spent} of generate.budget_{name} = {budget}; {GO_ON} with a budget of the "
                    "same size, or set another one"
                )
        self.requests += 1

    def _status(self, error: Any) -> str:  # noqa: ANN401 - an APIStatusError
        """An error of the server that may pass, in words; EngineError if it does not pass."""
        said = f"status {error.status_code}: {str(error.message)[:300]}"
        said = said.replace(self._key, f"[{KEY}]") if self._key else said
        if (error.status_code not in PASSING and error.status_code < 500) or error.code == EXHAUSTED:
            advice = f"; is {KEY} right?" if error.status_code in (401, 403) else ""
            raise EngineError(f"{self._where()} refuses requests with {said}{advice}; {GO_ON}")
        wanted = retry_after(error.response.headers)
        if wanted > PATIENCE:
            raise EngineError(f"{self._where()} asks for {wanted:.0f} s of rest with {said}; {GO_ON} then")
        return said

    def _read(self, response: Any) -> Answer | None:  # noqa: ANN401 - what came back
        """The answer in a reply; `None` if it holds none."""
        choices: Any = getattr(response, "choices", None)
        message = getattr(choices[0], "message", None) if choices else None
        if message is None:
            return None
        usage = getattr(response, "usage", None)
        if usage is None and self.access.budget_tokens:
            raise EngineError(
                f"{self._where()} does not say how many tokens it read and wrote, so generate.budget_tokens can't be "
                "kept: set it to 0, and generate.budget_requests"
            )
        self.tokens += 0 if usage is None else int(usage.total_tokens)
        refused = bool(getattr(message, "refusal", None)) or choices[0].finish_reason == FILTERED
        return Answer("" if refused else message.content or "", refused)

    def _where(self) -> str:
        return f"the server {self.base_url or 'of OpenAI'}"


def check_address(base_url: str | None) -> None:
    """Refuse an address of a server that is none, or that holds a name or password.

    Args:
        base_url: The address; `None` is the client's own.

    Raises:
        EngineError: It is wrong; the message does not repeat a password.
    """
    parts = urlsplit(base_url or "https://host")
    if parts.username or parts.password or parts.query:
        raise EngineError(f"generate.base_url holds a secret: leave it out, and set {KEY}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EngineError(f"generate.base_url = {base_url!r}: give http://HOST:PORT/v1")


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3: a number or a date; OpenAI also in milliseconds).

    Args:
        headers: Of its reply; names in lower case.
        now: Seconds since the epoch; `None` takes the clock.

    Returns:
        Seconds; 0 if it does not say, or not in a form that is known.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) * unit)
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, date.timestamp() - (time.time() if now is None else now))


async def _close(client: Any, tasks: Mapping[asyncio.Task[Answer], int]) -> None:  # noqa: ANN401 - an AsyncOpenAI
    """Give up what is under way."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


class _Loop:
    """An event loop in a thread of its own: the caller's may have one already, as in a notebook."""

    def __enter__(self) -> _Loop:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="requests", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

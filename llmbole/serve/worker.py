"""One thread that asks the model: requests that wait together are scored together, and the event loop never waits."""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from llmbole.inference.recommender import Query, Recommendation, Recommender

logger = logging.getLogger(__name__)

MOST_TOGETHER = 32


@dataclass(frozen=True)
class _Task:
    query: Query
    future: Future[list[Recommendation]]


class Worker:
    """Answers queries one batch after the other; a batch is what came in while the last one was scored.

    Args:
        recommender: The open run; nobody else may ask it.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._waiting: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def ask(self, query: Query) -> Future[list[Recommendation]]:
        """A query's recommendations, once they are there."""
        task = _Task(query, Future())
        self._waiting.put(task)
        return task.future

    def _work(self) -> None:
        ending = False
        while not ending:
            taken = [self._waiting.get()]
            while len(taken) < MOST_TOGETHER and taken[-1] is not None and not self._waiting.empty():
                taken.append(self._waiting.get())
            ending = taken[-1] is None
            tasks = [
                task for task in taken if task is not None and task.future.set_running_or_notify_cancel()
            ]
            if tasks:
                self._answer(tasks)

    def _answer(self, tasks: list[_Task]) -> None:
        try:
            found = self._recommender.rank([task.query for task in tasks])
        except Exception as error:  # whatever it is, it is the request's answer and not the service's end
            if len(tasks) == 1:
                tasks[0].future.set_exception(error)
                return
            for task in tasks:  # one query's mistake is no other's
                self._answer([task])
            return
        for task, items in zip(tasks, found, strict=True):
            task.future.set_result(items)

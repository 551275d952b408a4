"""Work that takes long, done beside the agent's own thread: senders in turn, results picked up."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Key", "Runs"]

Key: TypeAlias = tuple[str, str, str]
"""Sender, request, and what is done for it."""


class Runs:
    """A few threads that run one function per key; the agent comes back for what it returned.

    Nobody waits behind another sender's many cells: of the senders that have some waiting, each
    gets a turn. Nothing here is durable: after a crash the agent finds in its database what has to
    be run again.

    Parameters
    ----------
    threads
        How many functions run at a time.
    most_per_sender
        How many keys one sender may have in here.

    Examples
    --------
    >>> runs = Runs(threads=1)
    >>> runs.start(("ana@uni.example", "0", "mock"), lambda: 3)
    True
    >>> runs.wait(seconds=5)
    >>> runs.take(("ana@uni.example", "0", "mock")).result()
    3
    >>> runs.close()
    """

    def __init__(self, *, threads: int, most_per_sender: int = 16) -> None:
        self._most = most_per_sender
        self._futures: dict[Key, Future[Any]] = {}
        self._queues: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"privnb-run-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def start(self, key: Key, work: Callable[[], Any]) -> bool:
        """Queue ``work`` unless the key is in here already; False if its sender has too many."""
        with self._changed:
            if key in self._futures:
                return True
            if sum(known[0] == key[0] for known in self._futures) >= self._most:
                return False
            future: Future[Any] = Future()
            self._futures[key] = future
            self._queues.setdefault(key[0], deque()).append((future, work))
            self._changed.notify()
            return True

    def has(self, key: Key) -> bool:
        """Tell whether a key is queued, running, or waiting to be taken."""
        return key in self._futures

    def unfinished(self, sender: str, request: str) -> bool:
        """Tell whether something is still queued or running for a request."""
        return any(
            key[:2] == (sender, request) and not future.done()
            for key, future in list(self._futures.items())
        )

    def take(self, key: Key) -> Future[Any] | None:
        """Return the future of a key once it is done, and forget it; None before."""
        future = self._futures.get(key)
        if future is None or not future.done():
            return None
        return self._futures.pop(key)

    def done(self) -> list[Key]:
        """List the keys whose result can be taken."""
        return [key for key, future in list(self._futures.items()) if future.done()]

    @property
    def busy(self) -> bool:
        """Whether anything is in here."""
        return bool(self._futures)

    def wait(self, *, seconds: float) -> None:
        """Wait until all that was started is done, at most so long."""
        with self._changed:
            self._changed.wait_for(
                lambda: all(future.done() for future in self._futures.values()), timeout=seconds
            )

    def close(self) -> None:
        """Start nothing more. What runs is not waited for: it ends with its worker."""
        with self._changed:
            self._closed = True
            self._queues.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            future, work = turn
            try:
                future.set_result(work())
            except BaseException as problem:  # noqa: BLE001 - it is raised where the result is taken
                future.set_exception(problem)
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
            if self._closed:
                return None
            sender = next(name for name, queue in self._queues.items() if queue)
            queue = self._queues.pop(sender)
            turn = queue.popleft()
            if queue:
                self._queues[sender] = queue  # at the end: the others come first
            return turn

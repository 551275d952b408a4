"""Work that takes long, done beside the agent's own thread: senders in turn, results picked up."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
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
        How many keys of one kind a sender may have in here; what does not fit comes again later.

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

    def __init__(self, *, threads: int, most_per_sender: int = 8) -> None:
        self._most = most_per_sender
        self._futures: dict[Key, Future[Any]] = {}
        self._ended: dict[Key, float] = {}
        self._unwanted: set[Key] = set()
        """Keys that were cancelled while their function ran."""
        self._queues: dict[str, deque[tuple[Key, Callable[[], Any]]]] = {}
        self._changed = threading.Condition()  # its lock may be taken again by who has it
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"privnb-run-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def has_room(self, key: Key) -> bool:
        """Tell whether `start` would take a key that is not in here."""
        with self._changed:
            alike = sum((sender, what) == (key[0], key[2]) for sender, _, what in self._futures)
            return alike < self._most and key not in self._unwanted

    def start(self, key: Key, work: Callable[[], Any]) -> bool:
        """Queue ``work`` unless the key is in here already; False if there are too many like it."""
        with self._changed:
            if key in self._futures and key not in self._unwanted:
                return True
            if not self.has_room(key):
                return False
            self._futures[key] = Future()
            self._queues.setdefault(key[0], deque()).append((key, work))
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

    def cancel(self, sender: str, request: str) -> None:
        """Start nothing of a request any more, and forget what comes of it.

        What runs already is not stopped, and counts among its sender's until it ends.
        """
        with self._changed:
            for key, future in list(self._futures.items()):
                if key[:2] != (sender, request):
                    continue
                if future.running():
                    self._unwanted.add(key)
                else:
                    self._ended.pop(key, None)
                    del self._futures[key]
            queue = self._queues.get(sender, deque())
            self._queues[sender] = deque(turn for turn in queue if turn[0][1] != request)
            if not self._queues[sender]:
                del self._queues[sender]
            self._changed.notify_all()

    def take(self, key: Key) -> Future[Any] | None:
        """Return the future of a key once it is done, and forget it; None before."""
        with self._changed:
            future = self._futures.get(key)
            if future is None or not future.done():
                return None
            self._ended.pop(key, None)
            return self._futures.pop(key)

    def peek(self, key: Key) -> Future[Any] | None:
        """Return the future of a key once it is done, and keep it."""
        future = self._futures.get(key)
        return future if future is not None and future.done() else None

    def forget_old(self, what: str, *, seconds: float) -> None:
        """Forget what ended so long ago that nobody seems to come for it."""
        before = time.monotonic() - seconds
        for key, ended in list(self._ended.items()):
            if key[2] == what and ended < before:
                self.take(key)

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
            key, work = turn
            future = self._futures[key]  # whoever cancels leaves it there while it runs
            try:
                value = work()
            except BaseException as problem:  # noqa: BLE001 - it is raised where the result is taken
                ended = partial(future.set_exception, problem)
            else:
                ended = partial(future.set_result, value)
            with self._changed:
                self._ended[key] = time.monotonic()
                ended()
                if key in self._unwanted:
                    self._unwanted.discard(key)
                    del self._ended[key], self._futures[key]
                self._changed.notify_all()

    def _next(self) -> tuple[Key, Callable[[], Any]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._queues.values()))
            if self._closed:
                return None
            sender = next(name for name, queue in self._queues.items() if queue)
            queue = self._queues.pop(sender)
            turn = queue.popleft()
            self._futures[turn[0]].set_running_or_notify_cancel()
            if queue:
                self._queues[sender] = queue  # at the end: the others come first
            return turn

"""Many things under way at the same time, and what comes of them in their order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Barrier
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 16


@contextmanager
def threads_for(what: str, most: int = AT_ONCE) -> Generator[ThreadPoolExecutor]:
    """So many threads. At an error, or Ctrl-C, what they are at is ended, and nothing else is begun.

    All of them have started when this goes on: a thread that was starting at Ctrl-C, nobody would wait for.
    """
    started = Barrier(most)
    with ThreadPoolExecutor(most, thread_name_prefix=f"durable-store-{what}") as threads:
        try:
            for each in [threads.submit(started.wait) for _ in range(most)]:
                each.result()
            yield threads
        except BaseException:
            started.abort()
            threads.shutdown(wait=True, cancel_futures=True)
            raise


def ahead(threads: ThreadPoolExecutor, function: Callable[[T], R], things: Iterable[T], most: int) -> Iterator[R]:
    """What the function makes of each thing, in their order; so many are under way at the same time."""
    rest = iter(things)
    under_way: deque[Future[R]] = deque(threads.submit(function, thing) for thing in islice(rest, most))
    while under_way:
        done = under_way.popleft().result()
        under_way.extend(threads.submit(function, thing) for thing in islice(rest, 1))
        yield done

"""How long a part of the exam may take: what hangs must end, and what is only slow must not be called broken.

The limits are fixed for a store that answers a save or a load within `FAST` seconds. For a slower one all of them are
longer in the same proportion, at most `MOST_TIMES`: the command measures its store before the exam, in pytest the first
case that holds is followed by the measurement. Who exceeds a limit has shown nothing: that is not evaluable, which is
never a pass, and never a broken promise either.
"""

import signal
import statistics
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager

from durable_store import CheckpointKey
from durable_store.backend import open_backend

CLAUSE = 120.0
"""Seconds for a case: some 6000 round trips of a store that is just fast."""

SIZE_CLAUSE = 600.0
"""Seconds for a case with thousands of records: 30 000 such round trips."""

ANSWER = 60.0
"""Seconds for what another process is told to do; half of it for what that one's forked child does."""

TRY_OUT = 60.0
"""Seconds for the records that are saved and read before the exam, of any store: then its speed is known."""

CLEAN_UP = 60.0
"""Seconds for what is removed after a case, and for what is closed. After one that was exceeded, half of it."""

FAST = 0.02
"""Seconds for a round trip of a store for which the limits are those above."""

MOST_TIMES = 50.0
"""By how much the limits grow at most: a store with round trips of a second is still examined."""

AGAIN = 15.0
"""Seconds from one interruption to the next, of what hangs in its clean-up, too."""

_KEY = CheckpointKey("conformance", 0, "round-trip")

_slowness: dict[str, float] = {}
_until: list[float] = []  # when what `ends_within` limits must end, the innermost last


class DidNotEnd(Exception):
    """Something took longer than its limit."""


class _Interrupted(BaseException):
    """Goes through whatever catches each Exception and tries again."""


def slowness_of(url: str) -> float:
    """How many times as long everything may take on the store that the URL names: 1 until it was measured."""
    return _slowness.get(_service(url), 1.0)


def is_measured(url: str) -> bool:
    """Whether the round trip of the service that the URL names is known in this process."""
    return _service(url) in _slowness


def measure(url: str) -> None:
    """Takes down the round trip of the service that the URL names, by a few saves and loads in this store of it.

    The first one does not count: it connects, and makes what must be there. A store that fails at it is taken for fast.
    """
    _slowness[_service(url)] = 1.0
    with closing(open_backend(url)) as backend:
        took: list[float] = []
        for step in range(4):
            began = time.monotonic()
            backend.save(_KEY, step, b"is anybody there?")
            backend.load(_KEY, step)
            took.append((time.monotonic() - began) / 2)
    _slowness[_service(url)] = min(max(1.0, statistics.median(took[1:]) / FAST), MOST_TIMES)


@contextmanager
def ends_within(seconds: float) -> Generator[None]:
    """What is done in it is interrupted after this time, and once more every `AGAIN` seconds until it ends.

    A timer of somebody else's stays in charge when it is due before; else it goes on afterwards, with the time that is
    left to it. Without such timers (on Windows, in a thread) nothing is interrupted but the wait for `in_threads`.

    Raises:
        DidNotEnd: it took longer, whatever it came to then.
    """
    _until.append(time.monotonic() + seconds)
    try:
        with _interrupted_after(seconds):
            yield
    finally:
        _until.pop()


@contextmanager
def _interrupted_after(seconds: float) -> Generator[None]:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    due, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < due <= seconds:
        yield
        return
    expired = over = False

    def interrupt(*_: object) -> None:
        nonlocal expired
        if not over:
            expired = True
            raise _Interrupted

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as err:
        over = True
        if expired:
            raise _did_not_end(seconds).with_traceback(err.__traceback__) from None
        raise
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if due:
            left = due - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)  # 0 would be never
    if expired:
        raise _did_not_end(seconds)


def time_left() -> float:
    """The seconds until what is being done must end; those of the longest case when nothing limits it."""
    return _until[-1] - time.monotonic() if _until else SIZE_CLAUSE


def _did_not_end(seconds: float) -> DidNotEnd:
    return DidNotEnd(f"it did not end within {seconds:.3g} s")


def _service(url: str) -> str:
    """Up to its path: all stores of one service are taken to be equally fast."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.partition('/')[0].partition('?')[0]}" if separator else "file://"

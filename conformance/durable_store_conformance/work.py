"""What a process of the exam does beside calling single verbs; imported by the clauses and by their child processes.

Nothing in here needs pytest.
"""

import hashlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.backend import Backend
from durable_store_conformance.limits import ANSWER, DidNotEnd, time_left

T = TypeVar("T")

TraceFunction = Callable[[FrameType, str, object], "TraceFunction | None"]

HANGS_AFTER = ANSWER
"""Seconds after which a process or a thread that has not answered is taken for hung."""

_SIZES = (1_000_000, 7, 300_000, 4096)


def content(name: str, size: int) -> bytes:
    """A record of this size whose every part tells its name: half of one and half of another equals neither."""
    unit = hashlib.sha256(name.encode()).hexdigest().encode() + b"\x00\xff\r\n"
    return (unit * (size // len(unit) + 1))[:size]


def record_of(step: int) -> bytes:
    """The record that a clause keeps at this step: large and small ones take turns."""
    return content(f"step {step}", _SIZES[step % len(_SIZES)])


def state_of(step: int) -> dict[str, Any]:
    """The state that a clause commits at this step."""
    return {"turn": step, "messages": [{"role": "tool", "content": f"turn {n}"} for n in range(step % 60 + 1)]}


def grown_state(turn: int) -> dict[str, Any]:
    """The state of an agent that has grown by some 2 KB of text in each turn, so that a commit of it is a delta."""
    said = [hashlib.shake_128(f"turn {n}".encode()).hexdigest(1000) for n in range(turn + 4)]
    return {"turn": turn, "messages": said, "spent": turn / 7}


def one_of_many(backend: Backend, key: CheckpointKey, name: str, number: int, chance: random.Random) -> dict[str, Any]:
    """Does something at one of a few steps; the fields of a `history.Op` that tell about it."""
    step = number // 4 + chance.randrange(3)
    what = chance.choice(["save", "save", "load", "latest"])
    found: tuple[int, bytes] | None
    op: dict[str, Any] = {"process": name, "what": what, "key": str(key)}
    record = content(f"{name} {number}", chance.choice([10, 1000, 100_000]))
    op["invoked"] = time.monotonic()
    if what == "save":
        there = backend.save(key, step, record)
        found = (step, there)
        op |= {"step": step, "record": digest(record), "outcome": "ours" if there == record else "theirs"}
    elif what == "load":
        loaded = backend.load(key, step)
        found = None if loaded is None else (step, loaded)
        op |= {"step": step}
    else:
        found = backend.latest(key)
    op["answered"] = time.monotonic()
    return {**op, "found": found and (found[0], digest(found[1]))}


def digest(record: bytes) -> str:
    """By which a record is known."""
    return hashlib.sha256(record).hexdigest()


@contextmanager
def starved(limit: str | None) -> Generator[None]:
    """While it lasts, this process can open no file or connection (`NOFILE`), or write to no file (`FSIZE`)."""
    if limit is None:
        yield
        return
    import resource  # noqa: PLC0415 - not on Windows

    which = getattr(resource, f"RLIMIT_{limit}")
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (3 if limit == "NOFILE" else 0, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


def told(verb: Callable[..., Any], args: list[Any]) -> dict[str, Any]:
    """What a verb gives, or by which error it fails."""
    try:
        gave: Any = verb(*args)
        return {"gave": list(gave) if verb.__name__ == "keys" else gave}
    except StoreUnavailable as err:
        return {"error": "StoreUnavailable", "maybe_saved": err.maybe_saved}
    except Exception:  # noqa: BLE001 - the clause that asked shows it
        return {"error": traceback.format_exc()}


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work(0)` … `work(count - 1)` return, each in a thread, all let go at once.

    Threads that hang are left behind: they keep nobody from ending, neither the caller nor the interpreter.

    Raises:
        DidNotEnd: a thread works longer than there is time (`limits`).
        Exception: what the first of them raised, by number.
    """
    start = threading.Barrier(count)
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}

    def together(number: int) -> None:
        try:
            start.wait(30)
            results[number] = work(number)
        except BaseException as err:  # noqa: BLE001 - raised below
            errors[number] = err

    threads = [threading.Thread(target=together, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        _join(thread)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(count)]


class Watcher:
    """A thread that reads one key over and over, from a step that is there, and notes each broken promise."""

    def __init__(self, backend: Backend, key: CheckpointKey, last: int = -1) -> None:
        self._backend = backend
        self._key = key
        self._problems: list[str] = []
        self._last = last
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """The highest step seen, in a look after this call too, and what was wrong. Raises DidNotEnd when it hangs."""
        self._over.set()
        _join(self._thread)
        return {"last": self._last, "problems": self._problems[:5]}

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()
            try:
                self._look()
            except Exception as err:  # noqa: BLE001 - a thread's errors are what it is there to report
                self._problems.append(f"{type(err).__name__}: {err}")

    def _look(self) -> None:
        found = self._backend.latest(self._key)
        if found is None and self._last >= 0:
            self._problems.append(f"latest was step {self._last}, and then nothing")
        if found is not None:
            step, record = found
            if step < self._last:
                self._problems.append(f"latest went back from {self._last} to {step}")
            self._last = max(step, self._last)
            self._check(step, record)
        coming = self._last + 1
        record_there = self._backend.load(self._key, coming)
        if record_there is not None:
            self._check(coming, record_there)

    def _check(self, step: int, record: bytes) -> None:
        if record != record_of(step):
            self._problems.append(f"step {step} has {len(record)} bytes that are not its record")


class Writer:
    """A thread that saves step after step under one key, so that whatever locks there are, are busy."""

    def __init__(self, backend: Backend, key: CheckpointKey) -> None:
        self._over = threading.Event()
        self._saved = 0
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._write, args=(backend, key), daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """How many steps were saved. Raises what stopped it before this call, and DidNotEnd when it hangs."""
        self._over.set()
        _join(self._thread)
        if self._problem:
            raise self._problem
        return self._saved

    def _write(self, backend: Backend, key: CheckpointKey) -> None:
        try:
            while not self._over.is_set():
                backend.save(key, self._saved, content(f"busy {self._saved}", 100))
                self._saved += 1
        except Exception as err:  # noqa: BLE001 - `stop` raises it
            self._problem = err


def _join(thread: threading.Thread) -> None:
    thread.join(max(time_left(), 0))
    if thread.is_alive():
        raise DidNotEnd("a thread did not end")


def race(backend: Backend, key: CheckpointKey, name: str, steps: Sequence[int]) -> list[list[Any]]:
    """Saves a record of its own at each step: `[step, whether ours is there, digest of what is there]` for each."""
    outcomes: list[list[Any]] = []
    for step in steps:
        record = racing_record(name, step)
        there = backend.save(key, step, record)
        outcomes.append([step, there == record, digest(there)])
    return outcomes


def racing_record(name: str, step: int) -> bytes:
    """The record that a racer of this name saves at this step; each tenth is a large one."""
    return content(f"{name} {step}", 200_000 if step % 10 == 9 else 300)


class Lines:
    """Counts the lines of Python that a verb runs, and at one of them kills this process."""

    def __init__(self, deadly: int | None = None) -> None:
        self.count = 0
        self._deadly = deadly

    def __enter__(self) -> Self:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, _frame: FrameType, event: str, _argument: object) -> TraceFunction:
        if event == "line":
            if self.count == self._deadly:
                die()
            self.count += 1
        return self._trace


def die() -> NoReturn:
    """As by the kernel's hand: nothing is flushed, nobody is told."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError  # it never comes to this

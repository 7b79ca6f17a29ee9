"""The other process of a clause: a fresh interpreter that does as it is told, line by line.

Run by path, `python -P child.py URL`, so that it imports durable_store and never the suite or pytest. A line on
stdin is `[on, verb, args, kwargs]`: a verb of its backend, its store, its run or of itself; a line on stdout is
`{"gave": …}` or `{"error": …}`. It ends with its stdin, so nothing outlives the suite, however the suite dies.
"""

import base64
import hashlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, cast

from durable_store import Checkpoint, CheckpointKey, DurableStoreError, Run, Store, open_store
from durable_store.backend import Backend, open_backend

Answer = Any
"""What a verb gave, as JSON carries it: bytes and keys as themselves, tuples as lists."""

HANGS_AFTER = 60
"""Seconds after which a process that has not answered is taken for hung, and killed."""

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


class Watcher:
    """A thread that reads one key over and over, and notes each broken promise."""

    def __init__(self, backend: Backend, key: CheckpointKey) -> None:
        self._backend = backend
        self._key = key
        self._problems: list[str] = []
        self._last = -1
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """The highest step seen, in a look after this call too, and what was wrong."""
        self._over.set()
        self._thread.join(HANGS_AFTER)
        if self._thread.is_alive():
            self._problems.append("a reader hangs")
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
        """How many steps were saved. Raises what stopped it before this call."""
        self._over.set()
        self._thread.join(HANGS_AFTER)
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


def race(backend: Backend, key: CheckpointKey, name: str, steps: Sequence[int]) -> list[list[Any]]:
    """Saves a record of its own at each step: `[step, whether ours is there, digest of what is there]` for each."""
    outcomes: list[list[Any]] = []
    for step in steps:
        record = racing_record(name, step)
        there = backend.save(key, step, record)
        outcomes.append([step, there == record, hashlib.sha256(there).hexdigest()])
    return outcomes


def racing_record(name: str, step: int) -> bytes:
    """The record that a racer of this name saves at this step; each tenth is a large one."""
    return content(f"{name} {step}", 200_000 if step % 10 == 9 else 300)


class Child:
    """What this process can be told to do, beside the verbs of its backend, store and run."""

    def __init__(self, url: str, answers: IO[bytes]) -> None:
        self._url = url
        self._answers = answers
        self._backend: Backend | None = None
        self._store: Store | None = None
        self._run: Run | None = None
        self._thread: Watcher | Writer | None = None

    @property
    def backend(self) -> Backend:
        """This process's backend, opened once."""
        if self._backend is None:
            self._backend = open_backend(self._url)
        return self._backend

    @property
    def store(self) -> Store:
        """This process's store, opened once."""
        if self._store is None:
            self._store = open_store(self._url)
        return self._store

    @property
    def run(self) -> Run:
        """The run that was resumed last."""
        if self._run is None:
            raise RuntimeError("no run was resumed")
        return self._run

    def resume(self, *args: Any, **kwargs: Any) -> Run:
        """Resumes a run; `run` is this one from now on."""
        self._run = self.store.resume(*args, **kwargs)
        return self._run

    def commit_on(self) -> None:
        """Commits step after step, and acknowledges each, until it is killed."""
        while True:
            self._say({"gave": self.run.commit(state_of(self.run.step + 1))})

    def save_on(self, key: CheckpointKey) -> None:
        """Saves record after record, and acknowledges each, until it is killed."""
        for step in range(10**9):
            self.backend.save(key, step, record_of(step))
            self._say({"gave": step})

    def commits(self, count: int) -> int:
        """Commits so many steps; returns the last."""
        for _ in range(count):
            self.run.commit(state_of(self.run.step + 1))
        return self.run.step

    def race(self, key: CheckpointKey, name: str, steps: Sequence[int]) -> list[list[Any]]:
        """Races the other processes for these steps."""
        return race(self.backend, key, name, steps)

    def watch(self, key: CheckpointKey) -> None:
        """Starts to read a key over and over; `stop` says what was seen."""
        self._thread = Watcher(self.backend, key)

    def write(self, key: CheckpointKey) -> None:
        """Starts to save under a key in a thread; `stop` says how many steps."""
        self._thread = Writer(self.backend, key)

    def stop(self) -> dict[str, Any] | int:
        """Ends what `watch` or `write` started."""
        if self._thread is None:
            raise RuntimeError("nothing was started")
        return self._thread.stop()

    def fork(self, on: str, verb: str, *args: Any, **kwargs: Any) -> None:
        """Forks; the forked process does it, with everything it inherited, and its answer is this one's."""
        if sys.platform == "win32":
            raise OSError("this platform has no fork")
        read, write = os.pipe()
        forked = os.fork()
        if forked == 0:
            signal.alarm(HANGS_AFTER // 2)  # whatever hangs in it: it is killed, and the pipe ends
            try:
                os.close(read)
                with os.fdopen(write, "wb") as pipe:
                    pipe.write(self.answer(on, verb, args, kwargs))
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            line = pipe.read()
        os.waitpid(forked, 0)
        self._say(json.loads(line) if line else {"error": "hangs", "text": f"{verb} hangs in a forked child"})

    def serve(self, requests: IO[bytes]) -> None:
        """Answers line by line until there are no more."""
        for line in requests:
            on, verb, args, kwargs = json.loads(line, object_hook=revived)
            answer = self.answer(on, verb, args, kwargs)
            if (on, verb) != ("child", "fork"):  # that one has spoken
                self._answers.write(answer)
                self._answers.flush()

    def answer(self, on: str, verb: str, args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """What a verb gives or how it fails, as a line."""
        try:
            target = self if on == "child" else getattr(self, on)
            there = getattr(target, verb)
            gave = there(*args, **kwargs) if callable(there) else there
            return _line({"gave": gave})
        except DurableStoreError as err:
            return _line({"error": type(err).__name__, "text": str(err)})
        except Exception:  # noqa: BLE001 - the clause that asked shows it
            return _line({"error": "unexpected", "text": traceback.format_exc()})

    def _say(self, answer: Answer) -> None:
        self._answers.write(_line(answer))
        self._answers.flush()


def plain(value: object) -> Answer:
    """A value that JSON does not know, as one that it does; `revived` undoes it for bytes and keys."""
    match value:
        case bytes():
            return {"a": "bytes", "of": base64.b64encode(value).decode()}
        case CheckpointKey():
            return {"a": "key", "of": [value.goal_id, value.episode_id, value.checkpoint_id]}
        case Checkpoint():
            return {"step": value.step, "state": value.state, "meta": value.meta, "skipped": list(value.skipped)}
        case Run():
            names = ("key", "step", "state", "resumed", "finished", "result", "skipped")
            return {name: getattr(value, name) for name in names}
        case Iterator():
            return list(cast("Iterator[object]", value))
        case _:
            raise TypeError(f"a child cannot tell what {value!r} is")


def revived(value: dict[str, Any]) -> Answer:
    """The bytes or the key that `plain` made this of; every other object is itself."""
    if value.keys() != {"a", "of"}:
        return value
    return base64.b64decode(value["of"]) if value["a"] == "bytes" else CheckpointKey(*value["of"])


def _line(value: Answer) -> bytes:
    return json.dumps(value, default=plain).encode() + b"\n"


def main(url: str) -> None:
    """Serves stdin; what anything else prints goes to stderr, so that it cannot pass for an answer."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve: Callable[[IO[bytes]], None] = Child(url, answers).serve
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    main(sys.argv[1])

"""The other process of a clause: a fresh interpreter that does as it is told, line by line.

`python -P -m durable_store_conformance.child URL SECONDS` imports neither the clauses nor pytest; SECONDS is the time
that a process has which is forked from it. A line on stdin is `[on, verb, args, kwargs]`: a verb of its backend, its
store, its run or of itself; a line on stdout is `{"gave": …}` or `{"error": …}`. It ends with its stdin, so nothing
outlives the suite, however the suite dies.
"""

import base64
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, cast

from durable_store import Checkpoint, CheckpointKey, DurableStoreError, Run, Store, open_store
from durable_store.backend import Backend, open_backend
from durable_store_conformance.limits import DidNotEnd
from durable_store_conformance.work import (
    HANGS_AFTER,
    Lines,
    Watcher,
    Writer,
    die,
    one_of_many,
    race,
    record_of,
    starved,
    state_of,
    told,
)

Answer = Any
"""What a verb gave, as JSON carries it: bytes and keys as themselves, tuples as lists."""


class Child:
    """What this process can be told to do, beside the verbs of its backend, store and run."""

    def __init__(self, url: str, patience: float, answers: IO[bytes]) -> None:
        self._url = url
        self._patience = patience
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

    def lines(self, on: str, verb: str, *args: Any, **kwargs: Any) -> int:
        """Does it, and tells how many lines of Python that takes."""
        with Lines() as lines:
            self.do(on, verb, *args, **kwargs)
        return lines.count

    def die_at(self, line: int, on: str, verb: str, *args: Any, **kwargs: Any) -> None:
        """Does it, and is killed at this line of it; right after it, when it has fewer."""
        with Lines(line):
            self.do(on, verb, *args, **kwargs)
        die()

    def die_in_fork(self, line: int, on: str, verb: str, *args: Any) -> bool:
        """Forks; the forked process does it, and is killed at this line of it. Whether it died so."""
        forked = os.fork()
        if forked == 0:
            signal.setitimer(signal.ITIMER_REAL, self._patience)
            try:
                self.die_at(line, on, verb, *args)
            except BaseException:  # noqa: BLE001 - the process that is forked has nobody else to tell
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(forked, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            raise self._hangs(verb)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def resume_and_commit(self, *args: Any, **kwargs: Any) -> int:
        """Resumes a run and commits its next step."""
        run = self.resume(*args, **kwargs)
        return run.commit(state_of(run.step + 1))

    def work(self, key: CheckpointKey, name: str, seed: str, count: int) -> list[dict[str, Any]]:
        """Saves, loads and looks for the latest, so many times in all; what it did and was told, for the checker."""
        chance = random.Random(seed)  # noqa: S311 - chance, no secret
        return [one_of_many(self.backend, key, name, number, chance) for number in range(count)]

    def starve(self, limit: str | None, verbs: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
        """Calls these verbs, all at once, of a backend that it opens afresh and lets run into a limit.

        The answers say what each gave, or by which error it failed.
        """
        backend = open_backend(self._url)
        with ThreadPoolExecutor(len(verbs)) as pool:
            ready = threading.Barrier(len(verbs) + 1)

            def call(verb: str, args: list[Any]) -> dict[str, Any]:
                ready.wait(HANGS_AFTER)  # a thread may not be startable under the limit
                ready.wait(HANGS_AFTER)
                return told(getattr(backend, verb), args)

            calls = {verb: pool.submit(call, verb, args) for verb, args in verbs.items()}
            ready.wait(HANGS_AFTER)
            with starved(limit):
                ready.wait(HANGS_AFTER)
                answers = {verb: call.result() for verb, call in calls.items()}
        backend.close()
        return answers

    def race(self, key: CheckpointKey, name: str, steps: Sequence[int]) -> list[list[Any]]:
        """Races the other processes for these steps."""
        return race(self.backend, key, name, steps)

    def watch(self, key: CheckpointKey, last: int = -1) -> None:
        """Starts to read a key over and over; `stop` says what was seen."""
        self._thread = Watcher(self.backend, key, last)

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
            signal.setitimer(
                signal.ITIMER_REAL, self._patience
            )  # whatever hangs in it: it is killed, and the pipe ends
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
        self._say(json.loads(line) if line else _error(self._hangs(verb)))

    def serve(self, requests: IO[bytes]) -> None:
        """Answers line by line until there are no more."""
        for line in requests:
            on, verb, args, kwargs = json.loads(line, object_hook=revived)
            answer = self.answer(on, verb, args, kwargs)
            if (on, verb) != ("child", "fork"):  # that one has spoken
                self._answers.write(answer)
                self._answers.flush()

    def do(self, on: str, verb: str, *args: Any, **kwargs: Any) -> Answer:
        """What a verb gives, or an attribute is."""
        there = getattr(self if on == "child" else getattr(self, on), verb)
        return there(*args, **kwargs) if callable(there) else there

    def answer(self, on: str, verb: str, args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """What a verb gives or how it fails, as a line."""
        try:
            return _line({"gave": self.do(on, verb, *args, **kwargs)})
        except (DurableStoreError, DidNotEnd) as err:
            return _line(_error(err))
        except Exception:  # noqa: BLE001 - the clause that asked shows it
            return _line({"error": "unexpected", "text": traceback.format_exc()})

    def _hangs(self, verb: str) -> DidNotEnd:
        return DidNotEnd(f"{verb} did not end within {self._patience:.3g} s in a forked process")

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


def _error(err: Exception) -> Answer:
    return {"error": type(err).__name__, "text": str(err)}


def _line(value: Answer) -> bytes:
    return json.dumps(value, default=plain).encode() + b"\n"


def main(url: str, patience: str) -> None:
    """Serves stdin; what anything else prints goes to stderr, so that it cannot pass for an answer."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve: Callable[[IO[bytes]], None] = Child(url, float(patience), answers).serve
    serve(sys.stdin.buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])

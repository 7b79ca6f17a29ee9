"""Another process, seen from the clause that started it: told what to do, waited for, killed, always reaped."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, cast

import durable_store
from durable_store_conformance import child, limits
from durable_store_conformance.child import Answer, plain, revived
from durable_store_conformance.limits import DidNotEnd


class ProcessFailed(Exception):
    """A child process died or broke down: by no error of durable_store. It is never what a clause expects."""


class AnotherProcess:
    """A fresh interpreter that opens the same URL. It waits for what it is told, so nothing needs a sleep."""

    def __init__(self, url: str) -> None:
        self._patience = limits.ANSWER * limits.slowness_of(url)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", child.__name__, url, str(self._patience / 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    def backend(self, verb: str, *args: object, **kwargs: object) -> Answer:
        """What a verb of its backend gives. The errors of durable_store arrive as themselves."""
        return self._ask("backend", verb, args, kwargs)

    def store(self, verb: str, *args: object, **kwargs: object) -> Answer:
        """What a verb of its store gives; a checkpoint comes as an object of step, state, meta and skipped."""
        return self._ask("store", verb, args, kwargs)

    def run(self, verb: str, *args: object, **kwargs: object) -> Answer:
        """What a verb or an attribute of its run gives."""
        return self._ask("run", verb, args, kwargs)

    def ask(self, verb: str, *args: object, **kwargs: object) -> Answer:
        """What one of the child's own verbs gives: `resume`, `commits`, `watch`, `stop`, `fork` and others."""
        return self._ask("child", verb, args, kwargs)

    def tell(self, on: str, verb: str, *args: object, **kwargs: object) -> None:
        """Starts what `answer` waits for, so that several processes do it at the same time."""
        try:
            self._requests.write(json.dumps([on, verb, args, kwargs], default=plain).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError as err:
            raise ProcessFailed("it ended before it was told what to do; see its stderr") from err

    def answer(self) -> Answer:
        """The next answer. Raises DidNotEnd when it does not come: then it was killed."""
        with self._killed_when_it_hangs():
            line = self._answers.readline()
        if not line:
            raise ProcessFailed("it ended without an answer; see its stderr")
        return self._read(line)

    def kill(self) -> list[Answer]:
        """Ends it by SIGKILL, whatever it is doing; returns the answers that it had still given."""
        self._process.kill()
        with self._killed_when_it_hangs():
            rest = self._answers.readlines()
        self._reap()
        return [self._read(line) for line in rest if line.endswith(b"\n")]

    def wait_for_its_death(self) -> None:
        """Returns when it has ended by itself. Raises ProcessFailed when it gives an answer instead."""
        with self._killed_when_it_hangs():
            rest = self._answers.readlines()
        self._reap()
        if rest:
            raise ProcessFailed(f"it was to die, and it said {rest[0]!r}")

    def discard(self) -> None:
        """Ends it, if it still lives, and lets go of its pipes."""
        self._process.kill()
        self._reap()

    def _ask(self, on: str, verb: str, args: tuple[object, ...], kwargs: dict[str, object]) -> Answer:
        self.tell(on, verb, *args, **kwargs)
        return self.answer()

    def _read(self, line: bytes) -> Answer:
        said = json.loads(line, object_hook=revived)
        if "error" not in said:
            return said["gave"]
        if said["error"] == DidNotEnd.__name__:
            raise DidNotEnd(said["text"])
        error = getattr(durable_store, said["error"], None)
        if error is None:
            raise ProcessFailed(said["text"])
        raise error(said["text"])

    def _reap(self) -> None:
        self._process.wait(limits.ANSWER)
        self._answers.close()
        try:
            self._requests.close()
        except BrokenPipeError:  # what was told last was never read
            return

    @contextmanager
    def _killed_when_it_hangs(self) -> Generator[None]:
        hangs = threading.Event()

        def kill() -> None:
            hangs.set()
            self._process.kill()

        watchdog = threading.Timer(self._patience, kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
        if hangs.is_set():
            raise DidNotEnd(f"another process did not answer within {self._patience:.3g} s")


class OtherProcesses:
    """Starts other processes on one URL, and ends all of them with the clause."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._started: list[AnotherProcess] = []

    def __call__(self) -> AnotherProcess:
        """A fresh process."""
        self._started.append(AnotherProcess(self._url))
        return self._started[-1]

    def start(self, count: int) -> list[AnotherProcess]:
        """So many, each with its interpreter up: what they are told next, they do at once."""
        processes = [self() for _ in range(count)]
        at_once(processes, "backend", "keys")
        return processes

    def end(self) -> None:
        """Kills and reaps them all."""
        for process in self._started:
            process.discard()


def at_once(processes: list[AnotherProcess], on: str, verb: str, *args: object, **kwargs: object) -> list[Answer]:
    """What each of them answers when all are told the same at the same time; an error is an answer here."""
    for process in processes:
        process.tell(on, verb, *args, **kwargs)
    return [_answer_or_error(process) for process in processes]


def _answer_or_error(process: AnotherProcess) -> Answer:
    try:
        return process.answer()
    except durable_store.DurableStoreError as err:
        return err

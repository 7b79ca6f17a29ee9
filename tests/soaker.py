"""Works on keys that others work on too: `python -m tests.soaker URL SEED JOURNAL`.

At each number on stdin it does that round: saves a record of its own at that step, which the others want as well, and
commits to runs that the others resume as well. It says `done` after each, and writes to the journal what it asked for
and what it was told, a line each. `test_soak.py` starts it.
"""

import faulthandler
import random
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import orjson

from durable_store import CheckpointConflict, CheckpointKey, Run, Store, StoreUnavailable
from durable_store.backend import Backend, open_backend
from durable_store.record import decode_header, digest_of, encode
from durable_store_conformance.history import Op

T = TypeVar("T")

AGENT = "agent-0"
RACE = CheckpointKey("race", 0, AGENT)
RUNS: dict[str, int | None] = {"whole": None, "pruned": 2}
"""The goals of the runs, and how many steps those keep."""

PRUNED_LATER = 8  # rounds; by then everybody is done with a step
HANGS = 120.0  # seconds that a round takes; then it shows where it is, and ends


def main(url: str, seed: str, journal: str) -> None:
    """Does the rounds until stdin ends."""
    with Path(journal).open("wb") as file:

        def note(op: Op) -> None:
            file.write(orjson.dumps(op._asdict()) + b"\n")

        backend = open_backend(url)
        backend.save(CheckpointKey("warm-up", 0, seed), 0, b"connects, and probes the service")
        worker = Worker(Journaled(backend, seed, note), seed)
        print("ready", flush=True)
        for line in sys.stdin:
            faulthandler.dump_traceback_later(HANGS, exit=True)
            worker.do(int(line))
            faulthandler.cancel_dump_traceback_later()
            print("done", flush=True)
        backend.close()


class Journaled:
    """A backend that takes down what it was asked and what it answered, but for reads of headers."""

    def __init__(self, backend: Backend, process: str, note: Callable[[Op], object]) -> None:
        self._backend = backend
        self._process = process
        self._note = note

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        op = Op(self._process, "save", str(key), step, identity(record), *_origin(key, step, record))

        def told(there: bytes) -> Op:
            return op._replace(outcome="ours" if there == record else "theirs", found=(step, identity(there)))

        return self.take_down(op, lambda: self._backend.save(key, step, record), told)

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        op = Op(self._process, "latest", str(key))

        def told(newest: tuple[int, bytes] | None) -> Op:
            return op._replace(found=newest and (newest[0], identity(newest[1])))

        return self.take_down(op, lambda: self._backend.latest(key), told)

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        op = Op(self._process, "prune", str(key), steps=tuple(steps))
        self.take_down(op, lambda: self._backend.prune(key, steps), lambda _: op)

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        if first is not None:
            return self._backend.load(key, step, first=first)
        op = Op(self._process, "load", str(key), step)

        def told(there: bytes | None) -> Op:
            return op._replace(found=None if there is None else (step, identity(there)))

        return self.take_down(op, lambda: self._backend.load(key, step), told)

    def steps(self, key: CheckpointKey) -> list[int]:
        return self._backend.steps(key)

    def keys(self, goal_id: str | None = None) -> Iterator[CheckpointKey]:
        return self._backend.keys(goal_id)

    def close(self) -> None:
        self._backend.close()

    def commit(self, run: Run, state: object) -> int:
        """Commits, and takes that down too."""
        op = Op(self._process, "commit", str(run.key), run.step + 1, writer=run.writer)

        def told(step: int) -> Op:
            return op._replace(step=step, record=run._prev[1] if run._prev else "")

        return self.take_down(op, lambda: run.commit(state), told)

    def take_down(self, op: Op, verb: Callable[[], T], told: Callable[[T], Op]) -> T:
        """Does it, and notes when, and the outcome that is `told` by its answer."""
        invoked = time.monotonic()
        ended = op
        try:
            answer = verb()
            ended = told(answer)
        except StoreUnavailable as err:
            ended = op._replace(outcome="maybe-saved" if err.maybe_saved else "unavailable")
            raise
        except CheckpointConflict:
            ended = op._replace(outcome="conflict")
            raise
        finally:
            self._note(ended._replace(invoked=invoked, answered=time.monotonic()))
        return answer


class Worker:
    """What one process does in each round; what of it, its random numbers say. Their seed is its name."""

    def __init__(self, backend: Journaled, seed: str) -> None:
        self._backend = backend
        self._store = Store(backend)
        self._name = seed
        self._rng = random.Random(seed)
        self._runs: dict[str, Run] = {}

    def do(self, number: int) -> None:
        """The round of this number."""
        self._race(number)
        for goal, keep in RUNS.items():
            if self._happens(0.4):
                self._go_on(goal, keep, commits=self._rng.randint(1, 4))
        self._go_on(f"alone-{self._name}", None, commits=1)  # where nobody takes the step of which it is in doubt

    def _race(self, step: int) -> None:
        """Wants the step, gives up after a refusal or sometimes in doubt, and has a look around."""
        state = orjson.dumps({"by": self._name, "text": "." * self._rng.randrange(5000)})
        record = encode(RACE, step, state, writer=self._name)
        with suppress(CheckpointConflict):  # whether rightly is not for us to say
            self._until_settled(lambda: self._backend.save(RACE, step, record))
        if self._happens(0.3):
            self._try(lambda: self._backend.latest(RACE))
        if self._happens(0.3):
            self._try(lambda: self._backend.load(RACE, self._rng.randint(0, step)))
        old = range(0, step - PRUNED_LATER, 3)
        if old and self._happens(0.1):
            self._try(lambda: self._backend.prune(RACE, self._rng.sample(old, min(len(old), 3))))

    def _go_on(self, goal: str, keep: int | None, commits: int) -> None:
        """Goes on with its run, or resumes afresh where it was refused, and commits so many times."""
        if goal not in self._runs:
            run = self._try(lambda: self._store.resume(goal, AGENT, keep=keep, initial={}))
            if run is None:
                return
            self._runs[goal] = run
        run = self._runs[goal]
        for _ in range(commits):
            state = {"by": self._name, "text": "." * self._rng.randrange(5000)}
            try:
                self._until_settled(partial(self._backend.commit, run, state), gives_up=False)
            except CheckpointConflict:
                del self._runs[goal]
                return

    def _until_settled(self, verb: Callable[[], object], *, gives_up: bool = True) -> None:
        """Asks again while the outcome is unknown; and while nothing was saved, if it may not give up."""
        in_doubt = False
        while True:
            try:
                verb()
            except StoreUnavailable as err:
                in_doubt = in_doubt or err.maybe_saved
                if gives_up and (not in_doubt or self._happens(0.1)):
                    return
            else:
                return

    def _try(self, verb: Callable[[], T]) -> T | None:
        try:
            return verb()
        except StoreUnavailable:
            return None

    def _happens(self, probability: float) -> bool:
        return self._rng.random() < probability


def identity(record: bytes) -> str:
    """The digest of an intact record; of anything else what no record has."""
    whole = sha256(record[65:]).hexdigest()
    return whole if digest_of(record) == whole else f"torn: {whole}"


def _origin(key: CheckpointKey, step: int, record: bytes) -> tuple[str, str]:
    """Who wrote a record, and the record that it builds on."""
    header = decode_header(record, key, step)
    return header.writer, header.prev[1] if header.prev else ""


if __name__ == "__main__":
    main(*sys.argv[1:])

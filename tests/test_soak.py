"""Processes race for steps and runs through a network that fails, and a history checker judges what they were told.

Each process has a proxy of its own, so that one of them may be cut off while the others go on and take over.
"""

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

import orjson
import pytest

from durable_store import CheckpointKey, Store, StoreUnavailable, open_store
from durable_store.backend import open_backend
from durable_store_conformance.history import End, Op, violations
from tests.fault_proxy import (
    Answer,
    AnswerAfter,
    CutRequest,
    CutResponse,
    Delay,
    Fault,
    FaultProxy,
    Late,
    LostAnswer,
    Request,
    Stall,
    Twice,
)
from tests.servers import DEADLINE, Server, seaweedfs
from tests.soaker import AGENT, RACE, RUNS, Journaled, identity

ROOT = Path(__file__).parent.parent
PROCESSES = 4
AHEAD = 6  # rounds that a process may be ahead of the last one
ATTEMPTS = 4
HARMS = ("lost answer", "stall", "late", "cut request", "503", "500 after commit", "409")
SORTS = (*HARMS, "cut response", "delay", "twice", "409")  # of these, the last is for PUTs only: once more


class Weather:
    """What the requests of one process meet: mostly nothing, now and then a fault, and in a storm nothing else.

    A storm breaks at a PUT and lasts longer than all attempts of a request, so that outcomes stay unknown. It brings
    all sorts of harm, or one. Some lose the answer of that PUT and then hit only GETs: no record can be read back. Some
    hit only PUTs, of which one lands late: nothing is there when the record is read back, and then it is.
    """

    def __init__(self, seed: str, seconds: float) -> None:
        self.faults: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._seconds = seconds
        self._calm = self._rng.randint(5, 30)  # for so many PUTs more
        self._storm = 0  # for so many faults more
        self._sorts: Collection[str] = ()  # of faults in this storm
        self._only = ""  # requests of this kind
        self._deck: list[str] = []  # each sort comes once before any comes again
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            faults = self._faults(request)
            sort = self._break(request) or self._go_on(request, faults)
            if sort is None:
                return None
            self.faults[sort] += 1
            return faults[sort]

    def _break(self, request: Request) -> str | None:
        """At a PUT, now and then: the first fault of a storm."""
        self._calm -= request.kind == "PUT"
        if self._calm >= 0:
            return None
        self._calm, self._storm = self._rng.randint(15, 75), self._rng.randint(5, 10)
        self._only = self._rng.choices(["GET", "PUT", ""], [3, 2, 5])[0]
        self._sorts = HARMS if self._rng.random() < 0.5 else [self._rng.choice(HARMS)]
        if self._only == "PUT":
            self._storm = 2 * ATTEMPTS - 2
            return "503"
        return "lost answer" if self._only == "GET" else self._rng.choice(self._sorts)

    def _go_on(self, request: Request, faults: Collection[str]) -> str | None:
        if self._storm and self._only in ("", request.kind):
            self._storm -= 1
            if self._only == "PUT":
                return "late" if self._storm == ATTEMPTS - 1 else "503"
            return self._rng.choice([sort for sort in self._sorts if sort in faults] or ["503"])
        if self._storm or self._rng.random() > (0.06 if request.kind == "PUT" else 0.02):
            return None
        if not any(sort in self._deck for sort in faults):
            self._deck += self._rng.sample(SORTS, len(SORTS))
        sort = next(sort for sort in self._deck if sort in faults)
        self._deck.remove(sort)
        return sort

    def _faults(self, request: Request) -> dict[str, Fault]:
        faults: dict[str, Fault] = {
            "lost answer": LostAnswer(),
            "stall": Stall(),
            "late": Late(self._rng.uniform(0, 2 * self._seconds)),
            "cut request": CutRequest(self._rng.choice([0, 0.5, 0.99])),
            "503": Answer(503, "SlowDown"),
            "500 after commit": AnswerAfter(500, "InternalError"),
            "cut response": CutResponse(),
            "delay": Delay(self._rng.uniform(0, 1.2 * self._seconds)),
            "twice": Twice(),
        }
        return {**faults, "409": Answer(409, "ConditionalRequestConflict")} if request.kind == "PUT" else faults


class Soaker:
    """A process that soaks, behind a proxy of its own. A context manager."""

    def __init__(self, server: Server, prefix: str, seed: str, seconds: float, directory: Path) -> None:
        self.proxy = FaultProxy(server.endpoint)
        self.weather = Weather(seed, seconds)
        self._seed = seed
        self._journal = directory / f"{seed}.jsonl"
        self._complaints = directory / f"{seed}.err"
        times = {"connect_timeout": str(seconds), "read_timeout": str(seconds), "max_attempts": str(ATTEMPTS)}
        with self._complaints.open("wb") as complaints:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tests.soaker", self.proxy.url(prefix, **times), seed, self._journal],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
            )

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.communicate()
        self.proxy.__exit__(kind, error, trace)

    def let_it_rain(self) -> None:
        """Returns when it has connected; from then on there are faults."""
        self._expect(b"ready")
        self.proxy.plan = self.weather

    def begin(self, number: int) -> None:
        """Lets it do this round."""
        assert self._child.stdin
        with suppress(BrokenPipeError):  # it is dead, and the next word that is missing tells why
            self._child.stdin.write(b"%d\n" % number)
            self._child.stdin.flush()

    def wait_for_round(self) -> None:
        """Returns when it has done one more."""
        self._expect(b"done")

    def end(self) -> list[Op]:
        """What it did, when that is over and nothing is on its way any more."""
        self._child.communicate()
        assert self._child.returncode == 0, self._complaints.read_text()
        self.proxy.settle()
        return [Op.of_json(orjson.loads(line)) for line in self._journal.read_bytes().splitlines()]

    def _expect(self, word: bytes) -> None:
        assert self._child.stdout
        said = self._child.stdout.readline().strip()
        assert said == word, f"seed {self._seed}: {said!r}\n{self._complaints.read_text()}"


@dataclass
class Tally:
    """What a soak came to."""

    seed: int
    rounds: int
    history: list[Op]
    wrong: list[str]
    faults: Counter[str]

    def __post_init__(self) -> None:
        saves = [op for op in self.history if op.what == "save"]
        settled = {op.record for op in saves if op.outcome in ("ours", "theirs", "conflict")}
        doubtful = {op.record for op in saves if op.outcome == "maybe-saved"}
        self.unknown = len(doubtful)
        self.resolved = len(doubtful & settled)
        self.lost_races = sum(op.outcome == "theirs" for op in saves)
        self.refused = sum(op.what == "commit" and op.outcome == "conflict" for op in self.history)
        self.committed = sum(op.what == "commit" and op.outcome == "done" for op in self.history)

    def __str__(self) -> str:
        operations = sum(op.what != "commit" for op in self.history)
        longest = max(op.answered - op.invoked for op in self.history)
        return (
            f"{self.rounds} rounds, {operations} operations, {self.committed} commits acknowledged;"
            f" {self.faults.total()} faults ({', '.join(f'{n} {kind}' for kind, n in sorted(self.faults.items()))});"
            f" {self.unknown} outcomes unknown, {self.resolved} of them resolved; {self.lost_races} races lost,"
            f" {self.refused} commits refused; the longest operation took {longest:.1f} s;"
            f" {len(self.wrong)} violations"
        )


def patience(seconds: float) -> dict[str, float]:
    """How long an operation may take, where a connection and an answer may take so many seconds each.

    A request is tried ATTEMPTS times, with waits of up to 0.2, 0.4, 0.8 … s in between. A save is a PUT and a GET; a
    latest a LIST and a GET, and those once more if a prune came between; a prune by a run that keeps two, or of three
    steps, at most three requests; a commit is a save, a latest and a prune. Two seconds are for a busy machine.
    """
    request = ATTEMPTS * 2 * seconds + sum(0.1 * 2**attempt for attempt in range(1, ATTEMPTS))
    requests = {"save": 2, "load": 1, "latest": 4, "prune": 3, "commit": 9}
    return {what: count * request + 2 for what, count in requests.items()}


def soak(server: Server, directory: Path, *, rounds: int, seed: int, seconds: float) -> Tally:
    prefix, history = uuid4().hex, list[Op]()
    with Store(Journaled(open_backend(server.url(prefix)), "parent", history.append)) as store:
        for goal in RUNS:
            store.start_episode(goal, root=AGENT)
    with ExitStack() as stack:
        soakers = [
            stack.enter_context(Soaker(server, prefix, f"{seed}-{number}", seconds, directory))
            for number in range(PROCESSES)
        ]
        for soaker in soakers:
            soaker.let_it_rain()
        for number in range(rounds + AHEAD):
            for soaker in soakers:
                if number < rounds:
                    soaker.begin(number)
            for soaker in soakers:
                if number >= AHEAD:
                    soaker.wait_for_round()
        for soaker in soakers:
            history += soaker.end()
    wrong = violations(history, end_of(server.url(prefix), history), keep=run_keys(), patience=patience(seconds))
    return Tally(seed, rounds, history, wrong, sum((soaker.weather.faults for soaker in soakers), Counter[str]()))


def run_keys() -> dict[str, int | None]:
    return {str(CheckpointKey(goal, 0, AGENT)): keep for goal, keep in RUNS.items()}


def end_of(url: str, history: Iterable[Op]) -> End:
    """What is there now under all the keys of a history."""
    end: dict[str, dict[int, str]] = {}
    with open_store(url) as store:
        for text in {op.key for op in history}:
            key = CheckpointKey.parse(text)
            records = {step: store.backend.load(key, step) for step in store.backend.steps(key)}
            end[text] = {step: identity(record or b"") for step, record in records.items()}
    return end


def check(tally: Tally) -> None:
    assert not tally.wrong, "\n".join([f"seed {tally.seed}:", *tally.wrong[:20]])
    steps = {op.step for op in tally.history if op.key == str(RACE) and op.outcome in {"ours", "theirs"}}
    assert steps == set(range(tally.rounds)), "steps that nobody won"


def test_thirty_rounds_of_faults_break_no_promise(moto_server: Server, tmp_path: Path) -> None:
    tally = soak(moto_server, tmp_path, rounds=30, seed=1, seconds=0.4)
    check(tally)
    assert tally.faults.total() > 20
    assert tally.resolved
    assert tally.lost_races
    assert tally.refused


def test_a_few_rounds_of_faults_break_no_promise_on_a_real_server(seaweedfs_server: Server, tmp_path: Path) -> None:
    check(soak(seaweedfs_server, tmp_path, rounds=6, seed=1, seconds=0.7))


@pytest.mark.prove
def test_three_hundred_rounds_of_faults(
    moto_server: Server, tmp_path: Path, record_figure: Callable[[str], None]
) -> None:
    tally = soak(moto_server, tmp_path, rounds=300, seed=2, seconds=0.5)
    check(tally)
    assert tally.faults.keys() == set(SORTS)
    record_figure(str(tally))


@pytest.mark.prove
def test_sixty_rounds_of_faults_on_a_real_server(
    seaweedfs_server: Server, tmp_path: Path, record_figure: Callable[[str], None]
) -> None:
    tally = soak(seaweedfs_server, tmp_path, rounds=60, seed=3, seconds=1)
    check(tally)
    record_figure(str(tally))


@dataclass
class Outages:
    """What a run came to whose server was killed again and again."""

    kills: int
    history: list[Op]
    wrong: list[str]
    gaps: list[float]  # seconds from each kill to the next acknowledged commit

    def __str__(self) -> str:
        saves = [op for op in self.history if op.what == "save"]
        unknown = {op.record for op in saves if op.outcome == "maybe-saved"}
        resolved = unknown & {op.record for op in saves if op.outcome == "ours"}
        reads = sum(op.what in {"load", "latest"} for op in self.history)
        return (
            f"{self.kills} SIGKILLs of the server, {len(commits(self.history))} commits acknowledged, {reads} reads;"
            f" {len(unknown)} outcomes unknown, {len(resolved)} of them resolved; {min(self.gaps):.1f} to"
            f" {max(self.gaps):.1f} s from a kill to the next commit; {len(self.wrong)} violations"
        )


def ride_out(directory: Path, *, kills: int, seed: int) -> Outages:
    """Commits to a run while its server is killed at random moments, and looks back after each."""
    rng = random.Random(seed)
    history, gaps, stop = list[Op](), list[float](), threading.Event()
    key = CheckpointKey("outlives-its-server", 0, AGENT)
    with seaweedfs(directory) as server, ThreadPoolExecutor(1) as pool:
        url = server.url("store", connect_timeout="1", read_timeout="2", max_attempts="4")
        reader = Journaled(open_backend(url), "reader", history.append)
        Store(reader).start_episode(key.goal_id, root=AGENT)
        writer = Journaled(open_backend(url), "writer", history.append)
        committing = pool.submit(commit_until, stop, writer, key, seed)
        try:
            wait_for_commit(history, 0, committing)
            for _ in range(kills):
                wait([committing], rng.random())
                server.kill()
                killed = time.monotonic()
                server.start()
                patiently(partial(reader.latest, key))
                for op in rng.choices(commits(history), k=10):
                    patiently(partial(reader.load, key, op.step))
                gaps.append(wait_for_commit(history, killed, committing))
        finally:
            stop.set()
        committing.result()
        wrong = violations(history, end_of(url, history), keep={str(key): None})
        reader.close()
        writer.close()
    return Outages(kills, history, wrong, gaps)


def commit_until(stop: threading.Event, backend: Journaled, key: CheckpointKey, seed: int) -> None:
    """Commits states of up to 300 KB, each again until it is acknowledged."""
    rng = random.Random(seed)
    with Store(backend).resume(key.goal_id, key.checkpoint_id, keep=None, initial={}) as run:
        while not stop.is_set():
            state = {"text": "." * rng.choice([100, 10_000, 300_000])}
            patiently(partial(backend.commit, run, state))


def patiently(verb: Callable[[], object]) -> None:
    """Does it again while the store is unavailable, which must end within the time that a server gets to start."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            verb()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
        else:
            return


def commits(history: list[Op]) -> list[Op]:
    return [op for op in history if op.what == "commit" and op.outcome == "done"]


def wait_for_commit(history: list[Op], since: float, committing: Future[None]) -> float:
    """Returns when a commit that began after this moment was acknowledged; and how long after it."""
    while True:
        wait([committing], 0.01)
        assert not committing.done(), committing.result()
        later = [op.answered for op in commits(history) if op.invoked > since]
        if later:
            return later[0] - since


def test_a_run_goes_on_when_its_server_was_killed(tmp_path: Path) -> None:
    outages = ride_out(tmp_path, kills=2, seed=1)
    assert not outages.wrong


@pytest.mark.prove
def test_twenty_kills_of_the_server_lose_nothing(tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    outages = ride_out(tmp_path, kills=20, seed=2)
    assert not outages.wrong
    record_figure(str(outages))

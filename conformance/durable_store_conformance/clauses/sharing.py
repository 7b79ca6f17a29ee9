"""Threads, forked children and other processes on one store: one winner, whole records, never an older latest."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from durable_store import CheckpointKey
from durable_store.backend import Backend, open_backend
from durable_store_conformance.clauses.verbs import on_disk
from durable_store_conformance.history import Op, violations
from durable_store_conformance.process import OtherProcesses, at_once
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import (
    HANGS_AFTER,
    Watcher,
    content,
    digest,
    in_threads,
    race,
    racing_record,
    record_of,
)

T = TypeVar("T")

RACERS = 8
STEPS = range(50)


def _one_winner_each(outcomes: dict[str, list[list[Any]]], backend: Backend) -> None:
    """Each step was won once, everyone was given the winner's record, and it is the one that is there."""
    for step in STEPS:
        winners = [name for name, seen in outcomes.items() if [step, True] in [line[:2] for line in seen]]
        assert len(winners) == 1, f"step {step} was won by {winners or 'nobody'}"
        record = racing_record(winners[0], step)
        winning = digest(record)
        given = {name: line[2] for name, seen in outcomes.items() for line in seen if line[0] == step}
        assert given == dict.fromkeys(outcomes, winning), f"step {step} of {winners[0]} was not given to everyone"
        assert backend.load(KEY, step) == record
    assert backend.steps(KEY) == list(reversed(STEPS))


def met(history: list[Op]) -> bool:
    """Whether any process was given another one's record when it wanted to save its own."""
    of = {op.record: op.process for op in history if op.outcome == "ours"}
    return any(op.outcome == "theirs" and op.found and of.get(op.found[1], op.process) != op.process for op in history)


def _save_and_prune(backend: Backend, count: int) -> None:
    for step in range(count):
        assert backend.save(KEY, step, record_of(step)) == record_of(step)
        if step:
            backend.prune(KEY, [step - 1])


@clause("DS-RACE-01", "Atomic among threads, processes and machines: of any number of racers one wins.", needs="a race")
def of_racing_threads_one_wins(backend: Backend) -> None:
    """Threads that share a backend, and all are given the winner's record."""
    outcomes = in_threads(RACERS, lambda number: race(backend, KEY, f"thread {number}", STEPS))
    _one_winner_each({f"thread {n}": outcome for n, outcome in enumerate(outcomes)}, backend)


@clause("DS-THREAD-01", "Safe to share among threads, and safe after `fork()`.")
def threads_share_a_backend(backend: Backend) -> None:
    """Each at its own key and all its verbs: nothing is lost, mixed up or refused."""

    def work(number: int) -> None:
        key = CheckpointKey("goal", number, "agent-0")
        for step in range(20):
            record = content(f"{number} {step}", 500)
            assert backend.save(key, step, record) == record
            assert backend.latest(key) == (step, record)
            assert backend.steps(key)[0] == step
            if step % 5 == 4:
                backend.prune(key, range(step - 4, step))
        assert key in list(backend.keys("goal"))

    in_threads(RACERS, work)
    for number in range(RACERS):
        assert backend.steps(CheckpointKey("goal", number, "agent-0")) == [19, 14, 9, 4]


@clause("DS-READER-01", "A reader sees all of it or none.")
def a_reader_in_another_thread_sees_all_of_a_record_or_none(backend: Backend, url: str) -> None:
    """And never sees latest go back: a reader of the same backend object, and one of its own."""
    own = open_backend(url)
    watchers = [Watcher(backend, KEY), Watcher(own, KEY)]
    for step in range(40):
        backend.save(KEY, step, record_of(step))
    seen = [watcher.stop() for watcher in watchers]
    own.close()
    assert seen == [{"last": 39, "problems": []}] * 2


@clause("DS-READER-02", "A reader sees all of it or none.")
def a_reader_in_another_process_sees_all_of_a_record_or_none(backend: Backend, another_process: OtherProcesses) -> None:
    """And never sees latest go back."""
    reader = another_process()
    reader.ask("watch", KEY)
    for step in range(40):
        backend.save(KEY, step, record_of(step))
    assert reader.ask("stop") == {"last": 39, "problems": []}


@clause("DS-READER-03", "A reader sees all of it or none.")
def a_reader_sees_what_another_process_writes(backend: Backend, another_process: OtherProcesses) -> None:
    """All of a record or none, and latest never goes back."""
    writer = another_process()
    watcher = Watcher(backend, KEY)
    for step in range(40):
        assert writer.backend("save", KEY, step, record_of(step)) == record_of(step)
    assert watcher.stop() == {"last": 39, "problems": []}


@clause("DS-READER-04", "Never visible as a half-removed record.")
def a_reader_beside_a_writer_that_prunes_always_finds_a_latest(backend: Backend, url: str) -> None:
    """What it is about to read may be pruned under its hands: it never takes that for nothing, nor goes back."""
    own = open_backend(url)
    backend.save(KEY, 0, record_of(0))
    watchers = [Watcher(backend, KEY, 0), Watcher(own, KEY, 0)]
    _save_and_prune(backend, 80)
    seen = [watcher.stop() for watcher in watchers]
    own.close()
    assert seen == [{"last": 79, "problems": []}] * 2


@clause("DS-READER-05", "Never visible as a half-removed record.")
def another_process_beside_a_writer_that_prunes_always_finds_a_latest(
    backend: Backend, another_process: OtherProcesses
) -> None:
    """What it is about to read may be pruned under its hands: it never takes that for nothing, nor goes back."""
    reader = another_process()
    backend.save(KEY, 0, record_of(0))
    reader.ask("watch", KEY, 0)
    _save_and_prune(backend, 80)
    assert reader.ask("stop") == {"last": 79, "problems": []}


@clause("DS-THREAD-04", "Safe to share among threads, and safe after `fork()`.")
def many_threads_share_a_backend(backend: Backend) -> None:
    """Three score of them: none waits so long that it gives up, and none loses a save."""

    def work(number: int) -> None:
        key = CheckpointKey("goal", number, "agent-0")
        for step in range(5):
            assert backend.save(key, step, f"{number} {step}".encode()) == f"{number} {step}".encode()
            assert backend.latest(key) == (step, f"{number} {step}".encode())

    in_threads(60, work)
    assert sorted(backend.keys("goal")) == [CheckpointKey("goal", number, "agent-0") for number in range(60)]


@clause("DS-THREAD-02", "Safe to share among threads, and safe after `fork()`.")
def keys_that_come_and_go_disturb_nobody(backend: Backend, url: str) -> None:
    """Writers that save the first record of a key and prune its last, beside each other and beside a listing."""
    stays = [CheckpointKey(goal, 0, "stays") for goal in ("goal", "goal-2")]
    for key in stays:
        backend.save(key, 0, b"stays")

    def work(number: int) -> None:
        own = open_backend(url)
        key = CheckpointKey("goal", number // 2, f"agent-{number}")
        for step in range(30):
            assert own.save(key, step, b"comes") == b"comes"
            assert own.latest(key) == (step, b"comes")
            own.prune(key, [step])
            assert own.latest(key) is None
            assert set(stays) <= set(own.keys())
            assert stays[0] in own.keys("goal")
            assert own.latest(stays[0]) == (0, b"stays")
        own.close()

    in_threads(4, work)
    assert sorted(backend.keys()) == stays


@clause("DS-PRUNE-06", "`latest` never shows another order", order=["oldest first", "mixed"])
def prune_removes_in_the_order_given(backend: Backend, url: str, order: str) -> None:
    """As `latest` shows it: the newest of what is left in that order, so that oldest first shows no older one."""
    steps = list(range(40)) if order == "oldest first" else [(n * 17) % 40 for n in range(40)]
    for step in steps:
        backend.save(KEY, step, content(f"{step}", 300))
    coming = [*dict.fromkeys(max(steps[gone:]) for gone in range(len(steps))), None]
    reader = open_backend(url)
    over = threading.Event()
    problems: list[str] = []
    looking = threading.Event()

    def watch() -> None:
        while not over.is_set():
            step, record = reader.latest(KEY) or (None, None)
            looking.set()
            if step not in coming:
                problems.append(f"latest is {step}, where {coming} should have come")
            elif step is not None and record != content(f"{step}", 300):
                problems.append(f"a half of step {step}")
            else:
                del coming[: coming.index(step)]

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        looking.wait(HANGS_AFTER)
        try:
            backend.prune(KEY, steps)
        finally:
            over.set()
        watching.result(HANGS_AFTER)
    reader.close()
    assert problems == []
    assert backend.steps(KEY) == []


@clause("DS-FRESH-03", "Read-after-write, also across processes.")
def what_is_saved_can_be_read_in_another_process_at_once(backend: Backend, another_process: OtherProcesses) -> None:
    """Read-after-write in both directions, by readers that have looked before."""
    process = another_process()
    for step in range(0, 40, 2):
        assert process.backend("latest", KEY) == ([step - 1, f"theirs {step - 1}".encode()] if step else None)
        backend.save(KEY, step, f"ours {step}".encode())
        assert process.backend("latest", KEY) == [step, f"ours {step}".encode()]
        assert process.backend("load", KEY, step) == f"ours {step}".encode()
        process.backend("save", KEY, step + 1, f"theirs {step + 1}".encode())
        assert backend.latest(KEY) == (step + 1, f"theirs {step + 1}".encode())
        assert backend.steps(KEY)[0] == step + 1


@clause("DS-FRESH-04", "Read-after-write, also across processes.")
def what_is_pruned_is_gone_in_another_process_at_once(backend: Backend, another_process: OtherProcesses) -> None:
    """Also for a reader that has read it before."""
    process = another_process()
    for step in range(10):
        backend.save(KEY, step, f"{step}".encode())
    assert process.backend("latest", KEY) == [9, b"9"]
    assert process.backend("load", KEY, 3) == b"3"
    backend.prune(KEY, [9, 3])
    assert process.backend("latest", KEY) == [8, b"8"]
    assert process.backend("load", KEY, 3) is None
    process.backend("prune", KEY, list(range(9)))
    assert backend.latest(KEY) is None
    assert list(backend.keys()) == []


@clause("DS-READ-02", "Reads create nothing: no file, table, bucket or directory.")
def a_store_that_was_only_read_is_empty_until_somebody_saves(
    backend: Backend, another_process: OtherProcesses, url: str
) -> None:
    """Reads create nothing, whoever reads; the first save is then seen by all of them."""
    before = on_disk(backend, url)
    process = another_process()
    assert process.ask("starve", "FSIZE", {"latest": [KEY], "load": [KEY, 0], "steps": [KEY], "keys": []}) == {
        "latest": {"gave": None},
        "load": {"gave": None},
        "steps": {"gave": []},
        "keys": {"gave": []},
    }
    assert backend.latest(KEY) is None
    assert process.backend("latest", KEY) is None
    assert process.backend("steps", KEY) == []
    assert process.backend("keys") == []
    assert list(backend.keys()) == []
    assert on_disk(backend, url) - before == set()
    process.backend("save", KEY, 0, b"first")
    assert backend.latest(KEY) == (0, b"first")
    assert list(backend.keys()) == [KEY]


@clause("DS-RACE-02", "Atomic among threads, processes and machines: of any number of racers one wins.", needs="a race")
def of_racing_processes_one_wins_each_step(backend: Backend, another_process: OtherProcesses) -> None:
    """And all are given the winner's record; nobody is refused because others are busy."""
    names = [f"process {number}" for number in range(RACERS)]
    racers = another_process.start(RACERS)
    for name, racer in zip(names, racers, strict=True):
        racer.tell("child", "race", KEY, name, list(STEPS))
    _one_winner_each({name: racer.answer() for name, racer in zip(names, racers, strict=True)}, backend)


@clause(
    "DS-RACE-04",
    "Atomic among threads, processes and machines: of any number of racers one wins.",
    needs="a race",
    seed=range(3),
)
def what_processes_saw_can_be_told_in_one_order(backend: Backend, another_process: OtherProcesses, seed: int) -> None:
    """Of saves, loads and looks for the latest at the same time: each took place at one moment within its call."""
    processes = another_process.start(4)
    for number, process in enumerate(processes):
        process.tell("child", "work", KEY, f"process {number}", f"{seed} {number}", 60)
    history = [Op.of_json(op) for process in processes for op in process.answer()]
    end = {step: digest(backend.load(KEY, step) or b"") for step in backend.steps(KEY)}
    assert violations(history, {str(KEY): end}) == []
    assert met(history), "nobody met anybody: this shows nothing"


@clause("DS-RACE-03", "Atomic among threads, processes and machines: of any number of racers one wins.")
def the_very_first_save_is_raced_for_too(backend: Backend, another_process: OtherProcesses) -> None:
    """A store that comes into being under its first writers comes into being once; so does each goal in it."""
    processes = another_process.start(4)
    for number in range(8):
        key = CheckpointKey(f"goal-{number}", 0, "agent-0")
        assert at_once(processes, "backend", "save", key, 0, b"the same") == [b"the same"] * 4
        assert backend.latest(key) == (0, b"the same")


@clause("DS-FORK-01", "Safe to share among threads, and safe after `fork()`.", needs="a fork")
def a_backend_is_safe_after_fork(backend: Backend, another_process: OtherProcesses) -> None:
    """A forked child uses all verbs of the backend object that it inherits; its parent does too, before and after."""
    parent = another_process()
    parent.backend("save", KEY, 99, b"pruned")
    parent.backend("prune", KEY, [99])
    parent.backend("save", KEY, 0, b"before")
    for step in range(1, 10, 2):
        assert parent.ask("fork", "backend", "save", KEY, step, f"{step}".encode()) == f"{step}".encode()
        assert parent.backend("latest", KEY) == [step, f"{step}".encode()]
        parent.backend("save", KEY, step + 1, b"parent's")
        assert parent.ask("fork", "backend", "latest", KEY) == [step + 1, b"parent's"]
        assert parent.ask("fork", "backend", "save", KEY, step + 1, b"late") == b"parent's"
        assert parent.ask("fork", "backend", "load", KEY, step) == f"{step}".encode()
        assert parent.ask("fork", "backend", "prune", KEY, [step]) is None
        assert parent.backend("load", KEY, step) is None
    assert backend.steps(KEY) == parent.ask("fork", "backend", "steps", KEY) == list(range(10, -1, -2))
    assert list(backend.keys()) == parent.ask("fork", "backend", "keys")


@clause("DS-FORK-04", "Safe to share among threads, and safe after `fork()`.", needs="a fork")
def what_a_forked_child_closes_is_its_own(backend: Backend, another_process: OtherProcesses) -> None:
    """Its parent goes on with all verbs, and so do the children that it forks after that one."""
    parent = another_process()
    for step in range(0, 6, 2):
        parent.backend("save", KEY, step, b"parent's")
        assert parent.ask("fork", "backend", "close") is None
        assert parent.backend("load", KEY, step) == b"parent's"
        assert parent.backend("latest", KEY) == [step, b"parent's"]
        assert parent.ask("fork", "backend", "save", KEY, step + 1, b"child's") == b"child's"
        assert parent.backend("steps", KEY) == [step + 1, step]
        assert parent.backend("prune", KEY, [step, step + 1]) is None
        assert parent.backend("keys") == []
    assert list(backend.keys()) == []


@clause("DS-FORK-02", "Safe to share among threads, and safe after `fork()`.", needs="a fork")
def a_fork_beside_a_busy_thread_is_safe(backend: Backend, another_process: OtherProcesses) -> None:
    """What that thread held when its process forked, no one in the child will ever let go of."""
    busy = CheckpointKey("goal", 0, "busy")
    parent = another_process()
    parent.ask("write", busy)
    for step in range(5):
        assert parent.ask("fork", "backend", "save", KEY, step, f"{step}".encode()) == f"{step}".encode()
        assert parent.backend("load", KEY, step) == f"{step}".encode()
    saved = parent.ask("stop")
    assert backend.steps(KEY) == [4, 3, 2, 1, 0]
    assert [backend.load(busy, step) for step in range(saved)] == [content(f"busy {n}", 100) for n in range(saved)]

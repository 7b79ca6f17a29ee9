"""SIGKILL: at random moments, and at chosen lines within a verb, from before its first one to after its last.

Who is killed in the middle of a request to a service takes nothing back: it may be done after the kill. So what two
looks must agree on is looked at again, and a run that is refused for a late record is resumed once more. What no look
may ever show, half a record above all, is judged at each of them.
"""

import random
import time

from durable_store import CheckpointConflict, CheckpointKey, Store
from durable_store.backend import Backend
from durable_store_conformance.process import AnotherProcess, OtherProcesses
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import record_of, state_of

AFTER = 10**9
"""The line of a kill behind all lines of a verb: it has returned, and the process dies before it can say so."""


LOOKS = 8
"""At two looks that disagree: the pauses between them take two and a half seconds in all."""


def _steps_there(backend: Backend, key: CheckpointKey) -> list[int]:
    """Of the steps 0 to 5 those that load finds, newest first. Each has its whole record."""
    there: list[int] = []
    for step in range(5, -1, -1):
        record = backend.load(key, step)
        assert record in (None, record_of(step)), f"step {step}: {len(record or b'')} bytes are there"
        if record is not None:
            there.append(step)
    return there


def _is_listed(backend: Backend, key: CheckpointKey) -> None:
    """What load finds is what is listed, as soon as no late request comes between the two."""
    there, listed = _steps_there(backend, key), backend.steps(key)
    for look in range(LOOKS - 1):
        if there == listed:
            return
        time.sleep(0.02 * 2**look)
        there, listed = _steps_there(backend, key), backend.steps(key)
    assert there == listed, f"after {LOOKS} looks"


def _spread(lines: int, points: int = 24) -> list[int]:
    """Where to be killed in what takes so many lines: before the first, at some between, after the last."""
    return [*(round(lines * point / (points + 1)) for point in range(points + 1)), AFTER]


@clause(
    "DS-KILL-01",
    "When it returns, the checkpoint survives SIGKILL and power loss, and was the newest of its key.",
    needs="a kill",
)
def a_kill_at_a_random_moment_loses_no_acknowledged_commit(backend: Backend, another_process: OtherProcesses) -> None:
    """The fresh process is at the last acknowledged step, or one further if its answer was on its way."""
    moments = random.Random(2)  # noqa: S311 - moments, no secrets
    last = -1
    for _ in range(8):
        process = another_process()
        run = process.ask("resume", "goal", "agent-0", keep=3, initial={})
        assert last <= run["step"] <= last + 1
        assert run["state"] == (state_of(run["step"]) if run["step"] >= 0 else {})
        assert run["skipped"] == []
        process.tell("child", "commit_on")
        acknowledged = [run["step"], *(process.answer() for _ in range(moments.randint(1, 25)))]
        acknowledged += process.kill()
        assert acknowledged == list(range(run["step"], run["step"] + len(acknowledged)))
        last = acknowledged[-1]
    assert len(backend.steps(KEY)) <= 2 * 3 + 8, "more is kept than twice keep and a fence for each process"


@clause("DS-KILL-02", "A reader sees all of it or none.", needs="a kill")
def a_kill_during_a_save_leaves_all_of_a_record_or_none(backend: Backend, another_process: OtherProcesses) -> None:
    """What was acknowledged is there; what was not is whole or absent, and its step can be saved."""
    for attempt in range(8):
        key = CheckpointKey("goal", attempt, "agent-0")
        process = another_process()
        process.tell("child", "save_on", key)
        saved = [process.answer() for _ in range(attempt + 1)]
        time.sleep(attempt / 1000)  # or it dies before it has begun to write
        saved += process.kill()
        for step in saved:
            assert backend.load(key, step) == record_of(step), f"acknowledged step {step} is lost"
        under_way = backend.load(key, len(saved))
        assert under_way in (None, record_of(len(saved)))
        assert backend.save(key, len(saved), record_of(len(saved))) == record_of(len(saved))
        assert backend.steps(key) == list(range(len(saved), -1, -1))
        assert backend.latest(key) == (len(saved), record_of(len(saved)))


@clause(
    "DS-KILL-03", "A reader sees all of it or none.", needs=("a kill", "a fork"), warm={"first": False, "later": True}
)
def a_kill_at_any_line_of_a_save_leaves_all_of_its_record_or_none(
    backend: Backend, another_process: OtherProcesses, warm: bool
) -> None:
    """A process's first save and a later one; what is not there can be saved, and what was there before stays."""
    process = another_process()
    process.store("latest", KEY)  # it has imported what it needs, and its backend is another object
    if warm:
        process.backend("save", KEY, 0, record_of(0))
    counted = CheckpointKey("goal", 999, "agent-0")
    lines = process.ask("fork", "child", "lines", "backend", "save", counted, 1, record_of(2))
    for number, line in enumerate(_spread(lines)):
        key = CheckpointKey("goal", number, "agent-0")
        backend.save(key, 0, record_of(0))
        assert process.ask("die_in_fork", line, "backend", "save", key, 1, record_of(2))
        there = backend.load(key, 1)
        assert there in (None, record_of(2)), f"killed at line {line}: {len(there or b'')} bytes are there"
        assert there or line < AFTER, "killed after the save, and the record is not there"
        assert backend.save(key, 1, record_of(2)) == record_of(2)
        assert backend.steps(key) == [1, 0]
        assert backend.load(key, 0) == record_of(0)
        assert backend.latest(key) == (1, record_of(2))


@clause("DS-KILL-04", "Never visible as a half-removed record.", needs=("a kill", "a fork"))
def a_kill_at_any_line_of_a_prune_leaves_whole_records(backend: Backend, another_process: OtherProcesses) -> None:
    """The newest above all; pruning again removes the rest."""
    process = another_process()

    def filled(number: int) -> CheckpointKey:
        key = CheckpointKey("goal", number, "agent-0")
        for step in range(6):
            backend.save(key, step, record_of(step))
        assert process.backend("latest", key) == [5, record_of(5)]
        return key

    lines = process.ask("fork", "child", "lines", "backend", "prune", filled(999), list(range(5)))
    for number, line in enumerate(_spread(lines)):
        key = filled(number)
        assert process.ask("die_in_fork", line, "backend", "prune", key, list(range(5)))
        assert backend.latest(key) == (5, record_of(5)), f"killed at line {line}"
        assert line < AFTER or backend.steps(key) == [5], "killed after the prune, and some steps are there"
        _is_listed(backend, key)
        backend.prune(key, range(5))
        assert backend.steps(key) == [5]


@clause(
    "DS-KILL-05",
    "The run of a checkpoint id, from its last committed step; if it has none, a new one with `initial` as state.",
    needs=("a kill", "a fork"),
    before={"a new goal": -1, "a goal with a history": 2},
)
def a_kill_at_any_line_of_a_resume_and_its_first_commit_loses_nothing(
    store: Store, another_process: OtherProcesses, before: int
) -> None:
    """A fresh process is at the last step, or at the one under way."""
    process = another_process()

    def begun(goal: str) -> str:
        with store.resume(goal, "agent-0") as run:
            for step in range(before + 1):
                run.commit(state_of(step))
        return goal

    def goes_on(goal: str, line: int, steps: tuple[int, ...]) -> bool:
        """Whether the run, found at one of these steps, was not refused for a commit that landed after the look."""
        with store.resume(goal, "agent-0") as run:
            assert run.step in steps, f"killed at line {line}"
            assert run.step > before or line < AFTER, "killed after the commit, and it is not there"
            assert run.state == (state_of(run.step) if run.step >= 0 else None)
            assert run.skipped == ()
            coming = run.step + 1
            try:
                assert run.commit(state_of(coming)) == coming
            except CheckpointConflict:
                if run.step > before:  # nothing was under way any more
                    raise
                return False
        return True

    process.store("latest", KEY)
    lines = process.ask("fork", "child", "lines", "child", "resume_and_commit", begun("counted"), "agent-0")
    for number, line in enumerate(_spread(lines)):
        goal = begun(f"goal {number}")
        assert process.ask("die_in_fork", line, "child", "resume_and_commit", goal, "agent-0")
        if not goes_on(goal, line, (before, before + 1)):
            assert goes_on(goal, line, (before + 1,)), "refused twice, and one commit was under way"
        assert [episode.id for episode in store.episodes(goal)] == [0]


@clause(
    "DS-KILL-06",
    "The closing record is the decision: of two that finish one wins, and nobody commits after it.",
    needs="a kill",
)
def a_kill_at_any_line_of_a_finish_leaves_it_finished_or_running(store: Store, another_process: OtherProcesses) -> None:
    """Running, it goes on at its last step; finished, it has its result, and a resume starts the next attempt."""

    def running(goal: str) -> AnotherProcess:
        process = another_process()
        process.ask("resume", goal, "agent-0")
        process.ask("commits", 2)
        return process

    def ends(goal: str, line: int, *, refused: bool = False) -> bool:
        """Whether a run that goes on was not refused for a finish that landed after the look."""
        with store.resume(goal, "agent-0", initial=None) as run:
            if run.key.episode_id > 0:
                assert (run.key.episode_id, run.step, run.state) == (1, -1, None), f"killed at line {line}"
                return True
            assert not refused, "a finish was refused, and no other has landed"
            assert (run.step, run.state, run.finished) == (1, state_of(1), False), f"killed at line {line}"
            try:
                run.finish("done")
            except CheckpointConflict:
                return False
        return True

    lines = running("counted").ask("lines", "run", "finish", "done")
    for number, line in enumerate(_spread(lines, 8)):
        goal = f"goal {number}"
        process = running(goal)
        process.tell("child", "die_at", line, "run", "finish", "done")
        process.wait_for_its_death()
        assert ends(goal, line) or ends(goal, line, refused=True)
        assert [(episode.status, episode.result) for episode in store.episodes(goal)] == [("finished", "done")]

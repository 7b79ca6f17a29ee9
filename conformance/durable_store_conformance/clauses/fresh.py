"""Fresh processes: what one has committed, the next one finds, however the first one ended; an old one does no harm.

Every clause here needs a store that processes share.
"""

import pytest

from durable_store import CheckpointConflict, CheckpointNotFound, Store
from durable_store_conformance.process import OtherProcesses, at_once
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.report import NOT_FOUND
from durable_store_conformance.work import state_of


@clause(
    "DS-FRESH-02",
    "When it returns, the checkpoint survives SIGKILL and power loss, and was the newest of its key.",
    needs="a kill",
)
def a_fresh_process_resumes_from_the_last_committed_step(another_process: OtherProcesses) -> None:
    """A child commits and is killed by SIGKILL while it waits; another one goes on, time after time."""
    for turn in range(0, 15, 3):
        process = another_process()
        run = process.ask("resume", "goal", "agent-0", initial={"turn": -1})
        assert (run["step"], run["resumed"]) == (turn - 1, turn > 0)
        assert run["state"] == (state_of(turn - 1) if turn else {"turn": -1})
        assert process.ask("commits", 3) == turn + 2
        process.kill()


@clause("DS-FRESH-01", "When it returns, the checkpoint survives SIGKILL and power loss.", needs="a kill")
def a_fresh_process_finds_the_latest_checkpoint(another_process: OtherProcesses) -> None:
    """The form with Store.save and Store.latest, without a run."""
    first = another_process()
    assert first.store("latest", KEY) is None
    for step in range(5):
        first.store("save", KEY, step, state_of(step), meta={"of": step})
    first.kill()
    second = another_process()
    found = second.store("latest", KEY)
    assert found is not None, NOT_FOUND
    assert (found["step"], found["state"], found["meta"]) == (4, state_of(4), {"of": 4})


@clause("DS-FRESH-07", "another state is there; the error names its step, writer and time", needs="a kill")
def a_fresh_process_meets_the_record_of_one_that_is_gone(another_process: OtherProcesses) -> None:
    """The same state again is a retry; another one is a conflict, and changes nothing."""
    first = another_process()
    first.store("save", KEY, 0, state_of(0), meta={"of": 0})
    first.kill()
    second = another_process()
    assert second.store("save", KEY, 0, state_of(0), meta={"of": 0})["step"] == 0, "a retry after the kill"
    with pytest.raises(CheckpointConflict):
        second.store("save", KEY, 0, {"other": True})
    found = another_process().store("latest", KEY)
    assert found is not None, NOT_FOUND
    assert (found["step"], found["state"], found["meta"]) == (0, state_of(0), {"of": 0})


@clause("DS-FRESH-05", "Takes the goal's newest episode if that is unfinished, else the next number.")
def a_fresh_process_on_a_new_attempt_never_sees_the_last_ones_state(
    store: Store, another_process: OtherProcesses
) -> None:
    """Attempts at one goal share the goal and nothing else, one after the other and side by side."""
    for attempt in range(3):
        process = another_process()
        run = process.ask("resume", "goal", "agent-0", initial={"fresh": True})
        assert (run["key"].episode_id, run["step"], run["state"]) == (attempt, -1, {"fresh": True})
        process.run("commit", {"attempt": attempt})
        process.run("finish", attempt)
        process.kill()
    numbers = [store.start_episode("side by side") for _ in range(2)]
    processes = another_process.start(2)
    for number, process in zip(numbers, processes, strict=True):
        run = process.ask("resume", "side by side", "agent-0", episode_id=number, initial=None)
        assert (run["step"], run["state"]) == (-1, None)
        process.run("commit", {"attempt": number})
    for number in numbers:
        run = another_process().ask("resume", "side by side", "agent-0", episode_id=number)
        assert (run["step"], run["state"]) == (0, {"attempt": number})
    assert [episode.result for episode in store.episodes("goal")] == [2, 1, 0]


@clause("DS-FRESH-06", "the running episode has another root (a checkpoint id with a random part is found out here)")
def a_fresh_process_under_a_random_id_is_told_the_root(store: Store, another_process: OtherProcesses) -> None:
    """The silent mistake is loud: no second run starts beside the first."""
    first = another_process()
    first.ask("resume", "goal", "agent-0-3fa2c1")
    first.ask("commits", 2)
    first.kill()
    with pytest.raises(CheckpointNotFound, match="agent-0-3fa2c1"):
        another_process().ask("resume", "goal", "agent-0-77b012")
    assert [(episode.id, episode.root) for episode in store.episodes("goal")] == [(0, "agent-0-3fa2c1")]


@clause("DS-FENCE-10", "When A wakes, its very next commit must be refused, on every backend.", commits=[1, 30])
def an_old_process_is_refused_at_its_very_next_commit(
    store: Store, another_process: OtherProcesses, commits: int
) -> None:
    """After one commit of its successor, and after 30 with the successor's retention; it stays refused."""
    old = another_process()
    old.ask("resume", "goal", "agent-0", keep=2)
    old.ask("commits", 11)
    successor = another_process()
    assert successor.ask("resume", "goal", "agent-0", keep=2)["step"] == 10
    assert successor.ask("commits", commits) == 10 + commits
    for _ in range(2):
        with pytest.raises(CheckpointConflict):
            old.run("commit", {"harm": True})
    with pytest.raises(CheckpointConflict):
        old.run("finish", "harm")
    assert successor.ask("commits", 1) == 11 + commits
    latest = store.latest(KEY)
    assert latest is not None
    assert (latest.step, latest.state) == (11 + commits, state_of(11 + commits))


@clause("DS-FENCE-11", "A higher step means: superseded.")
def a_process_that_resumed_and_stalled_is_refused_at_its_first_commit(
    store: Store, another_process: OtherProcesses
) -> None:
    """It resumed at 10 and makes its first commit when another run is at 30, and step 11 was pruned."""
    running = another_process()
    running.ask("resume", "goal", "agent-0", keep=2)
    running.ask("commits", 11)
    newcomer = another_process()
    assert newcomer.ask("resume", "goal", "agent-0", keep=2)["step"] == 10
    assert running.ask("commits", 20) == 30
    for _ in range(2):
        with pytest.raises(CheckpointConflict):
            newcomer.run("commit", {"harm": True})
    assert running.ask("commits", 1) == 31
    latest = store.latest(KEY)
    assert latest is not None
    assert (latest.step, latest.state) == (31, state_of(31))


@clause("DS-FENCE-12", "a run that was superseded stays refused", needs="a race")
def of_processes_that_resume_at_once_one_commits(store: Store, another_process: OtherProcesses) -> None:
    """The first commit of a new goal, and of a goal that has a history: one is acknowledged, all others refused."""
    processes = another_process.start(4)
    for turn in range(4):
        for process in processes:
            assert process.ask("resume", "goal", "agent-0", keep=2)["step"] == turn - 1
        answers = at_once(processes, "run", "commit", state_of(turn))
        assert sorted(map(str, (answer for answer in answers if isinstance(answer, int)))) == [str(turn)]
        assert sum(isinstance(answer, CheckpointConflict) for answer in answers) == 3
    assert [episode.id for episode in store.episodes("goal")] == [0]


@clause(
    "DS-FENCE-13",
    "The closing record is the decision: of two that finish one wins, and nobody commits after it.",
    needs="a race",
)
def of_processes_that_finish_at_once_one_wins(store: Store, another_process: OtherProcesses) -> None:
    """The closing record is the decision, and the next resume starts a new episode."""
    with store.resume("goal", "agent-0") as run:
        run.commit(state_of(0))
    processes = another_process.start(4)
    for process in processes:
        process.ask("resume", "goal", "agent-0")
    for number, process in enumerate(processes):
        process.tell("run", "finish", number)
    winners: list[int] = []
    for number, process in enumerate(processes):
        try:
            process.answer()
        except CheckpointConflict:
            continue
        winners.append(number)
    assert len(winners) == 1
    assert [(episode.status, episode.result) for episode in store.episodes("goal")] == [("finished", winners[0])]
    run = another_process().ask("resume", "goal", "agent-0", initial={})
    assert (run["key"].episode_id, run["step"]) == (1, -1)


@clause("DS-FORK-03", "Belongs to the process that resumed it", needs="a fork")
def a_run_belongs_to_the_process_that_resumed_it(store: Store, another_process: OtherProcesses) -> None:
    """In a forked child commit is a conflict, and its parent goes on as if nothing had been."""
    parent = another_process()
    parent.ask("resume", "goal", "agent-0")
    parent.ask("commits", 2)
    for step in range(2, 5):
        with pytest.raises(CheckpointConflict):
            parent.ask("fork", "run", "commit", {"harm": True})
        with pytest.raises(CheckpointConflict):
            parent.ask("fork", "run", "finish", "harm")
        assert parent.ask("commits", 1) == step
    latest = store.latest(KEY)
    assert latest is not None
    assert (latest.step, latest.state) == (4, state_of(4))

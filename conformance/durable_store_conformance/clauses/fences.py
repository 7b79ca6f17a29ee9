"""Why an old writer can do no harm: it is refused at its very next commit, and stays refused."""

import pytest

from durable_store import CheckpointConflict, Run, Store, open_store
from durable_store_conformance.registry import clause
from durable_store_conformance.work import in_threads, state_of


def _committed(run: Run, count: int) -> Run:
    for _ in range(count):
        run.commit(state_of(run.step + 1))
    return run


def _refused(run: Run) -> None:
    """Its very next commit is a conflict, and so is everything after it."""
    for _ in range(3):
        with pytest.raises(CheckpointConflict):
            run.commit({"harm": True})
    with pytest.raises(CheckpointConflict):
        run.finish("harm")


@clause(
    "DS-FENCE-01",
    "When A wakes, its very next commit must be refused, on every backend.",
    keep=[1, 2, None],
    commits=[1, 2, 30],
)
def an_old_writer_is_refused_at_its_very_next_commit(store: Store, url: str, keep: int | None, commits: int) -> None:
    """However far its successor got, and whatever the successor's retention removed."""
    old = _committed(store.resume("goal", "agent-0", keep=keep), 11)
    with open_store(url) as another:
        successor = _committed(another.resume("goal", "agent-0", keep=keep), commits)
        _refused(old)
        latest = another.latest(old.key)
        assert latest is not None
        assert (latest.step, latest.state) == (10 + commits, state_of(10 + commits))
        assert successor.commit(state_of(11 + commits)) == 11 + commits


@clause("DS-FENCE-02", "A higher step means: superseded.", keep=[1, 2], commits=[1, 2, 20])
def a_newcomer_that_stalled_is_refused_at_its_first_commit(store: Store, url: str, keep: int, commits: int) -> None:
    """It resumed at step 10 and has written nothing since; the run at 10 went on with its retention."""
    running = _committed(store.resume("goal", "agent-0", keep=keep), 11)
    with open_store(url) as another:
        newcomer = another.resume("goal", "agent-0", keep=keep)
        assert newcomer.step == 10
        _committed(running, commits)
        _refused(newcomer)
    assert running.commit(state_of(11 + commits)) == 11 + commits


@clause("DS-FENCE-03", "Only these two commits can land on a step that somebody else has used and pruned since.")
def a_newcomer_that_writes_into_a_gap_is_told_so(store: Store, url: str) -> None:
    """Its step had been pruned, so that its record was created: the look at latest refuses it all the same."""
    running = _committed(store.resume("goal", "agent-0", keep=2), 11)
    with open_store(url) as another:
        newcomer = another.resume("goal", "agent-0", keep=2)
        _committed(running, 20)
        assert [info.step for info in store.history(running.key)][-1] == 0
        assert 11 not in [info.step for info in store.history(running.key)]
        with pytest.raises(CheckpointConflict):
            newcomer.commit({"harm": True})
        _refused(newcomer)
    latest = store.latest(running.key)
    assert latest is not None
    assert (latest.step, latest.state) == (30, state_of(30))
    assert running.commit(state_of(31)) == 31


@clause("DS-FENCE-04", "Retention never removes a run's first record, its *fence*")
def a_chain_of_successors_refuses_each_one_before(store: Store) -> None:
    """Each retains little; every one that was ever superseded is refused, in any order."""
    runs = [_committed(store.resume("goal", "agent-0", keep=1), 7) for _ in range(6)]
    for run in (runs[0], runs[4], runs[2], runs[1], runs[3]):
        _refused(run)
    assert runs[5].commit(state_of(42)) == 42


@clause("DS-FENCE-05", "So `returned == record` means that it is ours.")
def two_writers_of_equal_states_are_two_writers(store: Store, url: str) -> None:
    """A commit is ours only if the record that is there is the one we sent, byte for byte."""
    with open_store(url) as another:
        first = _committed(store.resume("goal", "agent-0"), 1)
        second = another.resume("goal", "agent-0")
        assert first.commit(state_of(1)) == 1
        with pytest.raises(CheckpointConflict):
            second.commit(state_of(1))


@clause("DS-FENCE-06", "The closing record is the decision: of two that finish one wins, and nobody commits after it.")
def of_two_that_finish_one_wins(store: Store, url: str) -> None:
    """The closing record is the decision: the other gets a conflict, and the result is the winner's."""
    with open_store(url) as another:
        first = _committed(store.resume("goal", "agent-0"), 3)
        second = another.resume("goal", "agent-0")
        second.finish("second's")
        with pytest.raises(CheckpointConflict):
            first.finish("first's")
    assert [(episode.status, episode.result) for episode in store.episodes("goal")] == [("finished", "second's")]


@clause("DS-FENCE-07", "The closing record is the decision: of two that finish one wins, and nobody commits after it.")
def nobody_goes_on_after_a_closing_record(store: Store, url: str) -> None:
    """Not a run that was resumed before it either."""
    with open_store(url) as another:
        first = _committed(store.resume("goal", "agent-0", keep=1), 3)
        second = another.resume("goal", "agent-0", keep=1)
        first.finish("done")
        _refused(second)
    latest = store.latest(first.key)
    assert latest is not None
    assert (latest.step, latest.state) == (3, state_of(2))


@clause("DS-FENCE-08", "another process has taken over, or the run is finished, or this is a forked child")
def of_two_that_start_the_same_episode_one_wins(store: Store, url: str) -> None:
    """Whoever finds its number registered by another at its first commit is refused."""
    with open_store(url) as another:
        first, second = store.resume("goal", "agent-0"), another.resume("goal", "agent-0")
        assert first.key == second.key
        assert second.commit({"of": "second"}) == 0
        _refused(first)
    assert [episode.id for episode in store.episodes("goal")] == [0]


@clause("DS-THREAD-03", "threads may share it, its commits are serialized")
def threads_share_a_run(store: Store) -> None:
    """Its commits are serialized: each is a step of its own, and none is refused."""
    run = store.resume("goal", "agent-0", keep=3)
    given = in_threads(6, lambda number: [run.commit({"by": number, "n": n}) for n in range(10)])
    steps = [step for steps in given for step in steps]
    assert sorted(steps) == list(range(60))
    assert run.step == 59
    latest = store.latest(run.key)
    assert latest is not None
    assert (latest.step, latest.state) == (59, run.state)

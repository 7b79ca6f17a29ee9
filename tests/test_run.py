"""What a run promises where storage misbehaves; what every backend must show is in the conformance suite."""

import linecache
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointKey,
    CheckpointNotFound,
    InvalidArgument,
    InvalidKey,
    InvalidState,
    Run,
    Store,
    StoreUnavailable,
    record,
)
from durable_store.body import Body
from durable_store.delta import MAX_BASES
from durable_store.record import meta_json
from durable_store_backends.memory import MemoryBackend

T = TypeVar("T")
KEY = CheckpointKey("g", 0, "a-0")


class Faulty(MemoryBackend):
    """A memory whose verbs fail when told to: before they happen, or with the answer lost after they did."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse: set[str] = set()
        self.lose: set[str] = set()
        self.requests: list[str] = []

    def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
        return self._at("save", lambda: super(Faulty, self).save(key, step, record))

    def latest(self, key: CheckpointKey) -> tuple[int, bytes] | None:
        return self._at("latest", lambda: super(Faulty, self).latest(key))

    def prune(self, key: CheckpointKey, steps: Collection[int]) -> None:
        self._at("prune", lambda: super(Faulty, self).prune(key, steps))

    def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
        return self._at("load", lambda: super(Faulty, self).load(key, step, first=first))

    def _at(self, verb: str, effect: Callable[[], T]) -> T:
        self.requests.append(verb)
        if verb in self.refuse:
            raise StoreUnavailable("refused")
        answer = effect()
        if verb in self.lose:
            raise StoreUnavailable("answer lost", maybe_saved=verb == "save")
        return answer


@pytest.fixture
def backend() -> Faulty:
    return Faulty()


@pytest.fixture
def store(backend: Faulty) -> Iterator[Store]:
    with Store(backend) as opened:
        yield opened


def test_resuming_writes_nothing(store: Store) -> None:
    run = store.resume("g", "a-0", initial={"n": 0})
    assert (run.step, run.state, run.resumed, run.finished, run.result) == (-1, {"n": 0}, False, False, None)
    assert list(store.backend.keys()) == []


def test_the_first_commit_registers_the_episode(store: Store) -> None:
    store.resume("g", "a-0").commit(1)
    (episode,) = store.episodes("g")
    assert (episode.id, episode.root, episode.status, episode.ended) == (0, "a-0", "running", None)


def test_two_that_start_the_same_episode_are_told_apart_at_the_first_commit(store: Store) -> None:
    one, other = store.resume("g", "a-0"), store.resume("g", "a-0")
    one.commit(1)
    with pytest.raises(CheckpointConflict, match="another process has started episode 0"):
        other.commit(2)
    assert store.resume("g", "a-0").state == 1


def test_a_commit_sends_one_save_and_every_keep_commits_one_prune(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0", keep=5)
    run.commit(0)
    assert backend.requests[-3:] == ["save", "save", "latest"]  # the episode, the fence, the look
    backend.requests.clear()
    for n in range(50):
        run.commit(n)
    assert backend.requests.count("save") == 50
    assert backend.requests.count("prune") == 9
    assert len(backend.requests) == 59


def test_resuming_a_run_takes_at_most_six_requests(store: Store, backend: Faulty) -> None:
    store.resume("g", "a-0").commit(0)
    backend.requests.clear()
    store.resume("g", "a-0")
    # latest is two requests in object storage: a listing of one name, and the object
    assert len(backend.requests) + backend.requests.count("latest") <= 6


def test_the_state_is_never_an_alias(store: Store) -> None:
    state: dict[str, list[object]] = {"messages": [1]}
    run = store.resume("g", "a-0", initial=state)
    run.state["messages"].append("mine")
    state["messages"].append("yours")
    assert run.state == {"messages": [1]}
    run.commit(state)
    state["messages"].append("later")
    assert run.state == {"messages": [1, "yours"]}


def test_a_lost_answer_is_settled_by_committing_the_same_again(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable) as caught:
        run.commit({"a": 1, "b": 2}, meta={"m": 1})
    assert caught.value.maybe_saved
    assert run.step == 0
    backend.lose.clear()
    assert run.commit({"b": 2, "a": 1}, meta={"m": 1}) == 1
    assert store.backend.steps(KEY) == [1, 0]


def test_a_lost_answer_is_settled_before_another_state_is_committed(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable):
        run.commit("first")
    backend.lose.clear()
    assert run.commit("second") == 2
    assert [store.load(KEY, step).state for step in (1, 2)] == ["first", "second"]


def test_the_same_state_with_another_meta_is_another_commit(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    backend.lose.add("latest")
    with pytest.raises(StoreUnavailable) as caught:
        run.commit(0, meta={"m": 1})
    assert caught.value.maybe_saved, "the record is there, but whether it is the newest is not known"
    backend.lose.clear()
    assert run.commit(0, meta={"m": 2}) == 1


def test_a_commit_that_was_refused_leaves_nothing_open(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    backend.refuse.add("save")
    with pytest.raises(StoreUnavailable) as caught:
        run.commit("not sent")
    assert not caught.value.maybe_saved
    backend.refuse.clear()
    assert run.commit("sent") == 1
    assert store.load(KEY, 1).state == "sent"


def test_an_unknown_outcome_stays_unknown_while_the_store_refuses(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable):
        run.commit("open")
    backend.refuse.add("save")
    with pytest.raises(StoreUnavailable) as caught:
        run.commit("open")
    assert caught.value.maybe_saved


def test_an_interrupted_commit_is_open_like_a_lost_answer(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)

    def interrupted(key: CheckpointKey, step: int, record: bytes) -> bytes:
        MemoryBackend.save(backend, key, step, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.commit("pressed")
    assert run.commit("pressed") == 1


def test_an_equal_state_of_another_writer_is_still_a_conflict(store: Store) -> None:
    one, other = store.resume("g", "a-0"), store.resume("g", "a-0")
    one.commit("same")
    with pytest.raises(CheckpointConflict):
        other.commit("same")


def test_a_conflict_names_the_writer_that_has_taken_over_and_since_when(store: Store) -> None:
    store.resume("g", "a-0").commit(0)
    old, new = store.resume("g", "a-0"), store.resume("g", "a-0")
    new.commit(1)
    with pytest.raises(CheckpointConflict) as caught:
        old.commit(1)
    found = store.latest(KEY)
    assert found
    assert new.writer in str(caught.value)
    assert old.writer in str(caught.value)
    assert found.saved_at.strftime("%Y-%m-%dT%H:%M:%S") in str(caught.value)
    with pytest.raises(CheckpointConflict):
        old.commit("and again")


def test_a_first_commit_whose_record_is_removed_before_the_look_is_a_conflict(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.resume("g", "a-0")

    def saved_and_deleted(key: CheckpointKey, step: int, raw: bytes) -> bytes:
        there = MemoryBackend.save(backend, key, step, raw)
        MemoryBackend.prune(backend, key, [step] if key == KEY else [])
        return there

    monkeypatch.setattr(backend, "save", saved_and_deleted)
    with pytest.raises(CheckpointConflict, match="was removed as soon as it was there"):
        run.commit(0)


def test_a_first_commit_below_a_record_that_cannot_be_read_is_a_conflict(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    backend.lose.add("latest")
    with pytest.raises(StoreUnavailable):
        run.commit(0)
    backend.lose.clear()
    MemoryBackend.save(backend, KEY, 7, b"somebody was here and went beyond")
    with pytest.raises(CheckpointConflict, match="cannot be read"):
        run.commit(0)


def test_a_finish_whose_outcome_is_unknown_can_only_be_repeated_as_a_finish(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable):
        run.finish({"answer": 42})
    backend.lose.clear()
    with pytest.raises(CheckpointConflict, match="repeat the finish"):
        run.commit(1)
    run.finish({"answer": 42})
    assert (run.finished, run.result) == (True, {"answer": 42})
    assert store.episodes("g")[0].result == {"answer": 42}


def test_finishing_twice_with_the_same_result_is_a_retry_and_with_another_a_conflict(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.finish(1)
    run.finish(1)
    with pytest.raises(CheckpointConflict, match="was closed at step 0"):
        run.finish(2)
    with pytest.raises(CheckpointConflict, match="was closed at step 0"):
        run.finish(True)
    with pytest.raises(CheckpointConflict):
        run.commit(1)
    assert run.step == 0


def test_a_failed_run_has_its_errors_text_as_result_and_the_next_resume_starts_afresh(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    run.finish(error=ValueError("no luck"))
    assert (run.finished, run.result) == (True, "no luck")
    assert (store.episodes("g")[0].status, store.episodes("g")[0].result) == ("failed", "no luck")
    again = store.resume("g", "a-0")
    assert (again.key.episode_id, again.resumed) == (1, False)


def test_a_finish_takes_a_result_or_an_error(store: Store) -> None:
    with pytest.raises(InvalidArgument):
        store.resume("g", "a-0").finish(1, error="x")


def test_an_end_that_could_not_be_written_is_written_by_the_next_resume(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    save = backend.save

    def only_the_closing_record(key: CheckpointKey, step: int, record: bytes) -> bytes:
        if key.checkpoint_id == "@episode":
            raise StoreUnavailable("gone away")
        return save(key, step, record)

    backend.save = only_the_closing_record  # type: ignore[method-assign]
    run.finish("done")
    assert store.episodes("g")[0].status == "running"
    backend.save = save  # type: ignore[method-assign]
    assert store.resume("g", "a-0").key.episode_id == 1
    closed = store.latest(KEY)
    assert closed
    (ended,) = store.episodes("g")
    assert (ended.status, ended.result, ended.ended) == ("finished", "done", closed.saved_at)


def end_unwritten(store: Store, backend: Faulty, result: object = "done") -> None:
    """The root's key is closed, and its process was killed before it wrote the episode's end."""
    run = store.resume("g", "a-0")
    run.commit(0)
    run.finish(result)
    backend.prune(CheckpointKey("g", 0, "@episode"), [1])
    assert store.episodes("g")[0].status == "running"


def test_nobody_joins_or_forks_into_an_episode_whose_end_was_left_unwritten(store: Store, backend: Faulty) -> None:
    end_unwritten(store, backend)
    with pytest.raises(CheckpointConflict, match="has finished"):
        store.resume("g", "b-0", episode_id=0)
    assert store.episodes("g")[0].result == "done"
    backend.prune(CheckpointKey("g", 0, "@episode"), [1])
    with pytest.raises(CheckpointConflict, match="has finished"):
        store.fork(KEY, CheckpointKey("g", 0, "c-0"))


def test_another_root_starts_the_next_episode_when_the_end_of_the_last_was_left_unwritten(
    store: Store, backend: Faulty
) -> None:
    end_unwritten(store, backend)
    assert store.resume("g", "b-0").key == CheckpointKey("g", 1, "b-0")
    assert store.episodes("g")[0].status == "finished"


def test_joining_takes_at_most_six_requests_too(store: Store, backend: Faulty) -> None:
    store.resume("g", "a-0").commit(0)
    backend.requests.clear()
    store.resume("g", "b-0", episode_id=0)
    assert len(backend.requests) + backend.requests.count("latest") <= 6


def test_the_deepest_result_that_is_accepted_ends_the_episode(store: Store) -> None:
    result: object = 1
    for _ in range(250):
        result = [result]
    run = store.resume("g", "a-0")
    run.finish(result)
    assert store.episodes("g")[0].result == result
    assert store.resume("g", "a-0").key.episode_id == 1


def test_a_result_is_never_an_alias(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.finish({"a": 1})
    run.result["a"] = 2
    assert run.result == {"a": 1}
    run.finish({"a": 1})


def test_the_text_of_any_error_can_be_a_result(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.finish(error=OSError("no such file: \udc80"))
    assert run.result == "no such file: ?"


def test_an_episode_that_was_started_between_two_looks_is_joined_not_refused(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes start together: the second has seen no episode, and then finds the first one's commit."""
    other = Store(backend)
    latest = backend.latest

    def overtaken(key: CheckpointKey) -> tuple[int, bytes] | None:
        monkeypatch.setattr(backend, "latest", latest)
        other.resume("g", "a-0").commit("first")
        return latest(key)

    monkeypatch.setattr(backend, "latest", overtaken)
    assert store.resume("g", "a-0").state == "first"


def test_when_the_episode_cannot_be_started_nothing_of_the_commit_was_sent(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable, match="cannot start episode 0") as caught:
        run.commit("one")
    assert not caught.value.maybe_saved
    backend.lose.clear()
    assert run.commit("another") == 0
    assert store.load(KEY, 0).state == "another"


def test_a_first_state_that_no_record_can_hold_starts_no_episode(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORD", 1000)
    run = store.resume("g", "a-0")
    with pytest.raises(InvalidState):
        run.commit("x" * 1000)
    assert store.episodes("g") == []


def test_joining_by_number_also_writes_an_end_that_was_left_unwritten(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    end = CheckpointKey("g", 0, "@episode")
    run.finish("done")
    backend.prune(end, [1])
    with pytest.raises(CheckpointConflict, match="has finished"):
        store.resume("g", "a-0", episode_id=0)
    assert backend.steps(end) == [1, 0]


def test_what_an_operator_must_know_is_logged_in_a_line_each_without_a_state(
    store: Store, backend: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    old = store.resume("g", "a-0", initial="secret")
    old.commit("secret")
    backend.lose.add("save")
    with pytest.raises(StoreUnavailable):
        old.commit("secret 2")
    backend.lose.clear()
    with caplog.at_level(logging.INFO, logger="durable_store"):
        old.commit("secret 2")
        new = store.resume("g", "a-0")
        new.commit("secret 3")
        with pytest.raises(CheckpointConflict) as refused:
            old.commit("secret 4")
        with pytest.raises(CheckpointConflict):
            old.commit("secret 4")
    assert caplog.messages == [
        "g/0/a-0: what became of step 1 is not known: it is sent once more",
        str(refused.value),
    ]
    assert "\n" not in caplog.messages[1]
    assert "secret" not in caplog.text


def test_a_prune_that_fails_never_fails_a_commit_and_is_tried_again(
    store: Store, backend: Faulty, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.resume("g", "a-0", keep=2)
    backend.refuse.add("prune")
    with caplog.at_level(logging.WARNING, logger="durable_store"):
        for n in range(10):
            run.commit(n)
    assert "pruning failed and is tried again" in caplog.text
    assert len(backend.steps(KEY)) == 10
    backend.refuse.clear()
    run.commit(10)
    assert backend.steps(KEY) == [10, 9, 0]


def test_a_successor_takes_over_what_a_killed_run_had_not_pruned(store: Store, backend: Faulty) -> None:
    run = store.resume("g", "a-0", keep=2)
    backend.refuse.add("prune")
    for n in range(10):
        run.commit(n)
    backend.refuse.clear()
    store.resume("g", "a-0", keep=2).commit(10)
    assert backend.steps(KEY) == [10, 9, 8, 0]


def test_what_is_kept_while_prunes_fail_never_makes_a_header_too_long(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MAX_LIVE", 7)
    run = store.resume("g", "a-0", keep=1)
    backend.refuse.add("prune")
    for n in range(30):
        run.commit(n)
    backend.refuse.clear()
    again = store.resume("g", "a-0", keep=1)
    again.commit(30)
    assert backend.steps(KEY) == [30, 29, *range(22, -1, -1)], "the successor has pruned the newest seven but one"


def test_a_meta_of_the_largest_size_fits_beside_the_longest_ids_and_the_most_live_steps() -> None:
    key = CheckpointKey("\x01" * 66, 999_999_999, "\x02" * 66)
    meta = meta_json({"a": "x" * (record.MAX_META - 8)})
    steps = range(2**53 - 1 - record.MAX_LIVE, 2**53 - 1)
    live = {step: steps[0] if step > steps[0] else None for step in steps}
    body = Body(b"1", ("splice", "zstd"), tuple((step, "0" * 64) for step in steps[-MAX_BASES:]))
    raw = record.encode(
        key, 2**53 - 1, b"1", writer="w" * 255, body=body, meta=meta, live=live, prev=(2**53 - 2, "0" * 64)
    )
    header = record.decode_header(raw, key, 2**53 - 1)
    assert dict(zip(header.live, header.tops, strict=True)) == live


def test_keep_none_keeps_everything(store: Store) -> None:
    run = store.resume("g", "a-0", keep=None)
    for n in range(30):
        run.commit(n)
    assert len(store.history(KEY)) == 30


@pytest.mark.parametrize("keep", [0, -1, 501, True, "5", 2.0])
def test_a_keep_that_is_no_number_of_steps_is_refused(store: Store, keep: int) -> None:
    with pytest.raises(InvalidArgument, match="keep must be"):
        store.resume("g", "a-0", keep=keep)


def test_a_rewind_is_the_next_step_and_carries_state_and_meta(store: Store) -> None:
    run = store.resume("g", "a-0")
    for n in range(3):
        run.commit(n, meta={"turn": n})
    assert run.rewind(1) == 3
    assert run.state == 1
    assert store.load(KEY, 3).meta == {"turn": 1}
    with pytest.raises(CheckpointNotFound):
        run.rewind(99)
    with pytest.raises(InvalidKey):
        run.rewind(-1)


def test_leaving_the_with_block_by_an_exception_finishes_nothing(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.commit(1)
    with pytest.raises(ZeroDivisionError), run:
        run.commit(1 // 0)
    assert store.resume("g", "a-0").state == 1


def test_threads_that_share_a_run_get_a_step_each(store: Store) -> None:
    run = store.resume("g", "a-0", keep=None)
    with ThreadPoolExecutor(8) as pool:
        steps = list(pool.map(run.commit, range(200)))
    assert sorted(steps) == list(range(200))


def test_a_forked_child_is_refused_while_its_parent_goes_on(store: Store) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    child = os.fork()
    if child == 0:
        try:
            run.commit(1)
        except CheckpointConflict:
            os._exit(42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert run.commit(1) == 1


def test_a_child_forked_during_a_commit_of_another_thread_is_refused_and_does_not_hang(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.resume("g", "a-0")
    run.commit(0)
    inside, forked = threading.Event(), threading.Event()

    def slow(key: CheckpointKey, step: int, record: bytes) -> bytes:
        inside.set()
        assert forked.wait(30)
        return MemoryBackend.save(backend, key, step, record)

    monkeypatch.setattr(backend, "save", slow)
    with ThreadPoolExecutor(1) as pool:
        commit = pool.submit(run.commit, 1)
        assert inside.wait(30)
        child = os.fork()
        if child == 0:
            try:
                run.commit(2)
            except CheckpointConflict:
                os._exit(42)
            os._exit(1)
        forked.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        assert commit.result(30) == 1


def test_the_root_check_names_the_root(store: Store) -> None:
    store.resume("g", "orchestrator-0").commit(0)
    with pytest.raises(CheckpointNotFound, match="'orchestrator-0', not by 'orchestrator-0-3fa2c1'"):
        store.resume("g", "orchestrator-0-3fa2c1")
    assert store.resume("g", "helper-0", episode_id=0).key == CheckpointKey("g", 0, "helper-0")


def test_an_episode_without_a_root_takes_any_checkpoint_id_and_the_first_to_finish_ends_it(store: Store) -> None:
    assert store.start_episode("g") == 0
    one, other = store.resume("g", "a-0"), store.resume("g", "b-0")
    one.commit(1)
    other.commit(2)
    other.finish("won")
    assert store.episodes("g")[0].result == "won"
    assert store.resume("g", "a-0").key.episode_id == 1


def test_a_child_run_closes_its_own_key_only(store: Store) -> None:
    store.resume("g", "a-0").commit(0)
    child = store.resume("g", "a-0.b-1", episode_id=0)
    child.commit(1)
    child.finish([1, 2])
    again = store.resume("g", "a-0.b-1", episode_id=0)
    assert (again.finished, again.result, again.state) == (True, [1, 2], 1)
    with pytest.raises(CheckpointConflict):
        again.commit(2)
    assert store.episodes("g")[0].status == "running"


def test_a_new_number_whose_key_already_holds_records_is_a_conflict(store: Store) -> None:
    store.save(KEY, 3, "by hand")
    with pytest.raises(CheckpointConflict, match=r"Store\.save put them there"):
        store.resume("g", "a-0")


def test_an_episode_that_was_never_started_or_was_deleted_is_not_found(store: Store) -> None:
    with pytest.raises(CheckpointNotFound, match="never started"):
        store.resume("g", "a-0", episode_id=3)
    store.resume("g", "a-0").commit(0)
    store.delete("g")
    with pytest.raises(CheckpointNotFound, match="was deleted"):
        store.resume("g", "a-0", episode_id=0)
    assert store.resume("g", "a-0").key.episode_id == 1


def test_an_initial_state_that_json_cannot_hold_is_refused_at_once(store: Store) -> None:
    with pytest.raises(InvalidState):
        store.resume("g", "a-0", initial={1})


@pytest.mark.parametrize("name", ["@episode", "@", "@other"])
def test_ids_of_the_store_itself_are_refused(store: Store, name: str) -> None:
    key = CheckpointKey("g", 0, name)
    calls: list[Callable[[], object]] = [
        lambda: store.save(key, 0, 1),
        lambda: store.latest(key),
        lambda: store.load(key, 0),
        lambda: store.prune(key, keep=1),
        lambda: store.history(key),
        lambda: store.fork(KEY, key),
        lambda: store.fork(key, KEY),
        lambda: store.resume("g", name),
        lambda: store.start_episode("g", root=name),
    ]
    for call in calls:
        with pytest.raises(InvalidKey, match="belong to the store"):
            call()


def test_a_run_shows_where_it_is(store: Store) -> None:
    run: Run = store.resume("g", "a-0")
    run.commit(0)
    assert repr(run) == "<Run g/0/a-0 at step 0>"


def test_a_commit_that_is_interrupted_in_its_prune_is_open_too(
    store: Store, backend: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.resume("g", "a-0", keep=1)
    run.commit(0)
    run.commit(1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backend, "prune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.commit(2)
    assert run.commit(2) == 2
    assert backend.steps(KEY) == [2, 0]


def test_a_run_that_is_interrupted_at_any_line_of_a_commit_can_go_on(store: Store) -> None:
    """KeyboardInterrupt at every line of run.py that a commit executes."""
    interrupted = 0
    for at in range(10_000):
        run = store.resume(f"g{at}", "a-0", keep=1)
        run.commit(0)
        run.commit(1)
        if not interrupt(partial(run.commit, 2), at):
            break
        interrupted += 1
        step = run.commit(2)
        assert step in (2, 3), "3: it was interrupted behind its acknowledgement, and this is another commit"
        assert store.load(run.key, step).state == 2
        assert run.commit(3) == step + 1, "nobody is refused for being interrupted"
    assert interrupted > 20


def interrupt(call: Callable[[], object], at: int) -> bool:
    """Runs the call and raises KeyboardInterrupt at its `at`-th line in run.py; False when it has fewer.

    Not where a `with` of the lock begins or ends: there a tracer's exception skips the release, a signal's does not.
    """
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("run.py"):
            return None
        if event == "line" and "with self._lock" not in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            if left == 0:
                left = -1
                raise KeyboardInterrupt
            left -= 1
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False

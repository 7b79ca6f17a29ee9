"""Damaged is never the same as absent: whatever happens to a record, nobody is told that there was none.

The damage is made through the protocol itself: prune a step, save other bytes in its place.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointKey,
    CheckpointUnsupported,
    Store,
    open_store,
)
from durable_store.backend import Backend
from durable_store.record import Header, decode_header
from durable_store_conformance.process import OtherProcesses
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import grown_state, state_of

NEWEST = 3

_SOURCES = {
    "another step": (KEY, 1),
    "another checkpoint": (CheckpointKey("goal", 0, "agent-1"), NEWEST),
    "another episode": (CheckpointKey("goal", 1, "agent-0"), NEWEST),
    "another goal": (CheckpointKey("goal-2", 0, "agent-0"), NEWEST),
}


def _flipped(record: bytes, at: int) -> bytes:
    at %= len(record)
    return record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]


_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "digest flipped": lambda record: _flipped(record, 5),
    "header flipped": lambda record: _flipped(record, 80),
    "body flipped": lambda record: _flipped(record, -3),
    "last byte cut off": lambda record: record[:-1],
    "half of it": lambda record: record[: len(record) // 2],
    "its first byte": lambda record: record[:1],
    "its digest": lambda record: record[:64],
    "its header": lambda record: record[: record.index(b"\n") + 1],
    "a byte more": lambda record: record + b" ",
    "a byte before": lambda record: b" " + record,
    "twice over": lambda record: record + record,
    "empty": lambda _: b"",
    "zeros": lambda record: bytes(len(record)),
    "garbage": lambda _: bytes(range(256)) * 3,
    "JSON of something else": lambda _: b'{"state": {"turn": 99}}',
}
_KINDS = [*_DAMAGE, *_SOURCES]


def _put(backend: Backend, key: CheckpointKey, step: int, record: bytes) -> None:
    backend.prune(key, [step])
    assert backend.save(key, step, record) == record


def _damage(backend: Backend, key: CheckpointKey, step: int, kind: str) -> None:
    record = backend.load(key, step)
    assert record is not None
    if kind in _SOURCES:
        source = backend.load(*_SOURCES[kind])
        assert source is not None
        assert source != record
        _put(backend, key, step, source)
    else:
        _put(backend, key, step, _DAMAGE[kind](record))


def _rewritten(record: bytes, **fields: object) -> bytes:
    """The record with other fields in its header, and a digest that is right."""
    header, _, body = record.partition(b" ")[2].partition(b"\n")
    rest = json.dumps({**json.loads(header), **fields}, separators=(",", ":")).encode() + b"\n" + body
    return hashlib.sha256(rest).hexdigest().encode() + b" " + rest


_UNSUPPORTED: dict[str, dict[str, Any]] = {
    "a newer version": {"v": 2},
    "an unknown critical field": {"crit": ["quantum"], "quantum": 1},
    "an unknown type": {"type": "quantum"},
    "an unknown encoding": {"encoding": ["quantum"]},
}


def _saved(store: Store) -> None:
    """Steps 0 to 3 under KEY, and the same under keys that differ from it in one part."""
    for key in {KEY, *(key for key, _ in _SOURCES.values())}:
        for step in range(NEWEST + 1):
            store.save(key, step, {**state_of(step), "of": str(key)})


@clause(
    "DS-DAMAGE-01",
    "A record is there, and it is not what was written, or not where it was written. Never the same as absent.",
    kind=_KINDS,
)
def a_damaged_newest_record_is_damaged_and_not_absent(store: Store, backend: Backend, kind: str) -> None:
    """There are three answers of latest: a checkpoint, None, or CheckpointDamaged."""
    _saved(store)
    _damage(backend, KEY, NEWEST, kind)
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)
    with pytest.raises(CheckpointDamaged):
        store.load(KEY, NEWEST)
    with pytest.raises(CheckpointDamaged):
        store.save(KEY, NEWEST, {**state_of(NEWEST), "of": str(KEY)})
    assert [info.step for info in store.history(KEY)] == [3, 2, 1, 0]
    assert KEY in list(store.keys())


@clause(
    "DS-DAMAGE-02",
    "With `skip_damaged`, the newest intact one; its `skipped` names the damaged steps above it.",
    kind=_KINDS,
)
def skip_damaged_gives_the_newest_intact_one_and_says_so(store: Store, backend: Backend, kind: str) -> None:
    """Its `skipped` names the damaged steps above it."""
    _saved(store)
    _damage(backend, KEY, NEWEST, kind)
    _damage(backend, KEY, NEWEST - 1, "body flipped")
    found = store.latest(KEY, skip_damaged=True)
    assert found is not None
    assert (found.step, found.state) == (1, {**state_of(1), "of": str(KEY)})
    assert sorted(found.skipped) == [NEWEST - 1, NEWEST]


@clause("DS-DAMAGE-03", "the newest record is there and cannot be trusted")
def damage_below_the_newest_concerns_nobody_who_reads_the_newest(store: Store, backend: Backend) -> None:
    """It is found by whoever reads it."""
    _saved(store)
    _damage(backend, KEY, 1, "body flipped")
    found = store.latest(KEY, skip_damaged=True)
    assert found is not None
    assert (found.step, list(found.skipped)) == (NEWEST, [])
    with pytest.raises(CheckpointDamaged):
        store.load(KEY, 1)


@clause("DS-DAMAGE-04", "with `skip_damaged`, none of them can", kind=["empty", "half of it", "body flipped"])
def when_all_are_damaged_that_is_what_it_says(store: Store, backend: Backend, kind: str) -> None:
    """With skip_damaged too: it is not an empty key."""
    _saved(store)
    for step in range(NEWEST + 1):
        _damage(backend, KEY, step, kind)
    for skip in (False, True):
        with pytest.raises(CheckpointDamaged):
            store.latest(KEY, skip_damaged=skip)


@clause(
    "DS-DAMAGE-05",
    "the run goes on from the newest intact state, after the highest step there is, and says so in `run.skipped`",
    kind=_KINDS,
)
def resume_goes_past_the_damage_and_says_so(store: Store, backend: Backend, url: str, kind: str) -> None:
    """It starts from the newest intact state and continues after the highest step there is."""
    for goal, episode, name in (
        ("goal", 0, "agent-0"),
        ("goal", 0, "agent-1"),
        ("goal", 1, "agent-0"),
        ("goal-2", 0, "agent-0"),
    ):
        if name == "agent-0":
            assert store.start_episode(goal) == episode
        with store.resume(goal, name, keep=None, episode_id=episode) as run:
            for step in range(NEWEST + 1):
                run.commit({**state_of(step), "of": str(run.key)})
    _damage(backend, KEY, NEWEST, kind)
    with open_store(url) as another, another.resume("goal", "agent-0", keep=None, episode_id=0) as run:
        assert list(run.skipped) == [NEWEST]
        assert run.state == {**state_of(NEWEST - 1), "of": str(KEY)}
        assert run.commit({"on": True}) == NEWEST + 1
    with open_store(url) as another, another.resume("goal", "agent-0", episode_id=0) as run:
        assert (run.step, run.state, list(run.skipped)) == (NEWEST + 1, {"on": True}, [])


@clause(
    "DS-FENCE-09", "Steps are write-once, and a run's next step is its last one + 1: A's next commit meets B's record."
)
def a_writer_that_is_old_is_refused_by_a_damaged_fence_too(store: Store, backend: Backend) -> None:
    """What is in its way need not be readable."""
    old = store.resume("goal", "agent-0")
    old.commit(state_of(0))
    with store.resume("goal", "agent-0") as successor:
        successor.commit(state_of(1))
    _put(backend, old.key, 1, b"")
    with pytest.raises(CheckpointConflict):
        old.commit(state_of(1))


@clause("DS-DAMAGE-06", "Nothing ever skips it: older state must not pass for the latest.", fields=_UNSUPPORTED)
def a_record_of_a_newer_version_is_never_skipped(store: Store, backend: Backend, fields: dict[str, Any]) -> None:
    """An old program beside a newer one must stop, not resume from stale state."""
    with store.resume("goal", "agent-0") as run:
        for step in range(NEWEST + 1):
            run.commit(state_of(step))
    record = backend.load(KEY, NEWEST)
    assert record is not None
    _put(backend, KEY, NEWEST, _rewritten(record))
    found = store.latest(KEY)
    assert found is not None, "a record that was written again with its own fields is intact"
    _put(backend, KEY, NEWEST, _rewritten(record, **fields))
    for skip in (False, True):
        with pytest.raises(CheckpointUnsupported):
            store.latest(KEY, skip_damaged=skip)
    with pytest.raises(CheckpointUnsupported):
        store.load(KEY, NEWEST)
    with pytest.raises(CheckpointUnsupported):
        store.resume("goal", "agent-0")
    assert backend.load(KEY, NEWEST + 1) is None


@clause(
    "DS-DAMAGE-07",
    "A record is there, and it is not what was written, or not where it was written. Never the same as absent.",
)
def another_process_finds_the_damage_too(store: Store, backend: Backend, another_process: OtherProcesses) -> None:
    """Damaged, not absent; past it only when asked, and a run goes on after the highest step."""
    with store.resume("goal", "agent-0") as run:
        for step in range(NEWEST + 1):
            run.commit(state_of(step))
    _damage(backend, KEY, NEWEST, "half of it")
    process = another_process()
    with pytest.raises(CheckpointDamaged):
        process.store("latest", KEY)
    found = process.store("latest", KEY, skip_damaged=True)
    assert (found["step"], found["state"], found["skipped"]) == (2, state_of(2), [NEWEST])
    resumed = process.ask("resume", "goal", "agent-0")
    assert (resumed["state"], resumed["skipped"]) == (state_of(2), [NEWEST])
    assert process.run("commit", {"on": True}) == NEWEST + 1
    latest = store.latest(KEY)
    assert latest is not None
    assert latest.state == {"on": True}


@clause("DS-DAMAGE-08", "A damaged base damages exactly what builds on it.", kind=["body flipped", "empty", "gone"])
def a_damaged_base_damages_exactly_what_builds_on_it(store: Store, backend: Backend, kind: str) -> None:
    """And a run goes on past it, from the newest that can be read, with a record that builds on nothing."""
    steps = range(24)
    with store.resume("goal", "agent-0", keep=None) as run:
        for step in steps:
            run.commit(grown_state(step))
    bases = {step: [base for base, _ in _header(backend, step).bases] for step in steps}
    base = bases[steps[-1]][-1]
    if kind == "gone":
        backend.prune(KEY, [base])
    else:
        _damage(backend, KEY, base, kind)
    damaged = {step for step in steps if base in bases[step] or (step == base and kind != "gone")}
    for step in set(steps) - {base}:
        if step in damaged:
            with pytest.raises(CheckpointDamaged):
                store.load(KEY, step)
        else:
            assert store.load(KEY, step).state == grown_state(step)
    with pytest.raises(CheckpointDamaged):
        store.latest(KEY)
    with store.resume("goal", "agent-0", keep=None) as run:
        assert run.state == grown_state(max(set(steps) - damaged - {base}))
        assert run.skipped == tuple(sorted((step for step in damaged if step > run.step), reverse=True))
        assert run.commit(grown_state(steps[-1])) == steps[-1] + 1
    found = store.latest(KEY)
    assert found is not None
    assert (found.step, found.state) == (steps[-1] + 1, grown_state(steps[-1]))
    assert _header(backend, found.step).bases == ()


def _header(backend: Backend, step: int) -> Header:
    record = backend.load(KEY, step)
    assert record is not None
    return decode_header(record, KEY, step)

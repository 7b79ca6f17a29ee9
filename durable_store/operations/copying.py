"""Copying a store into another one, record by record, as they are.

A record's bytes say where it belongs and no more, so they are the same in every store: fences, deltas, bases and
episodes move as they stand, and a run goes on in the new store where it stood in the old one.

The order is what makes an interrupted copy harmless. First come the records of runs, each key's one after the other and
oldest first, so that what a delta builds on is there before it. Episodes come last, a goal's newest first, of each its
beginning at the end: until all of them are there, the first number is free, and nobody finds an episode to go on in.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from durable_store.backend import Backend
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointUnsupported,
    StoreUnavailable,
    count_of,
)
from durable_store.key import EPISODE_ID, CheckpointKey
from durable_store.operations.ahead import AT_ONCE, ahead, threads_for
from durable_store.operations.places import goal_names, is_away, keys_of, listed
from durable_store.record import HEAD, Header, check, decode_header
from durable_store.store import Store


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one record.

    Attributes:
        key: under which it is kept.
        step: its number; None when the source's storage refuses to list the key.
        size: its bytes.
        outcome: `copied`; `there` already, the same; `conflict`, another one is there, and stays; `unreadable`, one of
            the storages refuses to read it; `gone`, removed from the source since it was listed.
        problem: what is wrong: how it is damaged, though it was copied as it is, or why it was not copied.
    """

    key: CheckpointKey
    step: int | None
    size: int
    outcome: str
    problem: str | None = None


@dataclass(slots=True)
class Tally:
    """How many records a copy has met.

    Attributes:
        copied: are there now.
        there: were there already.
        gone: were removed from the source since they were listed.
        conflicts: are others in the target.
        damaged: are damaged, in both stores, or cannot be read in the source.
        size: bytes of those that were copied.
    """

    copied: int = 0
    there: int = 0
    gone: int = 0
    conflicts: int = 0
    damaged: int = 0
    size: int = 0

    def count(self, copied: Copied) -> None:
        """One more record."""
        match copied.outcome:
            case "copied":
                self.copied += 1
                self.size += copied.size
            case "there":
                self.there += 1
            case "conflict":
                self.conflicts += 1
            case "gone":
                self.gone += 1
            case _:
                pass
        self.damaged += copied.problem is not None and copied.outcome != "conflict"


def copy(
    source: Store,
    target: Store,
    *,
    goals: Iterable[str | int] | None = None,
    verify: bool = False,
    at_once: int = AT_ONCE,
    report: Callable[[Copied], None] = lambda _: None,
) -> Tally:
    """Copies all records, or those of some goals.

    Nothing in the target is ever replaced or removed, and nothing in the source is changed. Interrupted, it goes on
    where it was when it is called again: what is there is compared, not copied. What a run commits meanwhile may be
    missed, so stop the runs first, or copy once more after they have ended; and resume nothing in the target before it
    has returned. A key that has gone on by itself in the target is left as it is.

    A damaged record is copied as it is: without it a run in the target would go on from an older step, and nobody would
    see that there had been a newer one. It is told at the end, when all the others are there, and so are a conflict and
    a record that the source's storage refuses.

    Args:
        source: where they are.
        target: where they go.
        goals: which; None for all.
        verify: reads each record back and compares all of it. Those that were there are always compared.
        at_once: how many keys are under way at the same time; of each a record, so memory holds as many.
        report: is told of each record, by one thread at a time, of a key in the order of their copying.

    Raises:
        CheckpointConflict: the target has other records at some of the steps; it keeps them.
        CheckpointDamaged: some of the records are damaged, in both stores now, or could not be read.
        StoreUnavailable: one of the stores cannot be reached; what was copied before stays.
    """
    names = goal_names(goals)
    tally, first = Tally(), dict[bool, str]()
    one_at_a_time = threading.Lock()

    def tell(copied: Copied) -> None:
        with one_at_a_time:
            tally.count(copied)
            if copied.problem:
                first.setdefault(copied.outcome == "conflict", copied.problem)
            report(copied)

    copying = _Copying(source.backend, target.backend, verify, tell)
    with threads_for("copy", at_once) as threads:
        try:
            numbers: dict[str, list[int]] = defaultdict(list)
            for _ in ahead(threads, copying.key, _of_runs(source.backend, names, numbers), at_once):
                pass
            for _ in ahead(threads, copying.episodes, numbers.items(), at_once):
                pass
        except BaseException:
            copying.ended.set()
            raise
    if tally.conflicts:
        raise CheckpointConflict(f"the target has other records at {count_of(tally.conflicts, 'step')}: {first[True]}")
    if tally.damaged:
        raise CheckpointDamaged(
            f"{count_of(tally.damaged, 'record')} cannot be read, copied if possible: {first[False]}"
        )
    return tally


def _of_runs(backend: Backend, names: Sequence[str] | None, numbers: dict[str, list[int]]) -> Iterator[CheckpointKey]:
    """All keys but those of episodes, whose numbers are noted."""
    for key in keys_of(backend, names):
        if key.checkpoint_id == EPISODE_ID:
            numbers[key.goal_id].append(key.episode_id)
        else:
            yield key


class _Copying:
    """One copy.

    Attributes:
        ended: nobody begins with another record.
    """

    def __init__(self, source: Backend, target: Backend, verify: bool, tell: Callable[[Copied], None]) -> None:  # noqa: FBT001
        self.ended = threading.Event()
        self._source = source
        self._target = target
        self._verify = verify
        self._tell = tell

    def key(self, key: CheckpointKey) -> None:
        """Copies the records of a key, oldest first, unless the target's has gone on by itself."""
        steps = self._listed(key)
        there = self._target.steps(key)
        if there and steps and there[0] not in steps and not self._was_in_source(key, there[0], steps):
            words = (
                f"{key} has a step {there[0]} in the target that the source never had: it has gone on by itself there"
            )
            self._tell(Copied(key, there[0], 0, "conflict", words))
        else:
            self._steps(key, steps, set(there))

    def episodes(self, numbers_of_goal: tuple[str, list[int]]) -> None:
        """Copies the episodes of a goal, newest first, of each what it began with at the end."""
        goal, numbers = numbers_of_goal
        for number in sorted(numbers, reverse=True):
            key = CheckpointKey(goal, number, EPISODE_ID)
            self._steps(key, self._listed(key)[::-1], set(self._target.steps(key)))

    def _listed(self, key: CheckpointKey) -> list[int]:
        """The source's steps, oldest first; where it refuses to list them that is told, and there are none."""
        found = listed(self._source, key)
        if found.refused:
            self._tell(Copied(key, None, 0, "unreadable", str(found.refused)))
        return found.steps

    def _steps(self, key: CheckpointKey, steps: Sequence[int], there: set[int]) -> None:
        """Copies these steps; `there` are those that the target has."""
        for step in steps:
            if self.ended.is_set():
                return
            try:
                record = self._source.load(key, step)
                copied = self._compared(key, step, record, there) if step in there else None
            except StoreUnavailable as err:
                if is_away(self._source) or is_away(self._target):
                    raise
                self._tell(Copied(key, step, 0, "unreadable", str(err)))
                continue
            copied = copied or self._copied(key, step, record, there)
            if copied.outcome in ("copied", "there"):
                there.add(step)
            self._tell(copied)

    def _copied(self, key: CheckpointKey, step: int, record: bytes | None, there: set[int]) -> Copied:
        if record is None:
            return Copied(key, step, 0, "gone")
        missing, problem = _looked_at(record, key, step, there)
        if missing and self._source.load(key, step) is None:
            return Copied(key, step, 0, "gone")  # as its bases are
        try:
            found = self._target.save(key, step, record)
        except CheckpointConflict as err:
            return Copied(key, step, len(record), "conflict", str(err))
        if found != record:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: another record is there")
        if self._verify and self._target.load(key, step) != record:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: what was saved is not there")
        return Copied(key, step, len(record), "copied", problem)

    def _compared(self, key: CheckpointKey, step: int, record: bytes | None, there: set[int]) -> Copied | None:
        """What is there already; None when it is not, after all."""
        if record is None:
            return Copied(key, step, 0, "gone")
        found = self._target.load(key, step)
        if found is None:
            return None
        if found != record:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: another record is there")
        return Copied(key, step, len(record), "there", _looked_at(record, key, step, there)[1])

    def _was_in_source(self, key: CheckpointKey, step: int, steps: Sequence[int]) -> bool:
        """Whether the target's newest step was copied once, and pruned in the source since.

        Then its run has gone on in the source, and has left its fence there.
        """
        newest = self._header(self._target, key, step)
        return step < steps[-1] and any(
            newest and header and newest.writer == header.writer
            for header in (self._header(self._source, key, each) for each in steps)
        )

    def _header(self, backend: Backend, key: CheckpointKey, step: int) -> Header | None:
        try:
            leading = backend.load(key, step, first=HEAD)
            return decode_header(leading, key, step) if leading is not None else None
        except (CheckpointDamaged, StoreUnavailable):
            return None


def _looked_at(record: bytes, key: CheckpointKey, step: int, there: set[int]) -> tuple[bool, str | None]:
    """Whether something that it builds on is not in the target, and what is wrong with it, if anything is."""
    try:
        header = check(record, key, step)
    except CheckpointUnsupported:  # for a newer version, which can tell
        return False, None
    except CheckpointDamaged as err:
        return False, str(err)
    for base, _ in header.bases:
        if base not in there:
            return True, f"{key} step {step} cannot be read: its base, step {base}, is not in the target"
    return False, None

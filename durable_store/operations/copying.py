"""Copying a store into another one, record by record, as they are.

A record's bytes say where it belongs and no more, so they are the same in every store: fences, deltas, bases and
episodes move as they stand, and a run goes on in the new store where it stood in the old one.

The order is what makes an interrupted copy harmless. First come the records of runs, each key's oldest first, so that
what a delta builds on is there before it. What the store keeps of its own comes last, of an episode its beginning at
the very end: as long as that is missing, nobody goes on from a part of what the source has.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from durable_store.backend import Backend
from durable_store.errors import CheckpointConflict, CheckpointDamaged, CheckpointUnsupported
from durable_store.key import CheckpointKey, goal_text
from durable_store.operations.ahead import AT_ONCE, ahead
from durable_store.record import HEAD, check
from durable_store.store import Store

_IN_A_PIECE = 16  # records that one thread copies in a row


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one record.

    Attributes:
        key: under which it is kept.
        step: its number.
        size: its bytes.
        outcome: `copied`; `there` already, the same; `conflict`, another one is there, and stays; `gone`, removed from
            the source since it was listed.
        problem: what is wrong with it: how it is damaged, though it was copied as it is, or what stands in its place.
    """

    key: CheckpointKey
    step: int
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
        damaged: are damaged, in both stores.
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
            case _:
                self.gone += 1
        self.damaged += copied.problem is not None and copied.outcome != "conflict"


class _Piece(NamedTuple):
    """Steps of one key, oldest first, and those that the target has."""

    key: CheckpointKey
    steps: Sequence[int]
    there: frozenset[int]


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
    has returned.

    A damaged record is copied as it is: without it a run in the target would go on from an older step, and nobody would
    see that there had been a newer one. It is told at the end, when all the others are there, and so is a conflict.

    Args:
        source: where they are.
        target: where they go.
        goals: which; None for all.
        verify: reads each record back and compares all of it, also those that were there; else of those the first 64
            KiB, in which the digest of the whole stands.
        at_once: how many are under way at the same time.
        report: is told of each record, in the order in which they come to their end for each key.

    Raises:
        CheckpointConflict: the target has other records at some of the steps; it keeps them.
        CheckpointDamaged: some of the records are damaged, in both stores now.
        StoreUnavailable: one of the stores cannot be reached; what was copied before stays.
    """
    names = None if goals is None else [goal_text(goal) for goal in goals]
    copying = _Copying(source.backend, target.backend, verify)
    tally, first = Tally(), dict[bool, str]()
    with ThreadPoolExecutor(at_once, thread_name_prefix="durable-store-copy") as threads:
        try:
            for of_the_store in (False, True):
                keys = (key for key in keys_of(source.backend, names) if _is_the_store_s(key) is of_the_store)
                pieces = (piece for found in ahead(threads, copying.pieces, keys, at_once) for piece in found)
                for copied in ahead(threads, copying.copy, pieces, at_once):
                    for each in copied:
                        tally.count(each)
                        if each.problem:
                            first.setdefault(each.outcome == "conflict", each.problem)
                        report(each)
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise
    if tally.conflicts:
        raise CheckpointConflict(f"the target has other records at {tally.conflicts} steps: {first[True]}")
    if tally.damaged:
        raise CheckpointDamaged(f"{tally.damaged} records are damaged, and copied as they are: {first[False]}")
    return tally


@dataclass(frozen=True, slots=True)
class _Copying:
    source: Backend
    target: Backend
    verify: bool

    def pieces(self, key: CheckpointKey) -> list[_Piece]:
        """What is to be done for a key."""
        steps = sorted(self.source.steps(key), reverse=_is_the_store_s(key))
        there = frozenset(self.target.steps(key))
        return [_Piece(key, steps[at : at + _IN_A_PIECE], there) for at in range(0, len(steps), _IN_A_PIECE)]

    def copy(self, piece: _Piece) -> list[Copied]:
        """Copies its records, one after the other."""
        return [
            self._compared(piece.key, step) if step in piece.there else self._copied(piece.key, step)
            for step in piece.steps
        ]

    def _copied(self, key: CheckpointKey, step: int) -> Copied:
        record = self.source.load(key, step)
        if record is None:
            return Copied(key, step, 0, "gone")
        try:
            there = self.target.save(key, step, record)
        except CheckpointConflict as err:
            return Copied(key, step, len(record), "conflict", str(err))
        if there != record:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: another record is there")
        if self.verify and self.target.load(key, step) != record:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: what was saved is not there")
        return Copied(key, step, len(record), "copied", _problem(record, key, step))

    def _compared(self, key: CheckpointKey, step: int) -> Copied:
        first = None if self.verify else HEAD
        record, there = self.source.load(key, step, first=first), self.target.load(key, step, first=first)
        if record is None:
            return Copied(key, step, 0, "gone")
        if there is None:
            return self._copied(key, step)
        if record[:first] != there[:first]:
            return Copied(key, step, len(record), "conflict", f"{key} step {step}: another record is there")
        problem = _problem(record, key, step) if first is None or len(record) < HEAD else None
        return Copied(key, step, len(record), "there", problem)


def _problem(record: bytes, key: CheckpointKey, step: int) -> str | None:
    try:
        check(record, key, step)
    except CheckpointUnsupported:  # for a newer version, which can tell
        return None
    except CheckpointDamaged as err:
        return str(err)
    return None


def _is_the_store_s(key: CheckpointKey) -> bool:
    return key.checkpoint_id.startswith("@")


def keys_of(backend: Backend, goals: Sequence[str] | None) -> Iterator[CheckpointKey]:
    """All keys, or those of some goals; also the store's own."""
    if goals is None:
        yield from backend.keys()
        return
    for goal in goals:
        yield from backend.keys(goal)

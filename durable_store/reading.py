"""Finding records and reading them: the one place where what a backend gives becomes a checked record, or damage."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from durable_store.backend import Backend
from durable_store.errors import CheckpointDamaged, CheckpointNotFound, CheckpointUnsupported, StoreUnavailable
from durable_store.key import CheckpointKey, check_step
from durable_store.record import HEAD, Record, decode, decode_header

MAX_MOVES = 100
"""How often a search starts again because what it had just seen was pruned, before it gives up."""


class Found(NamedTuple):
    """What a search for the newest record came to."""

    highest: int
    record: Record
    skipped: tuple[int, ...]


def find(backend: Backend, key: CheckpointKey, *, skip_damaged: bool) -> Found | None:
    """The newest record that counts, with the highest step there is and the damaged steps in between."""
    for _ in range(MAX_MOVES):
        newest = backend.latest(key)
        if newest is None:
            return None
        highest, raw = newest
        try:
            return Found(highest, decode_at(backend, key, highest, raw), ())
        except CheckpointUnsupported:
            raise
        except CheckpointDamaged:
            if not skip_damaged:
                raise
        found = _find_intact(backend, key, highest)
        if found:
            return found
    raise StoreUnavailable(f"{key} changes faster than it can be read")


def _find_intact(backend: Backend, key: CheckpointKey, highest: int) -> Found | None:
    """The newest intact record, or None when the key changed under the search."""
    damage: dict[int, CheckpointDamaged] = {}
    for step in backend.steps(key):
        raw = backend.load(key, step)
        if raw is None or step > highest:
            return None
        try:
            return Found(highest, decode_at(backend, key, step, raw), tuple(damage))
        except CheckpointUnsupported:
            raise
        except CheckpointDamaged as err:
            damage[step] = err
    if damage:
        raise CheckpointDamaged(f"{key}: all of its records are damaged; the newest: {damage[max(damage)]}")
    return None


def read(backend: Backend, key: CheckpointKey, step: int) -> Record:
    """The record at (key, step). Raises CheckpointNotFound, CheckpointDamaged."""
    step = check_step(step)
    raw = backend.load(key, step)
    if raw is None:
        raise CheckpointNotFound(f"{key} has no step {step}")
    return decode_at(backend, key, step, raw)


def prunable(backend: Backend, key: CheckpointKey, keep: int) -> list[int]:
    """All steps, oldest first, but the newest `keep`, what these build on, and the newest intact one.

    Raises:
        CheckpointDamaged: there are records and all of them are damaged.
        CheckpointUnsupported: a kept record is of a newer version, which alone knows what it needs.
    """
    steps = backend.steps(key)
    found = find(backend, key, skip_damaged=True) if len(steps) > keep else None
    if found is None:
        return []
    kept = {*steps[:keep], found.record.header.step}
    kept.update(base for step in tuple(kept) for base in bases(backend, key, step))
    return [step for step in reversed(steps) if step not in kept]


def bases(backend: Backend, key: CheckpointKey, step: int) -> list[int]:
    """The steps that this one needs to be read; a damaged header needs none any more."""
    leading = backend.load(key, step, first=HEAD)
    if leading is None:
        return []
    try:
        return [base for base, _ in decode_header(leading, key, step).bases]
    except CheckpointUnsupported:
        raise
    except CheckpointDamaged:
        return []


def decode_at(backend: Backend, key: CheckpointKey, step: int, raw: bytes) -> Record:
    """What a backend gave at (key, step), checked, and its bases with it.

    Raises:
        CheckpointDamaged: it, or one of them. A damaged base damages exactly what builds on it.
    """
    return decode(raw, key, step, lambda steps: load_all(backend, key, steps))


def load_all(backend: Backend, key: CheckpointKey, steps: Sequence[int]) -> Sequence[bytes | None]:
    """The records at these steps; at the same time where the backend has a verb for that."""
    together: Callable[[CheckpointKey, Sequence[int]], Sequence[bytes | None]] | None
    together = getattr(backend, "load_all", None)
    return together(key, steps) if together else [backend.load(key, step) for step in steps]

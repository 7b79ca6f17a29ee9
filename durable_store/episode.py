"""Episodes: numbers that are handed out once, and how each of them went.

They are records like any other, kept under the checkpoint id `@episode` of each number: step 0 says that it was
started and by which root, step 1 that it finished or failed and with which result, step 2 that it was deleted. The
highest step tells all of it. Numbers leave no gap, so the newest is found by galloping, not by listing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from durable_store.backend import Backend
from durable_store.errors import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointNotFound,
    CheckpointUnsupported,
)
from durable_store.key import EPISODE_ID, MAX_EPISODE, CheckpointKey
from durable_store.reading import decode_at, find
from durable_store.record import Closing, Header, encode, timestamp

STARTED, ENDED, DELETED = 0, 1, 2
"""The steps of an episode's key."""


STATUSES = ("running", "finished", "failed", "deleted")


@dataclass(frozen=True, slots=True)
class Episode:
    """One attempt at a goal.

    Attributes:
        id: its number.
        root: the checkpoint id that started it; empty when it was started for any.
        status: `running`, `finished`, `failed` or `deleted`.
        started: when, in UTC.
        ended: when it finished, failed or was deleted; None while it runs.
        result: what it finished with; of a failed one the error's text.
    """

    id: int
    root: str
    status: str
    started: datetime
    ended: datetime | None = None
    result: Any = None


def newest_number(backend: Backend, goal_id: str) -> int:
    """The highest number ever handed out for the goal, -1 if none was."""

    def exists(number: int) -> bool:
        return number <= MAX_EPISODE and backend.load(_key(goal_id, number), STARTED, first=1) is not None

    if not exists(0):
        return -1
    there, stride = 0, 1
    while exists(there + stride):
        there += stride
        stride *= 2
    absent = there + stride
    while absent - there > 1:
        middle = (there + absent) // 2
        there, absent = (middle, absent) if exists(middle) else (there, middle)
    return there


def read(backend: Backend, goal_id: str, number: int) -> Episode | None:
    """How the episode stands, or None if it was never started. Raises CheckpointDamaged."""
    key = _key(goal_id, number)
    found = backend.latest(key)
    if found is None:
        return None
    step, record = found
    episode = told(number, decode_at(backend, key, step, record).state)
    if episode is None:
        raise CheckpointDamaged(f"{key} step {step} is damaged: it does not tell about an episode")
    return episode


def told(number: int, state: Any) -> Episode | None:
    """What a record of an episode tells about it; None when it tells of none."""
    try:
        started, ended = (datetime.fromisoformat(at) if at else None for at in (state["started"], state["ended"]))
        if started is not None and isinstance(state["root"], str) and state["status"] in STATUSES:
            return Episode(number, state["root"], state["status"], started, ended, state["result"])
    except (KeyError, TypeError, ValueError):
        pass
    return None


def joinable(backend: Backend, key: CheckpointKey, writer: str) -> Episode:
    """The running episode of a key, which need not hold anything yet.

    Raises:
        CheckpointNotFound: it was never started, or it was deleted.
        CheckpointConflict: it has ended.
    """
    goal, number = key.goal_id, key.episode_id
    episode = read(backend, goal, number)
    if episode and episode.root != key.checkpoint_id and end_if_decided(backend, goal, episode, writer):
        episode = read(backend, goal, number)
    if episode is None:
        raise CheckpointNotFound(f"episode {number} of goal {goal!r} was never started")
    if episode.status == "deleted":
        raise CheckpointNotFound(f"episode {number} of goal {goal!r} was deleted")
    if episode.status != "running":
        raise CheckpointConflict(
            f"episode {number} of goal {goal!r} has {episode.status}: nobody joins it any more;"
            " read it with latest, or go on from it with fork"
        )
    return episode


def start(backend: Backend, goal_id: str, root: str, writer: str) -> int:
    """Hands out the next number: of any number of racers each gets its own."""
    number = newest_number(backend, goal_id) + 1
    while not claim(backend, goal_id, registration(goal_id, number, root, writer)):
        number += 1
    return number


def registration(goal_id: str, number: int, root: str, writer: str) -> tuple[Episode, bytes]:
    """A new episode and the record that starts it."""
    episode = Episode(number, root, "running", datetime.now(UTC))
    return episode, _encode(goal_id, STARTED, episode, writer)


def claim(backend: Backend, goal_id: str, new: tuple[Episode, bytes]) -> bool:
    """Whether the number is ours; asking again with the same record gives the same answer."""
    episode, record = new
    return backend.save(_key(goal_id, episode.id), STARTED, record) == record


def end_if_decided(backend: Backend, goal_id: str, episode: Episode, writer: str) -> bool:
    """Writes down the end of a running episode whose root closed its key and was killed before it did; if it has.

    In an episode without a root only who closed it can find that out: the others would have to list its keys.
    """
    if not episode.root or episode.status != "running":
        return False
    try:
        found = find(backend, CheckpointKey(goal_id, episode.id, episode.root), skip_damaged=False)
    except CheckpointUnsupported:
        raise
    except CheckpointDamaged:
        return False
    return found is not None and end_if_closed(backend, goal_id, episode, found.record.header, writer)


def end_if_closed(backend: Backend, goal_id: str, episode: Episode, header: Header, writer: str) -> bool:
    """Writes down the episode's end, if this header closes it; whether it does."""
    if header.closing is None or episode.root not in ("", header.key.checkpoint_id):
        return False
    end(backend, goal_id, episode, header.closing, header.saved_at, writer)
    return True


def end(backend: Backend, goal_id: str, episode: Episode, closing: Closing, when: datetime, writer: str) -> None:
    """Writes down that the episode has ended; who comes second changes nothing."""
    ended = Episode(episode.id, episode.root, closing.status, episode.started, when, closing.result)
    backend.save(_key(goal_id, episode.id), ENDED, _encode(goal_id, ENDED, ended, writer))


def delete(backend: Backend, goal_id: str, number: int, writer: str) -> None:
    """Leaves a tombstone, so that the number is never handed out again, and takes the result away."""
    now = datetime.now(UTC)
    try:
        episode = read(backend, goal_id, number)
    except CheckpointUnsupported:
        raise
    except CheckpointDamaged:  # what cannot be read can be deleted all the same
        episode = Episode(number, "", "running", now)
    if episode:
        deleted = Episode(number, episode.root, "deleted", episode.started, now)
        backend.save(_key(goal_id, number), DELETED, _encode(goal_id, DELETED, deleted, writer))
        backend.prune(_key(goal_id, number), [ENDED])


def remove(backend: Backend, goal_id: str, number: int | None, writer: str) -> int:
    """Removes all checkpoints of a goal, or of one of its episodes; returns how many there were.

    The tombstones come first: from then on nobody resumes into what is being removed. Then each key, oldest step first.
    """
    for each in numbers(backend, goal_id, number):
        delete(backend, goal_id, each, writer)
    removed = 0
    for key in list(removable(backend, goal_id, number)):
        steps = backend.steps(key)[::-1]
        backend.prune(key, steps)
        removed += len(steps)
    return removed


def numbers(backend: Backend, goal_id: str, number: int | None) -> Sequence[int]:
    """The episodes that get a tombstone when a goal is removed, or one of its episodes."""
    return range(newest_number(backend, goal_id) + 1) if number is None else (number,)


def removable(backend: Backend, goal_id: str, number: int | None) -> Iterator[CheckpointKey]:
    """The keys that go with a goal, or with one of its episodes: no tombstones, nor what is the whole goal's."""
    for key in backend.keys(goal_id):
        is_of_goal = number is not None and key.checkpoint_id.startswith("@")
        if key.checkpoint_id != EPISODE_ID and not is_of_goal and number in (None, key.episode_id):
            yield key


def _key(goal_id: str, number: int) -> CheckpointKey:
    return CheckpointKey(goal_id, number, EPISODE_ID)


def _encode(goal_id: str, step: int, episode: Episode, writer: str) -> bytes:
    state = {
        "status": episode.status,
        "root": episode.root,
        "started": timestamp(episode.started),
        "ended": episode.ended and timestamp(episode.ended),
        "result": episode.result,
    }
    # Not through `to_json`: a result of 250 levels is one level deeper here, and an end must always be written.
    return encode(_key(goal_id, episode.id), step, orjson.dumps(state), writer=writer)

"""Which episode an attempt at a goal has: decided once for each attempt, and the same for whoever asks.

A claim is a record like any other, kept under the checkpoint id `@attempts` of the goal's episode 0; its step is the
attempt's number, its state `{"episode": id}`.
"""

import orjson

from durable_store.backend import Backend
from durable_store.key import CheckpointKey
from durable_store.reading import decode_at
from durable_store.record import encode, random_tag, writer_name

ATTEMPTS_ID = "@attempts"


def claimed(backend: Backend, goal: str, number: int) -> int | None:
    """The episode of an attempt; None if it has none yet. Raises CheckpointDamaged, StoreUnavailable."""
    record = backend.load(_key(goal), number)
    return None if record is None else _episode_in(backend, goal, number, record)


def claim(backend: Backend, goal: str, number: int, episode_id: int) -> int:
    """Gives an attempt this episode, unless it has one; returns the one that it has."""
    state = orjson.dumps({"episode": episode_id})
    record = encode(_key(goal), number, state, writer=writer_name(random_tag()))
    return _episode_in(backend, goal, number, backend.save(_key(goal), number, record))


def _key(goal: str) -> CheckpointKey:
    return CheckpointKey(goal, 0, ATTEMPTS_ID)


def _episode_in(backend: Backend, goal: str, number: int, record: bytes) -> int:
    episode: int = decode_at(backend, _key(goal), number, record).state["episode"]
    return episode

"""How large a record may be, and how many there may be."""

from durable_store import CheckpointKey
from durable_store.backend import Backend
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import content, in_threads

_MANY = 10_000
_GOALS = 100
_WRITERS = 16


@clause("DS-SIZE-01", "Keeps records: bytes that it never looks into, each under a key and a step.", megabytes=[16, 64])
def a_record_of_many_megabytes_is_kept(backend: Backend, reopened: Backend, megabytes: int) -> None:
    """Whole, byte for byte; a part of it can be loaded."""
    record = content(f"{megabytes} MB", megabytes * 1_000_000)
    assert backend.save(KEY, 0, record) == record
    assert reopened.latest(KEY) == (0, record)
    assert reopened.save(KEY, 0, b"late") == record
    leading = reopened.load(KEY, 0, first=1000)
    assert leading is not None
    assert leading == record[: len(leading)]
    assert len(leading) >= 1000


@clause("DS-SIZE-02", "The highest step and its record, or None when the key has none.")
def a_key_has_10_000_steps(backend: Backend, reopened: Backend) -> None:
    """The latest is found and all are listed, however a service divides its listings; pruned, they are gone."""

    def write(number: int) -> None:
        for step in range(number, _MANY, _WRITERS):
            backend.save(KEY, step, str(step).encode())

    in_threads(_WRITERS, write)
    newest_first = list(range(_MANY - 1, -1, -1))
    assert reopened.latest(KEY) == (_MANY - 1, str(_MANY - 1).encode())
    assert reopened.steps(KEY) == newest_first
    assert reopened.load(KEY, 4999) == b"4999"
    assert list(reopened.keys()) == [KEY]
    backend.prune(KEY, range(_MANY - 5))
    assert reopened.steps(KEY) == newest_first[:5]
    assert reopened.latest(KEY) == (_MANY - 1, str(_MANY - 1).encode())


@clause(
    "DS-SIZE-03", "The keys that have records now, of one goal or of all; streamed, each once, in no promised order."
)
def a_store_has_10_000_keys(backend: Backend, reopened: Backend) -> None:
    """Each is listed once, and those of a goal are its own, however a service divides its listings."""
    keys = [
        CheckpointKey(f"goal-{number % _GOALS}", number // _GOALS % 10, f"agent-{number}") for number in range(_MANY)
    ]

    def write(number: int) -> None:
        for key in keys[number::_WRITERS]:
            backend.save(key, 0, str(key).encode())

    in_threads(_WRITERS, write)
    assert sorted(reopened.keys()) == sorted(keys)
    for goal in ("goal-1", "goal-10", "goal-99"):
        assert sorted(reopened.keys(goal)) == sorted(key for key in keys if key.goal_id == goal)
    assert list(reopened.keys("goal")) == []
    assert reopened.latest(keys[4321]) == (0, str(keys[4321]).encode())

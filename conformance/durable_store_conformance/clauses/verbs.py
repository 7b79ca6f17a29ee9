"""The verbs of a backend, one promise of the protocol after the other, in one process."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.backend import Backend, open_backend
from durable_store.key import MAX_EPISODE, MAX_STEP
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import content, in_threads

_ALL_BYTES = bytes(range(256))
_RECORDS = {
    "empty": b"",
    "all bytes": _ALL_BYTES,
    "NUL first and last": b"\0record\0",
    "ends of lines": b"\r\n\n\r\x1a\x04",
    "no UTF-8": b"\xff\xfe\xc3\x28",
    "5 MB": content("5 MB", 5_000_000),
}
_NEIGHBOURS = [
    KEY,
    CheckpointKey("goal", 0, "agent-1"),
    CheckpointKey("goal", 0, "agent-00"),
    CheckpointKey("goal", 1, "agent-0"),
    CheckpointKey("goal", 10, "agent-0"),
    CheckpointKey("goal", MAX_EPISODE, "agent-0"),
    CheckpointKey("goa", 0, "agent-0"),
    CheckpointKey("goal1", 0, "agent-0"),
    CheckpointKey("agent-0", 0, "goal"),
]
_FAMILY = ["a", "ab", "a-b", "a.b", "a/b", "a%2fb", "a/", "a/0", "a/0/c", "A", "b"]
_VERBS: dict[str, Callable[[Backend], object]] = {
    "save": lambda backend: backend.save(KEY, 1, b"record"),
    "latest": lambda backend: backend.latest(KEY),
    "prune": lambda backend: backend.prune(KEY, [0]),
    "load": lambda backend: backend.load(KEY, 0),
    "steps": lambda backend: backend.steps(KEY),
    "keys": lambda backend: list(backend.keys()),
    "keys of a goal": lambda backend: list(backend.keys(KEY.goal_id)),
}

_USED = {"used": True, "never used": False}
_SEVERAL_PAGES = 1050  # keys: services and databases list up to a thousand at once
_PRUNED = 100  # of them, while they are listed: in pages of any size some are still to come


def _fill(backend: Backend, steps: range | list[int], key: CheckpointKey = KEY) -> None:
    for step in steps:
        backend.save(key, step, str(step).encode())


def on_disk(backend: Backend, url: str) -> set[Path]:
    """What there is where the backend, or else its URL, says that it keeps its records; and beside it by its name."""
    said = getattr(backend, "path", None)
    path = Path(said if isinstance(said, str | Path) else unquote(urlsplit(url).path))
    found = {each for each in (path, *path.parents) if each.exists()}
    with suppress(OSError):  # there is no such directory, or it is somebody else's and the path means something else
        found.update(each for each in path.parent.iterdir() if path.name in each.name)
    if isinstance(said, str | Path) and path.is_dir():
        found.update(path.rglob("*"))
    return found


def _rest_or_refusal(listing: Iterator[CheckpointKey]) -> list[CheckpointKey] | None:
    """The rest of what a listing gives; None if it says that it cannot."""
    try:
        return list(listing)
    except StoreUnavailable:
        return None


@clause("DS-SAVE-01", "Creates the record at (key, step) unless one is there, and returns the record that is there.")
def save_creates_the_record_unless_one_is_there(backend: Backend, reopened: Backend) -> None:
    """The first record stays, and whoever comes later is given it."""
    assert backend.save(KEY, 3, b"first") == b"first"
    assert backend.save(KEY, 3, b"second") == b"first"
    assert reopened.save(KEY, 3, b"third") == b"first"
    assert backend.load(KEY, 3) == b"first"
    assert reopened.load(KEY, 3) == b"first"


@clause("DS-SAVE-02", "So `returned == record` means that it is ours.")
def save_of_what_is_there_returns_it(backend: Backend) -> None:
    """`returned == record` means that it is ours: also when it is sent again."""
    assert [backend.save(KEY, 0, b"record") for _ in range(3)] == [b"record"] * 3
    assert backend.steps(KEY) == [0]


@clause("DS-SAVE-03", "Keeps records: bytes that it never looks into, each under a key and a step.")
def an_empty_record_takes_its_step(backend: Backend) -> None:
    """An empty record is a record: there, and not absent."""
    assert backend.save(KEY, 0, b"") == b""
    assert backend.save(KEY, 0, b"late") == b""
    assert backend.load(KEY, 0) == b""
    assert backend.latest(KEY) == (0, b"")
    assert backend.steps(KEY) == [0]
    assert list(backend.keys()) == [KEY]


@clause("DS-SAVE-04", "Keeps records: bytes that it never looks into, each under a key and a step.", record=_RECORDS)
def a_record_is_kept_byte_for_byte(backend: Backend, reopened: Backend, record: bytes) -> None:
    """Whatever its bytes and its size."""
    assert backend.save(KEY, 7, record) == record
    for reader in (backend, reopened):
        assert reader.load(KEY, 7) == record
        assert reader.latest(KEY) == (7, record)
        assert reader.save(KEY, 7, b"other") == record


@clause("DS-SAVE-05", "each under a key and a step")
def the_same_step_of_another_key_is_another_record(backend: Backend, reopened: Backend) -> None:
    """Goal, episode and checkpoint id each keep records apart."""
    for key in _NEIGHBOURS:
        assert backend.save(key, 5, str(key).encode()) == str(key).encode()
    for key in _NEIGHBOURS:
        assert reopened.load(key, 5) == str(key).encode()
        assert reopened.latest(key) == (5, str(key).encode())
        assert reopened.steps(key) == [5]
    assert sorted(reopened.keys()) == sorted(_NEIGHBOURS)


@clause("DS-LATEST-01", "The highest step and its record, or None when the key has none.")
def latest_is_none_when_the_key_has_no_record(backend: Backend) -> None:
    """Also when other keys, other episodes of the goal above all, have some."""
    assert backend.latest(KEY) is None
    for key in _NEIGHBOURS[1:]:
        backend.save(key, 0, b"another's")
    assert backend.latest(KEY) is None


@clause(
    "DS-LATEST-02",
    "Never decided by time stamps, nor by the order of a listing that the service does not promise.",
    order=itertools.permutations([9, 10, 100]),
)
def latest_is_the_highest_step_in_any_order_of_saving(
    backend: Backend, reopened: Backend, order: tuple[int, ...]
) -> None:
    """By number: not the last one saved, not the last one in the order of text."""
    for count, step in enumerate(order, start=1):
        backend.save(KEY, step, str(step).encode())
        highest = max(order[:count])
        assert backend.latest(KEY) == (highest, str(highest).encode())
        assert reopened.latest(KEY) == (highest, str(highest).encode())


@clause("DS-STEPS-02", "steps are write-once, in any order and with gaps")
def steps_may_have_gaps_and_reach_from_0_to_the_highest(backend: Backend, reopened: Backend) -> None:
    """0 and 2**53 - 1 are steps like any other, and nothing between them is rounded."""
    steps = [0, MAX_STEP, 1, MAX_STEP - 1, 2**32, 2**31, 2**32 - 1, 10**15]
    _fill(backend, steps)
    assert reopened.steps(KEY) == sorted(steps, reverse=True)
    assert reopened.latest(KEY) == (MAX_STEP, str(MAX_STEP).encode())
    assert {step: reopened.load(KEY, step) for step in steps} == {step: str(step).encode() for step in steps}


@clause("DS-STEPS-01", "The steps that are there now, newest first.")
def steps_are_newest_first(backend: Backend) -> None:
    """By number, whatever the order of saving; of a key that has none, an empty list."""
    assert backend.steps(KEY) == []
    _fill(backend, [11, 2, 100, 0, 9, 10])
    assert backend.steps(KEY) == [100, 11, 10, 9, 2, 0]


@clause("DS-PRUNE-01", "Removes these steps, in the order given; those that are not there are no error.")
def prune_removes_just_these_steps(backend: Backend, reopened: Backend) -> None:
    """Of this key: the same steps of others stay."""
    for key in _NEIGHBOURS:
        _fill(backend, range(6), key)
    backend.prune(KEY, [1, 4, 2])
    assert reopened.steps(KEY) == [5, 3, 0]
    assert reopened.load(KEY, 4) is None
    assert reopened.load(KEY, 3) == b"3"
    assert [reopened.steps(key) for key in _NEIGHBOURS[1:]] == [[5, 4, 3, 2, 1, 0]] * (len(_NEIGHBOURS) - 1)


@clause(
    "DS-PRUNE-02",
    "those that are not there are no error",
    collection={made.__name__: made for made in (list, tuple, set, frozenset)},
)
def prune_of_what_is_not_there_is_no_error(backend: Backend, collection: Callable[[list[int]], "list[int]"]) -> None:
    """A missing step, a key without records, no step at all, a step twice over; in any collection."""
    backend.prune(KEY, collection([0, 1]))
    _fill(backend, range(3))
    backend.prune(KEY, collection([]))
    backend.prune(KEY, collection([7, 1, 2**40]))
    assert backend.steps(KEY) == [2, 0]
    backend.prune(KEY, collection([1]))
    assert backend.steps(KEY) == [2, 0]


@clause("DS-PRUNE-03", "Removes these steps, in the order given; those that are not there are no error.")
def prune_of_the_newest_lets_latest_fall_back(backend: Backend, reopened: Backend) -> None:
    """A backend removes what it is told, the newest too; when nothing is left, latest is None."""
    _fill(backend, [0, 5, 7])
    backend.prune(KEY, [7])
    assert backend.latest(KEY) == (5, b"5")
    assert reopened.latest(KEY) == (5, b"5")
    backend.prune(KEY, [0, 5])
    assert backend.latest(KEY) is None
    assert reopened.latest(KEY) is None
    assert reopened.steps(KEY) == []


@clause("DS-PRUNE-04", "Creates the record at (key, step) unless one is there, and returns the record that is there.")
def a_pruned_step_is_free_again(backend: Backend, reopened: Backend) -> None:
    """Write-once holds for records that are there; nothing of the old one shines through."""
    backend.save(KEY, 0, b"a longer one, the first")
    backend.prune(KEY, [0])
    assert backend.save(KEY, 0, b"second") == b"second"
    assert reopened.load(KEY, 0) == b"second"
    assert reopened.latest(KEY) == (0, b"second")


@clause("DS-PRUNE-05", "Removes these steps, in the order given; those that are not there are no error.")
def prune_of_many_steps_removes_them_all(backend: Backend) -> None:
    """More than one batch of any service's."""
    _fill(backend, range(60))
    backend.prune(KEY, [*range(1000, 3500), *range(59)])
    assert backend.steps(KEY) == [59]


@clause("DS-LOAD-01", "One record, or None.")
def load_gives_one_record_or_none(backend: Backend) -> None:
    """None for what is not there: next to one that is, or under a key without records."""
    assert backend.load(KEY, 0) is None
    _fill(backend, [1, 10, 25])
    assert backend.load(KEY, 1) == b"1"
    assert [backend.load(KEY, step) for step in (0, 2, 5, 9, 11, 100)] == [None] * 6


@clause("DS-LOAD-02", "One record, or None.")
def load_never_gives_another_keys_record(backend: Backend) -> None:
    """Where a key has no record at a step, its neighbours' records at that step are none of its own."""
    for step, key in enumerate(_NEIGHBOURS):
        backend.save(key, step, str(key).encode())
    for own, key in enumerate(_NEIGHBOURS):
        found = {step: backend.load(key, step) for step in range(len(_NEIGHBOURS))}
        assert found == {step: str(key).encode() if step == own else None for step in found}
        assert backend.steps(key) == [own]


@clause(
    "DS-LOAD-03",
    "With `first`, at least that many of its leading bytes; returning all is allowed.",
    first=[0, 1, 64, 255, 256, 257, 10**9],
)
def load_with_first_gives_at_least_that_many_leading_bytes(backend: Backend, first: int) -> None:
    """Or all of a record that is shorter, and None when there is none."""
    backend.save(KEY, 0, _ALL_BYTES)
    backend.save(KEY, 1, b"")
    leading = backend.load(KEY, 0, first=first)
    assert leading is not None
    assert _ALL_BYTES.startswith(leading)
    assert len(leading) >= min(first, len(_ALL_BYTES))
    assert backend.load(KEY, 1, first=first) == b""
    assert backend.load(KEY, 2, first=first) is None


@clause(
    "DS-KEYS-01", "The keys that have records now, of one goal or of all; streamed, each once, in no promised order."
)
def keys_are_those_that_have_records_now(backend: Backend, reopened: Backend) -> None:
    """Each once, however many steps it has; no more when its last record is pruned; the store's own too."""
    assert list(backend.keys()) == []
    own = CheckpointKey("goal", 0, "@episode")
    for key in (KEY, own, _NEIGHBOURS[3]):
        _fill(backend, range(3), key)
    assert sorted(reopened.keys()) == sorted([KEY, own, _NEIGHBOURS[3]])
    backend.prune(KEY, range(3))
    backend.prune(own, [1])
    assert sorted(reopened.keys()) == sorted([own, _NEIGHBOURS[3]])


@clause(
    "DS-KEYS-02", "The keys that have records now, of one goal or of all; streamed, each once, in no promised order."
)
def keys_of_a_goal_are_its_own(backend: Backend) -> None:
    """A goal whose name begins with another's, in whatever spelling, is another goal."""
    keys = [CheckpointKey(goal, episode, name) for goal in _FAMILY for episode in (0, 12) for name in ("c", "a")]
    for key in keys:
        backend.save(key, 0, str(key).encode())
    assert sorted(backend.keys()) == sorted(keys)
    for goal in _FAMILY:
        assert sorted(backend.keys(goal)) == sorted(key for key in keys if key.goal_id == goal)
    assert list(backend.keys("never")) == []


@clause("DS-KEYS-03", "streamed, each once, in no promised order")
def keys_stream(backend: Backend) -> None:
    """An iterator, not a list; other verbs go on while it is held, and it may be left in the middle."""
    keys = [CheckpointKey(f"goal-{n}", n, "agent-0") for n in range(30)]
    for key in keys:
        backend.save(key, 0, b"record")
    found = backend.keys()
    assert iter(found) is found, "keys() gives a collection where the protocol has an iterator"
    seen = [next(found)]
    assert backend.save(KEY, 0, b"meanwhile") == b"meanwhile"
    assert backend.latest(keys[0]) == (0, b"record")
    seen += found
    assert len(seen) == len(set(seen))
    assert set(keys) <= set(seen) <= {*keys, KEY}
    left = backend.keys()
    next(left)


@clause(
    "DS-KEYS-04", "The keys that have records now, of one goal or of all; streamed, each once, in no promised order."
)
def a_listing_misses_none_while_keys_that_it_has_given_are_pruned(backend: Backend, reopened: Backend) -> None:
    """Nor a part of them when its store is closed meanwhile: then it gives the rest, or says that it cannot."""
    keys = [CheckpointKey(f"goal-{n % 7}", n // 7, "agent-0") for n in range(_SEVERAL_PAGES)]

    def write(number: int) -> None:
        for key in keys[number::8]:
            backend.save(key, 0, b"record")

    in_threads(8, write)
    listing = reopened.keys()
    given = list(itertools.islice(listing, _PRUNED))
    for key in given:
        backend.prune(key, [0])
    assert sorted([*given, *listing]) == sorted(keys)
    listing = reopened.keys()
    one = list(itertools.islice(listing, 1))
    reopened.close()
    rest = _rest_or_refusal(listing)
    assert rest is None or sorted([*given, *one, *rest]) == sorted(keys), "a listing ended before its end"


@clause("DS-READ-01", "Reads create nothing: no file, table, bucket or directory.")
def reads_create_nothing(backend: Backend, reopened: Backend, url: str) -> None:
    """All that one asks about a store nobody has written to is nothing, now and afterwards."""
    before = on_disk(backend, url)
    for _ in range(2):
        assert backend.latest(KEY) is None
        assert backend.load(KEY, 0) is None
        assert backend.load(KEY, 0, first=100) is None
        assert backend.steps(KEY) == []
        assert list(backend.keys()) == []
        assert list(backend.keys(KEY.goal_id)) == []
        backend.prune(KEY, [0])
    assert list(reopened.keys()) == []
    assert on_disk(backend, url) - before == set()


@clause("DS-CLOSE-01", "Closing twice is fine.", used=_USED)
def closing_twice_is_fine(url: str, used: bool) -> None:
    """Closing lets go of connections and handles, and of none twice; what was saved stays."""
    backend = open_backend(url)
    if used:
        backend.save(KEY, 0, b"record")
    backend.close()
    backend.close()


@clause(
    "DS-CLOSE-02",
    "Lets go of connections and handles; after it every verb is StoreUnavailable.",
    verb=_VERBS,
    used=_USED,
)
def after_close_every_verb_is_store_unavailable(
    url: str,
    reopened: Backend,
    verb: Callable[[Backend], object],
    used: bool,
) -> None:
    """Closed storage is never read as nothing there; others that have it open are not concerned."""
    backend = open_backend(url)
    if used:
        backend.save(KEY, 0, b"record")
    backend.close()
    with pytest.raises(StoreUnavailable) as refused:
        verb(backend)
    assert not refused.value.maybe_saved
    assert reopened.load(KEY, 0) == (b"record" if used else None)
    assert reopened.load(KEY, 1) is None


@clause("DS-CLOSE-04", "Lets go of connections and handles; after it every verb is StoreUnavailable.")
def a_listing_under_way_does_not_end_as_if_it_were_complete(url: str, reopened: Backend) -> None:
    """When its store is closed it gives the rest of the keys, which it has read, or says that it cannot."""
    keys = [CheckpointKey(f"goal-{n}", n, "agent-0") for n in range(30)]
    for key in keys:
        reopened.save(key, 0, b"record")
    backend = open_backend(url)
    listing = backend.keys()
    given = list(itertools.islice(listing, 10))
    backend.close()
    rest = _rest_or_refusal(listing)
    assert rest is None or sorted(given + rest) == sorted(keys), "the listing ended before its end"

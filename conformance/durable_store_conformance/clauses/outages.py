"""Storage that cannot be reached or written: StoreUnavailable, and never an answer that says that nothing is there.

A URL does not say how to take its storage away. What can be taken from any process is its means: files and connections
that it may open, and bytes that it may write to a file.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from durable_store import StoreUnavailable
from durable_store.backend import Backend, open_backend
from durable_store_conformance.process import AnotherProcess, OtherProcesses
from durable_store_conformance.registry import KEY, clause
from durable_store_conformance.work import content, starved

_THERE = content("there", 1000)
_NEW = content("new", 100_000)

UNREACHABLE = (
    "Storage that is unreachable, refused, full or closed is `StoreUnavailable` with the cause chained; nothing else"
    " leaks out."
)


def _as_it_is(answers: dict[str, dict[str, Any]], verb: str, expected: object) -> None:
    """The verb gave the right answer, from a connection that was open, or it said that there was none to be had."""
    answer = answers[verb]
    if answer.get("error") != "StoreUnavailable":
        assert answer == {"gave": expected}, f"{verb} without its storage: {answer.get('error', answer)}"


def _reads_are_as_they_are(answers: dict[str, dict[str, Any]]) -> None:
    _as_it_is(answers, "latest", [0, _THERE])
    _as_it_is(answers, "load", _THERE)
    _as_it_is(answers, "steps", [0])
    _as_it_is(answers, "keys", [KEY])


_READS: dict[str, list[object]] = {"latest": [KEY], "load": [KEY, 0], "steps": [KEY], "keys": []}
_VERBS: dict[str, Callable[[Backend], object]] = {
    "save": lambda backend: backend.save(KEY, 1, _NEW),
    "latest": lambda backend: backend.latest(KEY),
    "prune": lambda backend: backend.prune(KEY, [0]),
    "load": lambda backend: backend.load(KEY, 0),
    "steps": lambda backend: backend.steps(KEY),
    "keys": lambda backend: list(backend.keys()),
}


def _ready(process: AnotherProcess) -> None:
    """It has called each verb once, by a backend of its own: what a verb imports is no storage, and is there now."""
    process.backend("save", KEY, 1, _THERE)
    for verb, args in _READS.items():
        process.backend(verb, *args)
    process.backend("prune", KEY, [1])


@clause("DS-OUT-01", UNREACHABLE)
def without_a_file_or_connection_no_read_says_that_nothing_is_there(
    backend: Backend, another_process: OtherProcesses
) -> None:
    """In a process that can open none. When it can again, it finds everything."""
    backend.save(KEY, 0, _THERE)
    process = another_process()
    _ready(process)
    _reads_are_as_they_are(process.ask("starve", "NOFILE", _READS))
    assert process.backend("latest", KEY) == [0, _THERE]
    assert process.ask("starve", None, _READS) == {
        "latest": {"gave": [0, _THERE]},
        "load": {"gave": _THERE},
        "steps": {"gave": [0]},
        "keys": {"gave": [KEY]},
    }


@clause("DS-OUT-02", UNREACHABLE, limit=["NOFILE", "FSIZE"])
def a_save_or_prune_that_could_not_be_done_says_so(
    backend: Backend, another_process: OtherProcesses, limit: str
) -> None:
    """Without a file or connection to be had, and on a full disk: what is acknowledged is so, and no record is half."""
    backend.save(KEY, 0, _THERE)
    process = another_process()
    _ready(process)
    process.backend("save", KEY, 1, _THERE)
    answers = process.ask("starve", limit, {"save": [KEY, 2, _NEW]})
    there = backend.load(KEY, 2)
    if answers["save"].get("error") != "StoreUnavailable":
        assert answers["save"] == {"gave": _NEW}
        assert there == _NEW
    else:
        assert there is None or (there == _NEW and answers["save"]["maybe_saved"])
    answers = process.ask("starve", limit, {"prune": [KEY, [0]]})
    left = backend.load(KEY, 0)
    if answers["prune"].get("error") != "StoreUnavailable":
        assert answers["prune"] == {"gave": None}
        assert left is None
    assert left in (None, _THERE)
    assert process.backend("save", KEY, 2, _NEW) == _NEW
    assert process.backend("prune", KEY, [0]) is None
    assert backend.steps(KEY) == [2, 1]
    assert backend.latest(KEY) == (2, _NEW)


@clause("DS-OUT-03", UNREACHABLE)
def on_a_full_disk_what_is_there_can_be_read_or_is_unavailable(
    backend: Backend, another_process: OtherProcesses
) -> None:
    """A read that must write something, a lock or an index, may fail; it never says that nothing is there."""
    backend.save(KEY, 0, _THERE)
    process = another_process()
    _ready(process)
    _reads_are_as_they_are(process.ask("starve", "FSIZE", _READS))


@clause("DS-OUT-04", UNREACHABLE, verb=_VERBS)
def what_is_unavailable_names_its_cause(url: str, verb: Callable[[Backend], object]) -> None:
    """The error of the system or of the client is chained: without it nobody can tell what to mend."""
    with closing(open_backend(url)) as first:  # imports what there is to import
        first.save(KEY, 0, _THERE)
        verb(first)
    refused: StoreUnavailable | None = None
    with closing(open_backend(url)) as backend, starved("NOFILE"):
        try:
            verb(backend)
        except StoreUnavailable as err:
            refused = err
    assert refused is None or refused.__cause__ is not None, f"without a cause: {refused}"

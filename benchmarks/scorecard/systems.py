"""What each system promises, in its own words, and what follows for the clauses.

A clause is asked if the system's documentation promises what it asks, or if its users plainly rely on it: that a killed
process's successor finds the last state, that two threads do not mix, that an answer which says «nothing there» is
true. All else is *not offered*, with the reason, whatever would happen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from durable_store_conformance.exam import CLAUSES

OWN_LAYERS = ("STORE", "EPISODE", "RUN", "KEEP", "FENCE", "COST")
"""Groups about what durable-store puts on top of a backend: no question to a checkpoint store of another kind."""

ON_OWN_LAYERS = (
    *(f"DS-FRESH-0{n}" for n in (2, 5, 6)),
    *(f"DS-KILL-0{n}" for n in (1, 5, 6)),
    *(f"DS-DAMAGE-0{n}" for n in range(2, 8)),
    "DS-CLOSE-03",
    "DS-FORK-03",
    "DS-THREAD-03",
)
"""Single clauses about them."""


class Quote(NamedTuple):
    """What a system says of itself, and where."""

    text: str
    source: str


class Failure(NamedTuple):
    """What a failure means, and what is in the error that it is known by. Any other error has not been looked at."""

    known_by: str
    words: str


@dataclass(frozen=True)
class System:
    """A system as its documentation shows it.

    Attributes:
        name: of the command line; the scheme of its URLs.
        adapter: the class in `adapters.py`.
        title: what it is.
        package: the distribution that is pinned.
        promises: what the verdicts rest on.
        mapped: how the clauses' questions become calls.
        not_offered: reasons, by clause.
        not_evaluable: reasons, by clause.
        remarks: what else is to be known where it held, by clause.
        failures: where it failed, by clause: checked without the adapter too.
    """

    name: str
    adapter: str
    title: str
    package: str
    promises: tuple[Quote, ...]
    mapped: str
    not_offered: Mapping[str, str] = field(default_factory=dict[str, str])
    not_evaluable: Mapping[str, str] = field(default_factory=dict[str, str])
    remarks: Mapping[str, str] = field(default_factory=dict[str, str])
    failures: Mapping[str, Failure] = field(default_factory=dict[str, Failure])

    @property
    def asked(self) -> list[str]:
        """The clauses that are asked, in the order of the report."""
        return [clause for clause in ORDER if clause not in self.not_offered and clause not in self.not_evaluable]


def _of(reason: str, *clauses: str) -> dict[str, str]:
    return {f"DS-{clause}": reason for clause in clauses}


_NO_PRUNE = ("PRUNE-01", "PRUNE-02", "PRUNE-03", "PRUNE-04", "PRUNE-05", "PRUNE-06", "KEYS-01", "READ-01", "FRESH-04")
_NO_PRUNE_EITHER = ("KILL-04", "READER-04", "READER-05", "THREAD-01", "THREAD-02")
_ACROSS_PROCESSES = (
    *("ID-03", "FRESH-01", "FRESH-03", "KILL-02", "KILL-02a", "OUT-01", "OUT-02a", "OUT-03"),
    *("RACE-02a", "RACE-03", "READER-02", "READER-03", "FORK-01", "FORK-02"),
)
_WRITE_ONCE = ("SAVE-01", "SAVE-02", "RACE-01", "RACE-02", "RACE-04")

_FORK = "Nothing is said about objects that a forked child inherits."
_READS = "Nothing is said about what a read may create."
_KILLED_FORKS: Mapping[str, str] = _of(
    "What it kills are forked children that use what they inherit, of which nothing is said. DS-KILL-02a kills fresh"
    " processes.",
    "KILL-03",
)

_LANGGRAPH_LACKS: Mapping[str, str] = {
    **_of("No call removes single checkpoints; `delete_thread` removes a whole thread.", *_NO_PRUNE, *_NO_PRUNE_EITHER),
    **_of("A checkpoint is read whole.", "LOAD-03"),
    **_of("`put` replaces what has the same id; it is not a way to settle who comes first.", *_WRITE_ONCE),
    **_of(_READS, "READ-02"),
    **_of("LangGraph's threads have no goal that they could be listed by.", "KEYS-02"),
}
_ONE_STRING: Mapping[str, str] = _of(
    "A thread id is one string: how three parts become one is the caller's doing, here the adapter's.", "ID-02"
)
_LANGGRAPH_SAYS = (
    Quote(
        "Checkpointers provide a persistence layer for LangGraph: they save graph state at every superstep, enabling"
        " human-in-the-loop, memory between interactions, durable execution, and more.",
        "README of langgraph-checkpoint 4.3.2",
    ),
    Quote(
        "A thread is a unique ID assigned to a series of checkpoints saved by a checkpointer.",
        "README of langgraph-checkpoint 4.3.2",
    ),
    Quote(
        "The requested checkpoint tuple, or `None` if not found.",
        "docstring of `BaseCheckpointSaver.get_tuple`, langgraph-checkpoint 4.3.2",
    ),
    Quote(
        "This is both unique and monotonically increasing, so can be used for sorting checkpoints from first to last.",
        "docstring of `Checkpoint.id`, langgraph-checkpoint 4.3.2",
    ),
)
_SAYS_IT_RESUMES = Quote(
    "[…] if a workflow is interrupted -- whether by a system failure or for human-in-the-loop interactions -- it can be"
    " resumed from its last recorded state.",
    "<https://docs.langchain.com/oss/python/langgraph/durable-execution>, no version named",
)
_LANGGRAPH_MAPPED = (
    "A key is a `thread_id`; a step is a checkpoint id in the form of LangGraph's own (UUID version 6, the step in"
    " place of the time); a record is the bytes in one channel. The calls are `put`, `get_tuple` with and without a"
    " `checkpoint_id`, and `list`."
)

_CUT = "unexpected end of file"
_IN_PLACE = (
    "Files are written in place: a kill during a write leaves a part of the newest one, and `get_tuple` then raises"
    " until somebody removes that file."
)

SYSTEMS = (
    System(
        name="langgraph-sqlite",
        adapter="LangGraphSqlite",
        title="LangGraph's SqliteSaver",
        package="langgraph-checkpoint-sqlite",
        promises=(
            *_LANGGRAPH_SAYS,
            _SAYS_IT_RESUMES,
            Quote(
                "This class is meant for lightweight, synchronous use cases (demos and small projects) and does not"
                " scale to multiple threads.",
                "docstring of `SqliteSaver`, langgraph-checkpoint-sqlite 3.1.2",
            ),
            Quote(
                "check_same_thread=False is OK as the implementation uses a lock to ensure thread safety.",
                "docstring of `SqliteSaver`, langgraph-checkpoint-sqlite 3.1.2",
            ),
        ),
        mapped=_LANGGRAPH_MAPPED,
        not_offered={
            **_LANGGRAPH_LACKS,
            **_of(
                "`list` is an iterator that holds the saver's lock until it is exhausted, so that any other call in its"
                " loop waits for ever. Nothing promises otherwise; <https://github.com/langchain-ai/langgraph/issues/8558>"
                " is about the same in the asynchronous saver.",
                "KEYS-03",
            ),
            **_of("It has no close: the connection is the caller's.", "CLOSE-01"),
            **_of(_FORK, "FORK-01", "FORK-02"),
            **_of("No digest is promised.", "DAMAGE-01a"),
        },
        not_evaluable={**_ONE_STRING, **_KILLED_FORKS},
        remarks={"DS-CLOSE-02a": "The connection is the caller's; the saver passes on what `sqlite3` says of it."},
    ),
    System(
        name="langgraph-memory",
        adapter="LangGraphMemory",
        title="LangGraph's InMemorySaver",
        package="langgraph-checkpoint",
        promises=(
            *_LANGGRAPH_SAYS,
            Quote(
                "Only use `InMemorySaver` for debugging or testing purposes.",
                "docstring of `InMemorySaver`, langgraph-checkpoint 4.3.2",
            ),
        ),
        mapped=_LANGGRAPH_MAPPED,
        not_offered={
            **_LANGGRAPH_LACKS,
            **_of(
                "It lives in the memory of one process, says so by its name, and is for debugging and testing.",
                *_ACROSS_PROCESSES,
            ),
            **_of("`list` iterates over the dict that `put` adds a thread to; nothing promises otherwise.", "KEYS-03"),
            **_of("There is nothing to close.", "CLOSE-01", "CLOSE-02a"),
        },
        not_evaluable={**_ONE_STRING, **_KILLED_FORKS, **_of("There is no file to change a byte of.", "DAMAGE-01a")},
    ),
    System(
        name="langgraph-objectstorage",
        adapter="LangGraphObjectStorage",
        title="ObjectStorageSaver, of a third party, for LangGraph, on a local directory",
        package="langgraph-checkpoint-objectstorage",
        promises=(
            *_LANGGRAPH_SAYS,
            Quote(
                "Checkpoints persisted under the thread survive process restarts. Inspect or resume from the same"
                " thread_id at any later point",
                "README of langgraph-checkpoint-objectstorage 0.1.15",
            ),
            Quote(
                "The matching `CheckpointTuple`, or `None` if no checkpoint exists for that thread/namespace/id",
                "docstring of `ObjectStorageSaver.get_tuple`, 0.1.15",
            ),
            Quote(
                "Local filesystem: handy for development, or single-node deployments",
                "README of langgraph-checkpoint-objectstorage 0.1.15",
            ),
            Quote(
                "Two writers on the *same* `thread_id` writing concurrently can race […] Concurrent writers on"
                " different threads never race.",
                "README of langgraph-checkpoint-objectstorage 0.1.15, known limitations",
            ),
        ),
        mapped=_LANGGRAPH_MAPPED
        + " Threads are listed as the README's layout shows them, a directory each, since `list` wants a thread.",
        not_offered={
            **_LANGGRAPH_LACKS,
            **_of(
                "Documented: ids are letters, digits and `. : - _`; the README says that all others raise ValueError,"
                " and those that the clause came to did.",
                "ID-01",
                "ID-03",
            ),
            **_of("No call lists threads; the README says that `list()` collects before it yields.", "KEYS-03"),
            **_of("It has no close.", "CLOSE-01", "CLOSE-02a"),
            **_of(
                "Documented: two writers on the same thread can race, and the clause has four. Now and then the"
                " adapter's look before a save meets a file that another one is writing.",
                "RACE-03",
            ),
            **_of(_FORK, "FORK-01", "FORK-02"),
            **_of(
                "No digest is promised. With its option `encryption`, AES-256-GCM authenticates what is read (not"
                " examined here).",
                "DAMAGE-01a",
            ),
        },
        not_evaluable={**_ONE_STRING, **_KILLED_FORKS},
        failures={
            "DS-OUT-01": Failure(
                "{'gave': None}",
                "In a process that has used up its file descriptors `get_tuple` without an id says None, and `list`"
                " says that there are no checkpoints; with an id it raises. The file system library leaves out what it"
                ' cannot list (fsspec\'s `walk`, `on_error="omit"`). A root that its user may not read gives None too.',
            ),
            "DS-OUT-02a": Failure(
                _CUT,
                "A save that cannot write raises, and leaves an empty file under the newest id; `get_tuple` then raises"
                " until somebody removes that file.",
            ),
            "DS-KILL-02": Failure(_CUT, _IN_PLACE),
            "DS-KILL-02a": Failure(_CUT, _IN_PLACE),
            "DS-READER-01": Failure(_CUT, "A reader beside the writer meets files that are half written: it raises."),
            "DS-READER-02": Failure("problems", "As DS-READER-01."),
            "DS-READER-03": Failure("problems", "As DS-READER-01."),
        },
        remarks={
            "DS-KILL-02": "Its 8 kills were lucky: DS-KILL-02a makes 40.",
            **_of(
                "This run was lucky: files are written in place, and other runs met a part of one.",
                *("KILL-02a", "READER-01", "READER-02", "READER-03"),
            ),
        },
    ),
    System(
        name="burr-sqlite",
        adapter="BurrSqlite",
        title="Burr's SQLitePersister",
        package="apache-burr",
        promises=(
            Quote(
                "Burr provides an API to save and load state from a database. This enables you to pause and restart"
                " applications where you left off.",
                "<https://burr.dagworks.io/concepts/state-persistence>, no version named",
            ),
            Quote(
                "(PK, App_id, sequence_id, position) are a unique identifier for the state.",
                "docstring of `BaseStateSaver.save`, apache-burr 0.43.0",
            ),
            Quote(
                "this will return the last thing written, the last thing written for a given app_id, or a specific"
                " sequence_id for a given app_id.",
                "docstring of `SQLitePersister.load`, apache-burr 0.43.0",
            ),
            Quote(
                "Use check_same_thread=False to enable use ina multithreaded context",
                "docstring of `SQLitePersister.__init__`, apache-burr 0.43.0",
            ),
        ),
        mapped=(
            "A goal is a `partition_key`, episode and checkpoint id are an `app_id`, a step is a `sequence_id`, the"
            " `position` is always the same action; a record is text in the state, which must be JSON. The calls are"
            " `save`, `load` with and without a `sequence_id`, and `list_app_ids`. Each thread has a copy of the"
            " persister, as Burr's own parallel actions make them. No call lists sequence ids: the adapter tries them"
            " one by one."
        ),
        not_offered={
            **_of("No call removes a state.", *_NO_PRUNE, *_NO_PRUNE_EITHER),
            **_of("A state is read whole.", "LOAD-03"),
            **_of(
                "No call lists the sequence ids of an app; they can be tried, where they have no such gaps.", "STEPS-02"
            ),
            **_of("`list_app_ids` gives a list, of one partition.", "KEYS-03"),
            **_of(_READS, "READ-02"),
            **_of(_FORK, "FORK-01", "FORK-02"),
            **_of("No digest is promised.", "DAMAGE-01a"),
        },
        not_evaluable=_KILLED_FORKS,
        failures={
            "DS-THREAD-04a": Failure(
                "saves",
                "Some saves raise, and now and then one that returned is not there afterwards. With a copy for each"
                " thread, which is how Burr's parallel actions do it, it holds: DS-THREAD-04.",
            ),
        },
        remarks={
            "DS-SAVE-01": "The second save raises IntegrityError, and the first one stays.",
            "DS-RACE-02": "The table's primary key decides. The adapter rolls back after a refusal; otherwise the"
            " refused connection keeps its transaction open, and every other one is told `database is locked` until it"
            " saves again or ends.",
            "DS-SAVE-04": "As text: a state is JSON.",
            "DS-KEYS-02": "Of one partition: `list_app_ids`. All keys are read from the table.",
        },
    ),
)
"""In the order of the document."""

REPLACED = {"DS-CLOSE-02": "a", "DS-OUT-02": "a", "DS-DAMAGE-01": "a", "DS-SIZE-02": "a"}
"""Clauses that are asked in other words only, since their own go through a verb that none of the systems has."""

ADDED = {"DS-KILL-02": ["DS-KILL-02a"], "DS-RACE-02": ["DS-RACE-02a"], "DS-THREAD-04": ["DS-THREAD-04a"]}
"""Clauses that are asked in other words too."""


def _order() -> list[str]:
    order: list[str] = []
    for clause in CLAUSES:
        if clause.group.name in OWN_LAYERS or clause.id in ON_OWN_LAYERS:
            continue
        order += [clause.id + REPLACED.get(clause.id, ""), *ADDED.get(clause.id, [])]
    return order


ORDER = _order()
"""All clauses that concern others, in the order of the report."""

LEFT_OUT = [clause for clause in CLAUSES if clause.group.name in OWN_LAYERS or clause.id in ON_OWN_LAYERS]
"""Those that do not."""

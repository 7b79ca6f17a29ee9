"""Clauses in the words of these systems: where the suite's own go through a verb that none of them has.

Each asks what its namesake asks and leaves out the rest; `asked` says what it does ask.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from durable_store import CheckpointKey, StoreUnavailable
from durable_store.backend import open_backend
from durable_store_conformance.process import OtherProcesses
from durable_store_conformance.registry import KEY
from durable_store_conformance.work import content, digest, in_threads, racing_record, record_of

RACERS = 4
EACH = range(40)
MANY = 10_000
KILLS = 40
SAVE_TAKES = 0.008
"""Seconds, with some to spare, that a save of 1 MB takes these systems on a machine with other work to do."""


@dataclass(frozen=True)
class Scenario:
    """A clause in other words.

    Attributes:
        asked: what it asks, in place of what the clause does.
        cases: by name, what it is called with beside the URL of a fresh store.
    """

    asked: str
    examine: Callable[..., str | None]
    cases: tuple[str, ...] = ("",)


def _flipped_byte(url: str, _: str) -> str:
    """What is seen, in words: nobody promised anything."""
    backend = open_backend(url)
    record = content("flipped", 1000)
    backend.save(KEY, 0, content("older", 1000))
    backend.save(KEY, 1, record)
    backend.close()
    flipped = 0
    place = Path(url.partition("://")[2])
    for file in [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]:
        stored = file.read_bytes()
        at = stored.find(record[:60])
        if at >= 0:
            file.write_bytes(stored[: at + 30] + bytes([stored[at + 30] ^ 1]) + stored[at + 31 :])
            flipped += 1
    assert flipped == 1, f"the state was found in {flipped} files"
    found = open_backend(url).latest(KEY)
    if found is None:
        return "A byte of the newest state was changed in its file: nothing is there, it says."
    step, there = found
    if step == 1 and there != record:
        return "A byte of the newest state was changed in its file: the changed state came back, and no error."
    return f"A byte of the newest state was changed in its file: step {step} came back."


def _save_without_means(url: str, limit: str) -> None:
    """As DS-OUT-02, without its prune."""
    there, new = content("there", 1000), content("new", 100_000)
    backend = open_backend(url)
    backend.save(KEY, 0, there)
    processes = OtherProcesses(url)
    try:
        process = processes()
        process.backend("save", KEY, 1, there)
        answer = process.ask("starve", limit, {"save": [KEY, 2, new]})["save"]
        if "gave" in answer:
            assert backend.load(KEY, 2) == new, "acknowledged, and it is not there"
        else:
            assert answer["error"] == "StoreUnavailable", answer["error"]
            try:
                found = backend.latest(KEY)
            except Exception as err:
                raise AssertionError(f"the save failed, and then latest: {type(err).__name__}: {err}") from err
            assert found in ((1, there), (2, new)), "the save failed, and latest is neither the old nor the new state"
        assert process.backend("save", KEY, 2, new) == new
        assert backend.latest(KEY) == (2, new)
    finally:
        processes.end()
        backend.close()


def _ten_thousand_steps(url: str, _: str) -> None:
    """As DS-SIZE-02, written by one thread, without its prune."""
    backend = open_backend(url)
    for step in range(MANY):
        backend.save(KEY, step, str(step).encode())
    backend.close()
    reopened = open_backend(url)
    assert reopened.latest(KEY) == (MANY - 1, str(MANY - 1).encode())
    assert reopened.steps(KEY) == list(range(MANY - 1, -1, -1))
    assert reopened.load(KEY, 4999) == b"4999"


def _processes_with_threads_of_their_own(url: str, _: str) -> None:
    """As DS-RACE-02, and nobody wants another's step: all that is asked is that nobody is refused or loses one."""
    keys = [CheckpointKey("goal", number, "agent-0") for number in range(RACERS)]
    processes = OtherProcesses(url)
    try:
        racers = processes.start(RACERS)
        for key, racer in zip(keys, racers, strict=True):
            racer.tell("child", "race", key, str(key), list(EACH))
        for key, racer in zip(keys, racers, strict=True):
            assert racer.answer() == [[step, True, digest(racing_record(str(key), step))] for step in EACH]
    finally:
        processes.end()
    backend = open_backend(url)
    for key in keys:
        assert backend.latest(key) == (EACH[-1], racing_record(str(key), EACH[-1]))
        assert backend.steps(key) == list(reversed(EACH))
    backend.close()


def _killed_during_a_save(url: str, _: str) -> None:
    """As DS-KILL-02, with the kills spread over the time that a save of 1 MB takes."""
    for kill in range(KILLS):
        key = CheckpointKey("goal", kill, "agent-0")
        processes = OtherProcesses(url)
        try:
            process = processes()
            process.tell("child", "save_on", key)
            assert [process.answer() for _ in range(4)] == [0, 1, 2, 3]
            time.sleep(SAVE_TAKES * kill / KILLS)
            acknowledged = [3, *process.kill()]
        finally:
            processes.end()
        last = acknowledged[-1]
        backend = open_backend(url)
        try:
            found = backend.latest(key)
        except Exception as err:
            raise AssertionError(f"kill {kill + 1} of {KILLS}, and then latest: {type(err).__name__}: {err}") from err
        assert found in ((last, record_of(last)), (last + 1, record_of(last + 1))), f"killed after step {last}"
        backend.close()


def _threads_share_one_object(url: str, _: str) -> None:
    """Each under a key of its own, all through one object; Burr's was told `check_same_thread=False`."""
    backend = open_backend(f"{url}?shared=yes")
    keys = [CheckpointKey("goal", number, "agent-0") for number in range(RACERS)]

    def write(number: int) -> list[tuple[int, str]]:
        outcomes: list[tuple[int, str]] = []
        for step in EACH:
            try:
                backend.save(keys[number], step, b"record")
                outcomes.append((step, ""))
            except Exception as err:  # noqa: BLE001 - they are what is counted
                outcomes.append((step, str(err)))
        return outcomes

    outcomes = in_threads(RACERS, write)
    backend.close()
    reopened = open_backend(url)
    errors = [error for each in outcomes for _, error in each if error]
    lost = sum(
        reopened.load(key, step) is None
        for key, each in zip(keys, outcomes, strict=True)
        for step, error in each
        if not error
    )
    reopened.close()
    assert not errors, f"of {RACERS * len(EACH)} saves {len(errors)} raised ({errors[0]}), {lost} others are not there"
    assert not lost, f"of {RACERS * len(EACH)} saves none raised, and {lost} are not there"


def _closed(url: str, verb: str) -> None:
    """As DS-CLOSE-02, of the verbs that there are."""
    backend = open_backend(url)
    backend.save(KEY, 0, b"record")
    backend.close()
    with pytest.raises(StoreUnavailable):
        backend.latest(KEY) if verb == "latest" else backend.save(KEY, 1, b"late")


SCENARIOS = {
    "DS-CLOSE-02a": Scenario(
        "After close, a read or a save is an error, and never nothing.", _closed, ("latest", "save")
    ),
    "DS-OUT-02a": Scenario(
        "A save without a file to be had (NOFILE), or on a full disk (FSIZE): what is acknowledged is there, and what"
        " failed leaves the state before it the latest.",
        _save_without_means,
        ("NOFILE", "FSIZE"),
    ),
    "DS-KILL-02a": Scenario(
        f"SIGKILL at {KILLS} moments during a save of 1 MB: latest is the state before it or the new one, whole.",
        _killed_during_a_save,
    ),
    "DS-THREAD-04a": Scenario(
        f"{RACERS} threads save at the same time through one saver or persister, each under a key of its own.",
        _threads_share_one_object,
    ),
    "DS-DAMAGE-01a": Scenario("A byte of the newest state is changed in its file.", _flipped_byte),
    "DS-RACE-02a": Scenario(
        f"{RACERS} processes save {len(EACH)} steps each, each under a key of its own: nobody is refused"
        " because others are busy.",
        _processes_with_threads_of_their_own,
    ),
    "DS-SIZE-02a": Scenario("10 000 steps: the latest is found and all are listed.", _ten_thousand_steps),
}
"""By the number of the clause that each stands for, with an `a`."""

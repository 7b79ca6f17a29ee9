"""Verifying a store: each fault is found and named for what it is, sound records raise no alarm, nothing is changed."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from durable_store import CheckpointConflict, CheckpointKey, Store, StoreUnavailable
from durable_store.operations import ADVICE, Finding, Verified, verify
from durable_store.record import encode
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from durable_store_backends.sqlite import SqliteBackend
from tests.failing import Failing
from tests.filled import fill, records
from tests.test_cli import Told

EACH = 5
STEPS = 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(FileBackend(tmp_path / "store"))


def found_in(store: Store, **options: object) -> list[Finding]:
    """What is wrong; nothing is changed by looking."""
    findings: list[Finding] = []
    before = records(store.backend) if isinstance(store.backend, MemoryBackend) else None
    verified = verify(store, report=findings.append, **options)  # type: ignore[arg-type]
    assert verified.damaged == sum(finding.is_damage for finding in findings)
    assert verified.noted == len(findings) - verified.damaged
    assert before is None or records(store.backend) == before
    return findings


def sealed(rest: bytes) -> bytes:
    """With the digest that it has."""
    return hashlib.sha256(rest).hexdigest().encode() + b" " + rest


def all_steps(backend: MemoryBackend) -> list[tuple[CheckpointKey, list[int]]]:
    """Of every key, also of those that the storage refuses to list."""
    return [(key, MemoryBackend.steps(backend, key)) for key in backend.keys()]


def grow(store: Store, goal: str) -> list[Path]:
    """Commits states that build on one another; where their records are."""
    with store.resume(goal, "o-0", keep=None, initial={"log": [f"{goal} " * 2000]}) as run:
        for step in range(STEPS):
            run.commit({"log": [*run.state["log"], f"turn {step} " * 50]})
    assert isinstance(store.backend, FileBackend)
    [directory] = (store.backend.path / goal).glob("*/o-0")
    return sorted(directory.iterdir())


def flipped(paths: list[Path]) -> dict[Path, str]:
    record = bytearray(paths[-1].read_bytes())
    record[-10] ^= 1
    paths[-1].write_bytes(record)
    return {paths[-1]: "flipped"}


def truncated(paths: list[Path]) -> dict[Path, str]:
    paths[-1].write_bytes(paths[-1].read_bytes()[:-20])
    return {paths[-1]: "truncated"}


def swapped(paths: list[Path]) -> dict[Path, str]:
    one, other = paths[-2:]
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)
    return {one: "misplaced", other: "misplaced"}


def without_base(paths: list[Path]) -> dict[Path, str]:
    needs_it = [path for path in paths if 0 in needed_by(path)]
    paths[0].unlink()
    return dict.fromkeys(needs_it, "base")


def with_stranger(paths: list[Path]) -> dict[Path, str]:
    path = paths[0].with_name("notes.txt")
    path.touch(0o600)
    return {path: "foreign"}


def open_to_all(paths: list[Path]) -> dict[Path, str]:
    paths[3].chmod(0o644)
    return {paths[3]: "permissions"}


def empty(paths: list[Path]) -> dict[Path, str]:
    paths[-1].write_bytes(b"")
    return {paths[-1]: "empty"}


def newer(paths: list[Path]) -> dict[Path, str]:
    paths[-1].write_bytes(sealed(paths[-1].read_bytes()[65:].replace(b'{"v":1,', b'{"v":2,', 1)))
    return {paths[-1]: "unsupported"}


def duplicate(paths: list[Path]) -> dict[Path, str]:
    path = paths[2].with_name("2.ckpt")
    path.touch(0o600)
    return {path: "duplicate"}


def directory(paths: list[Path]) -> dict[Path, str]:
    paths[-1].unlink()
    paths[-1].mkdir(0o700)
    return {paths[-1]: "unreadable"}


FAULTS: list[Callable[[list[Path]], dict[Path, str]]] = [
    flipped,
    truncated,
    swapped,
    without_base,
    with_stranger,
    open_to_all,
    empty,
    newer,
    duplicate,
    directory,
]


def needed_by(path: Path) -> list[int]:
    """The steps that a record builds on."""
    return [step for step, _ in orjson.loads(path.read_bytes().partition(b"\n")[0][65:])["bases"]]


def place_of(path: Path) -> str:
    """As a finding names it: a record by its key and step."""
    if len(path.stem) != 16:
        return str(path)
    goal, episode, checkpoint = path.parts[-4:-1]
    return f"{CheckpointKey(goal, int(episode), checkpoint)} step {int(path.stem)}"


def test_fifty_faults_of_ten_kinds_are_found_and_named(store: Store, record_figure: Callable[[str], None]) -> None:
    fill(store, 10)
    expected: dict[str, str] = {}
    for number in range(EACH):
        for fault in FAULTS:
            faults = fault(grow(store, f"{fault.__name__}-{number}"))
            expected |= {str(path) if kind == "permissions" else place_of(path): kind for path, kind in faults.items()}
    findings = found_in(store)
    assert {finding.place: finding.kind for finding in findings} == expected
    assert len(findings) == len(expected), "each once"
    for finding in findings:
        assert finding.place in finding.what or finding.kind == "unreadable"
        assert finding.advice
        assert "\n" not in finding.what
    record_figure(f"{EACH * len(FAULTS)} faults of {len(FAULTS)} kinds in {len(expected)} places: each found and named")


def test_ten_thousand_sound_records_raise_no_alarm(tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    store = Store(SqliteBackend(tmp_path / "runs.db"))
    fill(store, 40)
    key = CheckpointKey("many", 0, "a")
    have = len(records(store.backend))
    with ThreadPoolExecutor(32) as threads:  # which share flushes
        for step in range(have, 10_000):
            threads.submit(store.backend.save, key, step, encode(key, step, b"[1]", writer="w"))
    findings: list[Finding] = []
    verified = verify(store, report=findings.append)
    assert findings == []
    assert verified == Verified(records=10_000, size=sum(map(len, records(store.backend).values())))
    record_figure(f"{verified.records} sound records: {len(findings)} findings")


def test_all_that_a_store_can_hold_raises_no_alarm_on_files(store: Store) -> None:
    fill(store, 40)
    assert found_in(store) == []


def test_a_base_that_is_damaged_damages_what_builds_on_it(store: Store) -> None:
    for base in range(STEPS):
        paths = grow(store, f"g-{base}")
        needs_it = [path for path in paths if base in needed_by(path)]
        paths[base].write_bytes(paths[base].read_bytes()[:-1] + b"?")
        kinds = {finding.place: finding.kind for finding in found_in(store, goals=[f"g-{base}"])}
        assert kinds == {place_of(paths[base]): "flipped"} | {place_of(path): "base" for path in needs_it}


def test_a_record_in_the_place_of_another_is_found_by_the_one_behind_it() -> None:
    store = Store(MemoryBackend())
    run = store.resume("g", "o-0", keep=None)
    for number in range(3):
        run.commit({"number": number})
    store.backend.prune(run.key, [1])
    store.backend.save(run.key, 1, encode(run.key, 1, b'{"number":7}', writer="somebody"))
    [finding] = found_in(store)
    assert finding.kind == "replaced"
    assert finding.what == "g/0/o-0 step 1 is not the record that step 2 was written after"
    assert not finding.is_damage, "a run that was superseded may have left it"


@pytest.mark.parametrize(("gone", "words"), [([2], "step 2"), ([2, 3, 4], "steps 2 to 4")])
def test_a_gap_in_a_history_that_was_to_be_kept_is_noted(gone: list[int], words: str) -> None:
    store = Store(MemoryBackend())
    run = store.resume("g", "o-0", keep=None)
    for number in range(8):
        run.commit({"number": number})
    assert found_in(store) == []
    store.backend.prune(run.key, gone)
    [finding] = found_in(store)
    assert (finding.kind, finding.is_damage) == ("gap", False)
    assert f"g/0/o-0: {words} gone" in finding.what


def test_what_retention_removes_is_no_gap() -> None:
    store = Store(MemoryBackend())
    for keep in (None, 1, 3, None, 2):
        run = store.resume("g", "o-0", keep=keep, initial=[])
        for _ in range(9):
            run.commit([*run.state, "x" * 3000])
    assert found_in(store) == []


def test_an_episode_that_cannot_be_found_is_told() -> None:
    store = Store(MemoryBackend())
    for _ in range(3):
        store.start_episode("g")
    store.backend.prune(CheckpointKey("g", 1, "@episode"), [0])
    odd = CheckpointKey("odd", 0, "@episode")
    store.backend.save(odd, 0, encode(odd, 0, b'{"status":"odd"}', writer="w"))
    found = found_in(store)
    assert {finding.kind for finding in found} == {"episode"}
    assert {finding.what for finding in found} == {
        "g/2/@episode is there, and the record that episode 1 was started is not",
        "odd/0/@episode step 0 does not tell about an episode",
    }


def test_what_is_refused_is_a_finding_and_a_store_that_is_away_is_not() -> None:
    backend = Failing()
    store = Store(backend)
    fill(store, 3)
    several = [key for key in store.keys() if len(backend.steps(key)) > 1]
    unlisted, (unread, step) = several[0], (several[1], backend.steps(several[1])[1])
    started = CheckpointKey(unread.goal_id, unread.episode_id, "@episode")
    backend.refused = {unlisted, (unread, step), (started, 0)}
    found: list[Finding] = []
    verified = verify(store, report=found.append)
    needs_it = {finding.place for finding in found if "builds on step" in finding.what}
    places = {str(unlisted), f"{unread} step {step}", f"{started} step 0"}
    assert {finding.place: finding.kind for finding in found} == dict.fromkeys({*places, *needs_it}, "unreadable")
    assert all(place.startswith(f"{unread} step ") for place in needs_it)
    listed = [(key, each) for key, steps in all_steps(backend) if key != unlisted for each in steps]
    assert verified.records == len(listed) - 2
    backend.away = 10**9
    with pytest.raises(StoreUnavailable, match="nobody answers"):
        found_in(store)


def test_some_goals_alone_are_looked_at(store: Store) -> None:
    damaged, sound = grow(store, "damaged"), grow(store, "sound")
    damaged[-1].write_bytes(b"")
    sound[-1].with_name("notes.txt").touch()
    assert found_in(store, goals=["sound"]) == []
    assert [finding.kind for finding in found_in(store, goals=["damaged"])] == ["empty"]


def test_a_run_that_commits_and_prunes_meanwhile_raises_no_alarm(store: Store) -> None:
    ended = threading.Event()

    def commit() -> None:
        with store.resume("g", "o-0", keep=1, initial=["-" * 9000]) as run:
            while not ended.is_set():
                run.commit([*run.state[-20:], f"{run.step} " * 100])

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for _ in range(100):
            assert found_in(store) == []
    finally:
        ended.set()
        thread.join()


def test_every_kind_of_finding_has_advice_in_one_line() -> None:
    assert all(advice and "\n" not in advice for advice in ADVICE.values())


def test_what_a_superseded_newcomer_has_left_behind_is_no_damage() -> None:
    """It resumed at 2 and stalled; others went on from there, pruned its next step, and it saved that all the same."""
    store = Store(MemoryBackend())
    run = store.resume("g", "o-0", keep=1)
    for number in range(3):
        run.commit(number)
    newcomer = store.resume("g", "o-0", keep=1)
    for number in range(3, 9):
        run.commit(number)
    with pytest.raises(CheckpointConflict):
        newcomer.commit("late")
    assert 3 in store.backend.steps(run.key)
    assert not any(finding.is_damage for finding in found_in(store))


HEADER = b'{"v":1,"goal":"g","episode":0,"checkpoint":"o-0","step":0,"size":"abc","encoding":""}\n'


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (sealed(b"hello\n"), "malformed"),
        (sealed(b"no line feed"), "malformed"),
        (sealed(b"[1]\n"), "malformed"),
        (sealed(b"{}\n"), "malformed"),
        (sealed(HEADER), "malformed"),
        (b"0" * 64 + b" " + HEADER, "flipped"),
        (b"\0" * 500, "flipped"),
        (b"junk", "flipped"),
        (sealed(b'{"v":2,"crit":[]}\nnewer'), "unsupported"),
        (sealed(HEADER).replace(b'"v":1', b'"v":3'), "flipped"),
    ],
)
def test_whatever_stands_in_a_record_s_place_is_named(record: bytes, kind: str) -> None:
    store = Store(MemoryBackend())
    store.backend.save(CheckpointKey("g", 0, "o-0"), 0, record)
    assert [finding.kind for finding in found_in(store)] == [kind]


def test_a_base_that_is_refused_is_told_and_all_else_is_looked_at(store: Store) -> None:
    paths, others = grow(store, "of-long-states"), grow(store, "later")
    needs_it = [path for path in paths if 0 in needed_by(path)]
    assert needs_it
    directory(paths[:1])
    others[-1].write_bytes(b"")
    kinds = {finding.place: finding.kind for finding in found_in(store)}
    expected = {place_of(paths[0]): "unreadable", place_of(others[-1]): "empty"}
    assert kinds == expected | {place_of(path): "unreadable" for path in needs_it}


@pytest.mark.parametrize("to", ["nowhere", f"{STEPS:016}.ckpt"])
def test_a_link_that_leads_nowhere_or_in_a_circle_is_unreadable(store: Store, to: str) -> None:
    paths = grow(store, "g")
    paths[-1].unlink()
    paths[-1].symlink_to(to)
    [finding] = found_in(store)
    assert (finding.place, finding.kind) == (place_of(paths[-1]), "unreadable")


def test_a_pipe_in_the_place_of_a_record_is_unreadable_and_all_else_is_looked_at(store: Store, tmp_path: Path) -> None:
    paths, others = grow(store, "g"), grow(store, "later")
    paths[-1].unlink()
    os.mkfifo(paths[-1], 0o600)
    others[-1].write_bytes(b"")
    told = Told("verify", tmp_path / "store", "--json")  # a process of its own, which is ended if it hangs
    findings = {finding["place"]: finding["kind"] for finding in json.loads(told.out)}
    assert findings == {place_of(paths[-1]): "unreadable", place_of(others[-1]): "empty"}


def test_a_link_that_leads_in_a_circle_is_foreign(store: Store) -> None:
    grow(store, "g")
    assert isinstance(store.backend, FileBackend)
    circle = store.backend.path / "circle"
    circle.symlink_to("circle")
    [finding] = found_in(store)
    assert (finding.place, finding.kind) == (str(circle), "foreign")


@pytest.mark.parametrize("steps", [[0], [0, 1]])
def test_an_episode_whose_beginning_is_lost_is_told(steps: list[int]) -> None:
    store = Store(MemoryBackend())
    run = store.resume("g", "o-0")
    for number in range(3):
        run.commit(number)
    run.finish()
    assert found_in(store) == []
    store.backend.prune(CheckpointKey("g", 0, "@episode"), steps)
    found = found_in(store)
    assert {finding.kind for finding in found} == {"episode"}
    assert "g/0/o-0 is there, and the record that episode 0 was started is not" in {each.what for each in found}


def test_many_files_that_come_and_go_raise_no_alarm(store: Store) -> None:
    ended = threading.Event()

    def commit() -> None:
        with store.resume("g", "o-0", keep=50) as run:
            while not ended.is_set():
                run.commit(run.step)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for _ in range(60):
            assert found_in(store) == []
    finally:
        ended.set()
        thread.join()

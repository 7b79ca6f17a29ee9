"""Copying a store: all of it arrives as it is, whatever interrupts that, and nothing else is changed."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest

from durable_store import (
    CheckpointConflict,
    CheckpointDamaged,
    CheckpointKey,
    InvalidKey,
    Store,
    StoreUnavailable,
    open_store,
)
from durable_store.operations import Copied, copy
from durable_store.operations.ahead import AT_ONCE
from durable_store_backends.files import FileBackend
from durable_store_backends.memory import MemoryBackend
from tests.failing import Failing
from tests.filled import fill, goals, records
from tests.servers import Server
from tests.test_verify import found_in

KEY = CheckpointKey("g", 0, "o-0")


@pytest.fixture
def source() -> Store:
    store = Store(MemoryBackend())
    fill(store, 12)
    return store


@pytest.fixture
def target() -> Store:
    return Store(MemoryBackend())


def told(source: Store, target: Store, **options: object) -> Counter[str]:
    """What became of how many."""
    reports: list[Copied] = []
    copy(source, target, report=reports.append, **options)  # type: ignore[arg-type]
    assert len({(each.key, each.step) for each in reports}) == len(reports)
    return Counter(each.outcome for each in reports)


def statuses(store: Store, goal: str) -> list[tuple[int, str]]:
    return [(episode.id, episode.status) for episode in store.episodes(goal)]


def goes_on(store: Store, goal: str, attempt: int) -> None:
    """A run that was under way is where it was, and can be gone on with."""
    run = store.resume(goal, "o-0", keep=2)
    assert (run.key.episode_id, run.resumed, run.skipped) == (attempt, True, ())
    assert run.state["of"] == [goal, attempt]
    assert run.commit({**run.state, "log": [*run.state["log"], "and on"]}) == run.step


def round_trip(urls: list[str], count: int) -> int:
    """Copies a store from each place to the next, which is sound, and goes on with a run at each; how many records."""
    under_way = [(goal, number) for number, goal in enumerate(goals(count)) if number % 3]
    assert len(under_way) > len(urls)
    with open_store(urls[0]) as first:
        fill(first, count)
    for here, there in pairwise(urls):
        with open_store(here) as source, open_store(there) as target:
            goal, number = under_way.pop()
            goes_on(source, goal, number % 3)
            before = records(source.backend)
            assert copy(source, target, verify=True).copied == len(before)
            assert records(target.backend) == records(source.backend) == before
            assert told(source, target) == {"there": len(before)}
            assert found_in(target) == []
    with open_store(urls[-1]) as last:
        goal, number = under_way.pop()
        goes_on(last, goal, number % 3)
        return len(records(last.backend))


@pytest.fixture
def places(tmp_path: Path, seaweedfs_server: Server) -> list[str]:
    return [
        f"sqlite:///{tmp_path}/first.db",
        seaweedfs_server.url(uuid4().hex),
        f"file://{tmp_path}/files",
        f"s3+fsspec://{seaweedfs_server.bucket}/{uuid4().hex}?endpoint_url={seaweedfs_server.endpoint}",
        f"sqlite:///{tmp_path}/last.db",
    ]


def test_a_store_is_the_same_after_a_round_trip_through_all_backends(places: list[str]) -> None:
    assert round_trip(places, 12) > 100


@pytest.mark.prove
def test_two_hundred_goals_are_the_same_after_a_round_trip(
    places: list[str], record_figure: Callable[[str], None]
) -> None:
    record_figure(f"{round_trip(places, 200)} records of 200 goals, equal at each of {len(places) - 1} stops")


def test_what_is_there_is_compared_and_not_copied(source: Store) -> None:
    class Counting(MemoryBackend):
        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            saved.append((key, step))
            return super().save(key, step, record)

    saved: list[tuple[CheckpointKey, int]] = []
    target = Store(Counting())
    everything = records(source.backend)
    half = sorted(everything)[::2]
    for key, step in half:
        MemoryBackend.save(target.backend, key, step, everything[key, step])  # type: ignore[arg-type]
    assert told(source, target) == {"there": len(half), "copied": len(everything) - len(half)}
    assert sorted(saved) == sorted(set(everything) - set(half))
    assert records(target.backend) == everything


def test_some_goals_alone_are_copied(source: Store, target: Store) -> None:
    wanted = list(goals(12))[2:5]
    copy(source, target, goals=wanted)
    assert records(target.backend) == {
        place: record for place, record in records(source.backend).items() if place[0].goal_id in wanted
    }
    with pytest.raises(InvalidKey):
        copy(source, target, goals=[""])


class Unlisted(MemoryBackend):
    """What is there has come since it was listed."""

    def steps(self, key: CheckpointKey) -> list[int]:
        del key
        return []


@pytest.mark.parametrize("kind", [MemoryBackend, Unlisted])
@pytest.mark.parametrize("verify", [False, True])
def test_a_conflict_is_told_and_nothing_is_overwritten(
    source: Store,
    kind: type[MemoryBackend],
    verify: bool,  # noqa: FBT001
) -> None:
    target = Store(kind())
    [(key, step), *_] = records(source.backend)
    target.backend.save(key, step, b"another")
    reports: list[Copied] = []
    with pytest.raises(CheckpointConflict, match=r"the target has other records at 1 step: .* another record is there"):
        copy(source, target, verify=verify, report=reports.append)
    assert [(each.key, each.step) for each in reports if each.outcome == "conflict"] == [(key, step)]
    for (key_there, step_there), record in {**records(source.backend), (key, step): b"another"}.items():
        assert target.backend.load(key_there, step_there) == record


@pytest.mark.parametrize("record", [b"", b"damaged", b"x" * 100_000])
def test_a_damaged_record_is_copied_as_it_is_and_told_at_the_end(source: Store, target: Store, record: bytes) -> None:
    source.resume("damaged", "o-0").commit({})
    source.backend.save(CheckpointKey("damaged", 0, "o-0"), 1, record)
    for outcome in ("copied", "there"):
        reports: list[Copied] = []
        with pytest.raises(
            CheckpointDamaged, match="1 record cannot be read, copied if possible: damaged/0/o-0 step 1"
        ):
            copy(source, target, verify=True, report=reports.append)
        assert [each.outcome for each in reports if each.problem] == [outcome]
        assert records(target.backend) == records(source.backend)
    assert target.resume("damaged", "o-0").skipped == (1,)


def test_until_all_is_there_nobody_goes_on_from_a_part_of_it(source: Store) -> None:
    """Interrupted behind any record, the target refuses a run, or the run is all there."""
    everything = records(source.backend)
    of_runs = sum(not key.checkpoint_id.startswith("@") for key, _ in everything)
    refused = 0
    for last in (*range(1, of_runs, 9), *range(of_runs, len(everything))):

        class Ends(MemoryBackend):
            left = last

            def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
                if self.left == 0:
                    raise StoreUnavailable("the line is cut")
                self.left -= 1
                return super().save(key, step, record)

        backend = Ends()
        target = Store(backend)
        with pytest.raises(StoreUnavailable):
            copy(source, target, at_once=1)
        backend.left = -1
        for goal in goals(12):
            assert set(statuses(target, goal)) <= set(statuses(source, goal)), "no ended one runs"
            expected = source.resume(goal, "o-0")
            try:
                run = target.resume(goal, "o-0")
            except CheckpointConflict:
                refused += 1
            else:
                assert run.step < 0 or (run.key, run.step, run.state) == (expected.key, expected.step, expected.state)
        assert copy(source, target).there == last
        assert records(backend) == everything
    assert refused


def test_what_is_saved_and_not_there_is_found_when_it_is_to_be_verified(source: Store) -> None:
    class Forgets(MemoryBackend):
        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            return record if step else super().save(key, step, record)

    copy(source, Store(Forgets()))
    with pytest.raises(CheckpointConflict, match="what was saved is not there"):
        copy(source, Store(Forgets()), verify=True)


def test_a_store_that_goes_away_ends_the_copy_and_another_one_completes_it(source: Store) -> None:
    backend = Failing()
    target = Store(backend)
    done: list[Copied] = []

    def leave(copied: Copied) -> None:
        done.append(copied)
        if len(done) == 20:
            backend.away = 10**9

    with pytest.raises(StoreUnavailable, match="nobody answers"):
        copy(source, target, report=leave)
    backend.away = 0
    assert len(done) < len(records(source.backend))
    copy(source, target)
    assert records(target.backend) == records(source.backend)


COPYING = """
import os, sys
from durable_store import open_store
from durable_store.operations import copy

with open_store(sys.argv[1]) as source, open_store(sys.argv[2]) as target:
    save = target.backend.save

    def told(key, step, record):
        os.write(1, f"{key!r} {step} begun".ljust(500).encode() + b"\\n")
        there = save(key, step, record)
        os.write(1, f"{key!r} {step} saved".ljust(500).encode() + b"\\n")
        return there

    target.backend.save = told
    copy(source, target)
"""


def test_a_copy_that_is_killed_twenty_times_copies_nothing_twice_but_what_was_under_way(
    tmp_path: Path, record_figure: Callable[[str], None]
) -> None:
    """A child tells what it saves through a pipe of one page, so that it cannot be far ahead when it is killed."""
    source, target = f"sqlite:///{tmp_path}/source.db", f"file://{tmp_path}/target"
    with open_store(source) as store:
        fill(store, 20)
        everything = records(store.backend)
    begun, saved = Counter[str](), set[str]()
    for number in range(21):
        command = [sys.executable, "-c", COPYING, source, target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pipesize=4096) as child:
            assert child.stdout
            for count, line in enumerate(child.stdout):
                place, _, said = line.strip().rpartition(" ")
                if said == "begun":
                    assert place not in saved, "copied twice"
                    begun[place] += 1
                else:
                    saved.add(place)
                if number < 20 and count == len(everything) // 15:
                    child.kill()
        assert child.returncode == (-signal.SIGKILL if number < 20 else 0)
    with open_store(target) as store:
        assert records(store.backend) == everything
    again = sum(times - 1 for times in begun.values())
    assert again <= 20 * AT_ONCE
    record_figure(f"{len(everything)} records, 20 SIGKILLs: {again} begun once more, none that had been saved")


MEASURED = """
import sys
from durable_store import open_store
from durable_store.operations import copy

with open_store(sys.argv[1]) as source, open_store(sys.argv[2]) as target:
    print(copy(source, target).copied)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def copied_and_kilobytes(source: str, target: str) -> tuple[int, int]:
    """How many records a process has copied, and the most memory that it had."""
    command = [sys.executable, "-c", MEASURED, source, target]
    copied, kilobytes = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return int(copied), int(kilobytes)


@pytest.mark.prove
def test_a_hundred_thousand_records_take_no_more_memory_than_ten_thousand(
    tmp_path: Path, seaweedfs_server: Server, record_figure: Callable[[str], None]
) -> None:
    """1000 goals and 10 000 goals, each with two keys of five steps of 2 KB, from SQLite to S3."""
    most: list[int] = []
    for goals_there in (1000, 10_000):
        source = f"sqlite:///{tmp_path}/{goals_there}.db"
        with open_store(source) as store, ThreadPoolExecutor(32) as threads:
            for number in range(goals_there):
                for step in range(10):
                    key = CheckpointKey(f"goal-{number}", 0, f"a-{step % 2}")
                    threads.submit(store.save, key, step, {"text": f"{number} {step} " * 250})
        copied, kilobytes = copied_and_kilobytes(source, seaweedfs_server.url(uuid4().hex))
        assert copied == goals_there * 10
        most.append(kilobytes)
    record_figure(f"10 000 records: {most[0] / 1000:.1f} MB at most; 100 000: {most[1] / 1000:.1f} MB")
    assert most[1] < 1.25 * most[0]


def test_of_a_key_the_oldest_are_copied_first_however_many_there_are(tmp_path: Path) -> None:
    """Cut off anywhere, each record in the target has what it builds on."""
    source = Store(MemoryBackend())
    with source.resume("g", "o-0", keep=None, initial={"log": ["-" * 9000]}) as run:
        for number in range(60):
            run.commit({"log": [*run.state["log"], f"{number} " * 50]})

    class Ends(FileBackend):
        left = 35

        def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("the line is cut")
            return super().save(key, step, record)

    target = Store(Ends(tmp_path / "target"))
    with pytest.raises(StoreUnavailable):
        copy(source, target)
    assert target.backend.steps(run.key) == list(range(34, -1, -1))
    assert [target.load(run.key, step).step for step in range(35)] == list(range(35))


def test_one_record_that_the_source_refuses_is_told_and_all_others_are_copied(tmp_path: Path) -> None:
    source, target = Store(FileBackend(tmp_path / "source")), Store(MemoryBackend())
    fill(source, 12)
    path = next((tmp_path / "source" / "g-1").glob("*/o-0/*2.ckpt"))
    everything = records(source.backend)
    path.unlink()
    path.mkdir()
    reports: list[Copied] = []
    with pytest.raises(CheckpointDamaged, match=r"1 record cannot be read.*Is a directory"):
        copy(source, target, report=reports.append)
    [unreadable] = [each for each in reports if each.outcome == "unreadable"]
    assert unreadable.step == 2
    assert records(target.backend) == {
        place: record for place, record in everything.items() if place != (unreadable.key, 2)
    }


def test_a_key_that_the_source_refuses_to_list_is_told_and_all_others_are_copied(target: Store) -> None:
    backend = Failing()
    source = Store(backend)
    fill(source, 3)
    everything = records(backend)
    unlisted = next(iter(source.keys()))
    backend.refused = {unlisted}
    reports: list[Copied] = []
    with pytest.raises(CheckpointDamaged, match=r"1 record cannot be read.*no right to read"):
        copy(source, target, report=reports.append)
    assert [(each.key, each.step) for each in reports if each.outcome == "unreadable"] == [(unlisted, None)]
    assert records(target.backend) == {place: record for place, record in everything.items() if place[0] != unlisted}


def test_a_record_without_its_base_is_told_each_time(source: Store, target: Store) -> None:
    with source.resume("long", "o-0", keep=None, initial={"log": ["-" * 9000]}) as run:
        for number in range(4):
            run.commit({"log": [*run.state["log"], f"{number} " * 50]})
    source.backend.prune(run.key, [0])
    for _ in range(2):
        with pytest.raises(
            CheckpointDamaged, match=r"3 records cannot be read.*its base, step 0, is not in the target"
        ):
            copy(source, target)


def test_one_record_that_the_target_refuses_is_told_and_all_others_are_compared(source: Store) -> None:
    backend = Failing()
    target = Store(backend)
    copy(source, target)
    everything = records(source.backend)
    (key, step) = next(place for place in everything if place[1] == 0)
    backend.refused = {(key, step)}
    reports: list[Copied] = []
    with pytest.raises(CheckpointDamaged, match="no right to read"):
        copy(source, target, report=reports.append)
    assert [(each.key, each.step) for each in reports if each.outcome == "unreadable"] == [(key, step)]
    assert len(reports) == len(everything)


def test_a_key_that_has_gone_on_in_the_target_is_left_as_it_is(source: Store, target: Store) -> None:
    run = source.resume("of both", "o-0", keep=1)
    for number in range(11):
        run.commit(number)
    copy(source, target)
    there = target.resume("of both", "o-0", keep=1)
    there.commit("gone on")
    for number in range(11, 30):
        run.commit(number)
    before = {place: record for place, record in records(target.backend).items() if place[0] == run.key}
    with pytest.raises(CheckpointConflict, match=r"of both/0/o-0 has a step 11 in the target"):
        copy(source, target)
    assert {place: record for place, record in records(target.backend).items() if place[0] == run.key} == before
    there.commit("and on")


def test_a_key_that_has_gone_on_in_the_source_is_copied_again(source: Store, target: Store) -> None:
    run = source.resume("g", "o-0", keep=1)
    for number in range(11):
        run.commit(number)
    copy(source, target)
    for number in range(11, 30):
        run.commit(number)
    copy(source, target)
    newest = target.latest(run.key)
    assert newest
    assert newest.state == 29


def test_of_two_episodes_under_way_the_older_is_never_alone() -> None:
    source = Store(MemoryBackend())
    for number in range(3):
        source.start_episode("g", root="o-0")
        source.resume("g", "o-0").commit(number)
    for last in range(len(records(source.backend))):

        class Ends(MemoryBackend):
            left = last

            def save(self, key: CheckpointKey, step: int, record: bytes) -> bytes:
                self.left -= 1
                if self.left < 0:
                    raise StoreUnavailable("the line is cut")
                return super().save(key, step, record)

        backend = Ends()
        with pytest.raises(StoreUnavailable):
            copy(source, Store(backend))
        assert [episode.id for episode in Store(backend).episodes("g")] in ([], [2, 1, 0])


def test_a_damaged_record_is_told_each_time_also_a_large_one(source: Store, target: Store) -> None:
    source.backend.save(KEY, 0, b"x" * 200_000)
    for _ in range(2):
        with pytest.raises(CheckpointDamaged):
            copy(source, target)
    target.backend.prune(KEY, [0])
    target.backend.save(KEY, 0, b"x" * 100_000)
    with pytest.raises(CheckpointConflict):
        copy(source, target)


def test_a_goal_that_is_named_twice_is_copied_once(source: Store, target: Store) -> None:
    assert copy(source, target, goals=["g-1", "g-1"]).copied == copy(source, target, goals=["g-1"]).there


def test_of_what_is_pruned_while_it_is_copied_nothing_is_left_without_its_bases() -> None:
    """Step 0 has gone when its turn comes, all others but the last as soon as they were read: so have they."""

    class Pruned(MemoryBackend):
        def load(self, key: CheckpointKey, step: int, *, first: int | None = None) -> bytes | None:
            record = super().load(key, step, first=first)
            if key == KEY and step < 19:
                self.prune(key, [step])
            return None if key == KEY and step == 0 else record

    source, target = Store(Pruned()), Store(MemoryBackend())
    with source.resume("g", "o-0", keep=None, initial={"log": ["-" * 9000]}) as run:
        for number in range(20):
            run.commit({"log": [*run.state["log"], f"{number} " * 50]})
    reports: list[Copied] = []
    with pytest.raises(CheckpointDamaged, match="its base, step 0, is not in the target"):
        copy(source, target, report=reports.append)
    became = {each.step: each.outcome for each in reports if each.key == KEY}
    assert became == {**dict.fromkeys(range(19), "gone"), 19: "copied"}

"""Saves of many threads in one commit: who commits for whom, and what becomes of them when one fails or goes away."""

import random
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from durable_store import CheckpointKey, StoreUnavailable
from durable_store_backends.sqlite_groups import Change, Groups, Save

KEY = CheckpointKey("goal", 0, "agent-0")


class Commits:
    """Commits when it may, and knows which groups there were. `fails` may raise for one of them."""

    def __init__(self, fails: Callable[[list[int]], None] = lambda _: None, patience: float = 30) -> None:
        self.groups: list[list[int]] = []
        self.may_end = threading.Event()
        self.begun = threading.Semaphore(0)
        self._fails = fails
        self._gathered = Groups(self._commit, patience=patience, busy="kept busy")

    def save(self, step: int) -> bytes:
        save = Save(KEY, step, b"%d" % step)
        self._gathered.do(save)
        return save.there

    def wait_for(self, count: int) -> None:
        """Until so many wait, or are being committed."""
        while len(self._gathered._waiting) < count:
            threading.Event().wait(0.001)

    def _commit(self, changes: Sequence[Change]) -> None:
        self.begun.release()
        assert self.may_end.wait(30)
        self.groups.append([change.step for change in changes if isinstance(change, Save)])
        self._fails(self.groups[-1])
        for change in changes:
            change.is_done = True


def test_those_who_come_while_one_commits_are_committed_together() -> None:
    commits = Commits()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(commits.save, 0)
        assert commits.begun.acquire(timeout=30)
        others = [pool.submit(commits.save, step) for step in range(1, 8)]
        commits.wait_for(8)
        commits.may_end.set()
        assert first.result(30) == b"0"
        assert [other.result(30) for other in others] == [b"%d" % step for step in range(1, 8)]
    assert [sorted(group) for group in commits.groups] == [[0], [1, 2, 3, 4, 5, 6, 7]]


def test_one_that_is_alone_commits_at_once() -> None:
    commits = Commits()
    commits.may_end.set()
    assert [commits.save(step) for step in range(3)] == [b"0", b"1", b"2"]
    assert commits.groups == [[0], [1], [2]]


def test_one_that_waits_too_long_is_told_so_and_leaves_nothing_behind() -> None:
    commits = Commits(patience=0.05)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(commits.save, 0)
        assert commits.begun.acquire(timeout=30)
        with pytest.raises(StoreUnavailable, match="kept busy"):
            pool.submit(commits.save, 1).result(30)
        commits.may_end.set()
        assert first.result(30) == b"0"
    assert commits.save(2) == b"2"
    assert commits.groups == [[0], [2]]


def test_when_whoever_commits_is_interrupted_the_others_go_on() -> None:
    def fails(group: list[int]) -> None:
        if 1 in group:
            raise KeyboardInterrupt

    commits = Commits(fails)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(commits.save, 0)
        assert commits.begun.acquire(timeout=30)
        interrupted = pool.submit(commits.save, 1)
        commits.wait_for(2)
        others = [pool.submit(commits.save, step) for step in range(2, 8)]
        commits.wait_for(8)
        commits.may_end.set()
        assert first.result(30) == b"0"
        with pytest.raises(KeyboardInterrupt):
            interrupted.result(30)
        assert [other.result(30) for other in others] == [b"%d" % step for step in range(2, 8)]


def test_one_that_goes_away_while_it_is_committed_for_keeps_nobody_waiting() -> None:
    """It is interrupted, and so is the thread that commits for it: nobody is left to be woken in vain."""
    commits = Commits()
    gathered = commits._gathered
    gone = Save(KEY, 1, b"1")
    gathered._waiting.append(gone)

    def fails(_group: list[int]) -> None:
        if not gone.given_up:
            gathered._leave(gone)
            raise KeyboardInterrupt

    commits._fails = fails
    commits.may_end.set()
    with pytest.raises(KeyboardInterrupt):
        commits.save(0)
    assert commits.save(2) == b"2"
    assert commits.groups == [[1, 0], [2]]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_fails_each_save_ends_with_its_record_or_an_error_of_its_own(seed: int) -> None:
    chance = random.Random(seed)

    def fails(_group: list[int]) -> None:
        if chance.random() < 0.2:
            raise KeyboardInterrupt

    commits = Commits(fails)
    commits.may_end.set()

    def work(worker: int) -> int:
        done = 0
        for number in range(200):
            step = worker * 1000 + number
            try:
                assert commits.save(step) == b"%d" % step
                done += 1
            except KeyboardInterrupt:
                continue
        return done

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns between any two lines
    try:
        with ThreadPoolExecutor(16) as pool:
            done = sum(pool.map(work, range(16), timeout=60))
    finally:
        sys.setswitchinterval(usual)
    saved = [step for group in commits.groups for step in group]
    assert set(saved) == {worker * 1000 + number for worker in range(16) for number in range(200)}
    assert 0 < done < len(saved)
    assert commits._gathered._waiting == []

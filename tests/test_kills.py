"""A committing process is SIGKILLed at random moments, again and again, and nothing acknowledged is lost."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from durable_store import CheckpointKey, open_store
from durable_store.delta import MAX_BASES
from tests.committer import state_of

COMMITTER = Path(__file__).with_name("committer.py")
KEY = CheckpointKey("goal", 0, "agent-0")
KEEP = 3


@dataclass
class Tally:
    """What a loop of kills came to."""

    kills: int = 0
    acknowledged: int = 0
    ahead: int = 0  # kills that hit between a commit's durability and its acknowledgement
    deltas: int = 0  # kills that left a delta as the newest record

    def __str__(self) -> str:
        return (
            f"{self.kills} SIGKILLs, {self.deltas} of them behind a delta, {self.acknowledged} acknowledged commits,"
            f" {self.ahead} more were durable before they were acknowledged; 0 lost, 0 damaged, 0 left over"
        )


def kill_once(url: str, rng: random.Random, last: int) -> tuple[int, int]:
    """Lets a fresh process resume and commit, kills it, and returns (step resumed, last step acknowledged)."""
    with subprocess.Popen(
        [sys.executable, COMMITTER, url, str(KEEP)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stderr
        word, _, resumed = child.stdout.readline().decode().partition(" ")
        assert word == "resumed", child.stderr.read().decode()
        assert int(resumed) >= last, f"acknowledged {last}, resumed {resumed}"
        first = child.stdout.readline().decode()  # kills are aimed behind the first commit, not into start-up
        try:
            child.wait(timeout=rng.random() * 0.03)
        except subprocess.TimeoutExpired:
            child.kill()
        lines = [first, *child.stdout.read().decode().splitlines(keepends=True)]
        assert child.wait() == -9, child.stderr.read().decode()
    return int(resumed), max(int(line.split()[1]) for line in lines if line.endswith("\n"))


def kill_many(url: str, kills: int, seed: int) -> Tally:
    rng = random.Random(seed)
    tally = Tally()
    last = -1
    for _ in range(kills):
        resumed, acknowledged = kill_once(url, rng, last)
        tally.kills += 1
        tally.acknowledged += acknowledged - resumed
        tally.ahead += resumed > last >= 0
        last = acknowledged
        with open_store(url) as store:
            infos = store.history(KEY)
            assert len(infos) <= 2 * KEEP + MAX_BASES + tally.kills, "2·keep, their bases, and one fence a restart"
            newest = store.latest(KEY)
            assert newest
            assert newest.step >= last
            tally.deltas += "splice" in infos[0].encoding
    with open_store(url) as store:
        for info in store.history(KEY):
            assert store.load(KEY, info.step).state == state_of(info.step)
    return tally


def left_over(directory: Path) -> list[str]:
    """Files that are neither records nor the database with its log."""
    ours = (".ckpt", ".db", ".db-wal", ".db-shm")
    return [path.name for path in directory.rglob("*") if path.is_file() and not path.name.endswith(ours)]


@pytest.mark.parametrize("url", ["file://{}/store", "sqlite:///{}/runs.db"], ids=["files", "sqlite"])
def test_a_process_killed_at_any_moment_loses_no_acknowledged_commit(url: str, tmp_path: Path) -> None:
    tally = kill_many(url.format(tmp_path), kills=30, seed=1)
    assert tally.acknowledged > tally.kills
    assert tally.deltas
    assert left_over(tmp_path) == []


@pytest.mark.prove
@pytest.mark.parametrize("url", ["file://{}/store", "sqlite:///{}/runs.db"], ids=["files", "sqlite"])
def test_two_thousand_kills_lose_nothing(url: str, tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    tally = kill_many(url.format(tmp_path), kills=2000, seed=2)
    assert left_over(tmp_path) == []
    record_figure(str(tally))

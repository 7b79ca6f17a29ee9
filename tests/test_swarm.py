"""Attempts and swarms under SIGKILL: nothing is lost, nothing is done twice, nobody reads another's state."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.servers import Server
from tests.swarm import ATTEMPTS, CHILD_TURNS, CHILDREN, TURNS, Journal, kept_turns, lines_of

ROOT = Path(__file__).parent.parent
LONGEST = 120  # seconds for a process


@dataclass
class Story:
    """What all processes of one goal did."""

    kills: int = 0
    begun: int = 0
    repeated: int = 0
    uncertain: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.kills} SIGKILLs, {self.begun} turns begun, {self.repeated} of them again after a kill,"
            f" {self.uncertain} effects reported as uncertain; {len(self.wrong)} violations"
        )


def start(url: str, journal: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.swarm", url, journal], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def uninterrupted(url: str, directory: Path) -> tuple[dict[str, Any], float]:
    """What comes of it when nobody is killed, and how many seconds that takes behind the imports."""
    journal = directory / f"{uuid4().hex}.jsonl"
    process = start(url, journal)
    wait_for(journal, 1)
    began = time.monotonic()
    out, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 0
    return json.loads(out), time.monotonic() - began


def wait_for(journal: Path, lines: int) -> None:
    """Returns when there are so many lines in it."""
    deadline = time.monotonic() + LONGEST
    while not journal.exists() or len(journal.read_bytes().splitlines()) < lines:
        assert time.monotonic() < deadline, "it does not begin"
        time.sleep(0.002)


def killed_over_and_over(
    url: str, directory: Path, chance: random.Random, seconds: float
) -> tuple[Story, dict[str, Any]]:
    """Runs it to its end through kills at random moments; what its journal tells, and what it said at the end."""
    journal = directory / f"{uuid4().hex}.jsonl"
    story = Story()
    while True:
        ready = sum(what == "ready" for what, _, _ in lines_of(journal))
        process = start(url, journal)
        try:
            while sum(what == "ready" for what, _, _ in lines_of(journal)) == ready:
                assert process.poll() is None or process.returncode == 0
                time.sleep(0.002)
            out, _ = process.communicate(timeout=chance.uniform(0, seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            story.kills += 1
            seen = Journal(journal)
            for who, turns in kept_turns(url).items():
                seen.note("kept", who, turns)
            continue
        assert process.returncode == 0
        break
    look_at(lines_of(journal), story)
    return story, json.loads(out)


def look_at(lines: list[tuple[str, str, int]], story: Story) -> None:  # noqa: C901 - a line of each kind
    """Finds what must not be in a journal."""
    turns: dict[str, int] = {}
    kept: dict[str, int] = {}
    done: set[str] = set()
    mails: Counter[str] = Counter()
    for what, who, number in lines:
        if what == "begin":
            story.begun += 1
            last = turns.get(who, -1)
            story.repeated += number == last
            if number not in (last, last + 1):
                story.wrong.append(f"{who} begins turn {number} after turn {last}")
            if who in done:
                story.wrong.append(f"{who} acts again, and its result was had")
            if number < kept.get(who, 0):
                story.wrong.append(f"{who} begins turn {number} again, which was committed")
            turns[who] = number
        elif what == "kept":
            kept[who] = number
        elif what == "got":
            done.add(who)
        elif what == "mail":
            mails[who] += 1
        elif what == "uncertain":
            story.uncertain += 1
        elif what == "stranger":
            story.wrong.append(f"{who} sees what is not its own: {number}")
    story.wrong += [f"mail {mail} was sent {count} times" for mail, count in mails.items() if count != 1]
    if len(mails) != ATTEMPTS * TURNS * (1 + CHILDREN):
        story.wrong.append(f"{len(mails)} mails were sent")
    if turns != all_turns():
        story.wrong.append(f"not everybody took all turns: {turns}")


def all_turns() -> dict[str, int]:
    """The last turn of everybody who is to act."""
    roots = {f"{n}/orchestrator-0": TURNS - 1 for n in range(ATTEMPTS)}
    children = [f"{root}/researcher-1/{of}.{n}" for root in roots for of in range(TURNS) for n in range(CHILDREN)]
    readers = [f"{child}/reader-2" for child in children if child.endswith(".0")]
    return roots | dict.fromkeys([*children, *readers], CHILD_TURNS - 1)


def survive(urls: Callable[[], str], directory: Path, *, kills: int, seed: int) -> Story:
    """Goals one after the other, until so many processes were killed; each comes to what it comes to unkilled."""
    chance = random.Random(seed)
    expected, seconds = uninterrupted(urls(), directory)
    whole = Story()
    while whole.kills < kills:
        story, came = killed_over_and_over(urls(), directory, chance, seconds / 2)
        spent, least = came.pop("dollars"), expected["dollars"]
        assert came.items() <= expected.items()
        if not least <= spent <= least + story.repeated:  # a turn that is begun again is paid for again
            story.wrong.append(f"{spent} dollars were spent, not {least}, with {story.repeated} turns repeated")
        for name in ("kills", "begun", "repeated", "uncertain"):
            setattr(whole, name, getattr(whole, name) + getattr(story, name))
        whole.wrong += story.wrong
    return whole


def check(story: Story) -> None:
    assert story.wrong == []
    assert story.repeated, "no kill fell into a turn"


def sqlite_urls(directory: Path) -> Callable[[], str]:
    return lambda: f"sqlite:///{directory}/{uuid4().hex}.db"


def test_a_swarm_that_is_killed_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    check(survive(sqlite_urls(tmp_path), tmp_path, kills=8, seed=1))


def test_a_swarm_on_files_that_is_killed_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    check(survive(lambda: f"file://{tmp_path}/{uuid4().hex}", tmp_path, kills=4, seed=2))


def test_a_swarm_on_s3_that_is_killed_ends_where_it_would_have_ended(moto_server: Server, tmp_path: Path) -> None:
    check(survive(lambda: moto_server.url(uuid4().hex), tmp_path, kills=3, seed=3))


@pytest.mark.prove
def test_five_hundred_kills_on_sqlite(tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    story = survive(sqlite_urls(tmp_path), tmp_path, kills=500, seed=4)
    record_figure(str(story))
    check(story)


@pytest.mark.prove
def test_a_hundred_kills_on_s3(moto_server: Server, tmp_path: Path, record_figure: Callable[[str], None]) -> None:
    story = survive(lambda: moto_server.url(uuid4().hex), tmp_path, kills=100, seed=5)
    record_figure(str(story))
    check(story)

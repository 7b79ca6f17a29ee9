"""Sixteen processes want the same two hundred steps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from durable_store import CheckpointKey, open_store

RACER = Path(__file__).with_name("racer.py")
PROCESSES, STEPS = 16, 200


@pytest.mark.parametrize("url", ["file://{}/store", "sqlite:///{}/runs.db"], ids=["files", "sqlite"])
def test_each_step_has_one_winner_and_everyone_else_gets_a_conflict(url: str, tmp_path: Path) -> None:
    where = url.format(tmp_path)
    racers = [
        subprocess.Popen(
            [sys.executable, RACER, where, str(number), str(STEPS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = [racer.communicate(timeout=120) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert [complaint for _, complaint in answers] == [""] * PROCESSES
    results: list[tuple[list[int], int]] = [json.loads(said) for said, _ in answers]
    winners = {step: str(number) for number, (won, _) in enumerate(results) for step in won}
    assert sorted(winners) == list(range(STEPS))
    assert sum(len(won) for won, _ in results) == STEPS
    assert sum(conflicts for _, conflicts in results) == (PROCESSES - 1) * STEPS
    with open_store(where) as store:
        for step, winner in winners.items():
            assert store.load(CheckpointKey("goal", 0, "race"), step).state == {"by": winner, "step": step}

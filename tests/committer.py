"""Commits until it is killed: `python committer.py URL KEEP`. Says on stdout what it resumed and what was acknowledged.

A line is one write: `resumed STEP`, then `acknowledged STEP` after each commit. The state of a step is known from
its number alone, so that whoever resumes can check it.
"""

import os
import sys
from typing import Any

from durable_store import open_store


def state_of(step: int) -> dict[str, Any]:
    """A state told by its step: a log that grows to 25 KB in a hundred steps, and begins anew."""
    entries = range(step - step % 100, step + 1)
    return {"step": step, "log": [f"{entry:x}-" * (entry * 7919 % 140) for entry in entries]}


def main(url: str, keep: int) -> None:
    """Resumes, checks the state, and commits for ever."""
    with open_store(url) as store, store.resume("goal", "agent-0", keep=keep, initial=state_of(-1)) as run:
        if run.state != state_of(run.step) or run.skipped:
            raise SystemExit(f"step {run.step} holds another state, or was resumed past {run.skipped}")
        os.write(1, b"resumed %d\n" % run.step)
        while True:
            os.write(1, b"acknowledged %d\n" % run.commit(state_of(run.step + 1)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

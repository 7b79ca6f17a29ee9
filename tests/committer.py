"""Commits until it is killed: `python committer.py URL KEEP`. Says on stdout what it resumed and what was acknowledged.

A line is one write: `resumed STEP`, then `acknowledged STEP` after each commit. The state of a step is known from
its number alone, so that whoever resumes can check it.
"""

import os
import sys
from typing import Any

from durable_store import open_store


def state_of(step: int) -> dict[str, Any]:
    """A state between 50 bytes and 20 KB, told by its step."""
    return {"step": step, "text": f"{step:x}-" * (step * 7919 % 7000)}


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

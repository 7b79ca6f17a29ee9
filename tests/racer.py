"""Races for steps: `python racer.py URL NAME STEPS`. At a line on stdin, tries to save each; tells which it won."""

import json
import sys

from durable_store import CheckpointConflict, CheckpointKey, open_store


def main(url: str, name: str, steps: int) -> None:
    """Anything but a success or a conflict is an error that ends it."""
    won, conflicts = list[int](), 0
    with open_store(url) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for step in range(steps):
            try:
                store.save(CheckpointKey("goal", 0, "race"), step, {"by": name, "step": step})
                won.append(step)
            except CheckpointConflict:
                conflicts += 1
    print(json.dumps([won, conflicts]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

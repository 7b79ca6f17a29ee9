"""Made the golden records of format 1 beside it, once. Records are read for ever: never make these again.

Run it in an empty directory to see what today's version writes: python make.py DIRECTORY
"""

import json
import sys
from pathlib import Path
from typing import Any

from durable_store import CheckpointKey, Store, open_store

STATES: dict[str, tuple[CheckpointKey, Any, dict[str, Any]]] = {
    "plain": (CheckpointKey("g-42", 0, "orchestrator-0"), {"messages": [{"role": "user", "content": "hello"}]}, {}),
    "odd-ids": (CheckpointKey("a/b\x00%é\U0001f600", 999_999_999, ".con"), None, {"note": "ids of every kind"}),
    "every-type": (
        CheckpointKey("types", 1, "a"),
        {"s": '\u2028"\\\x7f', "i": [-(2**63), 2**64 - 1], "f": [-0.0, 1e-300, 0.1], "n": None, "b": [True, False]},
        {"nested": {"list": [1, [2, [3]]]}},
    ),
}


def main(directory: Path) -> None:
    """Writes a .ckpt and a .json, what must be read from it, for each state, two records of a run, and its deltas."""
    with open_store("memory://") as store:
        for name, (key, state, meta) in STATES.items():
            store.save(key, 7, state, meta=meta)
            write(store, directory, name, key, 7)
        with store.resume("closed", "worker-0", keep=2, initial={"n": 0}) as run:
            for n in range(5):
                run.commit({"n": n}, meta={"turn": n})
            write(store, directory, "commit", run.key, 4)
            run.finish({"answer": 42})
            write(store, directory, "closing", run.key, 5, result={"answer": 42})
        with store.resume("growing", "worker-0", keep=None) as run:
            messages = [{"role": "user", "content": f"{n}: {'what is it? ' * (n % 7)}"} for n in range(300)]
            for n, more in enumerate((200, 201, 202, 290)):
                run.commit({"turn": n, "messages": messages[:more]})
                write(store, directory, f"delta-{n}", run.key, n)


def write(store: Store, directory: Path, name: str, key: CheckpointKey, step: int, **more: Any) -> None:
    """One record and what it says."""
    found = store.load(key, step)
    (directory / f"{name}.ckpt").write_bytes(store.backend.load(key, step) or b"")
    facts = {
        "key": str(key),
        "step": step,
        "state": found.state,
        "meta": found.meta,
        "writer": found.writer,
        "saved_at": found.saved_at.isoformat(),
    }
    (directory / f"{name}.json").write_text(json.dumps(facts | more, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

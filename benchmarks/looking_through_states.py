"""What it costs to look through a state, beside the durable commit that it is part of (docs/notes/0001).

python benchmarks/looking_through_states.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from durable_store import open_store
from durable_store.state import to_json

ROUNDS = 41


def states() -> dict[str, Any]:
    """From the usual to the worst."""
    text = "".join(path.read_text() for path in sorted(Path(statistics.__file__).parent.glob("*.py"))[:60])
    slices = [text[at : at + 1550] for at in range(0, 400 * 1550, 1550)]
    return {
        "400 messages of 1.5 KB, a null in each": {
            "messages": [{"role": "user", "content": s, "id": None} for s in slices]
        },
        "25 messages": {"messages": [{"role": "user", "content": s[:120]} for s in slices[:25]]},
        "20 000 floats": {"values": [n * 0.5 for n in range(20_000)]},
        "5000 rows of numbers, with a null": {"rows": [{"a": n, "b": n / 2, "c": "x", "d": None} for n in range(5000)]},
    }


def median(call: Callable[[], object]) -> float:
    """Microseconds."""
    times: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1e6 * statistics.median(times)


def main() -> None:
    """One line per state and backend."""
    print(f"{'state':40} {'JSON':>8} {'orjson':>7} {'look':>6} {'sqlite':>7} {'share':>6} {'files':>7} {'share':>6}")
    with tempfile.TemporaryDirectory(dir=".") as directory:
        for name, state in states().items():
            plain = median(partial(orjson.dumps, state))
            look = median(partial(to_json, state)) - plain
            row = f"{name:40} {len(orjson.dumps(state)):8} {plain:7.0f} {look:6.0f}"
            for url in (f"sqlite:///{directory}/runs.db", f"file://{Path(directory).absolute()}/files"):
                with open_store(url) as store:
                    run = store.resume(name, "a-0")
                    commit = median(partial(run.commit, state))
                row += f" {commit:7.0f} {look / commit:6.1%}"
            print(row)


if __name__ == "__main__":
    main()

"""The demo's agent: it reviews the standard library's source files, one a turn, in a process of its own.

`python -m durable_store.cli.reviewer URL GOAL TURNS SEED`. It reads one line of leave from stdin for each turn, so
that it never outruns a kill that comes late, and ends when the demo is gone. It reports on stdout, a line for each
event: `resumed STEP EPISODE`; in each turn `begin TURN`, `commit TURN`, `committed STEP`; then `finished` or
`error MESSAGE`.
"""

import ast
import os
import random
import sys
import sysconfig
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from durable_store.errors import DurableStoreError
from durable_store.store import open_store

CHECKPOINT_ID = "reviewer-0"
"""Role and depth: the same in every process that goes on with the work."""

# Not the library's own code; and the tests hold files that are not to parse.
_LEFT_OUT = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def review_library(url: str, goal: str, turns: int, seed: int) -> None:
    """Reviews `turns` files, from wherever an earlier process was killed."""
    files = source_files(seed)
    with open_store(url) as store, store.resume(goal, CHECKPOINT_ID, initial={"messages": []}) as run:
        report("resumed", run.step, run.key.episode_id)
        state = run.state
        while (turn := len(state["messages"]) // 2) < turns:
            _wait_for_leave()
            report("begin", turn)
            state["messages"] += review(files, turn)
            report("commit", turn)
            report("committed", run.commit(state))
        run.finish({"turns": turns})
        report("finished")


def source_files(seed: int) -> list[str]:
    """The library's source files, relative to its directory, in an order that only the seed decides."""
    library = _library()
    files: list[str] = []
    for directory, below, names in os.walk(library):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        inside = Path(directory).relative_to(library)
        files += [(inside / name).as_posix() for name in names if name.endswith(".py")]
    files.sort()
    random.Random(seed).shuffle(files)  # noqa: S311 - to be repeated, not to be secret
    return files


def review(files: list[str], turn: int) -> list[dict[str, Any]]:
    """The two messages of a turn: what the user asks for, and what the tool found out."""
    for number in range(len(files)):
        name = files[(turn + number) % len(files)]
        try:
            found = take_apart((_library() / name).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue  # the next file will do, and it is the same one in every process
        return [
            {"role": "user", "content": f"Review {name}."},
            {"role": "tool", "name": "take_apart", "content": {"file": name, **found}},
        ]
    raise DurableStoreError(f"no source file of the standard library can be read in {_library()}")


def take_apart(source: bytes) -> dict[str, Any]:
    """What the syntax tree of a source file tells about it. Raises SyntaxError, ValueError, RecursionError."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    documentable = [tree, *classes, *(each for each in functions if not each.name.startswith("_"))]
    imports = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imports |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    lengths = {(node.end_lineno or node.lineno) - node.lineno + 1: node.name for node in reversed(functions)}
    longest = max(lengths, default=0)
    return {
        "lines": source.count(b"\n"),
        "classes": [node.name for node in classes],
        "functions": len(functions),
        "async_functions": sum(isinstance(node, ast.AsyncFunctionDef) for node in functions),
        "imports": sorted(imports),
        "branches": sum(isinstance(node, ast.If | ast.For | ast.While | ast.Try | ast.IfExp) for node in nodes),
        "documented": sum(ast.get_docstring(node) is not None for node in documentable),
        "documentable": len(documentable),
        "longest_function": {"name": lengths[longest], "lines": longest} if longest else None,
    }


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _wait_for_leave() -> None:
    if not sys.stdin.readline():
        raise SystemExit(1)  # the demo is gone, and nobody would stop us


def report(*words: object) -> None:
    """Tells the demo of an event."""
    # One write for each report: a kill between two would tear it, and an unbuffered print makes one for each word.
    os.write(1, f"{' '.join(map(str, words))}\n".encode(errors="backslashreplace"))


def reporting(work: Callable[[], None]) -> int:
    """Works, and returns the exit status of the process; an error of ours is reported."""
    warnings.simplefilter("ignore")  # of the sources reviewed, which are what they are
    try:
        work()
    except DurableStoreError as err:
        report("error", " ".join(str(err).splitlines()))
        return 1
    except BrokenPipeError:
        return 1  # the demo is gone
    return 0


def _main() -> int:
    url, goal, turns, seed = sys.argv[1:]
    return reporting(lambda: review_library(url, goal, int(turns), int(seed)))


if __name__ == "__main__":
    sys.exit(_main())

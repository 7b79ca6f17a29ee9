"""Asks one system some clauses, and says what each came to: a line of JSON for each, on stdout.

    python -m benchmarks.scorecard.examine SYSTEM CLAUSE [CLAUSE ...]

Runs in the environment of the scorecard; `python -m benchmarks.scorecard` starts it there.
"""

import contextlib
import json
import linecache
import os
import platform
import re
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import pytest

from benchmarks.scorecard.adapters import NotOffered
from benchmarks.scorecard.scenarios import SCENARIOS
from durable_store_conformance import exam

AGAIN = {"RACE": 3, "READER": 8, "THREAD": 3}
"""How often, by group, clauses are asked whose answer hangs on chance: they hold when they hold each time."""

_PLAIN = (bool, int, str, bytes, list, dict)


class Case(NamedTuple):
    """One thing to do with a fresh store: it returns what was seen, if there is more to say than that it held."""

    name: str
    examine: Callable[[str], str | None]


def cases_of(clause: str) -> list[Case]:
    """What a clause consists of."""
    if clause in SCENARIOS:
        scenario = SCENARIOS[clause]

        def of_scenario(name: str) -> Callable[[str], str | None]:
            return lambda url: scenario.examine(url, name)

        cases = [Case(name, of_scenario(name)) for name in scenario.cases]
    else:

        def of_suite(case: exam.Case) -> Callable[[str], str | None]:
            return lambda url: exam.examine(case, url)

        cases = [Case(case.name, of_suite(case)) for case in exam.CASES if case.clause.id == clause]
    return cases * AGAIN.get(clause.split("-")[1], 1)


def ask(scheme: str, case: Case) -> tuple[str, str]:
    """What one case came to, `held`, `failed` or `not offered`, and what was seen."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return "held", case.examine(f"{scheme}://{directory}/store") or ""
        except NotOffered as err:
            return "not offered", str(err)
        except (Exception, pytest.fail.Exception) as err:  # noqa: BLE001 - whatever somebody else's store raises
            text = "".join(traceback.format_exception(err))
            sys.stderr.write(text)
            if "NotOffered: " in text:
                return "not offered", text.partition("NotOffered: ")[2].partition("\n")[0]
            return "failed", _seen(err)


def _seen(err: BaseException) -> str:
    """The error in a line. Of a bare assert, the assertion and the plain values in it."""
    lines = str(err).strip().splitlines()
    if lines:
        return f"{type(err).__name__}: {lines[-1][:300]}"
    *_, (frame, number) = traceback.walk_tb(err.__traceback__)
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    values: dict[str, object] = {
        name: value
        for name, value in frame.f_locals.items()
        if isinstance(value, _PLAIN) and re.search(rf"\b{re.escape(name)}\b", line)
    }
    return " ".join([line, *(f"[{name}: {value!r:.200}]" for name, value in values.items())])


def main(system: str, clauses: list[str]) -> None:
    """Says what each clause came to."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write(json.dumps({"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}) + "\n")
    for clause in clauses:
        started = time.monotonic()
        results = [(case.name, *ask(system, case)) for case in cases_of(clause)]
        answer = {"system": system, "clause": clause, "cases": results, "seconds": round(time.monotonic() - started, 1)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1], sys.argv[2:])

"""Measures which clause finds which mutant out, and writes docs/CONFORMANCE.md.

`python -m tests.mutants.matrix` measures all of it; Ctrl-C ends it and leaves the document as it was. With names it
measures these backends only, and writes nothing. With `--words` it measures nothing, and writes the clauses and mutants
as they are now.
"""

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import NamedTuple

from durable_store_conformance.exam import CASES, CLAUSES, examine
from durable_store_conformance.registry import Clause, NotEvaluable
from tests.mutants import BROKEN, GOOD, INSTALLED, MUTANTS
from tests.mutants.document import DOCUMENT, HEADING, Row, Verdict, matrix, words

LIMIT = 45
"""Seconds for all cases of a clause on one backend."""


class Sitting(NamedTuple):
    """One clause that is being examined on one backend, in a process of its own."""

    backend: str
    clause: Clause
    process: ForkProcess
    ends: float

    def end(self) -> Verdict:
        """What it came to; it hangs if it is not over."""
        verdict = self.process.exitcode
        if verdict is None:
            assert self.process.pid
            with suppress(ProcessLookupError):  # too young to have a group
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
        self.process.join()
        if verdict is None:
            return Verdict.HANGS
        return Verdict(verdict) if verdict in set(Verdict) else Verdict.BREAKS_OFF


def measured(backends: Sequence[str], jobs: int) -> Iterator[tuple[str, Clause, Verdict]]:
    """Each clause on each backend, backend by backend, so many at a time."""
    waiting = ((backend, clause) for backend in backends for clause in clauses_for(backend))
    sittings: list[Sitting] = []
    directory = tempfile.mkdtemp(prefix="durable-store-mutants-")
    try:
        while True:
            while len(sittings) < jobs and (following := next(waiting, None)):
                sittings.append(_begun(*following, directory))
            if not sittings:
                return
            patience = min(sitting.ends for sitting in sittings) - time.monotonic()
            connection.wait([sitting.process.sentinel for sitting in sittings], max(patience, 0))
            for sitting in [each for each in sittings if not each.process.is_alive() or time.monotonic() > each.ends]:
                sittings.remove(sitting)
                yield sitting.backend, sitting.clause, sitting.end()
    finally:
        for sitting in sittings:
            sitting.end()
        shutil.rmtree(directory, ignore_errors=True)


def clauses_for(backend: str) -> list[Clause]:
    """All of them; for what is in memory those within one process."""
    good = backend if backend in GOOD else MUTANTS[backend].good
    return [clause for clause in CLAUSES if good != "good-memory" or "another process" not in clause.needs]


def _begun(backend: str, clause: Clause, directory: str) -> Sitting:
    process = ForkProcess(target=_examine, args=(backend, clause, directory))
    process.start()
    return Sitting(backend, clause, process, time.monotonic() + LIMIT)


def _examine(backend: str, clause: Clause, directory: str) -> None:
    os.setpgid(0, 0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os._exit(_verdict(backend, clause, directory))  # whatever threads a mutant has left behind


def _verdict(backend: str, clause: Clause, directory: str) -> Verdict:
    for case in CASES:
        if case.clause is not clause:
            continue
        fresh = Path(directory, secrets.token_hex(8))
        fresh.mkdir()
        try:
            examine(case, f"mutant://{backend}{fresh}/store.db")
        except NotEvaluable:
            return Verdict.NOT_EVALUABLE
        except BROKEN:
            return Verdict.FAILS
        except Exception:  # noqa: BLE001 - a mutant may raise anything
            return Verdict.BREAKS_OFF
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return Verdict.HOLDS


def rows(backends: Sequence[str], jobs: int) -> Iterator[Row]:
    """A row for each backend, as it is finished."""
    verdicts: dict[str, dict[str, Verdict]] = {backend: {} for backend in backends}
    for backend, clause, verdict in measured(backends, jobs):
        verdicts[backend][clause.id] = verdict
        if len(verdicts[backend]) == len(clauses_for(backend)):
            yield Row(backend, verdicts[backend])


def main() -> int:
    """Returns 1 when a good backend fails, or a mutant does not fail the clause meant for it."""
    parser = argparse.ArgumentParser(description="Measures which clause finds which mutant out.")
    parser.add_argument("name", nargs="*", help="of a mutant or a good backend; without one, all of them")
    parser.add_argument("--words", action="store_true", help="write what is not measured, and measure nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="clauses at a time")
    arguments = parser.parse_args()
    if arguments.words:
        _, _, figures = DOCUMENT.read_text().partition(HEADING)
        DOCUMENT.write_text(words() + HEADING + figures)
        return 0
    sys.path.insert(0, INSTALLED)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (INSTALLED, os.environ.get("PYTHONPATH"))))
    backends = arguments.name or [*GOOD, *MUTANTS]
    started = time.monotonic()
    found: list[Row] = []
    for row in rows(backends, arguments.jobs):
        found.append(row)
        print(f"{time.monotonic() - started:6.0f} s  {len(found)}/{len(backends)}  {row}", flush=True)
    found.sort(key=lambda row: backends.index(row.backend))
    if not arguments.name:
        DOCUMENT.write_text(words() + HEADING + matrix(found))
    return 0 if all(row.as_meant for row in found) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
